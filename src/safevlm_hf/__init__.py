"""SafeVLM (arXiv 2405.13581) for Hugging Face Transformers. Importing it registers all safe models."""

# ruff: noqa: F403
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto import modeling_auto

from . import modeling
from .modeling import *
from .version import __version__


_MODEL_CLASSES = (AutoModel, AutoModelForImageTextToText, getattr(modeling_auto, "AutoModelForMultimodalLM", None))

for _family in modeling.FAMILIES:
    _config, _model, _, _processor = (getattr(_family, name) for name in _family.__all__)
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoProcessor.register(_config, _processor, exist_ok=True)
    # AutoModel gives the class with `generate`, as downstream code expects of a vision language model.
    for _auto_class in filter(None, _MODEL_CLASSES):
        _auto_class.register(_config, _model, exist_ok=True)

__all__ = ["__version__", *modeling.__all__]
