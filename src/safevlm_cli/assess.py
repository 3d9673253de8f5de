"""`safevlm assess`: verdicts on pictures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .app import ERROR, FLAGGED, Model, PolicyFile, app, print_error
from .loading import DEFAULT_MODEL, load, open_picture, prepare, read_policy, user_message
from .showing import make_console, progress, verdict_table


@app.command()
def assess(
    images: Annotated[list[Path], typer.Argument(help="Pictures, each judged by itself.")],
    model: Model = DEFAULT_MODEL,
    question: Annotated[str, typer.Option("--question", "-q", help="What is asked.")] = "What is in this picture?",
    policy: PolicyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a picture.")] = False,
):
    """
    Judge pictures, without answering. Exit code 0: all may be answered; 1: some are flagged; 2: an error, as a picture
    that cannot be read (the others are judged).

    Example: `safevlm assess photo.jpg card.png --question "What is the address?" --json`
    """
    from tqdm import tqdm

    loaded, processor = load(model)
    overriding = read_policy(policy, loaded)
    judged, errors = [], []
    for path in progress(images, "assessing"):
        try:
            picture = open_picture(path)
        except (OSError, ValueError) as error:
            errors.append(error)
            continue
        inputs = prepare(processor, loaded, [user_message(question, picture)])
        (verdict,) = processor.post_process_safety(loaded.assess(**inputs, safety_policy=overriding))
        judged.append((path, verdict))
        if as_json:
            with tqdm.external_write_mode():
                print(json.dumps({"image": str(path), **asdict(verdict)}), flush=True)
    if judged and not as_json:
        make_console().print(verdict_table(judged))
    for error in errors:
        print_error(error)
    flagged = any(verdict.action != "answer" for _, verdict in judged)
    raise typer.Exit(ERROR if errors else FLAGGED if flagged else 0)
