"""`safevlm serve`: a checkpoint behind transformers' own server."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from .app import Model, PolicyFile, app
from .loading import DEFAULT_MODEL, shipped_model


# Options stand in several panels: one would be as wide as its longest names together, and leave no space for the help.
CLIENTS, AUDIT, ADDRESSES, LOG = "Clients", "Audit", "Addresses", "On or off"


def _switch(name: str, text: str, panel: str):
    return typer.Option(name, help=text, rich_help_panel=panel)


def _port(text: str):
    return typer.Option(min=0, max=65535, metavar="PORT", help=text, rich_help_panel=ADDRESSES)


Demo = Annotated[bool, typer.Option("--demo", help="Serve the small checkpoint of this package, for a first look.")]
Host = Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=ADDRESSES)]
Port = Annotated[int, _port("Port to listen on; 0 takes a free one.")]
ServedName = Annotated[
    str | None,
    typer.Option(help="Name of the model in requests and answers; `--model` if unset.", rich_help_panel=CLIENTS),
]
SystemPrompt = Annotated[
    str | None,
    typer.Option(help="A text file, or the text: it stands in front of every conversation and is not judged."),
]
TrustClientRoles = Annotated[
    bool,
    _switch(
        "--trust-client-roles",
        "Believe clients about who said what: their system prompts and the answers that they send are not judged. "
        "Only where every client is a program of yours.",
        CLIENTS,
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the API keys, one per line; or one key in the variable SAFEVLM_API_KEY.",
        rich_help_panel=CLIENTS,
    ),
]
Moderations = Annotated[
    bool,
    typer.Option(
        help="Whether there is /v1/moderations, where every client can read verdicts, with all scores.",
        rich_help_panel=LOG,
    ),
]
ExposeVerdict = Annotated[
    bool,
    _switch(
        "--expose-verdict",
        "Send the verdict with each answer. Whoever reads it can search for a way around it.",
        CLIENTS,
    ),
]
Audit = Annotated[Path | None, typer.Option(help="JSON lines: what was seen and done.", rich_help_panel=AUDIT)]
AuditWindows = Annotated[
    bool,
    _switch("--audit-windows", "Write the logits of all windows, so that `safevlm policy replay` is exact.", AUDIT),
]
AuditModerations = Annotated[bool, _switch("--audit-moderations", "Write a line for each moderation, too.", AUDIT)]
Shadow = Annotated[
    bool,
    _switch(
        "--shadow",
        "Decide, write it down (`--audit`), and ANSWER EVERYTHING: for the time before a policy acts.",
        AUDIT,
    ),
]
MetricsHost = Annotated[str, typer.Option(help="Address of the metrics.", rich_help_panel=ADDRESSES)]
MetricsPort = Annotated[int | None, _port("Port of /metrics, for Prometheus and not for clients.")]
AccessLog = Annotated[bool, typer.Option(help="Whether each request has a line in the log.", rich_help_panel=LOG)]


@app.command()
def serve(
    model: Model = DEFAULT_MODEL,
    demo: Demo = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    served_model_name: ServedName = None,
    policy: PolicyFile = None,
    system_prompt: SystemPrompt = None,
    trust_client_roles: TrustClientRoles = False,
    max_new_tokens: MaxNewTokens = 1024,
    api_key_file: ApiKeyFile = None,
    moderations: Moderations = False,
    expose_verdict: ExposeVerdict = False,
    audit: Audit = None,
    audit_windows: AuditWindows = False,
    audit_moderations: AuditModerations = False,
    shadow: Shadow = False,
    metrics_host: MetricsHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    access_log: AccessLog = True,
):
    """
    Serve a checkpoint: OpenAI's chat completions, with pictures and streams; `--moderations` adds moderations. No
    request can change the policy, and whatever role a client gives to a text, the text is judged.

    Example: `safevlm serve --model runs/demo/stage2 --policy policy.json --system-prompt prompt.txt`
    """
    from safevlm_hf import serving
    from safevlm_hf.files import check_apart
    from safevlm_hf.modeling.safety_policy import SafetyPolicy
    from safevlm_hf.operator_prompt import read_system_prompt
    from safevlm_hf.serving.keys import read_api_keys

    prompt_file = None if system_prompt is None else Path(system_prompt)
    check_apart(
        {"--audit": audit}, {"--policy": policy, "--api-key-file": api_key_file, "--system-prompt": prompt_file}
    )
    api_keys = read_api_keys(api_key_file)
    if demo:
        if model != DEFAULT_MODEL:
            raise ValueError(f"`--demo` serves the checkpoint of this package, and `--model {model}` names another.")
        model = shipped_model()
    from safevlm_hf.checkpoints.loading import load

    loaded, processor = load(model)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the server has a stop of its own, with its exit code
    clients = {"trust_client_roles": trust_client_roles, "expose_verdict": expose_verdict, "api_keys": api_keys}
    trail = {"audit": audit, "audit_windows": audit_windows, "audit_moderations": audit_moderations, "shadow": shadow}
    serving.serve(
        loaded,
        processor,
        served_model_name or ("safevlm-demo" if demo else model),
        host,
        port,
        policy=None if policy is None else SafetyPolicy.from_file(policy, loaded.config.safety_config),
        limits=serving.Limits(new_tokens=max_new_tokens),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        system_prompt=None if system_prompt is None else read_system_prompt(system_prompt),
        moderations=moderations,
        access_log=access_log,
        **clients,
        **trail,
    )
