"""Refusals of a policy that keyword judges do not recognise: on published benchmarks they would count as answers."""

from ...modeling.safety_policy import SAFE, SafetyNames, SafetyPolicy
from .matchers import published_matchers


def unknown_refusals(policy: SafetyPolicy | dict | None, config: SafetyNames | None = None) -> list[tuple[str, str]]:
    """The fixed texts of a policy's refusals that no published keyword judge takes for a refusal, as (category, text).

    Texts of the policy's own are looked at whatever its actions are, for a file may override another policy that
    refuses. Our texts, in the policy's language, are looked at where the policy refuses their category. The category
    `"*"` stands for an image that cannot be read, and for every category that has no text of its own.

    Args:
        config: whose categories and levels hold; the default ones if unset.

    Raises:
        ValueError: the policy is malformed, or names what the config does not have.
    """
    config = SafetyNames() if config is None else config
    policy = SafetyPolicy.create(policy, config)
    judges = published_matchers()
    texts = {name: policy.refusal(None if name == "*" else name) for name in _refused(policy, config)}
    texts |= policy.refusals
    texts = {name: text for name, text in texts.items() if name == "*" or text != texts.get("*")}
    return [(name, text) for name, text in texts.items() if not any(one.keywords.find(text) for one in judges)]


def _refused(policy: SafetyPolicy, config: SafetyNames) -> list[str]:
    """The categories that the policy refuses at some level, after `"*"` if there are any."""
    if not policy.refuses(config):
        return []
    levels = config.levels[1:]
    categories = [name for name in config.categories if name != SAFE and policy.is_on(name)]
    return ["*", *(name for name in categories if any(policy.action(name, one, config) == "refuse" for one in levels))]
