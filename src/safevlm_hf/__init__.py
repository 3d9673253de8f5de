"""SafeVLM (arXiv 2405.13581) for Hugging Face Transformers. Importing it registers all safe models."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto import modeling_auto

from .modeling import (
    SafeLlavaConfig,
    SafeLlavaForConditionalGeneration,
    SafeLlavaModel,
    SafeLlavaProcessor,
    SafeQwen2_5_VLConfig,
    SafeQwen2_5_VLForConditionalGeneration,
    SafeQwen2_5_VLModel,
    SafeQwen2_5_VLProcessor,
    SafeQwen2VLConfig,
    SafeQwen2VLForConditionalGeneration,
    SafeQwen2VLModel,
    SafeQwen2VLProcessor,
    SafetyAudit,
    SafetyConfig,
    SafetyExplanation,
    SafetyPolicy,
    SafetyVerdict,
    read_audit,
)
from .version import __version__


FAMILIES = (
    (SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaProcessor),
    (SafeQwen2_5_VLConfig, SafeQwen2_5_VLForConditionalGeneration, SafeQwen2_5_VLProcessor),
    (SafeQwen2VLConfig, SafeQwen2VLForConditionalGeneration, SafeQwen2VLProcessor),
)
"""Configuration, model and processor of each backbone."""

_MODEL_CLASSES = (AutoModel, AutoModelForImageTextToText, getattr(modeling_auto, "AutoModelForMultimodalLM", None))

for _config, _model, _processor in FAMILIES:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoProcessor.register(_config, _processor, exist_ok=True)
    # AutoModel gives the class with `generate`, as downstream code expects of a vision language model.
    for _auto_class in filter(None, _MODEL_CLASSES):
        _auto_class.register(_config, _model, exist_ok=True)

__all__ = [
    "FAMILIES",
    "SafeLlavaConfig",
    "SafeLlavaForConditionalGeneration",
    "SafeLlavaModel",
    "SafeLlavaProcessor",
    "SafeQwen2VLConfig",
    "SafeQwen2VLForConditionalGeneration",
    "SafeQwen2VLModel",
    "SafeQwen2VLProcessor",
    "SafeQwen2_5_VLConfig",
    "SafeQwen2_5_VLForConditionalGeneration",
    "SafeQwen2_5_VLModel",
    "SafeQwen2_5_VLProcessor",
    "SafetyAudit",
    "SafetyConfig",
    "SafetyExplanation",
    "SafetyPolicy",
    "SafetyVerdict",
    "__version__",
    "read_audit",
]
