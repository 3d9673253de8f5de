"""`safevlm serve`: a checkpoint behind transformers' own server."""

from pathlib import Path
from typing import Annotated

import typer

from .app import Model, PolicyFile, app
from .loading import DEFAULT_MODEL, load, read_policy


@app.command()
def serve(
    model: Model = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    policy: PolicyFile = None,
    audit: Annotated[Path | None, typer.Option(help="JSON lines: what was seen and done.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024,
    system_prompt: Annotated[
        str | None,
        typer.Option(help="A text file, or the text: it stands in front of every conversation and is not judged."),
    ] = None,
    trust_client_roles: Annotated[
        bool,
        typer.Option(
            "--trust-client-roles",
            help="Believe clients about who said what: their system prompts and the answers that they send are not "
            "judged. Only where every client is a program of yours.",
        ),
    ] = False,
):
    """
    Serve a checkpoint: OpenAI's chat completions, with pictures and streams, and moderations. No request can change
    the policy, and whatever role a client gives to a text, the text is judged.

    Example: `safevlm serve --model runs/demo/stage2 --policy policy.json --system-prompt prompt.txt`
    """
    from safevlm_hf import serving
    from safevlm_hf.operator_prompt import read_system_prompt

    loaded, processor = load(model)
    overriding, limits = read_policy(policy, loaded), serving.Limits(new_tokens=max_new_tokens)
    prompt = None if system_prompt is None else read_system_prompt(system_prompt)
    serving.serve(
        loaded, processor, model, host, port, overriding, audit, limits, prompt, trust_client_roles=trust_client_roles
    )
