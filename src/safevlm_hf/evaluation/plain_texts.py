"""Items whose texts hold no special token of a model: whoever writes a question writes plain text."""

from collections.abc import Sequence
from dataclasses import replace

from ..items import Item
from ..modeling.plain_text import PlainText


def special_tokens(processor) -> list[str]:
    """Return every text that a processor's tokenizer does not read as text."""
    tokenizer = processor.tokenizer
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    image = getattr(processor, "image_token", None)
    return sorted({*tokenizer.all_special_tokens, *added, *([image] if image else [])})


def with_plain_texts(item: Item, tokens: Sequence[str]) -> Item:
    """Return the item with each of these tokens broken in all texts of its messages."""
    return replace(item, messages=PlainText(tokens).conversation(item.messages))


def with_question(item: Item, text: str) -> Item:
    """Return the item with another text in its last turn, after that turn's pictures."""
    *before, last = item.messages
    pictures = [part for part in last["content"] if part["type"] == "image"]
    return replace(item, messages=[*before, {**last, "content": [*pictures, {"type": "text", "text": text}]}])
