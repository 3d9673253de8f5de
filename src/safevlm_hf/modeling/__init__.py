from .configuration_safety import SafetyConfig
from .safe_llava import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaModel, SafeLlavaProcessor
from .safe_qwen2_5_vl import (
    SafeQwen2_5_VLConfig,
    SafeQwen2_5_VLForConditionalGeneration,
    SafeQwen2_5_VLModel,
    SafeQwen2_5_VLProcessor,
)
from .safe_qwen2_vl import (
    SafeQwen2VLConfig,
    SafeQwen2VLForConditionalGeneration,
    SafeQwen2VLModel,
    SafeQwen2VLProcessor,
)
from .safety_audit import SafetyAudit, read_audit
from .safety_explanation import SafetyExplanation
from .safety_policy import SafetyPolicy, SafetyVerdict


__all__ = [
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
    "read_audit",
]
