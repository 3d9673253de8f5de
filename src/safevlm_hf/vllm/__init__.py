"""SafeLlava in vLLM: `vllm serve CHECKPOINT`, with the verdict inside (docs/vllm.md)."""

from transformers import AutoModel

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaModel
from safevlm_hf.families import BY_MODEL_TYPE


ARCHITECTURE = SafeLlavaForConditionalGeneration.__name__
RENDERER = "safe_llava"


def register():
    """Entry point of `vllm.general_plugins`: called in each of vLLM's processes, maybe more than once."""
    from vllm.model_executor.models import ModelRegistry, registry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from .settings import SafeLlavaSettings, UnservedSettings

    # The engine builds the base model by AutoModel and brings its own language model head.
    AutoModel.register(SafeLlavaConfig, SafeLlavaModel, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:SafeLlavaForVllm")
    # With `--model-impl transformers` the names of this table alone are not looked up in remote code.
    registry._TRANSFORMERS_BACKEND_MODELS[ARCHITECTURE] = (f"{__name__}.model", "SafeLlavaForVllm")
    # The engine would run any other safe model, too, and judge its images without their question.
    served = {family.model.__name__: UnservedSettings for family in BY_MODEL_TYPE.values()}
    MODELS_CONFIG_MAP.update({**served, ARCHITECTURE: SafeLlavaSettings})
    if RENDERER not in RENDERER_REGISTRY.renderers:
        RENDERER_REGISTRY.register(RENDERER, f"{__name__}.rendering", "SafeLlavaRenderer")
        TokenizerRegistry.register(RENDERER, "vllm.tokenizers.hf", "CachedHfTokenizer")
