"""The weights of a base checkpoint: find their files, and check that a model holds them unchanged."""

import json
import re
from collections.abc import Iterator
from functools import reduce
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import cached_files


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NOT_LOADED = r"rotary_emb\.inv_freq$"  # in old checkpoints; the library computes it


def find_weight_files(checkpoint: str) -> list[str]:
    """
    Return the safetensors files of a checkpoint.

    Args:
        checkpoint: folder or Hub id.

    Raises:
        ValueError: it has none.
    """
    optional = {"_raise_exceptions_for_missing_entries": False}
    file = cached_file(checkpoint, SAFE_WEIGHTS_NAME, **optional)
    if file is not None:
        return [file]
    index = cached_file(checkpoint, SAFE_WEIGHTS_INDEX_NAME, **optional)
    if index is None:
        raise ValueError(
            f"{checkpoint} has no weights in safetensors files, and others (as pytorch_model.bin) are not read: load "
            "it with its stock class, save it to a new folder with `save_pretrained`, and start from there."
        )
    names = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
    return cached_files(checkpoint, sorted(set(names))) or []


def check_weights_are_kept(checkpoint: str, files: list[str], model):
    """
    Raise where loading has rounded a weight, as it does if the config names a narrower dtype than the files have.

    Args:
        checkpoint, files: as for [`find_weight_files`], which returns them.
        model: loaded from there.

    Raises:
        ValueError: with the first weight that was rounded.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return  # the files of a quantized model hold codes, not weights
    ignored = re.compile("|".join([NOT_LOADED, *(model._keys_to_ignore_on_load_unexpected or ())]))
    for key, weight in _narrowed(files, model.dtype):
        is_exact = torch.equal(weight.to(model.dtype).to(weight.dtype), weight)
        if is_exact or ignored.search(key):
            continue
        # Backbones keep some modules in float32. As they also rename weights, this one is looked for by its content.
        own = chain(model.parameters(), model.buffers())
        same = (tensor for tensor in own if (tensor.dtype, tensor.shape) == (weight.dtype, weight.shape))
        if not any(torch.equal(tensor.cpu(), weight) for tensor in same):
            found, narrow = (f"{dtype}".removeprefix("torch.") for dtype in (weight.dtype, model.dtype))
            wide = f"{reduce(torch.promote_types, _dtypes(files))}".removeprefix("torch.")
            raise ValueError(
                f"{checkpoint} holds {key} in {found}, and the model is {narrow} (`dtype` in config.json): the weight "
                "would be rounded, and no weight of a base may change. Load the checkpoint with its stock class and "
                f'`dtype="{wide}"`, save it to a new folder, and start from there.'
            )


def _narrowed(files: list[str], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights in the files, with their keys, whose dtype has numbers that the given one does not have."""
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():
                own = DTYPES.get(weights.get_slice(key).get_dtype())
                if own is not None and torch.promote_types(own, dtype) != dtype:
                    yield key, weights.get_tensor(key)


def _dtypes(files: list[str]) -> set[torch.dtype]:
    found: set[torch.dtype] = set()
    for file in files:
        with safe_open(file, framework="pt") as weights:
            names = {weights.get_slice(key).get_dtype() for key in weights.keys()}
        found |= {DTYPES[name] for name in names if name in DTYPES}
    return found
