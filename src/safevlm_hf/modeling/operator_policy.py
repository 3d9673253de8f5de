"""Policies over each other. A checkpoint's may not silence what its operator's refuses."""

import json
from collections.abc import Sequence

from .safety_policy import EVERY, RISK_THRESHOLD, SafetyNames, SafetyPolicy


OF_CHECKPOINT = "the checkpoint's policy"


def merge_policies(
    policies: Sequence[tuple[str, SafetyPolicy | dict | None]], config: SafetyNames | None = None
) -> SafetyPolicy:
    """Return policies as one, each over those before it.

    Args:
        policies: where each comes from, in words for an error, and the policy; `None` sets nothing.
        config: names of the model's categories and levels.

    Raises:
        `ValueError`: one does not fit, or contradicts those before it. It says which.
    """
    merged = SafetyPolicy(config=config)
    earlier: list[str] = []
    for source, policy in policies:
        if policy is None:
            continue
        try:
            own = SafetyPolicy.create(policy, config)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        try:
            merged = merged.override(own, config)
        except ValueError as error:
            raise ValueError(f"{source}, over {' and '.join(earlier)}: {error}") from None
        earlier.append(source)
    return merged


def enforced_policy(
    own: SafetyPolicy | dict | None, operator: SafetyPolicy | dict | None, config: SafetyNames
) -> SafetyPolicy:
    """Return a checkpoint's policy, overridden by its operator's: what a server enforces.

    Raises `ValueError` where either does not fit, or the checkpoint's could silence the operator's
    (`silencing_settings`)."""
    merged = merge_policies([(OF_CHECKPOINT, own), ("the operator's policy", operator)], config)
    silenced = describe_silencing(own, operator, config)
    if silenced is not None:
        raise ValueError(silenced)
    return merged


def describe_silencing(
    own: SafetyPolicy | dict | None, operator: SafetyPolicy | dict | None, config: SafetyNames
) -> str | None:
    """Return what `silencing_settings` finds as a sentence, and what to do about it; `None` where it finds nothing."""
    found = silencing_settings(SafetyPolicy.create(own, config), SafetyPolicy.create(operator, config), config)
    if not found:
        return None
    return (
        "The operator's policy refuses, and the checkpoint's own could keep a risk from being flagged, by settings "
        f"that the operator's does not name: {json.dumps(found)}. Name each of them in the operator's policy, with "
        "the value that shall hold, or take them out of the checkpoint's generation_config.json and config.json."
    )


def silencing_settings(own: SafetyPolicy, operator: SafetyPolicy, config: SafetyNames) -> dict:
    """Return the settings of a checkpoint's policy under which less might be flagged than under the default, where
    `operator` refuses and does not name them; empty where there are none.

    What is not certain to flag at least as much counts: a temperature in either direction, and any threshold over 0,
    for it stands in the place of the risk, which flags a category of any probability. A review band hides nothing: a
    flag comes before it. The operator names a setting by setting it; of `categories` and `thresholds` the entries of
    the categories that it sets, all of them by `"*"`, and of `temperatures` each by itself."""
    if not operator.refuses(config):
        return {}
    categories = _acting(own.categories, operator.categories, operator, config)
    thresholds = _acting(own.thresholds, operator.thresholds, operator, config)
    is_higher = own.risk_threshold is not None and own.risk_threshold > RISK_THRESHOLD
    found = {
        "enabled": False if own.enabled is False and operator.enabled is None else None,
        "categories": {name: is_on for name, is_on in categories.items() if not is_on},
        "risk_threshold": own.risk_threshold if operator.risk_threshold is None and is_higher else None,
        "thresholds": {name: threshold for name, threshold in thresholds.items() if threshold},
        "temperatures": {
            part: temperature
            for part, temperature in own.temperatures.items()
            if part not in operator.temperatures and temperature != 1
        },
        "remembered_turns": own.remembered_turns if operator.remembered_turns is None else None,
    }
    return {name: value for name, value in found.items() if value is not None and value != {}}


def _acting(own: dict, given: dict, operator: SafetyPolicy, config: SafetyNames) -> dict:
    """Return the entries of `own` that hold for a category which the operator has on and does not name in `given`."""
    if EVERY in given:
        return {}
    left = [name for name in config.categories if operator.is_on(name) and name not in given]
    acting = {name if name in own else EVERY for name in left}
    return {name: value for name, value in own.items() if name in acting}
