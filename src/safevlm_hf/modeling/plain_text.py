"""Texts without special tokens, wherever they stand in a conversation."""

import dataclasses
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from .question_mask import IMAGE_LOCATIONS, is_image_part


def _any_of(words: Sequence[str]) -> str:
    """A regular expression for the longest of these words, which are sorted. What words begin with in common is read
    once: thousands of alternatives in a row would each be tried at every place."""
    parts, is_end = [], False
    for first, group in groupby(words, key=lambda word: word[:1]):
        if not first:
            is_end = True
            continue
        begin = os.path.commonprefix(same := list(group))
        parts.append(re.escape(begin) + _any_of([word[len(begin) :] for word in same]))
    return f"(?:{'|'.join(parts)}){'?' * is_end}" if parts else ""


class PlainText:
    """
    Breaks the tokens in users' texts, so that none adds an image position, moves one, or ends a turn.

    Args:
        tokens (`Iterable[str]`): a tokenizer's special and added tokens, and the image's. There may be thousands:
            make one of these per prompt, not per text.
    """

    def __init__(self, tokens: Iterable[str]):
        # Blanks mean nothing to a prompt.
        tokens = {token for token in tokens if len(token) > 1 and not token.isspace()}
        # A run of one character stays one however it is broken.
        tokens = {token for token in tokens if token not in f"{token[0]} {token[1:]}"}
        # Ends a text that would form a token with the next one. Unlike a blank, no template strips it.
        marks = (chr(code) for code in range(0xB7, 0x2000))
        self.seam = next(mark for mark in marks if mark.isprintable() and not any(mark in token for token in tokens))
        self.pattern = re.compile(_any_of(sorted(tokens)) or r"(?!)")  # without tokens it finds none

    def conversation(self, conversation) -> list:
        """One conversation, or several, as lists of dicts with plain texts."""
        messages = getattr(conversation, "messages", conversation)
        if not _is_sequence(messages) or not len(messages):
            raise ValueError(
                f"A conversation must be a list with at least one message, got {type(messages).__name__} "
                f"{str(messages)[:100]!r}. A finished prompt goes to `processor(text=...)`."
            )
        if is_batch(messages):
            return [self.conversation(one) for one in messages]
        return [self._message(_as_plain(message)) for message in messages]

    def _message(self, message: Mapping) -> dict:
        if not isinstance(message, Mapping):
            raise ValueError(f"A message must be a dict with `role` and `content`, got {type(message).__name__}.")
        content = _as_plain(message.get("content"))
        plain = self.value({name: value for name, value in message.items() if name != "content"})
        if "content" in message:
            plain["content"] = self._parts(content) if _is_sequence(content) else self.value(content)
        return plain

    def _parts(self, content: Sequence) -> list:
        """Plain parts that form no token together either. Templates print one text after the other, some of them
        stripped: those of all parts that have one, or of the parts called text alone."""
        parts = [self._part(part) for part in content]
        with_text = [part for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
        of_type = [part for part in with_text if part.get("type") == "text"]
        is_changed = True
        while is_changed:
            is_changed = False
            for printed in (with_text, of_type):
                for seam in self._crossed_seams([part["text"] for part in printed]):
                    printed[seam]["text"] += self.seam
                    is_changed = True
        return parts

    def _crossed_seams(self, texts: list[str]) -> set[int]:
        """The texts at whose end a token goes on into the next one."""
        seams = set()
        for pieces in (texts, [text.strip() for text in texts]):
            ends = list(accumulate(map(len, pieces)))
            for match in self.pattern.finditer("".join(pieces)):
                seam = bisect_right(ends, match.start())
                if ends[seam] < match.end():
                    seams.add(seam)
        return seams

    def _part(self, part):
        part = _as_plain(part)
        if not isinstance(part, Mapping) or not is_image_part(part):
            return self.value(part)
        # What says where the pixels are may hold a token, as a file's name does; templates print none of it.
        locations = {name: part[name] for name in IMAGE_LOCATIONS if name in part}
        return {**self.value({name: item for name, item in part.items() if name not in locations}), **locations}

    def value(self, value):
        """Any data of a client's, as tools are: all texts in it, the names, too."""
        value = _as_plain(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(name): self.value(item) for name, item in value.items()}
        if _is_sequence(value):
            return [self.value(item) for item in value]
        return value

    def text(self, text: str) -> str:
        # A space after the first character breaks a token; broken ones may leave another to find.
        broken = self.pattern.sub(_break, text)
        while broken != text:
            text, broken = broken, self.pattern.sub(_break, broken)
        return text


def _break(match: re.Match) -> str:
    return f"{match[0][0]} {match[0][1:]}"


def _as_plain(value):
    """Objects of a client library, as the library's own rendering takes them, as dicts and lists to look into."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return value.model_dump()
    # pydantic gives what a schema calls an iterable as an iterator that checks each item when it is read.
    return list(value) if isinstance(value, Iterator) else value


def _is_sequence(value) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def is_batch(conversations: Sequence) -> bool:
    """Whether these are conversations, and not the messages of one."""
    return _is_sequence(conversations[0]) or hasattr(conversations[0], "messages")


__all__ = ["PlainText", "is_batch"]
