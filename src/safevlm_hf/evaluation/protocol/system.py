"""What was run: the part of a result that comparisons are about."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...strict_data import (
    Scalar,
    expect,
    is_hash,
    is_optional_text,
    is_scalar,
    is_text,
    set_plain_mapping,
    short_digest,
)


@dataclass(frozen=True)
class System:
    """What was run.

    Attributes:
        name: what tables call it, such as `"SafeVLM, verdict off"`.
        model: Hub id, folder, or the name of a model behind an endpoint.
        revision: commit on the Hub.
        weights_hash: of a local folder, as `fingerprints.weights_hash` gives it.
        chat_template_hash: as `fingerprints.chat_template_hash` gives it.
        policy: `SafetyPolicy.to_dict()` of the policy in force; `None` for a system without a verdict.
        options: whatever else decides its answers: dtype, device, attention, quantisation, a safety prompt.

    Raises:
        ValueError: a value is not as described.
    """

    name: str
    model: str
    revision: str | None = None
    weights_hash: str | None = None
    chat_template_hash: str | None = None
    policy: Mapping[str, Any] | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("name", "model"):
            expect(is_text(getattr(self, name)), name, "a name", getattr(self, name))
        expect(is_optional_text(self.revision), "revision", "a commit or null", self.revision)
        for name in ("weights_hash", "chat_template_hash"):
            value = getattr(self, name)
            expect(value is None or is_hash(value), name, "64 hex digits or null", value)
        if self.policy is not None:
            set_plain_mapping(self, "policy", "the settings of a policy or null")
        set_plain_mapping(self, "options", "settings, each a name and a value", is_scalar)

    @property
    def fingerprint(self) -> str:
        """12 hex digits, equal for systems that answer alike: neither the name counts nor, where there is a
        `weights_hash`, where the model was found."""
        parts = asdict(self)
        del parts["name"]
        if self.weights_hash is not None:
            del parts["model"], parts["revision"]
        return short_digest(parts)
