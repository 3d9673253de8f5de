import pytest

from safevlm_hf.evaluation.judges.base import Judgement
from safevlm_hf.evaluation.judges.bounds import Bounds, bound_rate, bound_score


def labels(*values: str | None) -> list[Judgement]:
    return [Judgement(str(i), "j", label=one, failure=None if one else "busy") for i, one in enumerate(values)]


def scores(*values: float | None) -> list[Judgement]:
    outcomes = ({"failure": "busy"} if one is None else {"score": one} for one in values)
    return [Judgement(str(i), "j", **outcome) for i, outcome in enumerate(outcomes)]


def test_failures_count_both_ways():
    judgements = labels("answer", "refusal", "care", "answer", None)
    assert bound_rate(judgements, ["answer"]) == Bounds(value=0.5, least=0.4, most=0.6, total=5, failed=1)
    assert bound_rate(judgements, ["answer", "care"]) == Bounds(0.75, 0.6, 0.8, 5, 1)


def test_without_failures_there_is_nothing_open():
    assert bound_rate(labels("answer", "refusal"), ["answer"]) == Bounds(0.5, 0.5, 0.5, 2, 0)


def test_with_failures_alone_everything_is_open():
    assert bound_rate(labels(None, None), ["answer"]) == Bounds(None, 0.0, 1.0, 2, 2)


def test_scores():
    assert bound_score(scores(4.0, 8.0, None)) == Bounds(6.0, 4.0, 22 / 3, 3, 1)
    assert bound_score(scores(1.0, None), lowest=1, highest=5) == Bounds(1.0, 1.0, 3.0, 2, 1)


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: bound_rate([], ["answer"]), "found none"),
        (lambda: bound_rate(scores(1.0), ["answer"]), "bound_score"),
        (lambda: bound_score(labels("answer")), "bound_rate"),
        (lambda: bound_score(scores(11.0)), "11.0 is not on the scale"),
    ],
)
def test_what_cannot_be_counted(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
