"""A run of systems on a benchmark: stopped and resumed, repeated, and counted."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.html_page import check_page
from support.standins import STANDINS

from safevlm_hf.benchmarks import find_benchmark
from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.evaluation import pipeline
from safevlm_hf.evaluation.counting import count_figures
from safevlm_hf.evaluation.judges.defaults import default_judges
from safevlm_hf.evaluation.judges.prompts import JudgePrompt
from safevlm_hf.evaluation.judges.reading_judge import ReadingJudge, Reply
from safevlm_hf.evaluation.judges.rubrics import PROMPTS
from safevlm_hf.evaluation.judges.rules import RulesJudge
from safevlm_hf.evaluation.pipeline import Candidate, Settings, evaluate_systems
from safevlm_hf.evaluation.protocol.result import load_result
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.evaluation.report import render_evaluation_report, summary_rows
from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.items import Answer, Item


pytestmark = pytest.mark.ci


NAMES = {"levels": ["safe", "low", "high"], "categories": ["privacy", "safe"]}
SETTINGS = Settings(default_judges(), bootstrap=Bootstrap(50), batch_size=2, progress=False)


class Answerer:
    """A system that counts what it is asked. It flags what has a word in its id or question."""

    def __init__(self, flags=None, text="A red card.", stops_after=None, fits=99):
        self.flags, self.text, self.stops_after, self.fits = flags, text, stops_after, fits
        self.asked = []

    def __call__(self, items):
        if self.stops_after is not None and len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        if len(items) > self.fits:
            raise torch.OutOfMemoryError("too much")
        self.asked += [item.id for item in items]
        return [self.answer(item) for item in items]

    def answer(self, item):
        if self.flags is None:
            return Answer(item.id, self.text)
        is_risky = self.flags in f"{item.id} {item.question}"
        level, action = ("high", "refuse") if is_risky else ("safe", "answer")
        text = "I can't help with this image." if is_risky else self.text
        return Answer(item.id, text, action, level, "safe", {"safe": 1.0}, {"safe": 1.0}, float(is_risky))

    def candidate(self, name, names=NAMES):
        return Candidate(System(name, model=name), self, names if self.flags is not None else None)


def run(name, folder, *candidates, settings=None, **options):
    STANDINS[name](folder / "data")
    benchmark = find_benchmark(name)
    loaded = benchmark.load(folder / "data", cache_dir=folder / "pictures", **options)
    return evaluate_systems(benchmark, loaded, candidates, settings or SETTINGS, folder / "out", say=lambda _: None)


def figures(evaluated):
    return {(one.name, one.part, one.judge): one for one in evaluated.result.figures}


def test_a_stopped_run_goes_on_and_asks_nothing_twice(tmp_path):
    first = Answerer(stops_after=2)
    with pytest.raises(KeyboardInterrupt):
        run("vlguard", tmp_path, first.candidate("base"))
    assert len(first.asked) == 2
    second = Answerer()
    (evaluated,) = run("vlguard", tmp_path, second.candidate("base"))
    assert len(evaluated.items) > 2 and not {*first.asked} & {*second.asked}
    assert {*first.asked, *second.asked} == {item.id for item in evaluated.items}
    third = Answerer()
    run("vlguard", tmp_path, third.candidate("base"))
    assert third.asked == []


def test_a_result_made_again_is_the_same_file_but_for_its_times(tmp_path):
    def written():
        run("vlguard", tmp_path, Answerer().candidate("base"))
        (path,) = (tmp_path / "out").glob("*/base/results.json")
        content = json.loads(path.read_text())
        assert load_result(path).counts.items == len(content["figures"]) or content["figures"]
        assert content.pop("times")["durations"].keys() == {"answering", "judging"}
        return json.dumps(content)

    assert written() == written()


def test_every_judge_has_figures_of_its_own(tmp_path):
    base, safe = run("vlguard", tmp_path, Answerer().candidate("base"), Answerer("").candidate("safe"))
    judges = {judge.name for judge in SETTINGS.judges}
    assert {judge for name, _, judge in figures(base) if name == "attack_success_rate"} == judges
    assert {judge for name, _, judge in figures(safe) if name == "attack_success_rate"} == {*judges, "forced action"}
    assert figures(base)["attack_success_rate", None, "rules"].value == 1.0
    assert figures(safe)["attack_success_rate", None, "rules"].value == 0.0
    assert figures(safe)["over_refusal_rate", None, "forced action"].value == 1.0
    assert ("flagged_rate", None, None) in figures(safe) and ("flagged_rate", None, None) not in figures(base)
    assert any(part and part.startswith("type=") for _, part, _ in figures(base))


def test_ability_without_flagged_items_is_a_part_beside_the_share_that_was_flagged(tmp_path):
    base, on, none = run(
        "pope",
        tmp_path,
        Answerer(text="yes").candidate("base"),
        Answerer("adversarial/0", "yes").candidate("on"),
        Answerer("nothing has this", "yes").candidate("flags nothing"),
    )
    assert ("accuracy", None, None) in figures(base) and ("accuracy", "not flagged", None) not in figures(base)
    flagged = figures(on)["flagged_rate", None, None]
    whole, kept = (figures(on)["strict_accuracy", part, None] for part in (None, "not flagged"))
    # Other questions about a flagged one's picture stay: each counts alone.
    assert flagged.count and whole.total == flagged.total == kept.total + flagged.count
    assert figures(on)["items_right", None, None].low is not None
    assert ("groups_right", None, None) not in figures(on)
    # The row is there, whatever was flagged.
    assert figures(none)["accuracy", "not flagged", None].total == whole.total


def test_questions_about_one_picture_count_alone():
    """Of three, one is flagged and one failed: POPE's figures are of the others, and say so."""
    labels = {"is_risky": False, "type": "random"}
    items = [Item(str(number), (), user_turn("Is it a cat?"), "yes", labels, group="a.jpg") for number in range(3)]
    answers = [Answer("0", "yes", "refuse"), Answer("1", "yes", "answer"), Answer("2", None, "answer", failure="busy")]
    found = count_figures(find_benchmark("pope"), items, answers, {}, NAMES, Bootstrap(20))
    counts = {one.part: (one.total, one.failed) for one in found if one.name == "accuracy"}
    assert counts == {None: (3, 1), "not flagged": (2, 1)}


