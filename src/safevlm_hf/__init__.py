"""SafeVLM (arXiv 2405.13581) for Hugging Face Transformers. Importing it registers all safe models."""

# ruff: noqa: F403
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto import modeling_auto

from .checkpoints.families import BY_MODEL_TYPE, FAMILIES
from .modeling.configuration_safety import SafetyConfig
from .modeling.safe_fast_vlm import *
from .modeling.safe_gemma3 import *
from .modeling.safe_glm4v import *
from .modeling.safe_idefics3 import *
from .modeling.safe_internvl import *
from .modeling.safe_llava import *
from .modeling.safe_llava_next import *
from .modeling.safe_llava_onevision import *
from .modeling.safe_mistral3 import *
from .modeling.safe_qwen2_5_vl import *
from .modeling.safe_qwen2_vl import *
from .modeling.safe_qwen3_5 import *
from .modeling.safe_qwen3_vl import *
from .modeling.safe_smolvlm import *
from .modeling.safety_audit import SafetyAudit, read_audit
from .modeling.safety_explanation import SafetyExplanation
from .modeling.safety_policy import SafetyPolicy, SafetyVerdict
from .version import __version__


_MODEL_CLASSES = (AutoModel, AutoModelForImageTextToText, getattr(modeling_auto, "AutoModelForMultimodalLM", None))

for _model_type, _family in BY_MODEL_TYPE.items():
    AutoConfig.register(_model_type, _family.config, exist_ok=True)
    AutoProcessor.register(_family.config, _family.processor, exist_ok=True)
    # AutoModel gives the class with `generate`, as downstream code expects of a vision language model.
    for _auto_class in filter(None, _MODEL_CLASSES):
        _auto_class.register(_family.config, _family.model, exist_ok=True)

__all__ = [
    "FAMILIES",
    "SafetyAudit",
    "SafetyConfig",
    "SafetyExplanation",
    "SafetyPolicy",
    "SafetyVerdict",
    "__version__",
    "read_audit",
    *(name for family in FAMILIES for name in family.__all__),
]
