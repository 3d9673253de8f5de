"""Systems: the part of a result that comparisons are about."""

from collections.abc import Mapping
from dataclasses import asdict, field

from pydantic.dataclasses import dataclass

from ...strict_data import STRICT, Hash, PlainMapping, Scalar, Text, short_digest


@dataclass(frozen=True, config=STRICT)
class System:
    """A system that was run.

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

    name: Text
    model: Text
    revision: Text | None = None
    weights_hash: Hash | None = None
    chat_template_hash: Hash | None = None
    policy: PlainMapping | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """12 hex digits, equal for systems that answer alike: neither the name counts nor, where there is a
        `weights_hash`, where the model was found."""
        parts = asdict(self)
        del parts["name"]
        if self.weights_hash is not None:
            del parts["model"], parts["revision"]
        return short_digest(parts)
