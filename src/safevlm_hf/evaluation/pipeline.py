"""Systems on a benchmark, end to end: answers, judgements, figures, `results.json`.

Everything is kept as it comes, in one folder per benchmark and split: `answers.jsonl`, the judges' own files, and per
system a `results.json` and an `items.jsonl`, which joins items, answers and judgements. A run that was stopped goes on
where it was when it is started again. Results under another protocol stay beside the new ones, under another name.
"""

import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import intervals
from ..benchmarks import Benchmark, Loaded, answer_parsing
from ..files import write_text
from ..intervals.bootstrap import Bootstrap
from ..items import Answer, Item
from . import counting
from . import judges as judges_package
from . import metrics as metrics_package
from .answering_items import AnswerBatch, answer_items
from .counting import count_figures
from .item_records import save_agreement, save_items
from .judges.base import Judge, Judgement
from .judges.forced_action import ActionJudge
from .judges.prompts import JudgePrompt
from .judges.reading_judge import BYTES_PER_TOKEN, LONGEST_TEXT, Cost, ReadingJudge
from .protocol.answer_cache import AnswerCache
from .protocol.fingerprints import code_hash
from .protocol.protocol import Protocol, save_protocol
from .protocol.result import Counts, EvaluationResult, Times, load_result, save_result
from .protocol.system import System


ANSWERS, ITEMS, RESULTS = "answers.jsonl", "items.jsonl", "results.json"


@dataclass(frozen=True)
class Candidate:
    """A system that takes part.

    Attributes:
        system: what stands in its result.
        answer: a batch of items to answers.
        names: `"levels"` and `"categories"` of its verdicts; `None` where it has none.
    """

    system: System
    answer: AnswerBatch
    names: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class Settings:
    """Settings that are equal for all systems of a run.

    Attributes:
        judges: who judges; a system with a verdict also gets the facts of its policy.
        decoding: settings of `generate`.
        max_new_tokens: longest answer, in tokens.
        batch_size: items per batch.
        bootstrap: of the intervals.
        progress: show progress on stderr.
    """

    judges: Sequence[Judge]
    decoding: Mapping = field(default_factory=lambda: {"do_sample": False, "num_beams": 1})
    max_new_tokens: int = 256
    batch_size: int = 8
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    progress: bool = True


@dataclass(frozen=True)
class Evaluated:
    """One system on one benchmark: its result, answers and judgements.

    Attributes:
        result: its `results.json`.
        items: what was asked.
        answers: the system's, one per item.
        judgements: judge to its judgements, one per item.
    """

    result: EvaluationResult
    items: Sequence[Item]
    answers: Sequence[Answer]
    judgements: Mapping[str, Sequence[Judgement]]


def evaluate_systems(
    benchmark: Benchmark,
    loaded: Loaded,
    candidates: Sequence[Candidate],
    settings: Settings,
    folder: Path,
    say: Callable[[str], None] = print,
) -> list[Evaluated]:
    """Evaluate all systems on the items of a benchmark, under one protocol.

    Args:
        benchmark, loaded: as `load_benchmark` gives them.
        folder: of all benchmarks; this one's lies in it.
        say: shows what begins.

    Returns:
        One per system, in their order.
    """
    judges = _judges(candidates, settings)
    protocol = _protocol(benchmark, loaded, judges, settings)
    root, folder = folder, folder / slug(loaded.name)
    # Answers take hours, so whatever would end the run is looked for first.
    check_judges(judges, [loaded])
    _check_folders(candidates, folder)
    save_protocol(protocol, folder / "protocol.yaml")
    write_text(folder / "missing.txt", "".join(f"{line}\n" for line in loaded.missing))
    for name, cost in judging_costs(benchmark, loaded, candidates, settings, root).items():
        say(f"{loaded.name}: judge {name}: at most {cost}")
    evaluated = []
    for candidate in candidates:
        count = Counts(len(loaded.items), len(loaded.missing), published=loaded.published_size).describe_items()
        say(f"{loaded.name}: {candidate.system.name}, {count}, {len(loaded.missing)} left out")
        # A system without a verdict took no action that could be judged.
        own = [judge for judge in judges if candidate.names or not isinstance(judge, ActionJudge)]
        evaluated.append(_evaluate(benchmark, loaded, candidate, own, protocol, settings, folder))
        own_folder = folder / slug(candidate.system.name)
        _keep_earlier(own_folder, protocol.hash, say)
        save_items(own_folder / ITEMS, loaded.items, evaluated[-1].answers, evaluated[-1].judgements)
        save_result(evaluated[-1].result, own_folder / RESULTS)
    by_system = {one.result.system.name: one.judgements for one in evaluated}
    save_agreement(folder / "agreement.json", protocol.hash, by_system)
    return evaluated


def result_names(
    benchmark: Benchmark, loaded: Loaded, candidates: Sequence[Candidate], settings: Settings
) -> set[str]:
    """Name the results that [`evaluate_systems`] makes of these arguments, each by its protocol and system."""
    protocol = _protocol(benchmark, loaded, _judges(candidates, settings), settings)
    return {result_name(protocol, candidate.system) for candidate in candidates}


def result_name(protocol: Protocol, system: System) -> str:
    return f"{protocol.hash}:{slug(system.name)}"


def check_judges(judges: Sequence[Judge], benchmarks: Sequence[Loaded]):
    """Raise now what would end a run after hours of answers.

    Raises:
        ValueError: a judge cannot judge an item, such as one without a rubric.
        RuntimeError: a judge cannot be asked.
    """
    for loaded in benchmarks:
        for judge in judges:
            reason = reason_against(judge, loaded)
            if reason is not None:
                advice = "Take another `--judge-prompt`, or leave this benchmark out"
                raise ValueError(f"judge {judge.name!r} cannot judge {loaded.name}: {reason}. {advice}")
    for judge in judges:
        judge.check()


