"""Signature and output class of a safe model's `forward`, made from those of its backbone, which change by version."""

import functools
import inspect
import typing
from dataclasses import dataclass

from transformers import modeling_outputs
from transformers.modeling_outputs import ModelOutput


ANY_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD


def forward_of_backbone(cls: type):
    """`forward` of the first class of the library that `cls` stands in front of; `None` for a mixin."""
    stock = (base for base in cls.__mro__ if base.__module__.startswith("transformers.models."))
    return next((base.forward for base in stock), None)


def with_signature_of(stock, own, image_arguments: tuple[str, ...]):
    """Our `forward` under the signature of the stock one and with the arguments of `get_image_features`, for whoever
    reads it (`generate`, the Trainer)."""
    parameters = dict(inspect.signature(stock).parameters)
    of_images = {name: inspect.Parameter(name, ANY_KIND, default=None) for name in image_arguments}
    added = tuple(name for name in of_images if name not in parameters)
    kinds = [parameters.pop(name) for name in [*parameters] if parameters[name].kind is inspect.Parameter.VAR_KEYWORD]
    ours = {name: given for name, given in inspect.signature(own).parameters.items() if name not in ("self", "kwargs")}
    parameters |= {name: given.replace(kind=ANY_KIND) for name, given in ours.items()}
    parameters |= {name: of_images[name] for name in added}
    names = [name for name in parameters if name != "self"]

    @functools.wraps(own)
    def forward(self, *args, **kwargs):
        if len(args) > len(names):
            raise TypeError(f"`forward` takes {len(names)} positional arguments, got {len(args)}.")
        return own(self, **dict(zip(names, args)), **kwargs)

    forward.__signature__ = inspect.Signature([*parameters.values(), *kinds])
    return forward


def with_fields(stock, fields: type, module: str) -> type:
    """The class that the stock `forward` returns, with further fields. Its name depends on transformers' version."""
    returned = typing.get_args(inspect.signature(stock).return_annotation)
    (output,) = [option for option in returned if isinstance(option, type) and issubclass(option, ModelOutput)]
    # Some annotations name the class of a text model, and what is returned has fields for images, too.
    for name in ("MultimodalBaseModelOutputWithPast", "MultimodalCausalLMOutputWithPast"):
        wider = getattr(modeling_outputs, name, output)
        if output.__dataclass_fields__.keys() < wider.__dataclass_fields__.keys():
            output = wider
    return dataclass(
        type(f"Safe{output.__name__}", (fields, output), {"__doc__": fields.__doc__, "__module__": module})
    )


__all__ = ["forward_of_backbone", "with_fields", "with_signature_of"]
