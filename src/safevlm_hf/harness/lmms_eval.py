"""Entry point of `lmms_eval.models`: the classes behind lmms-eval's `--model safevlm`.

The classes are named, not imported: lmms-eval loads every plugin while its own packages are half imported, and turns
an error there into a warning.
"""

from lmms_eval.models.registry_v2 import ModelManifest


CLASSES = "safevlm_hf.harness.lmms_eval_models"

MANIFEST = ModelManifest(
    model_id="safevlm",
    simple_class_path=f"{CLASSES}.SimpleSafeVlm",
    chat_class_path=f"{CLASSES}.ChatSafeVlm",
)
"""The chat class runs tasks that generate; `--force_simple` takes the simple one, which also gives likelihoods."""
