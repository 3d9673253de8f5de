"""Digest of a checkpoint's safety weights, to compare with one from a trusted source."""

import hashlib
import re

import torch
from safetensors import safe_open

from ..modeling.safety_digest import FIELDS, safety_digests
from ..modeling.safety_words import load_words
from .base_weights import find_weight_files
from .families import find_family


DIGEST = re.compile(r"[a-z0-9+]+:[0-9a-f]{64}")


def safety_weights_digest(checkpoint: str) -> str:
    """
    Return the dtype of a checkpoint's safety weights, a colon, and their SHA-256. The hash also covers what gives
    them their meaning: names and sizes in config.json, and the rule by which a head cuts a question into words.
    Another precision gives another digest; other files do not.

    Args:
        checkpoint: folder or Hub id.

    Raises:
        ValueError: it has no safetensors, or no safety weights in them, as an adapter alone.
    """
    weights, dtypes = [], set()
    for file in find_weight_files(checkpoint):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():
                name = key.removeprefix("model.")  # the prefix is missing where the base model was saved alone
                if name.startswith("safety_"):
                    tensor = tensors.get_tensor(key)
                    content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                    weights.append((name, tuple(tensor.shape), str(tensor.dtype), hashlib.sha256(content).hexdigest()))
                    dtypes |= {f"{tensor.dtype}".removeprefix("torch.")} if tensor.is_floating_point() else set()
    if not weights:
        raise ValueError(
            f"{checkpoint} has no safety weights: expected a safe checkpoint, and for an adapter the one that it was "
            "trained on."
        )
    config = find_family(checkpoint).config.from_pretrained(checkpoint)
    meaning = safety_digests(config, [])
    parts = [meaning[part] for part in FIELDS]
    if config.safety_config.reads_words:
        rule = load_words(checkpoint, is_required=True).file.read_bytes()
        parts += [config.safety_config.head_reading, hashlib.sha256(rule).hexdigest()]
    hashed = repr((sorted(weights), parts))
    return f"{'+'.join(sorted(dtypes))}:{hashlib.sha256(hashed.encode()).hexdigest()}"


def describe_difference(digest: str, expected: str) -> str | None:
    """Return how a digest differs from the expected one; `None` where it does not. Raises `ValueError` for what is no
    digest of [`safety_weights_digest`]."""
    if not DIGEST.fullmatch(expected):
        raise ValueError(
            f"expected a digest as `safevlm verify` prints it (a dtype, a colon, 64 hex digits), got {expected!r}."
        )
    if digest == expected:
        return None
    own, other = (one.partition(":")[0] for one in (digest, expected))
    if own != other:
        return f"the weights are {own}, and the digest was made of {other} ones: only one dtype can be compared."
    return f"its safety weights, names or sizes are other ones: expected {expected}."
