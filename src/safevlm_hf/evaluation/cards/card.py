"""Results of an evaluation in the model card of the checkpoint that they are of.

They go into three places: a section "Evaluation" in the text of `README.md`; `.eval_results/`, a file per benchmark;
and `model-index` in the metadata of `README.md`, which has the headline figures alone. What else stands in the card
stays as it is.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from ...benchmarks import BENCHMARKS
from ...files import write_text
from ...modeling.model_card import MARKER, write_model_card
from ...strict_data import parse_json, shorten
from ..contamination.overlap import Overlap, load_overlap
from ..protocol.fingerprints import SETTINGS, digest, weights_hash
from ..protocol.result import EvaluationResult, check_comparable, load_result
from .metadata import eval_result_files, is_eval_result_file, is_off, set_model_index
from .text import render_section


START, END = "<!-- safevlm card: results, written anew at each call -->", "<!-- safevlm card: end -->"
FOLDER = ".eval_results"


@dataclass(frozen=True)
class WrittenCard:
    """Files that were written: the `paths`, the `results` in them, and the names of `others`, systems that were
    compared with the checkpoint and have no place in its card."""

    paths: Sequence[Path]
    results: Sequence[EvaluationResult]
    others: Sequence[str]


def write_evaluation_card(
    folder: str | os.PathLike, results: Sequence[str | os.PathLike], overlaps: Sequence[str | os.PathLike] = ()
) -> WrittenCard:
    """Put results into a checkpoint's card, and take out those of an earlier call. A second call writes the same.

    Args:
        folder: the checkpoint. Without a card it gets the one that saving it writes.
        results: `results.json` files, or folders that hold some.
        overlaps: files of `save_overlap`, at most one per benchmark and split.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a result is not of this checkpoint, results are not comparable, a row of general ability is
            missing or under another policy than the checkpoint's, an overlap is of other items, or the card or a file
            in `.eval_results/` is not ours to change. Nothing is written then.
    """
    folder = Path(folder)
    found = find_results(results)
    own, others = _split_by_checkpoint(folder, found)
    _check_policies(folder, own)
    tables = _tables(own)
    by_table = _overlaps(tables, overlaps)
    readme = folder / "README.md"
    if not readme.exists():
        from ...checkpoints.families import find_family

        write_model_card(folder, find_family(str(folder)).config.from_pretrained(folder))
    card = _card(readme, folder.resolve().name, tables, by_table)
    files = {folder / FOLDER / name: text for name, text in eval_result_files(own).items()}
    ours = {path for path in sorted((folder / FOLDER).glob("*.yaml")) if is_eval_result_file(path)}
    for path in files:
        if path.exists() and path not in ours:
            raise ValueError(f"{path} was not written by `safevlm card`: move it, or add to it by hand")
    for path in ours - files.keys():  # these are left from an earlier call
        path.unlink()
    paths = [write_text(path, text) for path, text in ({readme: card} | files).items()]
    return WrittenCard(paths, own, others)


def find_results(paths: Sequence[str | os.PathLike]) -> dict[Path, EvaluationResult]:
    """Load all `results.json` of these files and folders, sorted.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is no result.
    """
    files = []
    for path in map(Path, paths):
        inside = sorted(path.rglob("results.json")) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(f"{path}: expected results.json files in it, as `safevlm evaluate` writes them")
        files += inside
    return {path: load_result(path) for path in dict.fromkeys(files)}


# --------------------------------------------------------------------------------------------------
# Whose results these are
# --------------------------------------------------------------------------------------------------


def _split_by_checkpoint(
    folder: Path, found: dict[Path, EvaluationResult]
) -> tuple[list[EvaluationResult], list[str]]:
    """Return this checkpoint's results, and the names of other systems without a verdict, such as its base."""
    own_hash = weights_hash(folder)
    own, others = [], []
    for path, result in found.items():
        if result.system.weights_hash == own_hash:
            own.append(result)
        elif result.system.policy is None:
            others.append(result.system.name)
        else:
            raise ValueError(f"{path} is not of the checkpoint in {folder}: {_differences(folder, own_hash, result)}")
    if not own:
        raise ValueError(f"none of {len(found)} results is of the checkpoint in {folder}, only {', '.join(others)}")
    return own, list(dict.fromkeys(others))


def _differences(folder: Path, own_hash: str, result: EvaluationResult) -> str:
    system = result.system
    if system.weights_hash is None:
        return (
            f"it was run on {shorten(system.model)} from the Hub, of which no hash was taken. Evaluate the folder: "
            f"`safevlm evaluate --model {folder}`"
        )
    template = folder / "chat_template.jinja"
    has_template = template.is_file() and system.chat_template_hash == digest(template.read_text(encoding="utf-8"))
    return (
        f"the hash of its weights and settings is {system.weights_hash[:12]}, this checkpoint's {own_hash[:12]}; it "
        f"was run on {shorten(system.model)}, this is {folder.resolve().name!r}; the chat template is "
        f"{'the same' if has_template else 'another one'}. The weights differ, or one of the files "
        f"{', '.join('*' + ending for ending in SETTINGS)} beside them. Evaluate this checkpoint, or name its results"
    )


