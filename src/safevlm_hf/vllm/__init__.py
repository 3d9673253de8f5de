"""Safe models in vLLM: `vllm serve CHECKPOINT`, with the verdict inside (docs/vllm.md)."""

from transformers import AutoModel

from ..checkpoints.families import BY_MODEL_TYPE


RENDERER = "safevlm"
MODEL = (f"{__name__}.model", "SafeModelForVllm")


def register():
    """Register the safe models: the entry point of `vllm.general_plugins`, which each process of vLLM calls, maybe
    more than once."""
    from vllm.model_executor.models import ModelRegistry, registry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from .settings import SafeSettings, UnservedSettings

    for family in BY_MODEL_TYPE.values():
        architecture = family.model.__name__
        # The engine would run every safe model in its own way, and judge the images without their question.
        if family.base_model.vllm_gap is not None:
            MODELS_CONFIG_MAP[architecture] = UnservedSettings
            continue
        MODELS_CONFIG_MAP[architecture] = SafeSettings
        # The engine builds the base model by AutoModel and brings its own language model head.
        AutoModel.register(family.config, family.base_model, exist_ok=True)
        if architecture not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(architecture, ":".join(MODEL))
        # With `--model-impl transformers` the names of this table alone are not looked up in remote code.
        registry._TRANSFORMERS_BACKEND_MODELS[architecture] = MODEL
    if RENDERER not in RENDERER_REGISTRY.renderers:
        RENDERER_REGISTRY.register(RENDERER, f"{__name__}.rendering", "SafeRenderer")
        TokenizerRegistry.register(RENDERER, "vllm.tokenizers.hf", "CachedHfTokenizer")
