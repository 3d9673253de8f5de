"""Search for the users' words in a prompt: texts are marked while the messages are still messages."""

import bisect
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers.utils import logging


logger = logging.get_logger(__name__)

ANSWERING_ROLES = ("assistant", "model")
STANDING_ROLES = ("system", "developer")
TOOL_ROLES = ("tool", "function", "ipython")
KNOWN_ROLES = ("user", *ANSWERING_ROLES, *STANDING_ROLES, *TOOL_ROLES)
IMAGE_TYPES = ("image", "image_url")
IMAGE_LOCATIONS = ("image", "url", "path", "base64", "image_url")

# Unicode's private planes: no filter of a template changes these characters, and no text needs them.
PRIVATE_PLANE, PRIVATE_CHARACTERS = 0xF0000, 0xFFFE
OPEN, CLOSE = chr(0x100000), chr(0x100001)
NONCE_LENGTH = 8  # characters, 16 bits each

ALL_IS_QUESTION = (
    "The users' words could not be found in the prompt, because %s. All of its text counts as the question, which is "
    "safe, but a system prompt and earlier answers can then make harmless requests look risky."
)
CHANGED_BY_TEMPLATE = "the chat template changes, repeats or leaves out their texts, or they are not plain texts"
RENDERING_OPTIONS = {"add_generation_prompt", "continue_final_message", "tokenize", "return_dict"}


@dataclass(frozen=True)
class QuestionSpans:
    """A prompt, and where it holds the users' words.

    Args:
        text: the rendered prompt, without marks.
        spans: (start, end, turn) of each text, in characters; turn 1 is the users' last one, 2 the one before.
    """

    text: str
    spans: list[tuple[int, int, int]]


class QuestionMarks:
    """Marks around the texts of one conversation. They are random, so that no text can contain them."""

    def __init__(self):
        self.nonce = "".join(chr(PRIVATE_PLANE + secrets.randbelow(PRIVATE_CHARACTERS)) for _ in range(NONCE_LENGTH))
        self.turns = []
        self.required = []
        self.has_structure = False

    def mark_conversation(
        self, messages: list[Mapping], operator_messages: int | None, is_continued: bool, roles=("user",)
    ) -> list:
        """
        Put marks around what counts, as the question does.

        Args:
            messages: of one conversation.
            operator_messages: how many messages at the start the operator vouches for; all others count. If `None`,
                the caller vouches for every role, and what was said in one of `roles` counts.
            is_continued: the final message counts whatever its role, because the user typed the start of the answer.
        """
        marked, turns = [], count_turns(messages)
        for number, (message, turn) in enumerate(zip(messages, turns)):
            counts = message["role"] in roles if operator_messages is None else number >= operator_messages
            if is_continued and number == len(messages) - 1:
                counts, turn = True, 1
            marked.append(self._mark_message(message, turn) if counts else message)
        return marked

    def _mark_message(self, message: Mapping, turn: int) -> dict:
        marked = dict(message)
        for name in message.keys() - {"role", "content"}:
            marked[name] = self._mark_field(message[name], turn)
        if "content" in message:
            marked["content"] = self._mark_content(message["content"], turn)
        return marked

    def _mark_content(self, content, turn: int):
        if isinstance(content, str):
            return self._mark(content, turn, is_required=True)
        if isinstance(content, list):
            return [self._mark_part(part, turn) for part in content]
        return self._mark_field(content, turn)

    def _mark_part(self, part, turn: int):
        if not isinstance(part, Mapping):
            return self._mark_content(part, turn)
        marked = dict(part)
        for name in part.keys() - ({"type", *IMAGE_LOCATIONS} if is_image_part(part) else {"type"}):
            is_content = name == "text" and part.get("type") == "text"
            marked[name] = self._mark_content(part[name], turn) if is_content else self._mark_field(part[name], turn)
        return marked

    def _mark_field(self, value, turn: int):
        """Mark a field beside the content: a template may print it, or not."""
        if isinstance(value, str):
            return self._mark(value, turn, is_required=False)
        # The names in a dict, as in the arguments of a tool's call, are words, too, and cannot be marked.
        self.has_structure = self.has_structure or (isinstance(value, (Mapping, list)) and bool(value))
        return value

    def _mark(self, text: str, turn: int, is_required: bool) -> str:
        core = text.strip()  # a template that trims its texts leaves the marks in place
        if not core:
            return text
        number = len(self.turns)
        self.turns.append(turn)
        if is_required:
            self.required.append(number)
        start = text.index(core)
        marked = f"{self.nonce}{number}{OPEN}{core}{self.nonce}{number}{CLOSE}"
        return text[:start] + marked + text[start + len(core) :]

    def read(self, rendered: str) -> QuestionSpans | None:
        """Return the prompt without marks; nothing where a text did not come out whole, once and in its order."""
        if self.has_structure:
            return None
        # Between two marks there is a piece of text; each mark gives its number and its kind.
        pieces = re.split(f"{self.nonce}([0-9]+)([{OPEN}{CLOSE}])", rendered)
        kept, spans, found = [pieces[0]], [], []
        position, start, opened = len(pieces[0]), 0, None
        for number, kind, piece in zip(pieces[1::3], pieces[2::3], pieces[3::3]):
            if kind == OPEN and opened is None and int(number) < len(self.turns):
                opened, start = number, position
                found.append(int(number))
            elif kind == CLOSE and number == opened:
                opened = None
                spans.append((start, position, self.turns[int(number)]))
            else:
                return None
            kept.append(piece)
            position += len(piece)
        came_once, required = len(set(found)) == len(found), set(self.required)
        in_order = [number for number in found if number in required] == self.required
        if opened is not None or not came_once or not in_order:
            return None
        return QuestionSpans("".join(kept), spans)


