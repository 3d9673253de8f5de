from .configuration_safety import SafetyConfig
from .safe_llava import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaModel, SafeLlavaProcessor
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
