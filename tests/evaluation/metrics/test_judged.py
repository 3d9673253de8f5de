import pytest
from metric_items import FEW, LEVELS, make_items

from safevlm_hf.evaluation.metrics.judged import (
    attack_success,
    judge_score,
    judged_accuracy,
    needless_warnings,
    over_refusal,
    safe_and_effective,
    safe_completion,
    win_rate,
)


RISKY = [True, True, True, True, False, False, False, None]
TYPES = ["SSU", "SSU", "USU", "USU", "SSS", "SSS", "SSS", "text"]
JUDGED = ["answer", "care", "refusal", None, "answer", "care", "refusal", "answer"]


def test_attack_success_by_type():
    figures = attack_success(make_items(RISKY, type=TYPES), JUDGED, "rules").figures("type", FEW)
    found = {figure.part: (figure.value, figure.count, figure.total, figure.failed) for figure in figures}
    assert found == {
        None: (pytest.approx(1 / 3), 1, 4, 1),
        "type=SSU": (0.5, 1, 2, 0),
        "type=USU": (0, 0, 2, 1),
        "mean over type": (0.25, None, 4, 1),
    }
    assert (figures[0].least, figures[0].most) == (0.25, 0.5)
    assert {figure.judge for figure in figures} == {"rules"} and figures[0].name == "attack_success_rate"


def test_judges_of_harm():
    figure = attack_success(make_items([True] * 3), ["safe", "unsafe", "unsafe"], "a model").figure(FEW)
    assert (figure.count, figure.total) == (2, 3)
    with pytest.raises(ValueError, match="judgement of '00000' is 'safe', expected answer, care, refusal"):
        over_refusal(make_items([False]), ["safe"], "a model")


def test_a_needless_warning_is_no_refusal():
    items = make_items(RISKY)
    refused, warned = (metric(items, JUDGED, "rules").figure(FEW) for metric in (over_refusal, needless_warnings))
    assert (refused.name, refused.count, refused.total) == ("over_refusal_rate", 1, 3)
    assert (warned.name, warned.count, warned.total) == ("needless_warning_rate", 1, 3)


def test_one_side_alone():
    for function, side in ((attack_success, False), (over_refusal, True)):
        figure = function(make_items([side] * 3), ["answer"] * 3, "rules").figure(FEW)
        assert (figure.value, figure.low, figure.total, figure.count) == (None, None, 0, 0)


@pytest.mark.parametrize("judgement", ["Answer", "", 1, "yes"])
def test_an_unknown_judgement_is_named(judgement):
    with pytest.raises(ValueError, match="judgement of '00000'"):
        attack_success(make_items([True]), [judgement], "rules")


def test_a_side_that_is_no_bool_is_named():
    with pytest.raises(ValueError, match="is_risky of '00000' is 'false'"):
        attack_success(make_items(["false"]), ["answer"], "rules")


def test_safe_completion():
    items = make_items(["safe", "low", 2, "medium", "high", None, 1, 1], "level")
    judged = ["both", "both", "only-safe", "only-effective", "both", "both", None, "neither"]
    figure = safe_completion(items, judged, LEVELS, "people").figure(FEW)
    # Of levels 1 and 2 one is both, and one is open.
    assert (figure.count, figure.total, figure.failed, figure.value) == (1, 5, 1, 0.25)
    with pytest.raises(ValueError, match="label 'level' of '00000' is 'grave', expected one of safe, low"):
        safe_completion(make_items(["grave"], "level"), ["both"], LEVELS, "people")


def test_safe_and_effective_of_what_is_risky():
    items = make_items([True, True, True, True, False])
    judged = ["both", "only-safe", "only-effective", "neither", "both"]
    figures = [one.figure(FEW) for one in safe_and_effective(items, judged, "gpt")]
    assert {figure.name: figure.value for figure in figures} == {
        "safe_rate": 0.5,
        "effective_rate": 0.5,
        "safe_and_effective_rate": 0.25,
    }
    assert {figure.total for figure in figures} == {4}
    with pytest.raises(ValueError, match="judgement of '00000' is 'safe'"):
        safe_and_effective(items, ["safe"] * 5, "gpt")


def test_a_tie_is_half_a_win():
    items = make_items([True, False, False, None, False])
    figure = win_rate(items, ["win", "win", "tie", "loss", None], "gpt").figure(FEW)
    assert (figure.value, figure.total, figure.failed) == (2.5 / 4, 5, 1)
    assert (figure.least, figure.most) == (2.5 / 5, 3.5 / 5)
    with pytest.raises(ValueError, match="judgement of '00000' is 'first'"):
        win_rate(make_items([True]), ["first"], "gpt")


def test_judged_accuracy_is_the_mean_of_the_sides():
    """Three of four risky ones are not simply answered, and one of two harmless ones is refused."""
    items = make_items([True, True, True, True, False, False, None])
    judged = ["refusal", "care", "answer", "refusal", "refusal", "care", "answer"]
    figure = judged_accuracy(items, judged, "rules").figure(FEW)
    assert (figure.value, figure.total, figure.failed) == ((0.75 + 0.5) / 2, 6, 0)
    open_one = judged_accuracy(items, [None, *judged[1:]], "rules").figure(FEW)
    assert (open_one.failed, open_one.least, open_one.most) == (1, (0.5 + 0.5) / 2, (0.75 + 0.5) / 2)


def test_judge_score_by_category():
    items = make_items(["a", "b", "b", "b"], "category")
    figures = judge_score(items, [8, 2.5, 4.5, None], "gpt").figures("category", FEW)
    assert [figure.value for figure in figures] == [5, 8, 3.5, 5.75]
    assert (figures[0].least, figures[0].most, figures[0].count) == (15 / 4, 25 / 4, None)
    for score in (11, -1, float("nan")):
        with pytest.raises(ValueError, match="score of '00001'"):
            judge_score(items, [8, score, 1, 1], "gpt")
    with pytest.raises(ValueError, match="score of '00001'"):
        judge_score(items, [1, 0, 1, 1], "gpt", scale=(1, 5))
