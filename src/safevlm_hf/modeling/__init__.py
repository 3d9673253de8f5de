from .configuration_safe_llava import SafeLlavaConfig, SafetyConfig
from .modeling_safe_llava import SafeLlavaForConditionalGeneration, SafeLlavaModel
from .processing_safe_llava import SafeLlavaProcessor
from .safety_policy import SafetyPolicy, SafetyVerdict


__all__ = [
    "SafeLlavaConfig",
    "SafeLlavaForConditionalGeneration",
    "SafeLlavaModel",
    "SafeLlavaProcessor",
    "SafetyConfig",
    "SafetyPolicy",
    "SafetyVerdict",
]
