"""For mypy: torch.LongTensor, torch.BoolTensor and their like are torch.Tensor.

Annotations use them to tell readers the dtype. torch's stubs make them subclasses that no operation returns, so every
result would be an error.
"""

from mypy.plugin import Plugin


NAMES = {f"torch._C.{kind}Tensor" for kind in ("Bool", "Float", "Int", "Long")}


class TensorPlugin(Plugin):
    def get_type_analyze_hook(self, fullname: str):
        if fullname in NAMES:
            return lambda context: context.api.named_type("torch._tensor.Tensor", [])
        return None


def plugin(version: str) -> type[Plugin]:
    return TensorPlugin
