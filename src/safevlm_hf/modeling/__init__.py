"""The safety layer, and one file per family of backbones. This folder's files travel with each checkpoint."""

# ruff: noqa: F403
from . import (
    safe_fast_vlm,
    safe_gemma3,
    safe_glm4v,
    safe_idefics3,
    safe_internvl,
    safe_llava,
    safe_llava_next,
    safe_llava_onevision,
    safe_mistral3,
    safe_qwen2_5_vl,
    safe_qwen2_vl,
    safe_qwen3_5,
    safe_qwen3_vl,
    safe_smolvlm,
)
from .configuration_safety import SafetyConfig
from .safe_fast_vlm import *
from .safe_gemma3 import *
from .safe_glm4v import *
from .safe_idefics3 import *
from .safe_internvl import *
from .safe_llava import *
from .safe_llava_next import *
from .safe_llava_onevision import *
from .safe_mistral3 import *
from .safe_qwen2_5_vl import *
from .safe_qwen2_vl import *
from .safe_qwen3_5 import *
from .safe_qwen3_vl import *
from .safe_smolvlm import *
from .safety_audit import SafetyAudit, read_audit
from .safety_explanation import SafetyExplanation
from .safety_policy import SafetyPolicy, SafetyVerdict


FAMILIES = (
    safe_llava,
    safe_qwen2_vl,
    safe_qwen2_5_vl,
    safe_smolvlm,
    safe_idefics3,
    safe_llava_next,
    safe_llava_onevision,
    safe_fast_vlm,
    safe_qwen3_vl,
    safe_qwen3_5,
    safe_gemma3,
    safe_mistral3,
    safe_internvl,
    safe_glm4v,
)
"""In the order in which they were added. Each names its configuration, generating model, base model and processor."""

__all__ = [
    "FAMILIES",
    "SafetyAudit",
    "SafetyConfig",
    "SafetyExplanation",
    "SafetyPolicy",
    "SafetyVerdict",
    "read_audit",
    *(name for family in FAMILIES for name in family.__all__),
]