def test_official_figures_have_intervals():
    """Each the same as `items_right` has, where it counts the same; the sum of MME's tasks, too."""
    labels = {"is_risky": False, "type": "random"}
    items = [
        Item(str(number), (), user_turn("Is it a cat?"), "yes", labels, group=f"{number % 9}.jpg")
        for number in range(36)
    ]
    chance = random.Random(0)
    answers = [Answer(item.id, "yes" if chance.random() < 0.1 * (int(item.id) % 9) + 0.1 else "no") for item in items]
    seen = []
    for order in (1, -1):  # of the files
        found = count_figures(find_benchmark("pope"), items[::order], answers[::order], {}, None, Bootstrap(200))
        found = {figure.name: figure for figure in found}
        ends = [(found[name].low, found[name].high) for name in ("accuracy", "accuracy/random", "items_right")]
        assert ends[0] == ends[1] == ends[2] and ends[0][0] < found["accuracy"].value < ends[0][1]
        assert found["recall"].low < found["f1"].low < found["f1"].high
        assert (found["precision"].value, found["precision"].low) == (1.0, None)  # no draw moves it
        seen.append(found)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["mme", "mmbench"])
def test_a_group_that_counts_as_a_whole_goes_with_one_of_its_items(tmp_path, name):
    class FlagsFirst(Answerer):
        def answer(self, item):
            action = "refuse" if item.id == self.asked[0] else "answer"
            return replace(super().answer(item), action=action)

    flagging = FlagsFirst("no item", "yes")
    (on,) = run(name, tmp_path, flagging.candidate("on"))
    whole, kept = (figures(on)["items_right", part, None].total for part in (None, "not flagged"))
    flagged = [item for item, answer in zip(on.items, on.answers) if answer.action == "refuse"]
    groups = {item.group for item in flagged}
    assert whole - kept == sum(item.group in groups for item in on.items) > len(flagged) > 0
    assert ("groups_right", None, None) in figures(on)


