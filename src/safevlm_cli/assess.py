"""`safevlm assess`: verdicts on pictures."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from .app import FLAGGED, UNREADABLE, ModelOrShipped, PolicyFile, app, print_error
from .loading import shipped_model, user_message
from .pictures import find_pictures, open_named
from .showing import make_console, print_warning, progress, show_scope, verdict_table


QUESTION = "What is in this picture?"
"""The question for a head that reads the language model's embeddings: it has learned no verdict on a picture alone."""


Images = Annotated[
    list[str],
    typer.Argument(
        help="Pictures, each judged by itself: files, folders, patterns as '*.png', http(s) addresses, "
        "or - for standard input with one of these per line."
    ),
]
Question = Annotated[
    str | None, typer.Option("--question", "-q", help="What is asked; unset: the picture is judged by itself.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON line per picture.")]


@app.command()
def assess(
    images: Images,
    model: ModelOrShipped = None,
    question: Question = None,
    policy: PolicyFile = None,
    as_json: AsJson = False,
):
    """
    Judge pictures, without answering. Exit code 0: all are simply answered; 1: some are not (the policy says review,
    condition or refuse); 2: an error, as of the command line or the checkpoint; 3: some pictures cannot be read, and
    the others were judged.

    With `--json` a picture that cannot be read has a line with `image` and `error`. Addresses in this machine's own
    network are refused. A line on stderr says what the checkpoint was trained on.

    Example: `safevlm assess photo.jpg card.png --question "What is the address?" --json`
    """
    from safevlm_hf.asking import encode
    from safevlm_hf.checkpoints.loading import load, read_policy

    loaded, processor = load(model or shipped_model())
    overriding = read_policy(policy, loaded, print_warning)
    show_scope(loaded)
    if question is None:
        question = "" if loaded.config.safety_config.reads_words else QUESTION
    judged: list[tuple] = []
    errors: list[Exception] = []
    for name in progress(find_pictures(images), "assessing"):
        try:
            inputs = encode(processor, [[user_message(question, open_named(name))]])
        except (OSError, ValueError) as refusal:
            errors.append(refusal)
            if as_json:
                _print_json(image=name, error=str(refusal))
            continue
        outputs = loaded.assess(**inputs.to(loaded.device, loaded.dtype), safety_policy=overriding)
        (verdict,) = processor.post_process_safety(outputs)
        judged.append((name, verdict))
        if as_json:
            _print_json(image=name, **asdict(verdict))
    if not judged and not errors:
        raise ValueError("There is no picture to judge: none was named.")
    if not as_json:
        if judged:
            make_console().print(verdict_table(judged))
        for error in errors:
            print_error(error)
    flagged = any(verdict.action != "answer" for _, verdict in judged)
    raise typer.Exit(UNREADABLE if errors else FLAGGED if flagged else 0)


def _print_json(**values):
    from tqdm import tqdm

    with tqdm.external_write_mode():  # the progress bar is taken away and drawn again below
        print(json.dumps(values), flush=True)
