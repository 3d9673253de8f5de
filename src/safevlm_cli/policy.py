"""`safevlm policy`: show, check and replay safety policies."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .app import THERE, Model, Overwrite, PolicyFile, app
from .loading import DEFAULT_MODEL
from .showing import ACTION_STYLES, borderless_table, make_console, plain, print_warning


LOW, HIGH = 0.001, 0.999  # a threshold beyond is more likely a slip than meant

policy_app = typer.Typer(help="Look at safety policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")


@policy_app.command("show")
def show(model: Model = DEFAULT_MODEL, policy: PolicyFile = None):
    """
    Show what a checkpoint does with each category and level, with a policy file that overrides it.

    Example: `safevlm policy show --model runs/demo/stage2 --policy policy.json`
    """
    from safevlm_hf.checkpoints.loading import read_safety
    from safevlm_hf.modeling.operator_policy import describe_silencing, merge_policies
    from safevlm_hf.modeling.safety_policy import SafetyPolicy

    safety, kept = read_safety(model)
    given = None if policy is None else SafetyPolicy.from_file(policy, safety)
    applied = merge_policies([(f"the policy of {model}", kept), (str(policy), given)], safety)
    silenced = describe_silencing(kept, given, safety)
    console = make_console()
    console.print(_policy_table(applied, safety))
    # These hold for all categories at once, so the table has no column for them.
    for name, value in applied.to_dict().items():
        if name in ("enabled", "risk_threshold", "temperatures", "remembered_turns", "language"):
            console.print(plain(f"{name}: {json.dumps(value)}"), soft_wrap=True)
    sources = [f"the policy of {model}" if kept else f"{model} has no policy of its own, these are the defaults"]
    sources += [] if policy is None else [f"overridden by {policy}"]
    console.print(plain("; ".join(sources)), plain(f"digest {applied.digest()}"), sep="\n", soft_wrap=True)
    if silenced is not None:
        print_warning(silenced)


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
            "by the risk" if threshold is None else f"{threshold:.4g}",
            *(Text(action, ACTION_STYLES[action]) for action in actions),
        )
    return table


@policy_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A policy file.", **THERE)],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Check the names against this checkpoint's.")
    ] = None,
):
    """
    Check a policy file; exit code 2 and the reason where it is wrong, or where it could not be served with `--model`.

    Warnings name refusals that no published keyword judge recognises, for benchmarks would count them as answers, and
    thresholds under 0.001 or over 0.999, which nearly every picture reaches, or none.

    Example: `safevlm policy check policy.json --model runs/demo/stage2`
    """
    from .torch_free.evaluation.judges.unknown_refusals import unknown_refusals
    from .torch_free.modeling.operator_policy import enforced_policy
    from .torch_free.modeling.safety_policy import SafetyNames, SafetyPolicy

    safety, kept = SafetyNames(), None
    if model:
        from safevlm_hf.checkpoints.loading import read_safety  # imports torch, which a policy alone does not need

        safety, kept = read_safety(model)
    policy = SafetyPolicy.from_file(file, safety)
    applied = enforced_policy(kept, policy, safety)
    if model and applied.refuses(safety):
        from transformers import AutoTokenizer

        from safevlm_hf.modeling.safety_refusals import all_refusal_ids

        # This raises where a refusal cannot be written with the checkpoint's tokens.
        all_refusal_ids(AutoTokenizer.from_pretrained(model), applied, safety.categories)
    print(f"{file}: a sound policy for {model or 'the default categories'}, digest {policy.digest()}")
    warnings = [
        f"no published keyword judge takes the refusal of {category!r} for one: {text!r}"
        for category, text in unknown_refusals(applied, safety)
    ]
    for warning in warnings + _extreme_thresholds(applied):
        print_warning(warning)


def _extreme_thresholds(policy) -> list[str]:
    """Name the thresholds that nearly every picture reaches, or nearly none, as words for a warning."""
    found = {} if policy.risk_threshold is None else {"risk_threshold": policy.risk_threshold}
    for part in ("thresholds", "review_thresholds"):
        found |= {f"{part}[{name!r}]": value for name, value in getattr(policy, part).items() if value is not None}
    low = [
        f"`{name}` is {value:g}, under {LOW}: nearly every picture reaches it"
        for name, value in found.items()
        if value < LOW
    ]
    high = [
        f"`{name}` is {value:g}, over {HIGH}: nearly no picture reaches it"
        for name, value in found.items()
        if value > HIGH
    ]
    return low + high


@policy_app.command("replay")
def replay(
    audit: Annotated[Path, typer.Argument(help="An audit trail: JSON lines of `--audit`.")],
    policy: Annotated[Path, typer.Option("--policy", "-p", help="JSON file: the policy to try.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Let the policy override this checkpoint's own, as in `serve`.")
    ] = None,
    changes: Annotated[
        Path | None, typer.Option(help="Write which requests would change: JSON lines with their ids.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    overwrite: Overwrite = False,
):
    """
    Show what another policy would have done with the samples of an audit trail.

    Exact where the audit holds all windows (`--audit-windows`); elsewhere the least that the policy would do.
    `--changes` writes a line per sample that the policy treats differently: `line` of the trail, `id`, `request_id`,
    `from`, `to`, `category`, and `at_least`, whether `to` is the least that it would do.

    Example: `safevlm policy replay audit.jsonl --policy new.json --model runs/demo/stage2`
    """
    from safevlm_hf.calibration.policy_replay import replay_audit
    from safevlm_hf.files import check_apart, check_writable, refuse_to_overwrite, write_text

    settings = _read_settings(policy, model)
    if changes is not None:
        check_apart({"--changes": changes}, {"AUDIT": audit, "--policy": policy})
        check_writable(changes)
        if not overwrite:
            refuse_to_overwrite(changes, "`--overwrite` replaces it, another `--changes` keeps it")
    report = replay_audit(audit, settings)
    if changes is not None:
        write_text(changes, "".join(json.dumps(change) + "\n" for change in report.changed))
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
        return
    console = make_console()
    over = "the default policy" if model is None else f"the policy of {model}"
    title = f"What {audit} holds, had it been decided by {policy}, which overrides {over}. Samples: {report.samples}"
    console.print(plain(title), soft_wrap=True)
    for table in _replay_tables(report):
        console.print(table)
    for note in _replay_notes(report, settings, model, changes):
        console.print(plain(note), soft_wrap=True)


def _read_settings(policy: Path, model: str | None) -> dict:
    """Read the policy to replay. Without a checkpoint its names are checked against those of the audit trail."""
    from safevlm_hf.checkpoints.loading import read_safety
    from safevlm_hf.modeling.json_files import read_json
    from safevlm_hf.modeling.operator_policy import enforced_policy
    from safevlm_hf.modeling.safety_policy import SafetyPolicy

    # The served policy is the checkpoint's own with this one over it, and so is the replayed one.
    if model is not None:
        safety, kept = read_safety(model)
        return enforced_policy(kept, SafetyPolicy.from_file(policy, safety), safety).to_dict()
    settings = read_json(policy)
    if not isinstance(settings, dict):
        raise ValueError(f"{policy}: expected a policy, a JSON object, got {type(settings).__name__}.")
    return settings


def _replay_tables(report) -> list[Table]:
    """Return the counts of actions before and after, and those by category where something changes."""
    totals = report.by_actions()
    tables = [borderless_table("was, and would be", *ACTION_STYLES)]
    for before in ACTION_STYLES:
        numbers = (str(totals[before, after]) for after in ACTION_STYLES)
        tables[0].add_row(Text(before, ACTION_STYLES[before]), *numbers)
    if report.changes():
        tables.append(borderless_table("category", "was", "would be", "samples", "of these at least"))
    for category, before, after, number, at_least in report.changes():
        words = [Text(action, ACTION_STYLES[action]) for action in (before, after)]
        tables[1].add_row(plain(category), *words, str(number), str(at_least))
    return tables


def _replay_notes(report, settings: dict, model: str | None, changes: Path | None) -> list[str]:
    others = "Samples that were judged under other temperatures than this policy's"
    notes = {
        "Samples that are treated at least this strictly: {}. The audit holds one window of their question, and "
        "another may be stricter under this policy; `safevlm serve --audit-windows` writes all.": (
            report.at_least.total()
        ),
        others + (": {}; is `--model` missing?" if model is None else ": {}."): report.recalibrated,
        "Moderations and calls of `assess`: {}. Nothing was answered, and their action is what an answer would have "
        "met.": report.assessed,
        "Samples without logits, as older versions wrote them: {}. They are in no count.": report.without_logits,
        "Lines that are no JSON, and are in no count: {}. A server that was killed leaves such a line.": (
            report.unreadable
        ),
        "The last line is unfinished, and is in no count.": report.cut_off,
    }
    found = [note.format(number) for note, number in notes.items() if number]
    if settings.get("remembered_turns") is not None:
        found.append("`remembered_turns` is not replayed: the audit holds the turns that were judged.")
    return found + ([] if changes is None else [f"Samples that change: {len(report.changed)}, in {changes}"])
