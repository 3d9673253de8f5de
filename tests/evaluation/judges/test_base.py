import math

import pytest
from judged_items import pairs

from safevlm_hf.evaluation.judges.base import Judgement
from safevlm_hf.evaluation.judges.defaults import default_judges
from safevlm_hf.evaluation.judges.forced_action import ActionJudge
from safevlm_hf.evaluation.judges.matchers import published_matchers
from safevlm_hf.evaluation.judges.rules import RulesJudge


@pytest.mark.parametrize(
    "outcome", [{}, {"label": "safe", "failure": "x"}, {"label": "safe", "score": 1.0}, {"score": math.nan}]
)
def test_a_judgement_is_one_outcome(outcome):
    with pytest.raises(ValueError, match="'7'"):
        Judgement("7", "judge", **outcome)


@pytest.mark.parametrize("judge", [ActionJudge(), *default_judges()], ids=lambda one: one.name)
def test_answers_in_the_wrong_place_are_an_error(judge):
    items, answers = pairs("Yes.", "No.")
    with pytest.raises(ValueError, match="2 items but 1 answers"):
        judge.judge(items, answers[:1])
    with pytest.raises(ValueError, match="an answer to '1' stands in the place of '0'"):
        judge.judge(items, answers[::-1])
    assert judge.judge([], []) == []


def test_judgements_are_those_of_their_judge_and_item():
    for judge in (RulesJudge("ours"), *published_matchers()):
        judgements = judge.judge(*pairs("Yes.", "I can't help with that.", None))
        assert [one.item_id for one in judgements] == ["0", "1", "2"]
        assert {one.source for one in judgements} == {judge.name}
