from metric_items import FEW, make_items

from safevlm_hf.evaluation.metrics.shares import all_right


def test_a_group_is_right_in_all_forms_or_not_at_all():
    groups = ["a", "a", "b", "b", "b", "c", "c", "d", "d", "e", None]
    right = [True, True, True, True, False, True, None, None, False, True, True]
    items = make_items(["x"] * 5 + ["y"] * 4 + ["x"] * 2, "task", groups)
    figures = all_right("pairs_both_right", items, right).figures("task", FEW)
    # c is open, d is wrong whatever else; e is alone and the last has no group.
    assert [(figure.count, figure.total, figure.failed) for figure in figures[:3]] == [(1, 4, 1), (1, 2, 0), (0, 2, 1)]
    assert (figures[0].least, figures[0].most) == (0.25, 0.5)


def test_parts_are_made_by_what_a_group_shares():
    items = make_items(["x", "y"], "side", ["a", "a"])
    assert all_right("acc+", items, [True, True]).figures("side", FEW)[1].part == "side=unlabelled"