def find_question(
    messages: list[Mapping], operator_messages: int | None, is_continued: bool, render: Callable[[list], str]
) -> QuestionSpans | None:
    """
    Find the question in a conversation's prompt.

    Args:
        messages, operator_messages, is_continued: as for [`QuestionMarks.mark_conversation`].
        render: makes the prompt of messages.

    Returns:
        `None`, with a warning, where that cannot be told: all text is the question then.
    """
    unknown = [message.get("role") for message in messages if message.get("role") not in KNOWN_ROLES]
    if unknown:
        warn_that_all_counts(f"{str(unknown[0])[:40]!r} is no role that is known")
        return None
    spans = _find(messages, render, operator_messages, is_continued)
    if spans is None:
        warn_that_all_counts(CHANGED_BY_TEMPLATE)
    return spans


def find_answers(messages: list[Mapping], render: Callable[[list], str]) -> QuestionSpans | None:
    """Find the model's answers in a conversation's prompt; `None` where that cannot be told."""
    return _find(messages, render, None, False, ANSWERING_ROLES)


def _find(messages, render, *how) -> QuestionSpans | None:
    marks = QuestionMarks()
    try:
        return marks.read(render(marks.mark_conversation(messages, *how)))
    except Exception:
        # A template's own error: one that is not about the marks comes again when the prompt is rendered without them.
        return None


def has_texts(options: Mapping) -> bool:
    """Tell whether arguments of a rendering bring texts of their own: tools, documents, variables of the template."""
    texts = (value for name, value in options.items() if name not in RENDERING_OPTIONS)
    return any(isinstance(value, (str, Mapping, Sequence)) and len(value) > 0 for value in texts)


def warn_that_all_counts(reason: str):
    """Warn, once per reason, that all text counts as the question."""
    logger.warning_once(ALL_IS_QUESTION % reason)


def is_image_part(part: Mapping) -> bool:
    """Tell whether a part of a message's content is a picture."""
    return part.get("type") in IMAGE_TYPES


def count_turns(messages: list[Mapping]) -> list[int]:
    """
    Count the turn of each message, from the users' last one, 1.

    Users' messages in a row are one turn: the model has answered none of them. An answer belongs to the turn that it
    answers. A system prompt is in force in every turn, and so belongs to the last one.
    """
    turns, turn, has_user = [], 1, False
    for message in reversed(messages):
        if message["role"] in ANSWERING_ROLES and has_user:
            turn, has_user = turn + 1, False
        has_user = has_user or message["role"] == "user"
        turns.append(1 if message["role"] in STANDING_ROLES else turn)
    return turns[::-1]


def expand_spans(spans: list[tuple[int, int, int]], replacements: list[dict]) -> list[tuple[int, int, int]]:
    """Move the spans into the text whose image placeholders were expanded, as `text_replacement_offsets` tells."""
    ends = [replacement["span"][1] for replacement in replacements]
    gained = [0] + [replacement["new_span"][1] - replacement["span"][1] for replacement in replacements]
    return [tuple(at + gained[bisect.bisect_right(ends, at)] for at in span[:2]) + span[2:] for span in spans]


def token_turns(offsets: list[tuple[int, int]], spans: list[tuple[int, int, int]]) -> list[int]:
    """Return the turn of each token that overlaps a span, the last turn where it overlaps several; 0 outside of
    all."""
    starts, ends, turns = np.array(spans, dtype=int).reshape(-1, 3).T
    token_starts, token_ends = np.array(offsets, dtype=int).reshape(-1, 2).T
    # A token of no width, as a byte of a longer character, counts inside a text; at its border it may be padding.
    first = np.searchsorted(ends, token_starts, side="right")
    last = np.searchsorted(starts, token_ends, side="left")
    found = np.zeros(len(offsets), dtype=int)
    found[last > first] = turns[first[last > first]]
    for token in np.flatnonzero(last > first + 1):
        found[token] = turns[first[token] : last[token]].min()
    return found.tolist()
