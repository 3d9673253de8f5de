from .configuration_safe_llava import SafeLlavaConfig, SafetyConfig
from .modeling_safe_llava import SafeLlavaForConditionalGeneration, SafeLlavaModel
from .processing_safe_llava import SafeLlavaProcessor
from .safety_audit import SafetyAudit, read_audit
from .safety_explanation import SafetyExplanation
from .safety_policy import SafetyPolicy, SafetyVerdict


__all__ = [
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
