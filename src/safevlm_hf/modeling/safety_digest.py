"""Digests of what a checkpoint's verdicts mean and lead to. They find accidents and edits, no attacker."""

import hashlib
import json


# Fields of the safety config by part. A later field gets a part of its own, or every older checkpoint would differ.
FIELDS = {
    "names": ("categories", "levels"),
    "head sizes": (
        "num_safety_tokens",
        "projector_depth",
        "projector_mlp_depth",
        "projector_hidden_size",
        "projector_grid_size",
        "num_attention_heads",
        "head_pooling",
        "head_window_sizes",
        "head_gate_size",
        "is_trained",
    ),
    "condition shape": ("num_conditions", "num_condition_tokens"),
}
TEXTS = ("refusals", "language")  # fields of the policy


def safety_digests(config, policies: list[dict | None]) -> dict[str, str]:
    """
    Return part to digest: names, head sizes, condition shape, refusal texts and policy. Weights are no part of it.

    Args:
        config (a configuration with [`SafeConfigMixin`]): whose `safety_config` is taken.
        policies (`list[dict | None]`): all copies that the checkpoint keeps. A part in which they differ has a digest
            of each, with blanks between them.
    """
    digests: dict[str, list[str]] = {}
    for policy in [policy for policy in policies if policy is not None] or [{}]:
        for part, digest in _digests(config, policy).items():
            digests.setdefault(part, []).append(digest)
    return {part: " ".join(dict.fromkeys(found)) for part, found in digests.items()}


def _digests(config, policy: dict) -> dict[str, str]:
    safety = config.safety_config
    # A policy counts as [`SafetyPolicy`] understands it: without what is empty, and 1 as 1.0.
    settings = {name: _with_floats(value) for name, value in policy.items() if value is not None and value != {}}
    parts: dict[str, list | dict] = {part: [getattr(safety, name) for name in names] for part, names in FIELDS.items()}
    parts["refusal texts"] = {name: value for name, value in settings.items() if name in TEXTS}
    parts["policy"] = {name: value for name, value in settings.items() if name not in TEXTS}
    texts = {part: json.dumps(value, sort_keys=True) for part, value in parts.items()}
    return {part: hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()}


def changed_parts(config, policies: list[dict | None]) -> list[str]:
    """Return the parts that are not as `config.safety_digest` says: none of an older checkpoint, which has no digests.
    `policies` are all copies that the checkpoint keeps."""
    stored = config.safety_digest or {}
    found = safety_digests(config, policies)
    return [part for part in found if part in stored and not {*found[part].split()} <= {*str(stored[part]).split()}]


def _with_floats(value):
    if isinstance(value, dict):
        return {name: _with_floats(one) for name, one in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