def reason_against(judge: Judge, loaded: Loaded) -> str | None:
    """Return why a judge cannot judge these items; `None` where it can. Only a prompt is for items of one kind."""
    if judge.prompt is None:
        return None
    try:
        for item in loaded.items:
            judge.prompt.check(item)
    except ValueError as error:
        return str(error)
    return None


def judging_costs(
    benchmark: Benchmark, loaded: Loaded, candidates: Sequence[Candidate], settings: Settings, folder: Path
) -> dict[str, Cost]:
    """Estimate what each judge that reads will take at most; arguments as for `evaluate_systems`. Nothing is asked.

    An answer that is not there yet counts as the longest one.
    """
    judges = [judge for judge in settings.judges if isinstance(judge, ReadingJudge)]
    if not judges:
        return {}
    protocol = _protocol(benchmark, loaded, _judges(candidates, settings), settings)
    answers, length = [], min(settings.max_new_tokens * BYTES_PER_TOKEN, LONGEST_TEXT // 2)
    for candidate in candidates:
        # The name stands in the text, for no two systems give the same answer, which would be judged once.
        longest = candidate.system.name.ljust(length, ".")
        with AnswerCache(folder / slug(loaded.name) / ANSWERS, candidate.system, protocol) as cache:
            answers += [cache.get(item) or Answer(item.id, longest) for item in loaded.items]
    return {judge.name: judge.estimate([*loaded.items] * len(candidates), answers) for judge in judges}


def _judges(candidates: Sequence[Candidate], settings: Settings) -> list[Judge]:
    """Return the judges of the settings, and the facts of the policy where a system has one."""
    return [*settings.judges, *([ActionJudge()] if any(one.names for one in candidates) else [])]


def _protocol(benchmark: Benchmark, loaded: Loaded, judges: Sequence[Judge], settings: Settings) -> Protocol:
    return Protocol.of(
        benchmark.name,
        loaded.split,
        loaded.items,
        decoding={**settings.decoding, "batch_size": settings.batch_size},
        max_new_tokens=settings.max_new_tokens,
        judges={judge.name: judge.fingerprint() for judge in judges},
        judge_prompts={name: prompt.digest() for name, prompt in _prompts(judges).items()},
        scoring={"code": _scoring_code(benchmark), **asdict(settings.bootstrap)},
    )


def _scoring_code(benchmark: Benchmark) -> str:
    """Return the hash of what makes figures of answers: judges, metrics, and the benchmark's own reading."""
    folders = [Path(inspect.getfile(package)).parent for package in (intervals, judges_package, metrics_package)]
    files = [counting.__file__, answer_parsing.__file__, inspect.getfile(benchmark.read)]
    return code_hash([*files, *(file for folder in folders for file in sorted(folder.rglob("*.py")))])


def _evaluate(benchmark, loaded, candidate: Candidate, judges, protocol, settings: Settings, folder) -> Evaluated:
    start = time.time()
    with AnswerCache(folder / ANSWERS, candidate.system, protocol) as cache:
        answers = answer_items(candidate.answer, loaded.items, cache, settings.batch_size, settings.progress)
    answered = time.time()
    judgements = {}
    for judge in judges:
        options = {"progress": settings.progress} if isinstance(judge, ReadingJudge) else {}  # the others take no time
        judgements[judge.name] = judge.judge(loaded.items, answers, **options)
    judged = time.time()
    figures = count_figures(
        benchmark, loaded.items, answers, judgements, candidate.names, settings.bootstrap, _prompts(judges)
    )
    result = EvaluationResult(
        protocol,
        candidate.system,
        figures,
        Counts(
            len(loaded.items),
            len(loaded.missing),
            sum(answer.text is None for answer in answers),
            loaded.published_size,
        ),
        settings.bootstrap,
        Times(durations={"answering": round(answered - start, 3), "judging": round(judged - answered, 3)}),
    )
    return Evaluated(result, loaded.items, answers, judgements)


def _keep_earlier(folder: Path, protocol_hash: str, say: Callable[[str], None]):
    """Give the files of a result under another protocol names of their own, which no search for results finds."""
    if not (folder / RESULTS).exists():
        return
    earlier = load_result(folder / RESULTS).protocol.hash
    if earlier == protocol_hash:
        return
    for path in (folder / ITEMS, folder / RESULTS):
        if path.exists():
            kept = path.replace(path.with_stem(f"{path.stem}-{earlier[:12]}"))
    say(f"{folder / RESULTS} is of another protocol, {earlier}: it is kept as {kept.name}")


def _prompts(judges: Sequence[Judge]) -> dict[str, JudgePrompt]:
    """Return the prompts of the judges that read."""
    return {judge.name: judge.prompt for judge in judges if judge.prompt is not None}


def _check_folders(candidates: Sequence[Candidate], folder: Path):
    """Raise where a result would take the place of another system's."""
    names = [slug(candidate.system.name) for candidate in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two systems would have one folder, {twice[0]!r}: give them other names")
    for name, candidate in zip(names, candidates):
        path = folder / name / RESULTS
        if path.exists() and load_result(path).system.fingerprint != candidate.system.fingerprint:
            raise ValueError(
                f"{path} is of another model, policy, device or attention: take another folder for this run, or "
                "remove it"
            )


def slug(name: str) -> str:
    """Return a name for a folder."""
    return re.sub(r"[^\w.=-]+", "-", name).strip("-")
