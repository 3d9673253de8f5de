"""`safevlm evaluate`: benchmarks of the field on a checkpoint, beside its verdict switched off, or a base model."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import Model, Overwrite, PolicyFile, app, benchmark_options
from .loading import DEFAULT_MODEL
from .showing import borderless_table, make_console, plain, print_warning


if TYPE_CHECKING:
    from safevlm_hf.benchmarks.benchmark import Benchmark, Loaded
    from safevlm_hf.evaluation.candidates import Candidate
    from safevlm_hf.evaluation.pipeline import Settings

    Run = tuple[Benchmark, Loaded, list[Candidate], Settings]

Benchmarks = Annotated[str, typer.Option("--benchmark", "-b", help="Names, with commas between.")]
Data = Annotated[Path, typer.Option(help="The published files; of several benchmarks, a folder each in it.")]
Options = Annotated[
    list[str] | None, typer.Option(help="Of the benchmarks, NAME=VALUE or BENCHMARK.NAME=VALUE; several times.")
]
List = Annotated[bool, typer.Option("--list", help="Name the benchmarks, with licence and source.")]
Base = Annotated[str | None, typer.Option(help="A stock checkpoint, on the same items.")]
JudgeModel = Annotated[str | None, typer.Option(help="A model that judges, too, by `--judge-prompt`.")]
JudgeUrl = Annotated[
    str | None, typer.Option(help="Its OpenAI-compatible server; unset, the model is a folder or Hub id.")
]
JudgeKey = Annotated[str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the server's key.")]
JudgePrompt = Annotated[str, typer.Option(help="score, score-rtvlm, refusal, harm, safe-effective or preference.")]
Judges = Annotated[Path | None, typer.Option(help="A YAML file with further models that judge (docs/evaluation.md).")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Results, answers, report.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer.")]
BatchSize = Annotated[int, typer.Option(min=1)]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the intervals' resampling.")]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out items without a readable picture, and name them.")
]
All = Annotated[bool, typer.Option("--all", help="Print every figure, not the first 25 alone.")]


@app.command()
def evaluate(
    model: Model = DEFAULT_MODEL,
    benchmark: Benchmarks = "riskcards",
    data: Data = Path("runs/benchmarks"),
    option: Options = None,
    list_: List = False,
    base: Base = None,
    policy: PolicyFile = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_key: JudgeKey = None,
    judge_prompt: JudgePrompt = "harm",
    judges: Judges = None,
    output: Output = Path("runs/evaluation"),
    max_new_tokens: MaxNewTokens = 256,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    skip_missing: SkipMissing = False,
    all_: All = False,
    overwrite: Overwrite = False,
):
    """
    Run benchmarks: answers, verdicts, judgements, figures with intervals, a report. Nothing is downloaded.

    A stopped run goes on where it was. Another run's report is replaced only with `--overwrite`; its results are kept.
    Each benchmark is run with the verdict switched off, too.

    Example: `safevlm evaluate --benchmark vlguard,mmbench --data benchmarks --base llava-hf/llava-1.5-7b-hf`
    """
    from safevlm_hf.benchmarks import find_benchmark

    if list_:
        return _list()
    from safevlm_hf.evaluation.pipeline import Settings
    from safevlm_hf.intervals.bootstrap import Bootstrap

    from .judges import make_judges

    chosen = [find_benchmark(name) for name in dict.fromkeys(map(str.strip, benchmark.split(",")))]
    options = benchmark_options(option or [], chosen)
    all_judges = make_judges(judges, judge_model, judge_url, judge_key, judge_prompt, output)
    _check_systems(model, base, policy, output)
    # Every benchmark, and the judges that can judge it, are checked before any model is loaded.
    loaded = _load_benchmarks(chosen, data, skip_missing, options)
    fitting = _judges_by_benchmark(all_judges, loaded)
    settings = Settings(
        [],  # each benchmark gets judges of its own below
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        bootstrap=Bootstrap(seed=seed),
        progress=sys.stderr.isatty(),
    )
    candidates = _candidates(model, base, policy, settings)
    runs = [
        (one, items, candidates, replace(settings, judges=own))
        for one, items, own in zip(chosen, loaded, fitting, strict=True)
    ]
    _run(runs, output, overwrite, all_)


HOW_TO_READ = """In brackets: 95% intervals. A refusal counts where its judge sees one: `rules` is
ours, the keywords are published lists. The report has the parts, the differences
between the systems, and where judges differ."""


def _check_systems(model: str, base: str | None, policy: Path | None, output: Path):
    """Raise for a name that is no checkpoint, policy or folder, before the data are read."""
    from transformers import AutoConfig

    from safevlm_hf.checkpoints.loading import check_folder, read_config
    from safevlm_hf.modeling.safety_policy import SafetyPolicy

    config = read_config(model)
    if policy is not None:
        SafetyPolicy.from_file(policy, config.safety_config)
    if base is not None:
        check_folder(base)
        AutoConfig.from_pretrained(base)
    if output.exists() and not output.is_dir():
        raise ValueError(f"`--output {output}` is a file, expected a folder for results.")


def _load_benchmarks(chosen: list, data: Path, skip_missing: bool, options: dict[str, dict[str, str]]) -> list:
    """Load the items of all benchmarks. A single one may also lie in `data` itself."""
    loaded = []
    for one in chosen:
        has_own_folder = len(chosen) > 1 or (data / one.name).is_dir() or one.is_drawn
        folder = data / one.name if has_own_folder else data
        loaded.append(one.load(folder, skip_missing=skip_missing, **options[one.name]))
    return loaded


def _judges_by_benchmark(judges: list, loaded: list) -> list[list]:
    """Return for each benchmark those judges that can judge its items.

    Raises:
        ValueError: a judge can judge none of the benchmarks, or a benchmark is left without a model that judges.
        RuntimeError: a judge cannot be asked.
    """
    from safevlm_hf.evaluation.pipeline import reason_against

    reasons = {(judge.name, one.name): reason_against(judge, one) for judge in judges for one in loaded}
    # Rules and lists judge any item. A model's prompt is for items of one kind.
    reading = [judge.name for judge in judges if judge.prompt is not None]
    for judge, benchmark in ((judge, one.name) for judge in reading for one in loaded if reasons[judge, one.name]):
        others = [name for name in reading if not reasons[name, benchmark]]
        used = [one for one in loaded if not reasons[judge, one.name]]
        if not (others and used):
            advice = "Take another `--judge-prompt`, or leave this benchmark out"
            raise ValueError(f"judge {judge!r} cannot judge {benchmark}: {reasons[judge, benchmark]}. {advice}")
        print(f"{benchmark}: not judged by {judge}, whose prompt is for other items")
    for judge in judges:
        judge.check()
    return [[judge for judge in judges if not reasons[judge.name, one.name]] for one in loaded]


def _run(runs: Sequence["Run"], output: Path, overwrite: bool, show_all: bool):
    """Evaluate, report and show each benchmark. `runs`: per benchmark the first arguments of `evaluate_systems`."""
    from safevlm_hf.evaluation.comparing import save_comparison
    from safevlm_hf.evaluation.pipeline import evaluate_systems, judging_costs, result_names
    from safevlm_hf.evaluation.report import num_headlines, refuse_to_lose_results, write_evaluation_report

    report = output / "report.html"
    if not overwrite:
        names = set().union(*(result_names(*run) for run in runs))
        advice = "it is of another run, `--overwrite` replaces it and keeps the results, another `--output` keeps it"
        refuse_to_lose_results(report, names, advice)
    if len(runs) > 1:
        costs = [judging_costs(*run, output) for run in runs]
        for name in dict.fromkeys(name for one in costs for name in one):
            total = reduce(add, (one[name] for one in costs if name in one))
            print(f"all benchmarks: judge {name}: at most {total}")
    evaluated = []
    for run in runs:
        evaluated.append(evaluate_systems(*run, output))
        save_comparison(evaluated[-1], output)
        # The report is written after each benchmark, so that an error in a later one loses nothing.
        write_evaluation_report(report, evaluated)
        _show(evaluated[-1], None if show_all else num_headlines(len(runs)))
    print(HOW_TO_READ)
    print(f"results: {output}/*/*/results.json   report: {report}")


def _show(evaluated, num_rows: int | None):
    from safevlm_hf.evaluation.report import summary_rows

    protocol = evaluated[0].result.protocol
    head, *rows = summary_rows(evaluated, num_rows)
    num_more = len(summary_rows(evaluated)) - 1 - len(rows)
    table = borderless_table(*head, title=f"{protocol.benchmark}, {protocol.split}")
    for row in rows:
        table.add_row(*map(plain, row))
    console = make_console()
    console.print(table)
    if num_more:
        console.print(f"{num_more} more figures: in the report, or here with `--all`", soft_wrap=True)


def _candidates(model: str, base: str | None, policy: Path | None, settings) -> list:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from safevlm_hf.checkpoints.loading import device, load, read_policy
    from safevlm_hf.evaluation.candidates import VERDICT_OFF, safe_candidate, stock_candidate

    loaded, processor = load(model)
    # The shipped policy is always measured, too, so that no figure of another one stands alone.
    found = [
        safe_candidate("verdict off", model, loaded, processor, settings, VERDICT_OFF),
        safe_candidate("verdict on, shipped policy", model, loaded, processor, settings),
    ]
    if policy is not None and (given := read_policy(policy, loaded, print_warning)) is not None:
        name = f"verdict on, policy {policy.name}"
        found.append(safe_candidate(name, model, loaded, processor, settings, given.to_dict()))
    if base is not None:
        stock = AutoModelForImageTextToText.from_pretrained(base, dtype="auto", device_map=device()).eval()
        stock_processor = AutoProcessor.from_pretrained(base)
        found.insert(0, stock_candidate("base", base, stock, stock_processor, settings))
    return found


def _list():
    """Print a few lines per benchmark: a table of all this fits into no terminal."""
    from safevlm_hf.benchmarks import describe_benchmarks

    console = make_console()
    for one in describe_benchmarks():
        console.print(plain(f"{one['name']}: {one['title']}", "bold"))
        for key in ("metric", "size", "licence", "source", "where_to_get", "options"):
            console.print(plain(f"    {key.replace('_', ' ')}: {one[key]}"), soft_wrap=True)
