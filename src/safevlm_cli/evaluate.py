"""`safevlm evaluate`: benchmarks of the field on a checkpoint, beside its verdict switched off, or a base model."""

import sys
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated

import typer

from .app import Model, Overwrite, PolicyFile, app, benchmark_options
from .loading import DEFAULT_MODEL
from .showing import borderless_table, make_console, plain, print_warning


@app.command()
def evaluate(
    model: Model = DEFAULT_MODEL,
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="Names, with commas between.")] = "riskcards",
    data: Annotated[
        Path, typer.Option(help="The published files; of several benchmarks, a folder each in it.")
    ] = Path("runs/benchmarks"),
    option: Annotated[
        list[str] | None, typer.Option(help="Of the benchmarks, NAME=VALUE or BENCHMARK.NAME=VALUE; several times.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name the benchmarks, with licence and source.")] = False,
    base: Annotated[str | None, typer.Option(help="A stock checkpoint, on the same items.")] = None,
    policy: PolicyFile = None,
    judge_model: Annotated[str | None, typer.Option(help="A model that judges, too, by `--judge-prompt`.")] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="Its OpenAI-compatible server; unset, the model is a folder or Hub id.")
    ] = None,
    judge_key: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the server's key.")
    ] = None,
    judge_prompt: Annotated[
        str, typer.Option(help="score, score-rtvlm, refusal, harm, safe-effective or preference.")
    ] = "harm",
    judges: Annotated[
        Path | None, typer.Option(help="A YAML file with further models that judge (docs/evaluation.md).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Results, answers, report.")] = Path(
        "runs/evaluation"
    ),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the intervals' resampling.")] = 0,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out items without a readable picture, and name them.")
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="Print every figure, not the first 25 alone.")] = False,
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
    from .judges import make_judges

    chosen = [find_benchmark(name) for name in dict.fromkeys(map(str.strip, benchmark.split(",")))]
    options = benchmark_options(option or [], chosen)
    all_judges = make_judges(judges, judge_model, judge_url, judge_key, judge_prompt, output)
    _check_systems(model, base, policy, output)
    # Every benchmark is checked before any model is loaded, and who can judge it.
    loaded = [
        one.load(_folder(data, one.name, len(chosen)), skip_missing=skip_missing, **options[one.name])
        for one in chosen
    ]
    fitting = _judges_by_benchmark(all_judges, loaded)
    settings = _settings(max_new_tokens, batch_size, seed)
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
    """What names a checkpoint, a policy or a folder is right, before the data are read."""
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


def _judges_by_benchmark(judges: list, loaded: list) -> list[list]:
    """For each benchmark those judges that can judge its items.

    Raises:
        ValueError: a judge can judge none of the benchmarks, or a benchmark is left without a model that judges.
        RuntimeError: a judge cannot be asked.
    """
    reasons = {(judge.name, one.name): _reason_against(judge, one) for judge in judges for one in loaded}
    reading = [judge.name for judge in judges if hasattr(judge, "prompt")]
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


def _reason_against(judge, loaded) -> str | None:
    if not hasattr(judge, "prompt"):
        return None
    try:
        for item in loaded.items:
            judge.prompt.check(item)
    except ValueError as error:
        return str(error)
    return None


def _settings(max_new_tokens: int, batch_size: int, seed: int):
    """What is equal for all benchmarks, without judges."""
    from safevlm_hf.evaluation.pipeline import Settings
    from safevlm_hf.intervals.bootstrap import Bootstrap

    return Settings(
        [],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        bootstrap=Bootstrap(seed=seed),
        progress=sys.stderr.isatty(),
    )


def _run(runs: list[tuple], output: Path, overwrite: bool, show_all: bool):
    """`runs`: per benchmark the first arguments of `evaluate_systems`."""
    from safevlm_hf.evaluation.comparing import save_comparison
    from safevlm_hf.evaluation.pipeline import evaluate_systems, result_names
    from safevlm_hf.evaluation.report import num_headlines, refuse_to_lose_results, write_evaluation_report

    report = output / "report.html"
    if not overwrite:
        names = set().union(*(result_names(*run) for run in runs))
        advice = "it is of another run, `--overwrite` replaces it and keeps the results, another `--output` keeps it"
        refuse_to_lose_results(report, names, advice)
    if len(runs) > 1:
        _show_costs(runs, output)
    evaluated = []
    for run in runs:
        evaluated.append(evaluate_systems(*run, output))
        save_comparison(evaluated[-1], output)
        # After each benchmark, so that an error in a later one loses nothing.
        write_evaluation_report(report, evaluated)
        _show(evaluated[-1], None if show_all else num_headlines(len(runs)))
    print(HOW_TO_READ)
    print(f"results: {output}/*/*/results.json   report: {report}")


def _show_costs(runs, output: Path):
    """Of each judge that reads, over all benchmarks."""
    from safevlm_hf.evaluation.pipeline import judging_costs

    costs = [judging_costs(*run, output) for run in runs]
    for name in dict.fromkeys(name for one in costs for name in one):
        total = reduce(add, (one[name] for one in costs if name in one))
        print(f"all benchmarks: judge {name}: at most {total}")


def _show(of_benchmark, num_rows: int | None):
    from safevlm_hf.evaluation.report import summary_rows

    protocol = of_benchmark[0].result.protocol
    head, *rows = summary_rows(of_benchmark, num_rows)
    num_more = len(summary_rows(of_benchmark)) - 1 - len(rows)
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
    # The shipped policy is always there: no figure of another one stands alone.
    found = [
        safe_candidate("verdict off", model, loaded, processor, settings, VERDICT_OFF),
        safe_candidate("verdict on, shipped policy", model, loaded, processor, settings),
    ]
    given = read_policy(policy, loaded, print_warning)
    if given is not None:
        name = f"verdict on, policy {policy.name}"
        found.append(safe_candidate(name, model, loaded, processor, settings, given.to_dict()))
    if base is not None:
        stock = AutoModelForImageTextToText.from_pretrained(base, dtype="auto", device_map=device()).eval()
        stock_processor = AutoProcessor.from_pretrained(base)
        found.insert(0, stock_candidate("base", base, stock, stock_processor, settings))
    return found


def _folder(data: Path, name: str, number: int) -> Path:
    return data / name if number > 1 or (data / name).is_dir() or name == "riskcards" else data


def _list():
    """A few lines per benchmark: a table of all this fits into no terminal."""
    from safevlm_hf.benchmarks import describe_benchmarks

    console = make_console()
    for one in describe_benchmarks():
        console.print(plain(f"{one['name']}: {one['title']}", "bold"))
        for key in ("metric", "size", "licence", "source", "where_to_get", "options"):
            console.print(plain(f"    {key.replace('_', ' ')}: {one[key]}"), soft_wrap=True)
