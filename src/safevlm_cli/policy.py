"""`safevlm policy`: look at safety policies."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .app import Model, PolicyFile, app
from .loading import DEFAULT_MODEL, read_safety
from .showing import ACTION_STYLES, borderless_table, make_console, plain


policy_app = typer.Typer(help="Look at safety policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")


@policy_app.command("show")
def show(model: Model = DEFAULT_MODEL, policy: PolicyFile = None):
    """
    What a checkpoint does with each category and level, with a policy file laid over it.

    Example: `safevlm policy show --model runs/demo/stage2 --policy policy.json`
    """
    from safevlm_hf import SafetyPolicy

    safety, kept = read_safety(model)
    applied = SafetyPolicy.create(kept, safety)
    if policy is not None:
        applied = applied.override(SafetyPolicy.from_file(policy, safety), safety)
    console = make_console()
    console.print(_policy_table(applied, safety))
    sources = [f"the policy of {model}" if kept else f"{model} has no policy of its own, these are the defaults"]
    sources += [] if policy is None else [f"{policy} laid over it"]
    console.print(plain("; ".join(sources)), plain(f"digest {applied.digest()}"), sep="\n", soft_wrap=True)


def _policy_table(policy, safety) -> Table:
    table = borderless_table("category", "on", "review from", "flagged from", *safety.levels[1:])
    for name in safety.categories:
        if name == "safe":
            continue
        is_on = policy.is_on(name) and policy.enabled is not False
        review, threshold = policy.review_threshold(name), policy.threshold(name)
        actions = [policy.action(name, level, safety) if is_on else "answer" for level in safety.levels[1:]]
        table.add_row(
            plain(name),
            "yes" if is_on else "no",
            "-" if review is None else f"{review:.4g}",
            "most probable" if threshold is None else f"{threshold:.4g}",
            *(Text(action, ACTION_STYLES[action]) for action in actions),
        )
    return table


@policy_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A policy file.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Check the names against this checkpoint's.")
    ] = None,
):
    """
    Check a policy file; exit code 2 and the reason where it is wrong.

    Refusals that no published keyword judge recognises are named: benchmarks would count them as answers.

    Example: `safevlm policy check policy.json --model runs/demo/stage2`
    """
    from safevlm_hf import SafetyConfig, SafetyPolicy
    from safevlm_hf.evaluation.judges.unknown_refusals import unknown_refusals

    safety, kept = read_safety(model) if model else (SafetyConfig(), None)
    policy = SafetyPolicy.from_file(file, safety)
    applied = SafetyPolicy.create(kept, safety).override(policy, safety)
    print(f"{file}: a sound policy for {model or 'the default categories'}, digest {policy.digest()}")
    for category, text in unknown_refusals(applied, safety):
        warning = f"Warning: no published keyword judge takes the refusal of {category!r} for one: {text!r}"
        make_console(stderr=True).print(plain(warning, "yellow"), soft_wrap=True)
