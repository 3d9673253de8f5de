import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_items import FEW, make_answers, make_items
from sklearn.metrics import confusion_matrix

from safevlm_hf.evaluation.metrics.verdicts import ACTIONS, action_accuracy, action_confusion
from safevlm_hf.intervals.bootstrap import Bootstrap


ACTION = st.sampled_from(ACTIONS)


@given(st.lists(st.tuples(ACTION, ACTION), min_size=1, max_size=25))
@settings(max_examples=20, deadline=None)
def test_the_cells_are_scikit_learns(pairs):
    labels, done = map(list, zip(*pairs, strict=True))
    items = make_items(labels, "action")
    answers = make_answers(items, "action", done)
    cells = action_confusion(items, answers, Bootstrap(2))
    assert [cell.part for cell in cells[:4]] == [f"answer -> {name}" for name in ACTIONS] + ["condition -> answer"]
    expected = confusion_matrix(labels, done, labels=ACTIONS)
    assert [cell.count for cell in cells] == expected.ravel().tolist()
    assert [cell.total for cell in cells[::3]] == expected.sum(axis=1).tolist()
    assert action_accuracy(items, answers).figure(FEW).count == expected.trace()


def test_no_action_is_an_outcome_of_its_own():
    items = make_items(["refuse", "refuse", None], "action")
    cells = action_confusion(items, make_answers(items, "action", ["refuse", None, "answer"]), FEW)
    last = cells[-1]
    assert (last.count, last.total, last.failed, last.least, last.most) == (1, 2, 1, 0.5, 1)
    assert cells[0].total == 0 and cells[0].value is None


def test_a_review_is_answered_under_the_condition():
    items = make_items(["condition", "answer"], "action")
    assert action_accuracy(items, make_answers(items, "action", ["review", "review"])).figure(FEW).count == 1


def test_an_unknown_action_is_named():
    items = make_items(["answer"], "action")
    with pytest.raises(ValueError, match="action of the answer to '00000' is 'shrug', expected one of answer"):
        action_confusion(items, make_answers(items, "action", ["shrug"]))