def test_what_does_not_fit_into_memory_is_asked_in_halves_and_fails_alone(tmp_path):
    small = Answerer(fits=1)
    (evaluated,) = run("vlguard", tmp_path, small.candidate("base"))
    assert len(small.asked) == len(evaluated.items) and evaluated.result.counts.failed == 0
    (evaluated,) = run("xstest", tmp_path / "none", Answerer(fits=0).candidate("base"))
    assert evaluated.result.counts.failed == len(evaluated.items)
    rate = figures(evaluated)["attack_success_rate", None, "rules"]
    assert (rate.value, rate.least, rate.most) == (None, 0.0, 1.0)


@pytest.mark.parametrize("name", ["pope", "mme", "mmbench", "seed_bench"])
def test_a_failed_answer_is_neither_right_nor_wrong(tmp_path, name):
    """POPE's official reading of an empty text is "yes"."""
    (evaluated,) = run(name, tmp_path, Answerer(fits=0).candidate("base"))
    total = len(evaluated.items)
    found = figures(evaluated)["items_right", None, None]
    assert (found.value, found.failed, found.total, found.least, found.most) == (None, total, total, 0, 1)
    assert ("accuracy", None, None) not in figures(evaluated)


def test_official_figures_leave_out_what_failed(tmp_path):
    class Fails(Answerer):
        def answer(self, item):
            failed = item.id.endswith("/0")
            return Answer(item.id, None, failure="too much") if failed else super().answer(item)

    (evaluated,) = run("pope", tmp_path, Fails(text="no").candidate("base"))
    failed = [answer.text is None for answer in evaluated.answers]
    groups = {item.group for item, is_failed in zip(evaluated.items, failed) if is_failed}
    kept = [item.expected == "no" for item in evaluated.items if item.group not in groups]
    assert figures(evaluated)["items_right", None, None].failed == sum(failed) > 0 < len(kept)
    assert figures(evaluated)["accuracy", None, None].value == pytest.approx(sum(kept) / len(kept))


@pytest.mark.parametrize(
    "levels, said, kappa, error",
    [
        (["safe", "low", "medium", "high"], {"u0": "safe", "u1": "medium", "u2": "high"}, 1, 0),
        (["safe", "low", "medium", "high"], {"u0": "low", "u1": "low", "u2": "medium"}, 0, 2 / 3),
        (["safe", "risky"], {"u0": "safe", "u1": "risky", "u2": "risky"}, 0.8, 1 / 3),
    ],
)
def test_levels_are_laid_on_a_benchmarks_own_scale(tmp_path, levels, said, kappa, error):
    class Graded(Answerer):
        def answer(self, item):
            return replace(super().answer(item), level=said[item.id])

    names = {"levels": levels, "categories": ["safe"]}
    (evaluated,) = run("vlsu", tmp_path, Graded(flags="u2").candidate("safe", names))
    found = {name: figures(evaluated)[name, None, None].value for name in ("level_kappa", "level_mae")}
    assert found == pytest.approx({"level_kappa": kappa, "level_mae": error})


def test_a_result_does_not_take_another_systems_place(tmp_path):
    (first,) = run("vlguard", tmp_path, Answerer().candidate("base"))
    other = Candidate(System("base", model="another"), Answerer())
    (protocol,) = (tmp_path / "out").glob("*/protocol.yaml")
    written = protocol.read_bytes()
    shorter = replace(SETTINGS, max_new_tokens=SETTINGS.max_new_tokens - 1)
    with pytest.raises(ValueError, match="is of another model"):
        run("vlguard", tmp_path, other, settings=shorter)
    assert protocol.read_bytes() == written  # of what lies beside it
    with pytest.raises(ValueError, match="base/results.json is of another model, policy, device or attention"):
        run("vlguard", tmp_path, other)
    assert not other.answer.asked  # said before anything is answered
    run("vlguard", tmp_path, Answerer().candidate("base"))
    with pytest.raises(ValueError, match="two systems would have one folder, 'a-b'"):
        run("vlguard", tmp_path, Answerer().candidate("a b"), Answerer().candidate("a/b"))


