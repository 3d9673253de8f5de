"""Checkpoints as systems that take part in an evaluation: with their verdict, without it, and stock models."""

import json
from pathlib import Path

from ..modeling.operator_policy import OF_CHECKPOINT, merge_policies
from ..strict_data import short_digest
from .answering_items import model_answers
from .pipeline import Candidate, Settings
from .protocol.fingerprints import chat_template_hash, weights_hash
from .protocol.system import System


VERDICT_OFF = {"enabled": False}


def safe_candidate(name: str, checkpoint: str, model, processor, settings: Settings, policy=None) -> Candidate:
    """Return a safe checkpoint under a policy.

    Args:
        name: what tables call it.
        checkpoint: folder or Hub id, where model and processor come from.
        policy: a mapping over the checkpoint's own; `None` leaves the checkpoint's in force.
    """
    safety = model.config.safety_config
    in_force = merge_policies([(OF_CHECKPOINT, model.kept_policy()), (f"the policy of {name!r}", policy)], safety)
    names = {"levels": safety.levels, "categories": safety.categories}
    answer = model_answers(model, processor, settings.max_new_tokens, policy, **settings.decoding)
    return Candidate(_system(name, checkpoint, model, processor, in_force.to_dict()), answer, names)


def stock_candidate(name: str, checkpoint: str, model, processor, settings: Settings) -> Candidate:
    """Return a model without a verdict."""
    answer = model_answers(model, processor, settings.max_new_tokens, **settings.decoding)
    return Candidate(_system(name, checkpoint, model, processor), answer)


def _system(name: str, checkpoint: str, model, processor, policy: dict | None = None) -> System:
    options = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": getattr(model.config, "_attn_implementation", None),
    }
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None:  # weights may be quantised as they are loaded, which their files do not tell
        values = quantization if isinstance(quantization, dict) else quantization.to_dict()
        options["quantization_hash"] = short_digest(json.loads(json.dumps(values, default=str)))
    return System(
        name=name,
        model=Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint,
        revision=getattr(model.config, "_commit_hash", None),
        weights_hash=weights_hash(checkpoint) if Path(checkpoint).is_dir() else None,
        chat_template_hash=chat_template_hash(processor),
        policy=policy,
        options=options,
    )
