import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from safevlm_hf.evaluation.judges.agreement import compare_judges
from safevlm_hf.evaluation.judges.base import Judgement
from safevlm_hf.intervals.rates import wilson_interval


def column(*values) -> list[Judgement]:
    """Labels, scores, or `None` for a failure."""
    kinds = {str: "label", float: "score", type(None): "failure"}
    return [
        Judgement(str(i), "j", **{kinds[type(one)]: "busy" if one is None else one}) for i, one in enumerate(values)
    ]


def test_two_judges_with_labels():
    (found,) = compare_judges(
        {
            "rules": column("refusal", "care", "answer", "refusal", None, "answer"),
            "keywords": column("refusal", "answer", "refusal", "refusal", "answer", "answer"),
        }
    )
    assert found["judges"] == ["rules", "keywords"] and (found["judged"], found["failed"]) == (5, 1)
    assert found["agreement"] == 0.8 and found["labels"] == ["answer", "refusal"]
    assert found["confusion"] == [[2, 1], [0, 2]]
    # p_o = 0.8, p_e = 0.6 * 0.4 + 0.4 * 0.6 = 0.48
    assert found["kappa"] == pytest.approx((0.8 - 0.48) / (1 - 0.48))
    assert found["differing"] == [{"item_id": "2", "labels": ["answer", "refusal"]}]
    assert json.loads(json.dumps(found)) == found


def test_care_counts_by_itself_where_it_is_to():
    judges = {"a": column("care", "answer"), "b": column("answer", "answer")}
    assert compare_judges(judges)[0]["agreement"] == 1.0
    assert compare_judges(judges, same={})[0]["agreement"] == 0.5


def test_judges_with_scores_are_compared_by_bands():
    (found,) = compare_judges({"a": column(2.0, 10.0, 7.0), "b": column(1.0, 9.0, 1.0)})
    assert found["labels"] == [0, 1, 2, 3, 4] and found["agreement"] == 2 / 3
    assert found["confusion"][3][0] == 1 and found["kappa"] < 0.7
    assert found["differing"] == [{"item_id": "2", "labels": [7.0, 1.0]}]


def test_labels_and_scores_are_not_compared():
    judges = {"a": column("answer"), "b": column(1.0), "c": column("refusal"), "d": column(None)}
    assert [one["judges"] for one in compare_judges(judges)] == [["a", "c"], ["a", "d"], ["b", "d"], ["c", "d"]]


def test_judges_of_harm_and_of_refusals_are_not_compared():
    judges = {"a": column("answer", None), "b": column("safe", "unsafe"), "c": column(None, "unsafe")}
    assert [one["judges"] for one in compare_judges(judges)] == [["b", "c"]]


def test_what_is_undefined_is_none():
    (found,) = compare_judges({"a": column("answer", "answer"), "b": column("answer", "answer")})
    assert found["kappa"] is None and found["agreement"] == 1.0
    (found,) = compare_judges({"a": column(None, "answer"), "b": column("answer", None)})
    assert found["kappa"] is found["agreement"] is found["agreement_interval"] is found["kappa_interval"] is None and (
        found["judged"],
        found["failed"],
    ) == (0, 2)
    assert found["confusion"] == found["differing"] == []
    assert compare_judges({}) == compare_judges({"a": column("answer")}) == []


def test_agreement_and_kappa_have_intervals():
    random = np.random.RandomState(0)
    for one, other, weights in (
        (random.choice(["answer", "refusal", "care"], 80), random.choice(["answer", "refusal"], 80), None),
        (random.randint(0, 11, 80).astype(float), random.randint(0, 11, 80).astype(float), "quadratic"),
    ):
        (found,) = compare_judges({"a": column(*one.tolist()), "b": column(*other.tolist())}, same={})
        confusion = np.array(found["confusion"])
        first, second = (np.repeat(ids.ravel(), confusion.ravel()) for ids in np.indices(confusion.shape))
        assert found["kappa"] == pytest.approx(cohen_kappa_score(first, second, weights=weights))
        assert found["kappa_interval"][0] < found["kappa"] < found["kappa_interval"][1]
        assert found["agreement_interval"] == list(wilson_interval(np.trace(confusion), 80))
    (full,) = compare_judges({name: column("answer", "refusal", "answer") for name in "ab"})
    assert (full["kappa"], full["kappa_interval"]) == (1, None)  # no draw changes it
    assert full["agreement_interval"] == list(wilson_interval(3, 3))


def test_other_items_are_an_error():
    with pytest.raises(ValueError, match="'a' and 'b' judged other items"):
        compare_judges({"a": column("answer"), "b": column("answer", "answer")})