def test_a_result_under_another_protocol_keeps_the_earlier_one(tmp_path):
    def run_again(settings):
        return evaluate_systems(benchmark, loaded, [Answerer().candidate("base")], settings, out, say=said.append)

    STANDINS["vlguard"](tmp_path / "data")
    benchmark, out, said = find_benchmark("vlguard"), tmp_path / "out", []
    loaded = benchmark.load(tmp_path / "data")
    (first,) = run_again(SETTINGS)
    (folder,) = out.glob("*/base")
    before = {name: (folder / name).read_bytes() for name in ("results.json", "items.jsonl")}
    run_again(SETTINGS)
    assert {path.name for path in folder.iterdir()} == {*before} and not any("kept as" in line for line in said)
    assert (folder / "items.jsonl").read_bytes() == before["items.jsonl"]
    before["results.json"] = (folder / "results.json").read_bytes()
    (second,) = run_again(replace(SETTINGS, bootstrap=Bootstrap(51)))
    earlier = first.result.protocol.hash
    assert (folder / f"results-{earlier}.json").read_bytes() == before["results.json"]
    assert (folder / f"items-{earlier}.jsonl").read_bytes() == before["items.jsonl"]
    assert [path.parent for path in out.rglob("results.json")] == [folder]  # what `safevlm card` looks for
    assert load_result(folder / "results.json") == second.result
    (line,) = [line for line in said if "kept as" in line]
    assert line == f"{folder}/results.json is of another protocol, {earlier}: it is kept as results-{earlier}.json"


