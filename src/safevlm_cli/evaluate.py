"""`safevlm evaluate`: benchmarks of the field on a checkpoint, beside its verdict switched off, or a base model."""

import ipaddress
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from .app import Model, PolicyFile, app
from .loading import DEFAULT_MODEL
from .showing import borderless_table, make_console, plain


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
    judge_prompt: Annotated[str, typer.Option(help="score, score-rtvlm, refusal, harm or safe-effective.")] = "harm",
    output: Annotated[Path, typer.Option("--output", "-o", help="Results, answers, report.")] = Path(
        "runs/evaluation"
    ),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals' resampling.")] = 0,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out items without a readable picture, and name them.")
    ] = False,
):
    """
    Run benchmarks: answers, verdicts, judgements, figures with intervals, a report. Nothing is downloaded.

    A stopped run goes on where it was. Each benchmark is run with the verdict switched off, too.

    Example: `safevlm evaluate --benchmark vlguard,mmbench --data benchmarks --base llava-hf/llava-1.5-7b-hf`
    """
    from safevlm_hf.evaluation.benchmarks import find_benchmark

    if list_:
        return _list()
    from safevlm_hf.evaluation.pipeline import check_judges

    chosen = [find_benchmark(name) for name in dict.fromkeys(map(str.strip, benchmark.split(",")))]
    options = benchmark_options(option or [], chosen)
    judges = _judges(judge_model, judge_url, judge_key, judge_prompt, output)
    # Every benchmark is checked before any model is loaded, and whether each judge can judge it.
    loaded = [
        one.load(_folder(data, one.name, len(chosen)), skip_missing=skip_missing, **options[one.name])
        for one in chosen
    ]
    check_judges(judges, loaded)
    return _run(chosen, loaded, judges, model, base, policy, output, max_new_tokens, batch_size, seed)


def _run(chosen, loaded, judges, model, base, policy, output: Path, max_new_tokens: int, batch_size: int, seed: int):
    import sys

    from safevlm_hf.evaluation.comparing import save_comparison
    from safevlm_hf.evaluation.metrics.bootstrap import Bootstrap
    from safevlm_hf.evaluation.pipeline import Settings, evaluate_systems
    from safevlm_hf.evaluation.reports.evaluation_report import summary_rows, write_evaluation_report

    settings = Settings(
        judges,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        bootstrap=Bootstrap(seed=seed),
        progress=sys.stderr.isatty(),
    )
    candidates = _candidates(model, base, policy, settings)
    runs = [(benchmark, items, candidates) for benchmark, items in zip(chosen, loaded, strict=True)]
    if len(runs) > 1:
        _show_costs(runs, settings, output)
    evaluated = []
    for run in runs:
        evaluated.append(evaluate_systems(*run, settings, output))
        save_comparison(evaluated[-1], output)
        # After each benchmark, so that an error in a later one loses nothing.
        report = write_evaluation_report(output / "report.html", evaluated)
        _show(*summary_rows(evaluated[-1]))
    print(f"results: {output}/*/*/results.json   report: {report}")


def _show_costs(runs, settings, output: Path):
    """Of each judge that reads, over all benchmarks."""
    from safevlm_hf.evaluation.pipeline import judging_costs

    costs = [judging_costs(*run, settings, output) for run in runs]
    for name in costs[0]:
        print(f"all benchmarks: judge {name}: at most {reduce(add, (one[name] for one in costs))}")


def _show(head: list[str], *rows: list[str]):
    table = borderless_table(*head)
    for row in rows:
        table.add_row(*map(plain, row))
    make_console().print(table)


def _candidates(model: str, base: str | None, policy: Path | None, settings) -> list:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from safevlm_hf.evaluation.candidates import VERDICT_OFF, safe_candidate, stock_candidate

    from .loading import device, load, read_policy

    loaded, processor = load(model)
    given = read_policy(policy, loaded)
    given = None if given is None else given.to_dict()
    name = "verdict on, shipped policy" if given is None else f"verdict on, policy {policy.name}"
    found = [
        safe_candidate("verdict off", model, loaded, processor, settings, VERDICT_OFF),
        safe_candidate(name, model, loaded, processor, settings, given),
    ]
    if base is not None:
        stock = AutoModelForImageTextToText.from_pretrained(base, dtype="auto", device_map=device()).eval()
        stock_processor = AutoProcessor.from_pretrained(base)
        found.insert(0, stock_candidate("base", base, stock, stock_processor, settings))
    return found


def _judges(model: str | None, url: str | None, key: str | None, prompt: str, output: Path) -> list:
    from safevlm_hf.evaluation.judges.endpoint import EndpointJudge
    from safevlm_hf.evaluation.judges.local_model import LocalJudge
    from safevlm_hf.evaluation.judges.matchers import published_matchers
    from safevlm_hf.evaluation.judges.rubrics import PROMPTS
    from safevlm_hf.evaluation.judges.rules import RulesJudge

    judges = [RulesJudge(), *published_matchers()]
    if prompt not in PROMPTS:
        raise ValueError(f"`--judge-prompt` is {prompt!r}, expected one of {', '.join(PROMPTS)}.")
    if model is None:
        if url is not None or key is not None:
            raise ValueError("`--judge-url` and `--judge-key` are of a model: name it with `--judge-model`.")
        return judges
    name, cache = f"{Path(model).name} ({prompt})", output / "judgements.jsonl"
    if url is not None:
        if key is None and not _is_near(url):
            raise ValueError(
                f"the judge at {url} needs a key: expected `--judge-key` with the name of the environment variable "
                "that holds it, found none. Servers on this machine or in its network go without; for another one "
                "that needs none, any value will do"
            )
        judges.append(EndpointJudge(name, model, PROMPTS[prompt], cache, url, key))
    else:
        judges.append(LocalJudge(name, model, PROMPTS[prompt], cache))
    return judges


def _is_near(url: str) -> bool:
    """Whether the server is on this machine or in its network: a private address, or a name without a dot."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host


def benchmark_options(given: list[str], chosen: list) -> dict[str, dict[str, str]]:
    """Benchmark to its options. One without a benchmark's name goes to all that have it."""
    options: dict[str, dict[str, str]] = {one.name: {} for one in chosen}
    for text in given:
        name, is_pair, value = text.partition("=")
        benchmark, has_name, rest = name.rpartition(".")
        owners = [one for one in chosen if (one.name == benchmark if has_name else rest in one.options)]
        if not is_pair or not owners:
            known = "; ".join(f"{one.name}: {one.describe_options()}" for one in chosen)
            raise ValueError(f"`--option {text}`: expected NAME=VALUE of one of the benchmarks. Options: {known}")
        for owner in owners:
            options[owner.name][rest] = value
    return options


def _folder(data: Path, name: str, number: int) -> Path:
    return data / name if number > 1 or (data / name).is_dir() or name == "riskcards" else data


def _list():
    """A few lines per benchmark: a table of all this fits into no terminal."""
    from safevlm_hf.evaluation.benchmarks import describe_benchmarks

    console = make_console()
    for one in describe_benchmarks():
        console.print(plain(f"{one['name']}: {one['title']}", "bold"))
        for key in ("metric", "size", "licence", "source", "where_to_get", "options"):
            console.print(plain(f"    {key.replace('_', ' ')}: {one[key]}"), soft_wrap=True)
