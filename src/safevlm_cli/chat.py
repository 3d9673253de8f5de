"""`safevlm chat`: a talk about pictures."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import ModelOrShipped, PolicyFile, app, print_error
from .loading import shipped_model, text_content, user_message
from .pictures import open_picture
from .showing import make_console, plain, print_warning, show_scope, verdict_line


CHAT_COMMANDS = "/image FILE shows a picture, /new starts again without any, /quit ends."


@app.command()
def chat(
    model: ModelOrShipped = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="A picture to talk about.")] = None,
    policy: PolicyFile = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    audit: Annotated[Path | None, typer.Option(help="JSON lines: what was seen and done.")] = None,
):
    """
    Talk about pictures; each answer comes with the verdicts on them. `/image FILE` shows another, `/new` starts again
    without any, `/quit` ends.

    Example: `safevlm chat --image card.png`
    """
    from safevlm_hf.files import check_apart

    check_apart({"--audit": audit}, {"--image": image, "--policy": policy})
    pictures = [open_picture(image)] if image else []
    from safevlm_hf.checkpoints.loading import load, read_policy

    loaded, processor = load(model or shipped_model())
    options = {
        "safety_policy": read_policy(policy, loaded, print_warning),
        "safety_audit": audit,
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
    }
    show_scope(loaded)
    console = make_console()
    messages: list[dict] = []
    while (line := _read_line(console)) not in (None, "/quit"):
        command, _, rest = line.partition(" ")
        if command == "/new":
            messages, pictures = [], []
        elif command == "/image":
            try:
                pictures.append(open_picture(Path(rest.strip()).expanduser()))
            except (OSError, ValueError, RuntimeError) as error:  # the last where there is no such home
                print_error(error)  # a picture that cannot be read does not end the talk
        elif command.startswith("/"):
            print(CHAT_COMMANDS)
        elif line:
            messages.append(user_message(line, *pictures))
            pictures = []
            answer, verdicts = _stream_answer(loaded, processor, messages, options)
            messages.append({"role": "assistant", "content": text_content(answer)})
            for number, verdict in enumerate(verdicts, start=1):
                console.print(verdict_line(number, verdict), soft_wrap=True)


def _read_line(console: Console) -> str | None:
    """Return the line that was typed, `None` at the end of the input."""
    try:
        return console.input("[bold]> [/bold]" if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _stream_answer(model, processor, messages: list[dict], options: dict):
    """Print the answer as it comes, and return it with the verdicts."""
    from transformers import TextStreamer

    from safevlm_hf.asking import encode, generate

    class PlainStreamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False):
            # The text may be a stranger's: a checkpoint brings its own refusals.
            shown = "".join(char if char in "\n\t" else plain(char).plain for char in text)
            print(shown, flush=True, end="\n" if stream_end else "")

    streamer = PlainStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {**options, "streamer": streamer, "tokenizer": processor.tokenizer}
    (answer,), (verdicts,) = generate(model, processor, encode(processor, [messages]), **options)
    return answer.strip(), verdicts
