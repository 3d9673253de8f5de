"""The key-value cache of a call, and what is known of it: the images in it, and the conversation around them.

A cache is known as `generate` left it. Whatever has filled or changed it since makes it unknown: nobody can say then
which images it holds, nor under which verdict.
"""

import contextlib
import copy
import inspect
import warnings
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from .safety_conversation import Conversation
from .safety_outputs import SafetyImageOutput


PREPARE_ARGUMENTS = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in PREPARE_ARGUMENTS else "past_key_values"  # its name before transformers 5.24
RECORD, STATE = "safety_record", "safety_state"  # attributes of a cache

# Whether a model's own `generate` runs: it records its caches itself, and its drafts only propose.
_is_generating = ContextVar("is_generating", default=False)


@contextlib.contextmanager
def generating():
    """Mark the time in which a model's own `generate` runs."""
    token = _is_generating.set(True)
    try:
        yield
    finally:
        _is_generating.reset(token)


def is_generating() -> bool:
    return _is_generating.get()


def take_cache(kwargs: dict) -> Cache | None:
    """Take the cache among the arguments, and leave it under the name that transformers has for it now. It is found by
    its type: a name that is not known here would let a conversation's images through without their verdict."""
    names = [name for name, value in kwargs.items() if isinstance(value, Cache)]
    if len(names) > 1:
        raise ValueError(f"`generate` takes one cache, got {len(names)}: {', '.join(names)}.")
    cache = kwargs.pop(names[0]) if names else None
    if cache is not None:
        kwargs[CACHE] = cache
    return cache


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Return the cache of a `forward`, given under either of its names."""
    if past_key_values is None:
        return cache
    if cache is not None:
        raise ValueError("`cache` and `past_key_values` are two names of one argument: pass one of them.")
    if CACHE == "cache" and not torch.compiler.is_compiling():
        warnings.warn("`past_key_values` is deprecated. Use `cache` instead.", FutureWarning, stacklevel=3)
    return past_key_values


@dataclass(frozen=True)
class CacheRecord:
    """Record of what a cache held when `generate` left it, by which to tell that it holds the same now.

    Args:
        images: the images in it, with the conditions that their blocks hold; `None` without images.
        conversation: what the cache stands for; `None` where that is not known (then it holds no images).
        length: positions in the cache.
        tensors: all that its layers are made of.
        versions: of these tensors, which count changes in place; `None` where torch does not count.
    """

    images: SafetyImageOutput | None
    conversation: Conversation | None
    length: int | torch.Tensor
    tensors: list[torch.Tensor]
    versions: list[int | None]

    @classmethod
    def of(cls, cache: Cache, images=None, conversation=None) -> "CacheRecord":
        """Make a record of the cache as it is now."""
        tensors, length = _tensors(cache), cache.get_seq_length()
        length = length.clone() if isinstance(length, torch.Tensor) else length
        return cls(images, conversation, length, tensors, list(map(_version, tensors)))

    def describes(self, cache: Cache) -> bool:
        """Tell whether the cache is as it was: the same tensors, unchanged. Without images it may have been
        cropped."""
        now = _tensors(cache)
        if len(now) != len(self.tensors) or list(map(_version, now)) != self.versions:
            return False
        if self.images is None:
            same = all(tensor is known or tensor._base is known for tensor, known in zip(now, self.tensors))
            return same and int(cache.get_seq_length()) <= int(self.length)
        # In inference mode nobody counts what is changed in place, as a static cache is at each step.
        is_counted = None not in self.versions or not any(layer.is_compileable for layer in cache.layers)
        same = all(tensor is known for tensor, known in zip(now, self.tensors))
        return same and is_counted and int(cache.get_seq_length()) == int(self.length)

    def __deepcopy__(self, memo) -> "CacheRecord":
        # A cache of a common beginning is copied for each of its continuations. The copies of its tensors count anew.
        unchanged = list(map(_version, self.tensors)) == self.versions
        tensors = [copy.deepcopy(tensor, memo) for tensor in self.tensors]
        versions = list(map(_version, tensors)) if unchanged else [-1] * len(tensors)
        length = copy.deepcopy(self.length, memo)
        return CacheRecord(self.images, self.conversation, length, tensors, versions)


def read_record(cache: Cache) -> CacheRecord | None:
    """Return the record of a cache, where it still describes it."""
    record = getattr(cache, RECORD, None)
    return record if isinstance(record, CacheRecord) and record.describes(cache) else None


def drop_record(cache: Cache | None):
    """Drop the record before a cache is filled further: it would keep its old keys and values alive meanwhile."""
    if cache is not None:
        vars(cache).pop(RECORD, None)


def write_record(cache: Cache, images: SafetyImageOutput | None, conversation: Conversation | None):
    setattr(cache, RECORD, CacheRecord.of(cache, images, conversation))


def read_state(cache: Cache | None, present: object) -> object:
    """Return what the model kept beside the cache (`SafeModelMixin.cache_state`) when it was filled last: nothing
    where it is empty, and what the model keeps now where nobody wrote it down."""
    state = None if cache is None else getattr(cache, STATE, present)
    return None if state is None or int(cache.get_seq_length()) == 0 else state


def write_state(cache: Cache, state: object):
    setattr(cache, STATE, state)


def take_free_cache(cache: Cache | None) -> bool:
    """Take the record off before a forward outside of `generate`, and tell whether the cache is known to hold no
    images."""
    if cache is None:
        return True
    record = read_record(cache)
    drop_record(cache)
    length = cache.get_seq_length()
    is_empty = not isinstance(length, torch.Tensor) and length == 0  # no value of a tensor is read on the host
    return is_empty or (record is not None and record.images is None)


def mark_free_cache(cache: Cache):
    """Mark a cache that held no image after a forward that put none into it."""
    write_record(cache, images=None, conversation=None)


def _tensors(value) -> list[torch.Tensor]:
    """Return all tensors that a cache's layers hold, in a fixed order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Cache):
        return _tensors([vars(layer) for layer in value.layers])
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in values for tensor in _tensors(item)]


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
