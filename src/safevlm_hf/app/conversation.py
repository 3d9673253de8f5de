"""A conversation with two sides: the same questions and pictures, and each side's own answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from transformers import BatchFeature

from .. import asking
from .controls import MAX_TURNS


SAFE_SIDE, FREE_SIDE = "safe", "free"
SIDES = (SAFE_SIDE, FREE_SIDE)  # under the verdict, and without it
MAX_CHARACTERS = 2**13  # of a question


@dataclass(frozen=True)
class Turn:
    """A question and both answers.

    Attributes:
        question: what the visitor has typed.
        picture: file of the picture that comes with it; `None` where the earlier ones are still talked about.
        answers: side to its answer.
        is_stopped: whether the visitor stopped the answers before their end.
    """

    question: str
    picture: str | None
    answers: dict[str, str]
    is_stopped: bool = False


def ask(turns: Sequence[Turn], question: str, picture: str | None) -> Turn:
    """Return the next turn of a conversation, without answers. A picture that was shown before is not shown again.

    Raises:
        ValueError: there is no question, it is too long, or the conversation is.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError("Type a question first.")
    if len(question) > MAX_CHARACTERS:
        raise ValueError(f"The question has {len(question)} characters, more than {MAX_CHARACTERS}: shorten it.")
    if len(turns) >= MAX_TURNS:
        raise ValueError(f"The conversation has {MAX_TURNS} turns, the most on this page: begin a new one.")
    is_shown = picture in [turn.picture for turn in turns]
    return Turn(question.strip(), None if is_shown else picture, dict.fromkeys(SIDES, ""))


def shown_pictures(turns: Sequence[Turn]) -> list[str]:
    """Return the files of the conversation's pictures, in their order."""
    return [turn.picture for turn in turns if turn.picture is not None]


def encode(
    model, processor, turns: Sequence[Turn], images: Sequence[Image.Image], side: str, num_new_tokens: int
) -> BatchFeature:
    """Return one side of a conversation, up to its last question, as the model's inputs.

    Args:
        images: those of [`shown_pictures`].
        num_new_tokens: longest answer.

    Raises:
        ValueError: the model's context is too short for both.
    """
    left, messages = iter(images), []
    for turn in turns:
        shown = [] if turn.picture is None else [{"type": "image", "image": next(left)}]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answers[side]}]})
    inputs = asking.encode(processor, [messages[:-1]])
    try:
        asking.check_room(model, inputs, num_new_tokens)
    except asking.PromptTooLong as error:
        raise ValueError(f"The conversation does not fit, begin a new one: {error}.") from None
    return inputs.to(model.device, model.dtype)
