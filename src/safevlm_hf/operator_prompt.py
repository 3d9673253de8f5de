"""System prompt of a server's operator: it stands in front of every conversation, and no verdict is about it."""

from pathlib import Path

from jinja2 import TemplateError
from transformers import ProcessorMixin


def read_system_prompt(given: str) -> str:
    """
    Return the text that an operator gave, or that of the file whose name was given.

    Raises:
        `ValueError`: for a single word that names no file: it is a mistyped name, and would be a strange prompt.
    """
    try:
        if Path(given).is_file():
            return Path(given).read_text(encoding="utf-8")
    except OSError:  # it is too long for a name
        return given
    if len(given.split()) < 2:
        raise ValueError(f"The system prompt must be a text of several words or an existing file, got {given!r}.")
    return given


def system_message(processor: ProcessorMixin, system_prompt: str) -> dict:
    """
    Return the operator's prompt as a message.

    Raises:
        `ValueError`: where it is no text, is blank, or the chat template does not take it.
    """
    if not isinstance(system_prompt, str) or not system_prompt.strip():
        raise ValueError(f"The system prompt must be a text that is not blank, got {system_prompt!r}.")
    # A template that refuses system messages, or leaves them out, would drop the operator's rules in silence.
    message: dict = {"role": "system", "content": [{"type": "text", "text": system_prompt}]}
    hello: dict = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
    try:
        with_it, without = (processor.apply_chat_template(chat) for chat in ([message, hello], [hello]))
    except TemplateError as error:
        raise ValueError(f"The model's chat template takes no system prompt: {error}.") from None
    if with_it == without:
        raise ValueError("The model's chat template leaves a system prompt out: it would change nothing.")
    return message
