"""SafeVLM (arXiv 2405.13581) for Hugging Face Transformers. Importing registers SafeLlava with the auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto import modeling_auto

from .modeling import (
    SafeLlavaConfig,
    SafeLlavaForConditionalGeneration,
    SafeLlavaModel,
    SafeLlavaProcessor,
    SafetyAudit,
    SafetyConfig,
    SafetyExplanation,
    SafetyPolicy,
    SafetyVerdict,
    read_audit,
)
from .version import __version__


AutoConfig.register(SafeLlavaConfig.model_type, SafeLlavaConfig, exist_ok=True)
AutoProcessor.register(SafeLlavaConfig, SafeLlavaProcessor, exist_ok=True)
# AutoModel gives the class with `generate`, as downstream code expects of a vision language model.
for _auto_class in (AutoModel, AutoModelForImageTextToText, getattr(modeling_auto, "AutoModelForMultimodalLM", None)):
    if _auto_class is not None:
        _auto_class.register(SafeLlavaConfig, SafeLlavaForConditionalGeneration, exist_ok=True)

__all__ = [
    "__version__",
    "SafeLlavaConfig",
    "SafeLlavaForConditionalGeneration",
    "SafeLlavaModel",
    "SafeLlavaProcessor",
    "SafetyAudit",
    "SafetyConfig",
    "SafetyExplanation",
    "SafetyPolicy",
    "SafetyVerdict",
    "read_audit",
]
