"""Text of others inside a prompt: what looks like a special token of the model is made plain text."""

from collections.abc import Sequence
from dataclasses import replace

from safevlm_hf.evaluation.items import Item


def special_tokens(processor) -> list[str]:
    """Every text that a processor's tokenizer does not read as text."""
    tokenizer = processor.tokenizer
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    image = getattr(processor, "image_token", None)
    return sorted({*tokenizer.all_special_tokens, *added, *([image] if image else [])})


def break_tokens(text: str, tokens: Sequence[str]) -> str:
    """The text with a space after the first character of each token."""
    broken = {token: f"{token[0]} {token[1:]}" for token in tokens if len(token) > 1}
    # A run of blanks stays one however it is broken, and means nothing to a prompt.
    broken = {token: instead for token, instead in broken.items() if token not in instead}
    while any(token in text for token in broken):
        for token, instead in broken.items():
            text = text.replace(token, instead)
    return text


def with_plain_texts(item: Item, tokens: Sequence[str]) -> Item:
    """The item with this done to all texts of its messages."""
    messages = [
        {
            **message,
            "content": [
                {**part, "text": break_tokens(part["text"], tokens)} if part["type"] == "text" else part
                for part in message["content"]
            ],
        }
        for message in item.messages
    ]
    return replace(item, messages=messages)


def with_question(item: Item, text: str) -> Item:
    """The item with another text in its last turn, after that turn's pictures."""
    *before, last = item.messages
    pictures = [part for part in last["content"] if part["type"] == "image"]
    return replace(item, messages=[*before, {**last, "content": [*pictures, {"type": "text", "text": text}]}])
