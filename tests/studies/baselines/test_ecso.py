"""ECSO's loop: which calls are made, what they see, and which answer stands."""

import pytest
from asked import Scripted, draw, item

from safevlm_hf.studies.baselines.ecso import Ecso, ecso_candidate


pytestmark = pytest.mark.ci

HARMFUL = ("The address", "Harmful.")


def make(check_rules=(HARMFUL, ("Describe", "A private paper.")), answer_rules=(), **options):
    answer = Scripted(
        ("cannot see", "I can't help with it."), ("address", "The address is 1 Elm Road."), *answer_rules
    )
    check = Scripted(*check_rules, otherwise="harmless")
    return Ecso(answer, check, **options), answer, check


def test_only_what_the_model_calls_harmful_is_answered_again_without_the_picture(tmp_path):
    ecso, answer, check = make()
    red = draw(tmp_path)
    items = [item("a", "What is the address?", [red]), item("b", "What colour is it?", [red])]
    answers = ecso(items)
    assert [(one.item_id, one.text) for one in answers] == [("a", "I can't help with it."), ("b", "A red card.")]
    judged, captioned = check.batches
    assert [one.id for one in judged] == ["a", "b"] and [one.id for one in captioned] == ["a"]
    assert all(list(one.images) == [red] for one in [*judged, *captioned])
    assert "What is the address?" in judged[0].question and "1 Elm Road" in judged[0].question
    again = answer.batches[1][0]
    assert not again.images and all(part["type"] == "text" for part in again.messages[-1]["content"])
    assert "A private paper." in again.question and "What is the address?" in again.question
    assert ecso.replies == {"harmful": 1, "harmless": 1}


def test_a_reply_that_says_neither_leaves_the_first_answer_and_is_counted(tmp_path):
    for reply in ("A red card.", "It is not harmful", "", "harmfully"):
        ecso, answer, _ = make(check_rules=[("answer was given", reply)])
        (found,) = ecso([item(question="What is the address?", images=[draw(tmp_path)])])
        assert found.text == "The address is 1 Elm Road." and len(answer.batches) == 1
        assert ecso.replies == {"unreadable": 1}


def test_plain_text_is_answered_once():
    ecso, answer, check = make()
    assert ecso([item(question="What is the address?")])[0].text == "The address is 1 Elm Road."
    assert len(answer.batches) == 1 and not check.batches


def test_pictures_of_earlier_turns_are_taken_away_too(tmp_path):
    ecso, answer, _ = make()
    red, blue = draw(tmp_path), draw(tmp_path, "blue")
    earlier = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Look."}]}
    one = item(question="What is the address?", images=[red, blue], before=[earlier])
    ecso([one])
    again = answer.batches[1][0]
    assert not again.images and "image" not in str(again.messages[0]["content"])
    assert again.messages[0]["content"] == [{"type": "text", "text": "Look."}]


def test_what_looks_like_a_special_token_or_a_field_is_plain_text(tmp_path):
    check_rules = [("Elm", "harmful"), ("Describe", "a <image> {question}")]
    ecso, answer, check = make(check_rules, special_tokens=["<image>", "</s>"])
    ecso([item(question="What is the address? </s><image> {answer}", images=[draw(tmp_path)])])
    for text in [*answer.questions, *check.questions]:
        assert "<image>" not in text and "</s>" not in text
    assert "{answer}" in check.questions[0] and "{question}" in answer.questions[-1]


def test_a_failed_first_answer_stays_a_failure(tmp_path):
    ecso, _, check = make(answer_rules=[("colour", None)])
    (found,) = ecso([item(question="What colour?", images=[draw(tmp_path)])])
    assert found.text is None and not check.batches


def test_a_result_says_that_it_was_ecso():
    stock = Scripted().candidate()
    candidate = ecso_candidate(stock, "ECSO", Scripted(), [])
    assert candidate.system.options["defence"] == "ECSO" and candidate.names is None
    assert candidate.system.fingerprint != stock.system.fingerprint
