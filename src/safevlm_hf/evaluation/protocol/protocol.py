"""Protocols: the conditions under which a benchmark was run, frozen in a file whose hash stands in every result.

Results are compared only under one protocol. So its hash leaves out whatever makes a system what it is: the weights,
their chat template, the policy of the verdict, a safety prompt. Those are in [`System`], which stands beside the hash.
The wording of a benchmark's questions is part of its items, and so of `items_hash`.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, field
from importlib import metadata
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from ...files import write_text
from ...items import Item
from ...strict_data import STRICT, Hash, Scalar, Text, expect, plain, short_digest, to_text
from ...version import __version__
from .fingerprints import hash_items


ANSWERING_PACKAGES = ("transformers", "torch", "torchvision", "tokenizers", "pillow", "numpy")
SCORING_PACKAGES = ("scikit-learn",)
YAML_ENDINGS = (".yaml", ".yml")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result, of those that are installed. What follows a "+"
    (torch's CPU or CUDA build) is left out."""
    versions = {"safevlm_hf": __version__}
    for name in (*ANSWERING_PACKAGES, *SCORING_PACKAGES):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {name: version.partition("+")[0] for name, version in versions.items()}


@dataclass(frozen=True, config=STRICT)
class Protocol:
    """The conditions that have to be equal for two results to be compared.

    Attributes:
        benchmark, split: by name.
        num_items: number of items, at least 1.
        ids_hash, items_hash: as `hash_items` gives them.
        decoding: settings of `generate` and the batch size, such as `{"do_sample": False, "batch_size": 8}`.
        max_new_tokens: longest answer, in tokens, at least 1.
        judges: name of each judge to its fingerprint, which changes whenever its judgements could.
        judge_prompts: name of each judge that is asked in words to the hash of its prompt.
        versions: package to version, as `package_versions` gives them.
        scoring: what decides how figures are counted: the hash of the code, and the settings of the intervals.

    Raises:
        ValueError: a value is not as described.
    """

    benchmark: Text
    split: Text
    num_items: Annotated[int, Field(ge=1)]
    ids_hash: Hash
    items_hash: Hash
    decoding: Mapping[str, Scalar]
    max_new_tokens: Annotated[int, Field(ge=1)]
    judges: Mapping[str, Text] = field(default_factory=dict)
    judge_prompts: Mapping[str, Hash] = field(default_factory=dict)
    versions: Mapping[str, Text] = field(default_factory=package_versions)
    scoring: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self):
        known = {*self.judge_prompts} <= {*self.judges}
        expect(known, "judge_prompts", f"prompts of judges in {[*self.judges]}", [*self.judge_prompts])

    @classmethod
    def of(cls, benchmark: str, split: str, items: Sequence[Item], **settings) -> "Protocol":
        """Return the protocol of these items; `settings` are the attributes from `decoding` on.

        Raises:
            ValueError: there are no items, an id comes twice, an image is not there, or a setting is not as described.
        """
        if not items:
            raise ValueError(f"{benchmark}, split {split}: expected items, found none")
        return cls(benchmark, split, len(items), *hash_items(items), **settings)

    @property
    def hash(self) -> str:
        """12 hex digits of the SHA-256 of all attributes: what results of one table share."""
        return short_digest(asdict(self))

    @property
    def answer_hash(self) -> str:
        """The same digits of what decides an answer, besides the system and the item. Judges and scoring do not."""
        versions = {name: version for name, version in self.versions.items() if name not in SCORING_PACKAGES}
        return short_digest({"decoding": self.decoding, "max_new_tokens": self.max_new_tokens, "versions": versions})


def save_protocol(protocol: Protocol, path: str | os.PathLike) -> Path:
    """Write a protocol, as YAML where the file's name ends so, else as JSON. It appears when it is complete."""
    content = plain(asdict(protocol))
    is_yaml = Path(path).suffix.lower() in YAML_ENDINGS
    return write_text(path, yaml.safe_dump(content) if is_yaml else to_text(content))
