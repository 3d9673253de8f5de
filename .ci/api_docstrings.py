"""For griffe, which reads docstrings for the API pages: ours follow transformers' style, and some of their text stands
in the code. The pages' types and defaults are those of the signature."""

import logging
import re
from importlib import import_module
from textwrap import indent

from griffe import Class, Decorator, Docstring, ExprName, Extension, Object


TYPE = r"\((?:`[^`\n]*`|[^`()\n])+\)"  # "(`torch.Tensor` of shape `(images,)`, *optional*)"
NAME = rf"`?\w+`?(?: {TYPE})?"
NAMES = re.compile(rf"^( +)({NAME}(?:, {NAME})*): ?(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
# The fields of transformers' outputs stand under no title.
FIELDS = re.compile(rf"(?:^\w+ {TYPE}:.*\n(?: +.*\n)*)+", re.MULTILINE)
CONFIGS = ("SafetyConfig", "SafeConfigMixin")


class Docstrings(Extension):
    def on_class_members(self, *, cls: Class, **kwargs):  # before griffe looks for data classes
        if cls.name in CONFIGS:  # transformers makes data classes of them
            cls.decorators.append(Decorator(ExprName("dataclasses.dataclass"), lineno=None, endlineno=None))
        if "metadata=" in cls.source:
            describe_fields(cls)

    def on_object(self, *, obj: Object, **kwargs):
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """One name in each line, and no markup in it or its type."""
    text = FIELDS.sub(lambda fields: "Attributes:\n" + indent(fields[0], "    "), text)
    return NAMES.sub(one_by_one, text)


def one_by_one(names: re.Match) -> str:
    margin, heads, text = names.groups()
    found = re.findall(rf"(\w+)`?(?: ({TYPE}))?", heads)
    return "\n".join(f"{margin}{name}{kept_type(given)}: {text}" for name, given in found)


def kept_type(given: str) -> str:
    """A tensor's shape stands in no signature. griffe takes off ", optional", or else a shape's parenthesis."""
    plain_type = given[1:-1].replace("`", "").removesuffix(", *optional*")
    return f" ({plain_type}, optional)" if " of shape " in given else ""


def describe_fields(cls: Class):
    """What `--help` says of a data class's own fields becomes a part of its docstring."""
    logging.disable(logging.WARNING)  # of kernels, when transformers is imported
    made = getattr(import_module(cls.module.path), cls.name)
    logging.disable(logging.NOTSET)
    parents = [getattr(parent, "__dataclass_fields__", {}) for parent in made.__mro__]
    lines = []
    for name, field in cls.attributes.items():
        known = [fields[name] for fields in parents if name in fields]
        said = next(one.metadata["help"] for one in known if "help" in one.metadata)
        lines.append(f"    {name}: {said}")
        if not str(field.value).startswith("field("):  # a function of ours makes it
            field.value = repr(known[0].default)
    summary = cls.docstring.value if cls.docstring else ""
    cls.docstring = Docstring("\n".join([summary, "", "Args:", *lines]), parser="google", parent=cls)