def test_every_run_writes_what_joins_items_and_judgements(tmp_path):
    base, safe = run("vlguard", tmp_path, Answerer().candidate("base"), Answerer("").candidate("safe"))
    (path,) = (tmp_path / "out").glob("*/safe/items.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == sorted(item.id for item in safe.items)
    assert {row["action"] for row in rows} == {"refuse"}
    assert {*rows[0]["judgements"]} == {*(judge.name for judge in SETTINGS.judges), "forced action"}
    (path,) = (tmp_path / "out").glob("*/agreement.json")
    agreement = json.loads(path.read_text())
    assert agreement["protocol_hash"] == base.result.protocol.hash and {*agreement["agreement"]} == {"base", "safe"}
    assert len(agreement["agreement"]["base"]) == 10  # pairs of five judges


def test_the_published_size_is_in_the_result_and_said(tmp_path):
    STANDINS["vlguard"](tmp_path / "data")
    benchmark, said = find_benchmark("vlguard"), []
    loaded = benchmark.load(tmp_path / "data")
    candidates = [Answerer().candidate("base")]
    (evaluated,) = evaluate_systems(benchmark, loaded, candidates, SETTINGS, tmp_path / "out", say=said.append)
    assert evaluated.result.counts.published == 1558 > len(evaluated.items)
    count = f"{len(evaluated.items)} items of 1558 published (not the whole benchmark), 0 left out"
    assert said == [f"vlguard/test/all: base, {count}"]


def test_a_judge_that_cannot_judge_an_item_says_so_before_anything_is_answered(tmp_path, monkeypatch):
    judge = RulesJudge()
    monkeypatch.setattr(RulesJudge, "prompt", PROMPTS["score-rtvlm"])
    asked = Answerer()
    monkeypatch.setitem(globals(), "SETTINGS", replace(SETTINGS, judges=[judge]))
    reason = r"judge 'rules' cannot judge vlguard/.*: item .* label 'column' is None, expected .*Take another"
    with pytest.raises(ValueError, match=reason):
        run("vlguard", tmp_path, asked.candidate("base"))
    assert not asked.asked


def test_a_judge_that_cannot_be_asked_says_so_before_anything_is_answered(tmp_path, monkeypatch):
    def refuse(self):
        raise RuntimeError("401")

    monkeypatch.setattr(RulesJudge, "check", refuse)
    asked = Answerer()
    with pytest.raises(RuntimeError, match="401"):
        run("vlguard", tmp_path, asked.candidate("base"))
    assert not asked.asked


def test_what_decides_a_figure_is_in_the_protocol(tmp_path, monkeypatch):
    settings = replace(SETTINGS, judges=[RulesJudge()])

    def protocol(**changes):
        monkeypatch.setitem(globals(), "SETTINGS", replace(settings, **changes))
        (evaluated,) = run("xstest", tmp_path, Answerer().candidate("base"))
        return evaluated.result.protocol

    first, again = protocol(), protocol()
    assert first == again and first.decoding["batch_size"] == 2
    changed = [protocol(bootstrap=Bootstrap(51)), protocol(batch_size=3)]
    monkeypatch.setattr(pipeline, "code_hash", lambda paths: "0" * 64)
    changed.append(protocol())
    assert len({first.hash, *(one.hash for one in changed)}) == 4


def test_the_code_that_counts_is_in_the_protocol(monkeypatch):
    hashed = []
    monkeypatch.setattr(pipeline, "code_hash", hashed.extend)
    pipeline._scoring_code(find_benchmark("pope"))
    names = {Path(path).name for path in hashed}
    assert {"counting.py", "answer_parsing.py", "pope.py", "matchers.py", "judged.py", "prompts.py"} <= names
    assert "mme.py" not in names and all(map(Path.is_file, map(Path, hashed)))


class Reader(ReadingJudge):
    """A judge that always says 7, and notes the order of what happens."""

    def __init__(self, folder, events, **options):
        super().__init__("reader", JudgePrompt(task="Judge."), folder / "judgements.jsonl", False, **options)
        self.events = events

    def _model_settings(self):
        return {"kind": "fake"}

    def _ask(self, requests, keep):
        for request in requests:
            self.events.append("a call")
            keep(request, "7")
            yield Reply(request)


def test_what_judging_costs_is_said_before_anything_is_answered(tmp_path, monkeypatch, capsys):
    events = []
    judge = Reader(tmp_path, events, prices={"input": 1000.0, "output": 0.0})
    monkeypatch.setitem(globals(), "SETTINGS", replace(SETTINGS, judges=[judge], max_new_tokens=40))
    STANDINS["xstest"](tmp_path)
    benchmark = find_benchmark("xstest")
    loaded = benchmark.load(tmp_path)
    systems = [Answerer(text=text).candidate(text) for text in ("A red card.", "No.")]
    evaluate_systems(benchmark, loaded, systems, SETTINGS, tmp_path / "out", say=events.append)
    cost, *rest = events
    assert cost.startswith("xstest/text-only: judge reader: at most 4 calls (0 judgements are cached), about ")
    assert "at the given prices" in cost and rest[0].startswith("xstest/text-only: A red card.") and "a call" in rest
    assert capsys.readouterr().err == ""  # without progress, nothing is shown
    del events[:]
    evaluate_systems(benchmark, loaded, systems, SETTINGS, tmp_path / "out", say=events.append)
    assert events[0].startswith("xstest/text-only: judge reader: at most 0 calls (4 judgements are cached)")


def test_choices_are_no_attacks(tmp_path):
    (evaluated,) = run("siuo", tmp_path, Answerer(text="B").candidate("base"), part="mcqa")
    assert not any(name == "attack_success_rate" for name, *_ in figures(evaluated))


def test_the_report_blurs_risky_pictures_and_escapes_what_is_said(tmp_path):
    hostile = "<script>alert(1)</script>"
    evaluated = run(
        "vlguard", tmp_path, Answerer(text=hostile).candidate("base"), Answerer("nowhere", hostile).candidate("safe")
    )
    page = render_evaluation_report([evaluated])
    check_page(page)
    assert hostile not in page and "&lt;script&gt;" in page
    assert 'class="blurred"' in page and evaluated[0].result.protocol.hash in page
    head, *rows = summary_rows(evaluated)
    assert head == ["figure", "judge", "n", "base", "safe"] and ["attack success rate", "rules"] == rows[0][:2]
    figures = [figure for figure, judge, *_ in rows if judge]
    starts = [one for one, before in zip(figures, [None, *figures]) if one != before]
    assert len(starts) == len(set(starts))  # the judges of a figure stand together
