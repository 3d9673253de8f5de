"""Words that are not known to be harmless, and what training takes them for."""

import random
import re

import pytest

from safevlm_hf.data.riskcards import draw_riskcards, wordings_of_others
from safevlm_hf.data.riskcards.rewording import wordings_by_hand
from safevlm_hf.data.riskcards.unfamiliar import garble, make_unfamiliar, pseudo_words


pytestmark = pytest.mark.ci


TEXT = "Could you please tell me what is written there?"


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_garbled_words_are_other_words_in_most_places():
    rng = random.Random(0)
    found = {garble(TEXT, rng) for _ in range(200)}
    assert len(found) > 150 and TEXT not in found


def test_pseudo_words_are_hardly_ever_english():
    rng = random.Random(0)
    english = set(plain(" ".join(wordings_by_hand("request"))).split())
    words = [word for _ in range(100) for word in plain(pseudo_words(rng)).split() if len(word) > 4]
    assert sum(word in english for word in words) < 0.02 * len(words)


def test_the_languages_that_are_held_out_are_not_trained():
    trained = set(map(plain, wordings_by_hand("foreign")))
    held_out = {plain(one.text) for kind in ("content", "look") for one in wordings_of_others(kind, None, part=None)}
    assert len(trained) > 600 and trained.isdisjoint(held_out)
    german_or_french = re.compile(r"\b(ich|und|bitte|s il|vous)\b")
    assert not any(german_or_french.search(text) for text in trained)


def test_next_to_no_words_are_none_that_are_held_out():
    held_out = {plain(one.text) for one in wordings_of_others("few", None, part=None)}
    assert held_out.isdisjoint(map(plain, wordings_by_hand("few")))


def test_unfamiliar_words_take_the_verdict_of_the_picture():
    rng = random.Random(0)
    foreign, few = set(wordings_by_hand("foreign")), set(wordings_by_hand("few"))
    assert any(make_unfamiliar(TEXT, rng) in foreign for _ in range(50))
    cards = [card for card in draw_riskcards("train", 1500) if card.question in foreign | few]
    assert {card.safety_level > 0 for card in cards} == {True, False}
    assert all(card.kind in ("request", "read", "address", "name") for card in cards)


def test_next_to_no_words_stand_alone_in_training():
    few = set(wordings_by_hand("few"))
    cards = [card for card in draw_riskcards("train", 1500) if card.question in few]
    assert len(cards) > 10
    for card in cards:
        assert [message["role"] for message in card.messages] == ["user"]
        assert card.messages[0]["content"][-1]["text"] == card.question


def test_training_asks_for_the_look_beside_requests():
    looks = [text for text in wordings_by_hand("look") if "{" not in text and len(text) > 20]
    cards = [card for card in draw_riskcards("train", 1500) if card.kind in ("request", "read")]
    beside = [card for card in cards if any(text in card.question for text in looks)]
    assert {card.safety_level > 0 for card in beside} == {True, False}
    assert all(card.question not in looks for card in beside)
