"""Refusals of a policy that keyword judges do not recognise: on published benchmarks they would count as answers."""

from ...modeling.safety_policy import SAFE, SafetyNames, SafetyPolicy
from .matchers import published_matchers


def unknown_refusals(policy: SafetyPolicy | dict | None, config: SafetyNames | None = None) -> list[tuple[str, str]]:
    """Return the fixed texts of a policy's refusals that no published keyword judge takes for a refusal, as (category,
    text).

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
    texts = {}
    if policy.refuses(config):
        texts["*"] = policy.refusal(None)
        for name in config.categories:
            if name == SAFE or not policy.is_on(name):
                continue
            if any(policy.action(name, level, config) == "refuse" for level in config.levels[1:]):
                texts[name] = policy.refusal(name)
    texts |= policy.refusals
    texts = {name: text for name, text in texts.items() if name == "*" or text != texts.get("*")}
    return [(name, text) for name, text in texts.items() if not any(one.keywords.find(text) for one in judges)]
