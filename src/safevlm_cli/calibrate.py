"""`safevlm calibrate`: temperatures and thresholds for a target."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .app import THERE, Model, Overwrite, PolicyFile, app
from .loading import DEFAULT_MODEL
from .showing import borderless_table, make_console, plain, print_warning


Data = Annotated[Path | None, typer.Option(help="Labelled JSON lines; RiskCards are drawn if unset.", **THERE)]
FalsePositiveRate = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of clean samples that may be flagged.")
]
MissRate = Annotated[float | None, typer.Option(min=0, max=1, help="Share of risky samples that may pass.")]
MaximizeRecall = Annotated[
    bool, typer.Option("--maximize-recall", help="Spend the false alarms where they find most risk, not evenly.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The policy.")]
Report = Annotated[Path | None, typer.Option(help="The report; calibration.html beside the policy if unset.")]
Seed = Annotated[int, typer.Option(help="Of the split, half to choose and half to check.")]
NumRiskcards = Annotated[int, typer.Option(help="Size of the drawn set.")]


@app.command()
def calibrate(
    model: Model = DEFAULT_MODEL,
    data: Data = None,
    target_false_positive_rate: FalsePositiveRate = None,
    target_miss_rate: MissRate = None,
    maximize_recall: MaximizeRecall = False,
    policy: PolicyFile = None,
    output: Output = Path("policy.json"),
    report: Report = None,
    seed: Seed = 0,
    num_riskcards: NumRiskcards = 2000,
    overwrite: Overwrite = False,
):
    """
    Fit the temperatures and choose the thresholds for a target; writes a policy and a report.

    The policy is the checkpoint's own, with that of `--policy` over it and with the thresholds found. A policy or a
    report that is there already is replaced only with `--overwrite`, and a policy that `--policy` names without it.

    Example: `safevlm calibrate --data held_out.jsonl --target-false-positive-rate 0.01 -o policy.json`
    """
    from safevlm_hf.calibration.calibrate import calibrate as calibrate_policy
    from safevlm_hf.data.records import load_records
    from safevlm_hf.data.riskcards import write_riskcards
    from safevlm_hf.modeling.operator_policy import OF_CHECKPOINT, merge_policies

    if (target_false_positive_rate is None) == (target_miss_rate is None):
        raise ValueError("Name one target: `--target-false-positive-rate` or `--target-miss-rate`.")
    report = report or output.parent / "calibration.html"
    _check_outputs(output, report, data, policy, overwrite)
    from safevlm_hf.checkpoints.loading import load, read_policy

    loaded, processor = load(model)
    safety = loaded.config.safety_config
    # The cards are not the demo's held-out ones, whose figures are of a head and a policy that have not seen them.
    file = data or write_riskcards(Path("runs/riskcards") / f"calibration{seed}", "test", num_riskcards, 1000 + seed)
    records = load_records(file, safety.categories, safety.levels)
    print(f"Judging {len(records)} records, to choose with one half and to check with the other.", flush=True)
    given = read_policy(policy, loaded, print_warning)
    result = calibrate_policy(
        loaded,
        processor,
        records,
        target_false_positive_rate=target_false_positive_rate,
        target_miss_rate=target_miss_rate,
        base_policy=merge_policies([(OF_CHECKPOINT, loaded.kept_policy()), (str(policy), given)], safety),
        seed=seed,
        maximize_recall=maximize_recall,
        progress=sys.stderr.isatty(),
    )
    _write(result, output, report, {"model": model, "data": str(data or "RiskCards, test split")})
    _show(result, output, report)


def _check_outputs(output: Path, report: Path, data: Path | None, policy: Path | None, overwrite: bool):
    """Raise `ValueError`, before the work, where policy and report cannot both be written and nothing else be lost."""
    from safevlm_hf.files import check_apart, check_writable, refuse_to_overwrite

    # Calibrating takes minutes: whatever would stop the writing has to do so before.
    check_writable(output)
    check_writable(report)
    check_apart({"--output": output, "--report": report}, {"--data": data})
    check_apart({"--report": report}, {"--policy": policy})  # `--output` may replace this policy
    if not overwrite:
        if policy is None or not (output.exists() and output.samefile(policy)):
            starting = f"`--policy {output}` starts from it and replaces it, `--overwrite` replaces it unread"
            refuse_to_overwrite(output, f"{starting}, another `-o` keeps it")
        refuse_to_overwrite(report, "`--overwrite` replaces it, another `--report` keeps it")


def _write(result, output: Path, report: Path, facts: dict[str, str]):
    """Write the policy and the report on it."""
    from safevlm_hf.calibration.report import write_calibration_report
    from safevlm_hf.files import write_text

    write_text(output, json.dumps(result.policy.to_dict(), indent=2) + "\n")
    command = shlex.join(["safevlm", *sys.argv[1:]])
    write_calibration_report(report, result, facts={"command": command, **facts})


def _show(result, output: Path, report: Path):
    """Print errors and rates before and after, the remarks, and the files."""
    rows = {
        "expected calibration error, level": [f"{one.level_error:.4f}" for one in (result.before, result.after)],
        "expected calibration error, category": [f"{one.category_error:.4f}" for one in (result.before, result.after)],
        "clean samples flagged": [_rate(one.false_positives) for one in (result.before, result.after)],
        "risky samples missed": [_rate(one.misses) for one in (result.before, result.after)],
    }
    title = f"{len(result.check)} held-out samples; target: {result.target_kind} of {result.target}"
    table = borderless_table("", "before", "after", title=title)
    for name, values in rows.items():
        table.add_row(name, *values)
    make_console().print(table)
    for remark in result.remarks:
        make_console().print(plain(remark), soft_wrap=True)
    print(f"policy: {output}   report: {report}")


def _rate(rate) -> str:
    if not rate.total:
        return "no samples"
    low, high = rate.interval
    return f"{rate.value:.3f} ({low:.3f} to {high:.3f})"
