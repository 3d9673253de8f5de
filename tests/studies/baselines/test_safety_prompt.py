"""A static safety prompt: where it goes, and that a result says which it was."""

import pytest
from asked import Scripted, draw, item

from safevlm_hf.studies.baselines.safety_prompt import SAFETY_PROMPT, safety_prompt_candidate


pytestmark = pytest.mark.ci

RULES = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}


def ask(one, **options):
    model = Scripted()
    candidate = safety_prompt_candidate(model.candidate(), "prompted", **options)
    (answer,) = candidate.answer([one])
    assert (answer.item_id, answer.text) == (one.id, "A red card.")
    return model.batches[0][0], candidate.system


def test_it_stands_before_the_question_and_after_the_picture(tmp_path):
    one = item(images=[draw(tmp_path)], before=[RULES])
    asked, _ = ask(one)
    picture, text = asked.messages[-1]["content"]
    assert picture == {"type": "image"} and asked.images == one.images
    assert text["text"] == f"{SAFETY_PROMPT}\n\nWhat is this?"
    assert asked.messages[0] == RULES and one.question == "What is this?"  # the benchmark's item stays as it was


def test_in_the_system_prompt_it_follows_the_operators(tmp_path):
    alone, _ = ask(item(), role="system")
    assert [message["role"] for message in alone.messages] == ["system", "user"]
    assert alone.question == "What is this?"
    behind, _ = ask(item(before=[RULES]), role="system")
    assert [part["text"] for part in behind.messages[0]["content"]] == ["Be brief.", SAFETY_PROMPT]


def test_a_question_without_text_gets_the_prompt(tmp_path):
    one = item(images=[draw(tmp_path)])
    one.messages[-1]["content"].pop()
    assert ask(one)[0].question == SAFETY_PROMPT


def test_systems_with_other_prompts_share_no_cached_answer():
    systems = [ask(item())[1], ask(item(), prompt="Take care.")[1], ask(item(), role="system")[1]]
    assert len({one.fingerprint for one in [*systems, Scripted().candidate().system]}) == 4
    assert systems[0].options["dtype"] == "float32"


@pytest.mark.parametrize("options", [{"prompt": " \n"}, {"role": "assistant"}])
def test_bad_settings_are_refused_before_a_model_runs(options):
    with pytest.raises(ValueError, match="expected"):
        safety_prompt_candidate(Scripted().candidate(), "prompted", **options)
