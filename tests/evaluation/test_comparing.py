"""One system against the others: paired differences, and equal over-refusal."""

import json
from dataclasses import asdict

import pytest

from safevlm_hf.evaluation.comparing import compare_with_others, roc_of_system, save_comparison, verdict_off
from safevlm_hf.evaluation.judges.base import Judgement
from safevlm_hf.evaluation.pipeline import Evaluated
from safevlm_hf.evaluation.protocol.protocol import Protocol
from safevlm_hf.evaluation.protocol.result import Counts, EvaluationResult, Times
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.items import Answer, Item


ITEMS = [Item(str(number), (), (), labels={"is_risky": number < 4}) for number in range(8)]
RISKS = [0.9, 0.8, 0.7, 0.2, 0.6, 0.1, 0.1, 0.1]


def evaluated(name, labels, policy=None, risks=None, model="safe", benchmark="vlguard"):
    protocol = Protocol.of(benchmark, "all", ITEMS, decoding={}, max_new_tokens=8, judges={"rules": "0"})
    answers = [Answer(item.id, "Blue.", risk=risk) for item, risk in zip(ITEMS, risks or [None] * len(ITEMS))]
    judged = [
        Judgement(item.id, "rules", label=label, failure=None if label else "busy")
        for item, label in zip(ITEMS, labels)
    ]
    system = System(name, model=model, policy=policy)
    result = EvaluationResult(protocol, system, [], Counts(8, 0, 0), Bootstrap(50), Times(durations={}))
    return Evaluated(result, ITEMS, answers, {"rules": judged})


def three():
    base = evaluated("base", ["answer"] * 3 + ["refusal"] + ["refusal"] * 2 + ["answer"] * 2, model="base")
    off = evaluated("off", ["answer"] * 8, policy={"enabled": False}, risks=RISKS)
    on = evaluated("on", ["refusal"] * 3 + ["answer"] + ["refusal"] + ["answer"] * 3, policy={}, risks=RISKS)
    return [base, off, on]


def test_differences_are_the_last_system_less_each_other_one():
    found = {(figure.name, figure.part): figure for figure in compare_with_others(three())}
    assert found["attack_success_rate_difference", "less base"].value == pytest.approx(1 / 4 - 3 / 4)
    assert found["attack_success_rate_difference", "less off"].value == pytest.approx(1 / 4 - 1)
    assert found["over_refusal_rate_difference", "less base"].value == pytest.approx(1 / 4 - 2 / 4)
    assert found["attack_success_rate_difference", "less off"].low < 0
    assert {figure.judge for figure in found.values()} == {"rules"}


def test_the_comparison_lies_beside_the_results(tmp_path):
    path = save_comparison(three(), tmp_path)
    assert path == tmp_path / "vlguard-all" / "comparison.json"
    content = json.loads(path.read_text())
    assert content["system"] == "on" and content["protocol_hash"] == three()[-1].result.protocol.hash
    assert content["figures"] == [asdict(figure) for figure in compare_with_others(three())] != []


def test_at_the_over_refusal_of_a_system_without_a_threshold():
    """The base refuses two of four harmless ones and answers three of four risky ones: with two refused, the verdict
    answers none."""
    found = {(figure.name, figure.part): figure.value for figure in compare_with_others(three())}
    name = "attack_success_rate_less_fixed_at_its_over_refusal"
    assert found[name, "less base"] == pytest.approx(0 - 3 / 4) and (name, "less off") not in found
    assert not [name for name, _ in _names(three()[::2]) if "fixed" in name]  # nobody answered without a verdict


def _names(systems):
    return [(figure.name, figure.part) for figure in compare_with_others(systems)]


def test_the_curve_is_of_the_answers_without_a_verdict():
    systems = three()
    assert verdict_off(systems) is systems[1] and verdict_off(systems[::2]) is None
    curve = roc_of_system(systems, "rules")
    at = {threshold: curve.attack_success[place] for place, threshold in enumerate(curve.thresholds)}
    assert (at[0.0], at[0.7], at[1.0]) == (0.0, 0.5, 1.0)
    refusing = evaluated("off", ["refusal"] * 8, policy={"enabled": False}, risks=RISKS)
    assert set(roc_of_system([refusing, systems[2]], "rules").attack_success) == {0.0}
    assert roc_of_system(systems, "another judge") is None and roc_of_system(systems[::2], "rules") is None


def test_right_answers_are_compared_where_a_benchmark_has_them():
    systems = [evaluated(name, ["answer"] * 8, benchmark="pope", model=name) for name in ("base", "on")]
    assert ("items_right_difference", "less base") in _names(systems)
    assert ("items_right_difference", "less base") not in _names(three())


def test_failed_judgements_bound_a_difference():
    base, off, on = three()
    failing = evaluated("on", [None] + ["refusal"] * 2 + ["answer"] * 5, policy={}, risks=RISKS)
    found = {(figure.name, figure.part): figure for figure in compare_with_others([base, off, failing])}
    figure = found["attack_success_rate_difference", "less base"]
    assert figure.failed == 1 and figure.least < figure.value < figure.most
