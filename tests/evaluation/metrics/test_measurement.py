import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_items import FEW, make_answers, make_items
from sklearn.metrics import roc_auc_score

from safevlm_hf.evaluation.metrics.measurement import align
from safevlm_hf.evaluation.metrics.shares import share
from safevlm_hf.evaluation.metrics.verdicts import risk_auroc
from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.intervals.rates import wilson_interval


OUTCOMES = st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=40)


@given(OUTCOMES)
@settings(max_examples=50, deadline=None)
def test_a_share_and_its_bounds_by_hand(hits):
    figure = share("right", make_items([True] * len(hits)), hits).figure(FEW)
    known = [hit for hit in hits if hit is not None]
    assert (figure.total, figure.failed, figure.count) == (len(hits), len(hits) - len(known), sum(known))
    assert figure.value == (pytest.approx(sum(known) / len(known)) if known else None)
    if figure.failed:
        assert figure.least == pytest.approx(sum(known) / len(hits))
        assert figure.most == pytest.approx((sum(known) + figure.failed) / len(hits))
    else:
        assert figure.least is figure.most is None
    if known and figure.failed:
        assert figure.least - 1e-9 <= figure.value <= figure.most + 1e-9


@given(OUTCOMES, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_items_changes_nothing(hits, random):
    numbers = range(len(hits))
    items = make_items(
        ["ab"[number % 2] for number in numbers], "type", groups=[f"{number // 3}" for number in numbers]
    )
    rows = list(zip(items, hits, strict=True))
    random.shuffle(rows)
    shuffled = share("right", [item for item, _ in rows], [hit for _, hit in rows])
    assert shuffled.figures("type", FEW) == share("right", items, hits).figures("type", FEW)


def test_an_interval_from_the_bootstrap_of_groups():
    hits = [bool(number % 3) for number in range(300)]
    items = make_items([True] * 300, groups=[f"g{number // 10}" for number in range(300)])
    figure = share("right", items, hits).figure(Bootstrap(500))
    by_hand = Bootstrap(500).interval(lambda weights: np.average(hits, weights=weights), np.arange(300) // 10)
    assert (figure.low, figure.high) == pytest.approx(by_hand)


def test_none_and_all_have_an_interval_all_the_same():
    items, one_group = make_items([True] * 20), make_items([True] * 20, groups=["g"] * 20)
    # Twenty forms of one question are one question.
    for own, hit, expected in (
        (items, False, wilson_interval(0, 20)),
        (items, True, wilson_interval(20, 20)),
        (one_group, True, wilson_interval(1, 1)),
    ):
        figure = share("right", own, [hit] * 20).figure(FEW)
        assert (figure.low, figure.high) == pytest.approx(expected)
    mixed = share("right", one_group, [True, False] * 10).figure(FEW)
    assert (mixed.value, mixed.low, mixed.high) == (0.5, None, None)


def test_a_group_and_an_id_of_one_name_are_two():
    items = make_items([True] * 2, groups=["00001", None])
    assert share("right", items, [True, True]).figure(FEW).low == pytest.approx(wilson_interval(2, 2)[0])


def test_no_items_and_all_failed():
    empty = share("right", [], []).figures("type", FEW)
    assert [(figure.value, figure.low, figure.total) for figure in empty] == [(None, None, 0)] * 2
    failed = share("right", make_items([True] * 3), [None] * 3).figure(FEW)
    assert (failed.value, failed.low, failed.total, failed.failed, failed.count) == (None, None, 3, 3, 0)
    assert (failed.least, failed.most) == (0, 1)


def test_parts_and_their_mean():
    items = make_items(["b", "a", "b", "b", None], "type")
    figures = share("right", items, [True, False, True, False, None]).figures("type", FEW)
    found = {figure.part: (figure.value, figure.count, figure.total) for figure in figures}
    assert found == {
        None: (0.5, 2, 5),
        "type=a": (0, 0, 1),
        "type=b": (pytest.approx(2 / 3), 2, 3),
        "type=unlabelled": (None, 0, 1),
        "mean over type": (pytest.approx(1 / 3), None, 4),  # what has no label is no part of it
    }
    failed = share("right", items[:4], [True, None, False, True]).figures("type", FEW)[-1]
    assert failed.value is None  # a part without a value leaves the mean without one
    never = share("right", items[:4], [False] * 4).figures("type", FEW)[-1]
    # By MOVER of Wilson's: 0 of 1 and 0 of 3.
    widths = [wilson_interval(0, 1)[1], wilson_interval(0, 3)[1]]
    assert (never.value, never.low, never.high) == (0, 0, pytest.approx(np.hypot(*widths) / 2))
    mean = share("right", items[:4], [True, False, True, False]).figures("type", FEW)[-1]
    assert (mean.part, mean.value) == ("mean over type", pytest.approx((0 + 2 / 3) / 2))


def test_bounds_of_a_mean_over_parts():
    items = make_items(["a", "a", "b"], "type")
    mean = share("right", items, [True, None, False]).figures("type", FEW)[-1]
    assert (mean.value, mean.least, mean.most, mean.failed) == (0.5, 0.25, 0.5, 1)


def test_a_difference_is_paired():
    random = np.random.RandomState(0)
    items = make_items([True] * 200)
    base = random.rand(200) < 0.5
    better = base | (random.rand(200) < 0.1)  # right wherever the other is, and a little more
    ours, theirs = share("right", items, list(map(bool, better))), share("right", items, list(map(bool, base)))
    figure = ours.difference(theirs, Bootstrap(500))
    assert figure.name == "right_difference" and figure.count is None
    assert figure.value == pytest.approx(better.mean() - base.mean())
    assert 0 < figure.low < figure.value < figure.high
    # Unpaired, the intervals of the two systems overlap.
    assert ours.figure(Bootstrap(500)).low < theirs.figure(Bootstrap(500)).high
    assert theirs.difference(ours, Bootstrap(500)).value == -figure.value
    assert ours.difference(ours, FEW).value == 0


def test_failures_in_a_difference():
    items = make_items([True] * 4)
    ours, theirs = share("right", items, [True, None, None, False]), share("right", items, [False, True, None, None])
    figure = ours.difference(theirs, FEW)
    assert (figure.value, figure.total, figure.failed) == (1, 4, 3)
    # Known 1 - 0; then at worst 0 - 1, 0 - 1 and 0 - 1, and at best 1 - 1, 1 - 0 and 0 - 0.
    assert (figure.least, figure.most) == (pytest.approx((1 - 3) / 4), pytest.approx((1 + 0 + 1 + 0) / 4))


def test_a_difference_of_a_curve_is_scikit_learns():
    random = np.random.RandomState(3)
    risky = [bool(side) for side in random.randint(2, size=60)]
    items, risks = make_items(risky), random.rand(2, 60)
    one, other = (risk_auroc(items, make_answers(items, "risk", list(map(float, row)))) for row in risks)
    expected = roc_auc_score(risky, risks[0]) - roc_auc_score(risky, risks[1])
    assert one.difference(other, FEW).value == pytest.approx(expected)


def test_only_the_same_is_compared():
    items = make_items([True] * 3)
    one = share("right", items, [True] * 3, "us")
    with pytest.raises(ValueError, match="right .judge us. and right .judge them."):
        one.difference(share("right", items, [True] * 3, "them"))
    with pytest.raises(ValueError, match="expected one metric"):
        one.difference(share("wrong", items, [True] * 3, "us"))
    with pytest.raises(ValueError, match="expected the same items, but 1 are in one of the two, as '00002'"):
        one.difference(share("right", items[:2], [True] * 2, "us"))


def test_columns_that_do_not_fit():
    items = make_items([True] * 3)
    with pytest.raises(ValueError, match="3 items but 2 outcomes"):
        align(items, [True] * 2)
    with pytest.raises(ValueError, match="the id '00001' comes twice"):
        align([items[1], *items], [True] * 4)
    answers = make_answers(items, "risk", [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="an answer to '00002' stands in the place of '00001'"):
        align(items, [answers[0], answers[2], answers[1]])
    for wrong in ("yes", 1, float("nan")):
        with pytest.raises(ValueError, match="outcome of '00001'"):
            share("right", items, [True, wrong, True])