def _check_policies(folder: Path, own: Sequence[EvaluationResult]):
    """Raise where general ability is under another policy than the shipped one: a policy that was loosened for it says
    nothing beside safety."""
    for result in own:
        policy, protocol = result.system.policy, result.protocol
        if policy is None or is_off(result) or not has_ability(protocol.benchmark):
            continue
        if _without_empty(policy) != _without_empty(_shipped_policy(folder)):
            raise ValueError(
                f"{protocol.benchmark}, {protocol.split}: {shorten(result.system.name)} is under another policy than "
                f"the one that the checkpoint in {folder} ships. In a card, general ability stands under that one "
                "alone. Evaluate without `--policy`, or leave this result out"
            )


def _shipped_policy(folder: Path) -> Mapping:
    """Return the policy that is kept with a checkpoint, as `model.kept_policy()` finds it. Its files are in
    `weights_hash`, so they are those that were evaluated."""
    for path in (folder / "generation_config.json", folder / "config.json"):
        content = parse_json(path.read_bytes(), str(path)) if path.exists() else {}
        if content.get("safety_policy") is not None:
            return content["safety_policy"]
    return {}


def _without_empty(policy: Mapping) -> dict:
    """Return what a policy sets, without what is empty; `policy` as `SafetyPolicy.to_dict` of the one in force."""
    values = {
        name: {key: one for key, one in value.items() if one != {}} if isinstance(value, Mapping) else value
        for name, value in policy.items()
    }
    return {name: value for name, value in values.items() if value is not None and value != {}}


# --------------------------------------------------------------------------------------------------
# What stands together
# --------------------------------------------------------------------------------------------------


def _tables(own: Sequence[EvaluationResult]) -> list[list[EvaluationResult]]:
    """Return results by benchmark and split, verdict off first: each a table under one protocol."""
    tables: dict[tuple[str, str], list[EvaluationResult]] = {}
    for result in sorted(own, key=lambda one: (not is_off(one), one.system.name)):
        tables.setdefault((result.protocol.benchmark, result.protocol.split), []).append(result)
    for (benchmark, split), results in sorted(tables.items()):
        check_comparable(results)
        names = [one.system.name for one in results]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{benchmark}, {split}: two results are of {shorten(twice[0])}; name one of them")
        # What a verdict costs in ability shows only beside the same model without it.
        if has_ability(benchmark) and {is_off(one) for one in results} != {True, False}:
            raise ValueError(
                f"{benchmark}, {split}: general ability takes results with the verdict off and on, found only "
                f"{', '.join(names)}. `safevlm evaluate` makes both"
            )
    return [tables[key] for key in sorted(tables)]


def has_ability(benchmark: str) -> bool:
    """Tell whether a benchmark is one of general ability."""
    return benchmark in BENCHMARKS and BENCHMARKS[benchmark].has_ability


def _overlaps(tables, paths: Sequence[str | os.PathLike]) -> dict[tuple[str, str], Overlap]:
    protocols = {(one.protocol.benchmark, one.protocol.split): one.protocol for one, *_ in tables}
    found: dict[tuple[str, str], Overlap] = {}
    for path in paths:
        overlap = load_overlap(path)
        key = (overlap.benchmark, overlap.split)
        if key not in protocols:
            known = "; ".join(", ".join(one) for one in protocols)
            raise ValueError(f"{path} is of {', '.join(key)}, expected one of the results' benchmarks: {known}")
        if overlap.items_hash != protocols[key].items_hash:
            raise ValueError(
                f"{path} and the results of {', '.join(key)} are of other items (hashes {overlap.items_hash[:12]} and "
                f"{protocols[key].items_hash[:12]}): run `safevlm data overlap` on the data of the evaluation"
            )
        if key in found:
            raise ValueError(f"{path} is the second overlap of {', '.join(key)}: name one of them")
        found[key] = overlap
    return found


# --------------------------------------------------------------------------------------------------
# The card
# --------------------------------------------------------------------------------------------------


def _card(path: Path, name: str, tables, overlaps) -> str:
    text = path.read_bytes().decode("utf-8")
    # The card keeps the ends of line that it has.
    newline = "\r\n" if "\r\n" in text else "\n"
    text = text.replace("\r\n", "\n")
    try:
        ModelCard(text)
        text = set_model_index(text, name, [result for table in tables for result in table])
        body = ModelCard(text).text  # the metadata may quote anything, our marks too
        text = text.removesuffix(body) + _set_section(body, render_section(tables, overlaps))
        ModelCard(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    return text.replace("\n", newline)


def _set_section(text: str, section: str) -> str:
    """Return the text with the section in place of ours; before the limits of a card that we wrote, else at the
    end."""
    section = f"{START}\n\n{section}\n\n{END}"
    if (text.count(START), text.count(END)) == (1, 1) and text.index(START) < text.index(END):
        return text[: text.index(START)] + section + text[text.index(END) + len(END) :]
    if START in text or END in text:
        raise ValueError(f"expected one {START!r} and one {END!r} after it, or neither: mend or remove them")
    limits = re.search(r"^## Limits$", text, re.MULTILINE) if MARKER in text else None
    if limits is None:
        return f"{text.rstrip()}\n\n{section}\n"
    return f"{text[: limits.start()]}{section}\n\n{text[limits.start() :]}"
