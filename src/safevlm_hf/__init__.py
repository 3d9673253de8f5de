"""SafeVLM (arXiv 2405.13581) for Hugging Face Transformers. Importing it registers all safe models."""

# ruff: noqa: F403
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto import modeling_auto

from . import modeling
from .families import BY_MODEL_TYPE
from .modeling import *
from .version import __version__


_MODEL_CLASSES = (AutoModel, AutoModelForImageTextToText, getattr(modeling_auto, "AutoModelForMultimodalLM", None))

for _model_type, _family in BY_MODEL_TYPE.items():
    AutoConfig.register(_model_type, _family.config, exist_ok=True)
    AutoProcessor.register(_family.config, _family.processor, exist_ok=True)
    # AutoModel gives the class with `generate`, as downstream code expects of a vision language model.
    for _auto_class in filter(None, _MODEL_CLASSES):
        _auto_class.register(_family.config, _family.model, exist_ok=True)

__all__ = ["__version__", *modeling.__all__]
