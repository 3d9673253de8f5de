"""Results in a model card: complete, the same at each call, and beside whatever else stands there."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from safetensors.torch import save_file
from torch import ones

from safevlm_hf.evaluation.cards.card import END, START, write_evaluation_card
from safevlm_hf.evaluation.contamination.overlap import METHOD, Overlap, save_overlap
from safevlm_hf.evaluation.protocol.fingerprints import weights_hash
from safevlm_hf.evaluation.protocol.protocol import Protocol
from safevlm_hf.evaluation.protocol.result import Counts, EvaluationResult, Times, save_result
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.intervals.figure import Figure
from safevlm_hf.modeling.model_card import MARKER


OWN_CARD = """\
---
# who wrote this
language: no   # Norwegian
version: 1.10
model-index:
- name: "mine"
  results:
  - task: {type: text-generation}
    dataset: {name: D, type: d}
    metrics:
    - {type: bleu, value: 20.0, unit: points}
# the last line
tags: [a, b]
---

# Mine

Text | of  mine.\t
"""
FIGURES = [
    Figure("attack_success_rate", 0.25, 0.1, 0.4, 20, 4, count=4, least=0.2, most=0.4, judge="rules"),
    Figure("attack_success_rate", 0.5, 0.3, 0.7, 20, count=10, judge="a|b <img src=x> [c](http://d)"),
    Figure("attack_success_rate", 0.5, None, None, 4, part="type=x", judge="rules"),
]
ABILITY = [Figure("accuracy", 0.5, 0.4, 0.6, 20), Figure("flagged_rate", 0.1, 0.0, 0.2, 20, count=2)]
NOT_FLAGGED = Figure("accuracy", 0.6, 0.5, 0.7, 18, part="not flagged")


def protocol(benchmark, **changes):
    judges = {one.judge: "f" for one in FIGURES} if benchmark == "vlguard" else {}
    versions = {"torch": "2.0"}
    return Protocol(benchmark, "all", 20, "a" * 64, "b" * 64, {}, 9, judges, versions=versions, **changes)


class Run:
    """A checkpoint and a folder of results."""

    def __init__(self, folder):
        self.model, self.results = folder / "model", folder / "results"
        self.model.mkdir()
        save_file({"weight": ones(3)}, self.model / "model.safetensors")
        self.ship({"enabled": True})
        self.readme = self.model / "README.md"
        self.readme.write_text(OWN_CARD)

    def add(self, name, benchmark="vlguard", figures=FIGURES, policy=None, folder=None, **changes):
        system = System(name, "model", weights_hash=weights_hash(self.model), policy=policy or {"enabled": True})
        times = Times("2026-01-02T03:04:05+00:00")
        result = EvaluationResult(protocol(benchmark), system, figures, Counts(20, 3), times=times)
        result = replace(result, **changes)
        save_result(result, self.results / (folder or f"{benchmark}-{name}") / "results.json")
        return result

    def ship(self, policy, file="generation_config.json"):
        (self.model / file).write_text(json.dumps({"safety_policy": policy}))

    def add_ability(self, on=(*ABILITY, NOT_FLAGGED)):
        self.add("off", "pope", [ABILITY[0]], {"enabled": False})
        self.add("on", "pope", on)

    def write(self, *overlaps):
        write_evaluation_card(self.model, [self.results], overlaps)
        return self.readme.read_text()

    def entries(self, name):
        text = (self.model / ".eval_results" / name).read_text()
        return parse_eval_result_entries(yaml.safe_load(text))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_what_a_person_wrote_stays_byte_for_byte(run):
    run.add("on")
    text = run.write()
    index = text.index("model-index:")
    assert text[:index] == OWN_CARD[: OWN_CARD.index("model-index:")]
    assert OWN_CARD[OWN_CARD.index("# the last line") :].rstrip() in text
    (model,) = yaml.safe_load(text.split("---")[1])["model-index"]
    assert model["name"] == "mine" and model["results"][0]["metrics"] == [
        {"type": "bleu", "value": 20.0, "unit": "points"}
    ]
    assert ModelCard(text).data.tags == ["a", "b"]


@pytest.mark.parametrize(
    "card", [OWN_CARD, OWN_CARD.replace("\n", "\r\n"), "# No metadata\n", "---\nb: 1\n---\n# A\n"]
)
def test_a_second_call_writes_the_same_and_other_results_replace_the_first(run, card):
    run.readme.write_bytes(card.encode())
    run.add("on")
    run.add_ability()
    run.write()
    first = {path: path.read_bytes() for path in sorted(run.model.rglob("*")) if path.is_file()}
    run.write()
    assert first == {path: path.read_bytes() for path in sorted(run.model.rglob("*")) if path.is_file()}
    assert (b"\r\n" in first[run.readme]) is ("\r\n" in card)
    assert b"\n" not in first[run.readme].replace(b"\r\n", b"") or "\r\n" not in card
    for path in run.results.glob("pope-*/*"):
        path.unlink()
    assert "POPE" not in run.write() and "attack success rate" in run.readme.read_text()
    assert [path.name for path in (run.model / ".eval_results").iterdir()] == ["vlguard.yaml"]


def test_the_three_forms_name_judge_protocol_number_interval_and_date(run):
    result = run.add("on")
    text = run.write()
    assert "| attack success rate | rules | on | 0.250 | 0.100 to 0.400 | 20 | 4 (0.200 to 0.400) |" in text
    assert f"protocol `{result.protocol.hash}`, 2026-01-02" in text and "20 items, 3 more were missing" in text
    metrics = [one for one in ModelCard(text).data.eval_results if one.metric_type == "attack_success_rate"]
    assert [one.metric_value for one in metrics] == [0.25]  # by the first judge; the others are in .eval_results
    assert metrics[0].metric_name == "attack success rate (on; judge: rules)"
    assert metrics[0].metric_args == {
        "protocol_hash": result.protocol.hash,
        "system": "on",
        "judge": "rules",
        "n": 20,
        "failed": 4,
        "interval_95": [0.1, 0.4],
        "bounds": [0.2, 0.4],
        "date": "2026-01-02T03:04:05+00:00",
    }
    entry, other = run.entries("vlguard.yaml")  # parts stay in results.json
    assert other.value == 0.5
    assert (entry.task_id, entry.value, entry.date) == ("attack_success_rate", 0.25, "2026-01-02T03:04:05+00:00")
    assert entry.notes == (
        f"on; judge: rules; split: all; protocol: {result.protocol.hash}; n: 20; 95% interval: 0.1 to 0.4; "
        "without an outcome: 4, so 0.2 to 0.4"
    )


def test_general_ability_has_three_rows(run):
    run.add_ability()
    text = run.write()
    rows = [line for line in text.splitlines() if line.startswith("| accuracy ")]
    assert [row.split(" | ")[2:4] for row in rows] == [
        ["off", "0.500"],
        ["on", "0.500"],
        ["on, items not flagged", "0.600"],
    ]
    assert "| flagged rate | none | on | 0.100 |" in text
    assert [one.notes.split("; split")[0] for one in run.entries("pope.yaml")] == [
        "off",
        "on",
        "on",
        "on; not flagged",
    ]
    run.add_ability(on=[ABILITY[0], Figure("flagged_rate", 0.0, 0.0, 0.2, 20, count=0)])
    assert "on, items not flagged: no item was flagged" in run.write()


@pytest.mark.parametrize(
    "benchmark, name, part",
    [
        ("rtvlm", "judge_score", "mean over column"),
        ("holisafe", "attack_success_rate", "mean over type"),
        ("vlguard", "attack_success_rate", "mean over type"),
    ],
)
def test_the_headline_of_a_benchmark_stands_after_the_figure_over_all_items(run, benchmark, name, part):
    whole, title = Figure(name, 0.25, None, None, 20), f"{name.replace('_', ' ')}, {part}"
    other = replace(whole, name="judged_accuracy", part=part)
    run.add("on", benchmark, [whole, replace(whole, value=0.75, part=part), replace(whole, part="type=x"), other])
    text = run.write()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| on |" in line]
    assert [row.split(" | ")[:4:3] for row in rows] == [
        [f"| {name.replace('_', ' ')}", "0.250"],
        [f"| {title}", "0.750"],
    ]
    metrics = [one for one in ModelCard(text).data.eval_results if one.metric_args]
    assert [one.metric_name for one in metrics] == [f"{title} (on)"]
    assert [one.metric_args.get("mean") for one in metrics] == [part]
    assert [f"; {part}; " in one.notes for one in run.entries(f"{benchmark}.yaml")] == [False, True]


def test_the_metadata_have_the_headlines_of_the_verdict_alone(run):
    run.add_ability()
    run.add("off", policy={"enabled": False})
    verdict = [Figure(name, 0.5, 0.4, 0.6, 20) for name in ("flagged_rate", "risk_auroc", "risk_ece", "level_kappa")]
    refused = Figure("over_refusal_rate", 0.125, 0.1, 0.2, 20, count=2, judge="rules")
    run.add("on", figures=[*FIGURES, refused, replace(refused, judge=FIGURES[1].judge), *verdict])
    names = [one.metric_name for one in ModelCard(run.write()).data.eval_results if one.metric_args]
    assert names == [
        "accuracy (on)",
        "attack success rate (on; judge: rules)",
        "over refusal rate (on; judge: rules)",
        "flagged rate (on)",
    ]
    assert [len(run.entries(f"{name}.yaml")) for name in ("pope", "vlguard")] == [4, 2 + 2 + 2 + len(verdict)]


def test_results_with_the_verdict_off_alone_leave_the_metadata_as_they_are(run):
    run.readme.write_text("# No metadata\n")
    run.add("off", policy={"enabled": False})
    assert run.write().startswith("# No metadata\n") and len(run.entries("vlguard.yaml")) == 2


def test_a_copy_that_is_cut_off_is_named(run):
    run.add("on", counts=Counts(20, 3, published=442))
    text = run.write()
    assert "20 items of 442 published (not the whole benchmark), 3 more were missing" in text
    assert {one.metric_args["published"] for one in ModelCard(text).data.eval_results if one.metric_args} == {442}
    assert "; 20 items of 442 published" in run.entries("vlguard.yaml")[0].notes
    run.add("on", counts=Counts(20, published=20))
    text = run.write()
    assert "20 items of 20 published, 0 more" in text and "not the whole benchmark" not in text


def test_names_of_others_are_text_and_no_markup(run):
    run.add("x | y\n\n" + END + "<script>")
    text = run.write()
    section = text[text.index(START) :]
    assert section.count(END) == 1 and "<script>" not in section and "<img" not in section
    assert "a\\|b &lt;img src=x&gt; \\[c\\](http: //d)" in section
    assert run.write() == text


def test_the_section_stands_before_the_limits_of_a_generated_card(run):
    run.readme.write_text(f"{MARKER}\n# A\n\n## Limits\n\n- many\n")
    run.add("on")
    text = run.write()
    assert text.index(END) < text.index("## Limits") and text.endswith("## Limits\n\n- many\n")


def overlap(**changes):
    files = [{"file": name, "hash": digit * 64, "num_records": 7} for name, digit in (("t.jsonl", "c"), ("`u`", "e"))]
    match = {"item": "1", "picture": "a.png", "distance": 0, "train": ["t.jsonl:1 (a.png)"], "files": {"t.jsonl": 1}}
    content = {
        "benchmark": "vlguard",
        "split": "all",
        "items_hash": "b" * 64,
        "num_items": 20,
        "train": files,
        "num_pictures": {"train": 6, "benchmark": 9},
        "num_blank": {"train": 1, "benchmark": 0},
        "method": METHOD,
        "pictures": [match],
        "texts": [],
    }
    return Overlap(**content | changes)


def test_contamination_is_counted_or_said_to_be_unchecked(run, tmp_path):
    run.add("on")
    assert "**Contamination:** not checked" in run.write()
    text = run.write(save_overlap(overlap(), tmp_path / "overlap.json"))
    assert "in common with the training data: 1 of 20 (a picture that looks alike: 1; 13 words in a row: 0;" in text
    first, second = (f"(SHA-256 `{digit * 12}`, 7 records)" for digit in "ce")
    assert f"`t.jsonl` {first}, `'u'` {second}; 6 pictures" in text
    assert "there are 1 in the training data and 0 in the benchmark" in text
    for changes, reason in (
        ({"items_hash": "d" * 64}, "are of other items"),
        ({"benchmark": "pope"}, "expected one of the results' benchmarks: vlguard, all"),
    ):
        with pytest.raises(ValueError, match=reason):
            run.write(save_overlap(overlap(**changes), tmp_path / "other.json"))


def test_general_ability_under_another_policy_than_the_shipped_one_is_refused(run):
    shipped = {"enabled": True, "risk_threshold": 0.3, "actions": {}}
    loose = {"enabled": True, "risk_threshold": 0.9}
    run.ship(shipped)
    run.add_ability()  # under {"enabled": True}
    named = f"the checkpoint in {re.escape(str(run.readme.parent))} ships"
    with pytest.raises(ValueError, match=f"pope, all: 'on' is under another policy than the one that {named}"):
        run.write()
    assert run.readme.read_text() == OWN_CARD
    run.add("off", "pope", [ABILITY[0]], {**shipped, "enabled": False}, "pope-off")
    run.add("on", "pope", ABILITY, {"enabled": True, "risk_threshold": 0.3})
    run.add("on", policy=loose)  # safety under a given policy has its name
    assert "| accuracy | none | on |" in run.write()
    (run.model / "generation_config.json").unlink()
    run.ship(loose, "config.json")
    for path in run.results.rglob("results.json"):
        path.unlink()
    run.add_ability()
    with pytest.raises(ValueError, match="'on' is under another policy"):
        run.write()
    run.add("on", "pope", ABILITY, loose)
    assert "| accuracy | none | on |" in run.write()


def test_what_does_not_belong_together_is_refused_and_nothing_is_written(run):
    system = run.add("on").system

    def refused(reason):
        with pytest.raises(ValueError, match=reason):
            run.write()
        assert run.readme.read_text() == OWN_CARD and not (run.model / ".eval_results").exists()

    run.add("other", system=replace(system, weights_hash="e" * 64), folder="z")
    refused("z/results.json is not of the checkpoint .* is eeeeeeeeeeee, this checkpoint's")
    run.add("other", system=replace(system, weights_hash=None, model="org/name"), folder="z")
    refused("'org/name' from the Hub, of which no hash was taken")
    run.add("on", folder="z")
    refused("two results are of 'on'")
    run.add("more", protocol=replace(protocol("vlguard"), max_new_tokens=10), folder="z")
    refused("their protocols differ: max_new_tokens")
    run.add("base", system=replace(system, name="base", weights_hash="e" * 64, policy=None), folder="z")
    written = write_evaluation_card(run.model, [run.results])
    assert written.others == ["base"] and [one.system.name for one in written.results] == ["on"]


@pytest.mark.parametrize(
    "card, reason",
    [
        ("---\na: [\n---\n", "README.md: "),
        ("---\nmodel-index:\n- 1\n---\n", "README.md: "),
        (f"# A\n{START}\n", "expected one"),
        (f"# A\n{END}\n{START}\n", "expected one"),
    ],
)
def test_a_card_that_cannot_be_read_is_left_alone(run, card, reason):
    run.readme.write_text(card)
    run.add("on")
    with pytest.raises(ValueError, match=reason):
        run.write()
    assert run.readme.read_text() == card


def test_somebody_elses_file_of_results_is_left_alone(run):
    run.add("on")
    path = run.model / ".eval_results" / "vlguard.yaml"
    path.parent.mkdir()
    path.write_text("[]\n")
    with pytest.raises(ValueError, match="was not written by `safevlm card`"):
        run.write()
    path.rename(path.with_name("mine.yaml"))
    run.write()
    assert path.with_name("mine.yaml").read_text() == "[]\n" and path.exists()
