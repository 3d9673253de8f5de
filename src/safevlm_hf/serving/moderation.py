"""`POST /v1/moderations`: the verdict alone, in OpenAI's shape, with our level and action."""

from fastapi import HTTPException

from ..modeling.configuration_safety import SAFE
from ..modeling.safety_policy import SafetyVerdict, strictest_verdict
from .errors import BadRequest
from .metrics import Metrics
from .observation import Observation
from .requests import ImagePart, ModerationRequest, TextPart, UserMessage, read_request
from .routes import MODERATIONS
from .served_model import ServedModel


OFF = (
    "There is no /v1/moderations here: it tells every client the verdict, so it is off unless the server's operator "
    "switches it on (`safevlm serve --moderations`)."
)


async def refuse_moderation():
    """Answer 404 where the operator has not switched moderations on."""
    raise HTTPException(404, OFF)


async def moderate(served: ServedModel, metrics: Metrics, body: dict, request_id: str) -> dict:
    request = read_request(ModerationRequest, body)
    served.check_name(request.model)
    parts = [] if isinstance(request.input, str) else request.input
    if not any(isinstance(part, ImagePart) for part in parts):
        raise BadRequest(
            "A text without a picture has no verdict here. `input` must be a list with an `image_url` part, and "
            "`text` parts with what is asked about it.",
            "input",
        )
    observation = Observation(request_id, MODERATIONS, served.settings, metrics)
    verdicts = await served.assess([UserMessage(role="user", content=parts)], observation)
    has_text = any(isinstance(part, TextPart) and part.text.strip() for part in parts)
    result = _result(verdicts, ["image", "text"] if has_text else ["image"])
    return {"id": f"modr-{request_id}", "model": served.name, "results": [result]}


def _result(verdicts: list[SafetyVerdict], input_types: list[str]) -> dict:
    """Join the verdicts: each category gets its highest score, and the strictest verdict gives level and action."""
    strictest = strictest_verdict(verdicts)
    assert strictest is not None, "a moderation has a picture, and each picture a verdict"
    flagged = {name for verdict in verdicts for name in verdict.flagged_categories}
    names = [name for name in strictest.category_probabilities if name != SAFE]
    return {
        # A picture that the model cannot read has no flagged category, and is acted on all the same.
        "flagged": bool(flagged) or strictest.action in ("condition", "refuse"),
        "categories": {name: name in flagged for name in names},
        "category_scores": {name: max(one.category_probabilities[name] for one in verdicts) for name in names},
        "category_applied_input_types": dict.fromkeys(names, input_types),
        "level": strictest.level,
        "level_scores": strictest.level_probabilities,
        "action": strictest.action,
    }
