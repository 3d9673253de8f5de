"""Texts without special tokens, wherever they stand in a conversation."""

import dataclasses
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import accumulate, cycle, groupby

from .question_mask import IMAGE_LOCATIONS, KNOWN_ROLES, is_image_part


MAX_ROUNDS = 8  # rounds of breaking: one is enough, unless a tokenizer takes out what breaks its tokens
TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)  # a tag of a template
QUOTED = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)


def _any_of(words: Sequence[str]) -> str:
    """Return a regular expression for the longest of these words, which are sorted. What words begin with in common is
    read once: thousands of alternatives in a row would each be tried at every place."""
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
    Break the tokens in users' texts, so that none adds an image position, moves one, or ends a turn.

    Args:
        tokens (`Iterable[str]`): a tokenizer's special and added tokens, and the image's. There may be thousands:
            make one of these per prompt, not per text.
        normalize (`Callable[[str], str]`, *optional*): what the tokenizer does to a text before it reads it (NFKC,
            lower case, accents).
        normalized_tokens (`Iterable[str]`): those of the tokens that it looks for in the normalised text.
    """

    def __init__(
        self,
        tokens: Iterable[str],
        normalize: Callable[[str], str] | None = None,
        normalized_tokens: Iterable[str] = (),
    ):
        tokens = _breakable(tokens)
        # A run of one character may be blanks to the tokenizer.
        looked_for = [token for token in normalized_tokens if normalize is not None and len(set(token)) > 1]
        self.normalize = normalize if looked_for else None
        normalized = _breakable([*looked_for, *map(normalize, looked_for)]) if self.normalize else set()
        self.tokens = tokens | normalized
        # The seam ends a text that would form a token with the next one. Unlike a blank, no template strips it, and
        # the tokenizer keeps it.
        marks = (mark for mark in map(chr, range(0xB7, 0x2000)) if mark.isprintable())
        kept = (mark for mark in marks if self.normalize is None or mark in self.normalize(f"a{mark}a"))
        self.seam = next(mark for mark in kept if not any(mark in token for token in self.tokens))
        self.pattern = _pattern(tokens)
        self.normalized_pattern = _pattern(normalized)

    def conversation(self, conversation) -> list:
        """Return one conversation, or several, as lists of dicts with plain texts."""
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
        """Return plain parts that form no token together either. Templates print one text after the other, some of
        them stripped: those of all parts that have one, or of the parts called text alone."""
        parts = [self._part(part) for part in content]
        with_text = [part for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
        text_parts = [part for part in with_text if part.get("type") == "text"]
        for _ in range(MAX_ROUNDS):
            is_changed = False
            for printed in (with_text, text_parts):
                for seam in self._crossed_seams([part["text"] for part in printed]):
                    printed[seam]["text"] += self.seam
                    is_changed = True
            if not is_changed:
                return parts
        raise ValueError("The parts of a message spell a special token that this tokenizer does not let be broken.")

    def _crossed_seams(self, texts: list[str]) -> set[int]:
        """Find the texts at whose end a token goes on into the next one."""
        seams, stripped = set(), [text.strip() for text in texts]
        forms = [(self.pattern, texts), (self.pattern, stripped)]
        if self.normalize is not None:
            forms += [(self.normalized_pattern, [*map(self.normalize, pieces)]) for pieces in (texts, stripped)]
        for pattern, pieces in forms:
            ends = list(accumulate(map(len, pieces)))
            for match in pattern.finditer("".join(pieces)):
                seam = bisect_right(ends, match.start())
                if ends[seam] < match.end():
                    seams.add(seam)
        return seams

    def _part(self, part):
        part = _as_plain(part)
        if not isinstance(part, Mapping) or not is_image_part(part):
            return self.value(part)
        # A field that says where the pixels are may hold a token, as a file's name does, and templates print none of
        # it.
        locations = {name: part[name] for name in IMAGE_LOCATIONS if name in part}
        return {**self.value({name: item for name, item in part.items() if name not in locations}), **locations}

    def value(self, value):
        """Return any data of a client's, as tools and a template's variables are, with all texts in it made plain, the
        names, too."""
        value = _as_plain(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(name): self.value(item) for name, item in value.items()}
        if _is_sequence(value) or isinstance(value, Set):
            return [self.value(item) for item in value]
        if isinstance(value, (bytes, bytearray)) and self._count(str(value)):
            raise ValueError("Bytes with special tokens in them cannot be made plain text: decode them first.")
        return value

    def text(self, text: str) -> str:
        for _ in range(MAX_ROUNDS):
            # A space after the first character breaks a token; broken ones may leave another to find.
            broken = self.pattern.sub(_break, text)
            while broken != text:
                text, broken = broken, self.pattern.sub(_break, broken)
            if self.normalize is None or not self.normalized_pattern.search(read := self.normalize(text)):
                return text
            text = self.normalized_pattern.sub(_break, read)
        raise ValueError(f"A text holds a special token that this tokenizer does not let be broken: {text[:100]!r}.")

    def check_rendering(self, render: Callable[..., str], messages: list, variables: Mapping, template: str | None):
        """
        Raise `ValueError` where plain texts spell a token after all: with one another, as two fields that a template
        prints side by side, with its words, as a name in `<{{ name }}>`, or because it reverses or unescapes them.

        The prompt is made once more of texts in other letters: what the template alone spells is still there.

        Args:
            render: makes the prompt of messages, with variables as keyword arguments.
            messages, variables: plain, as [`PlainText.conversation`] and [`PlainText.value`] return them.
            template: its source. Words that it looks for, as `.content` or `'image'`, stay as they are, or it would
                print something else.
        """
        found = self._count(render(messages, **variables))
        if not found:
            return
        cipher = _Cipher(self, found, template or "")
        changed = [*map(cipher.message, messages)]
        try:
            spelled = found - self._count(
                render(changed, **{name: cipher.value(value) for name, value in variables.items()})
            )
        except Exception:  # the template raises it, and did not for the texts as they are
            spelled = found
        if spelled:
            raise ValueError(
                f"Texts of this conversation spell the special token {min(spelled)!r}, with one another or with the "
                "chat template. Texts, roles, names and template variables can be anything but a part of such a token."
            )

    def _count(self, text: str) -> Counter:
        found = Counter(self.pattern.findall(text))
        if self.normalize is not None:
            found += Counter(self.normalized_pattern.findall(self.normalize(text)))
        return found


class _Cipher:
    """Write texts in letters that are in no token, as values of the same form. Each character has a letter of its own
    and blanks stay, so that what a template asks of a text has the same answer: whether it is empty, how long it is,
    where its lines end, what it is equal to, and whether it holds a word that the template looks for."""

    def __init__(self, plain: PlainText, found: Iterable[str], template: str):
        self.letters = _Letters(plain)
        quoted = {re.sub(r"\\(.)", r"\1", text) for tag in TAG.findall(template) for _, text in QUOTED.findall(tag)}
        self.names = {*re.findall(r"\.(\w+)", template), *(text for text in quoted if re.fullmatch(r"\w+", text))}
        words = {text.casefold() for text in quoted if re.search(r"\w\w", text)}
        # A part of a token is none of the words: among longer texts it would stay, and spell the token again.
        self.words = {word for word in words if not any(word in token.casefold() for token in found)}

    def message(self, message: Mapping) -> dict:
        changed = self.value(message)
        return {**changed, "role": message["role"]} if message.get("role") in KNOWN_ROLES else changed

    def value(self, value):
        if isinstance(value, str):
            return value if value in self.names else self._text(value)
        if isinstance(value, Mapping):
            return {self.value(name): self.value(item) for name, item in value.items()}
        return [self.value(item) for item in value] if _is_sequence(value) else value

    def _text(self, text: str) -> str:
        folded = text.casefold()
        words = sorted(word for word in self.words if word in folded)
        pieces = re.split(f"({_any_of(words)})", text, flags=re.IGNORECASE) if words else [text]
        return "".join(
            piece if is_word else piece.translate(self.letters) for is_word, piece in zip(cycle((0, 1)), pieces)
        )


class _Letters(dict):
    """A table for `str.translate`: to each character but blanks another rare Chinese letter, which has no case and no
    other form."""

    def __init__(self, plain: PlainText):
        in_tokens = {character for token in plain.tokens for character in token}
        # A text needs few of the 6,592: they are looked for as they are needed.
        self.unused = cycle(letter for letter in range(0x3400, 0x4DC0) if chr(letter) not in in_tokens)

    def __missing__(self, character: int) -> int:
        self[character] = character if chr(character).isspace() else next(self.unused)
        return self[character]


def _breakable(tokens: Iterable[str]) -> set[str]:
    # Blanks mean nothing to a prompt. A run of one character stays one however it is broken.
    return {token for token in tokens if len(token) > 1 and not token.isspace() and token not in _split(token)}


def _pattern(tokens: set[str]) -> re.Pattern:
    return re.compile(_any_of(sorted(tokens)) or r"(?!)")  # without tokens it finds none


def _split(token: str) -> str:
    return f"{token[0]} {token[1:]}"


def _break(match: re.Match) -> str:
    return _split(match[0])


def _as_plain(value):
    """Turn objects of a client library, which the library's own rendering takes, into dicts and lists to look into."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return value.model_dump()
    # pydantic gives what a schema calls an iterable as an iterator that checks each item when it is read.
    return list(value) if isinstance(value, Iterator) else value


def _is_sequence(value) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def is_batch(conversations: Sequence) -> bool:
    """Tell whether these are conversations, and not the messages of one."""
    return _is_sequence(conversations[0]) or hasattr(conversations[0], "messages")
