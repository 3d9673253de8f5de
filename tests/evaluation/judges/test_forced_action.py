from dataclasses import replace

import pytest
from judged_items import pairs

from safevlm_hf.evaluation.judges.forced_action import ActionJudge


@pytest.mark.parametrize(
    "action, label", [("refuse", "refusal"), ("condition", "care"), ("answer", "answer"), ("review", "care")]
)
def test_the_action_decides_whatever_the_text_is(action, label):
    items, answers = pairs("I can't help with that.", "Sure.", None)
    judgements = ActionJudge().judge(items, [replace(answer, action=action) for answer in answers])
    assert [one.label for one in judgements] == [label] * 3


def test_a_system_without_a_verdict_has_no_action():
    items, answers = pairs("I can't help with that.")
    (judgement,) = ActionJudge().judge(items, answers)
    assert judgement.label is None and "a system without a verdict" in judgement.failure
    (judgement,) = ActionJudge().judge(items, [replace(answers[0], action="refused")])
    assert "found 'refused'" in judgement.failure
