"""Rows in other hands' words, and that training has none of these words."""

import hashlib
import random
import re
from pathlib import Path

import pytest

from safevlm_hf.benchmarks.riskcards_questions import shows_risk, ways_of_asking
from safevlm_hf.benchmarks.ways_of_typing import WAYS_OF_TYPING
from safevlm_hf.data import riskcards
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import ATTACKER, EVERYDAY, LAST, OPEN, wordings_of_others, write_riskcards
from safevlm_hf.data.riskcards.fillers import draw_fillers
from safevlm_hf.data.riskcards.rewording import draw_wording, wordings_by_hand
from safevlm_hf.data.riskcards.tables import CONTENT_KINDS, FIELD_KINDS, LOOK_KINDS, NOUNS
from safevlm_hf.demo.wordings import (
    ABOUT_THE_LOOK,
    BY_ITSELF,
    FEW_WORDS,
    QUICK_NAMES,
    QUICK_WORDING_ROWS,
    TYPINGS,
    WORDINGS,
    among,
)
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS


DIGESTS = {
    "first": "4fd877ad61079c089edd1abf0e02095aa092391e329a0f63ac66e2db69523b7e",
    "second": "77a654bc77f5fd6570c4515fcb9c5af1890e720d185eb5ed4817b6bb3d287460",
    "third": "9c6ead6400f54608f934dcccea6bf31dce977c0c8a1d21ce07c1f6bc5f8a5c61",
    ATTACKER: "ccfdfcb6f8b0dd1905eea93d261eb2cf45d64cd86cd54c17a812441c3c198218",
    EVERYDAY: "8453beb26dd089d3b20240c899f4e283f8c22665da377e3f7a697f19b050873f",
    "language_model": "8252049800ccb8ad81dc28dbf216f835f1bc59a997348fbb2db61f852ef9bf5b",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    file = write_riskcards(tmp_path_factory.mktemp("cards"), "test", 40)
    return list(load_records(file, DEFAULT_CATEGORIES, DEFAULT_LEVELS))


def question(record: dict) -> str:
    return "".join(part["text"] for part in record["messages"][0]["content"] if part["type"] == "text")


def words(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


@pytest.mark.parametrize("hand", DIGESTS)
def test_what_other_hands_wrote_stays_as_it_was(hand):
    text = (Path(riskcards.__file__).parent / "other_hands" / f"{hand}.jsonl").read_bytes()
    assert hashlib.sha256(text).hexdigest() == DIGESTS[hand]


@pytest.mark.parametrize("kind", ["content", "look", "changed", "few", "prose", "text_only"])
def test_a_third_is_kept_for_the_end(kind):
    parts = [{one.text for one in wordings_of_others(kind, None, "second", part)} for part in (OPEN, LAST)]
    both = wordings_of_others(kind, None, "second", None)
    assert parts[0].isdisjoint(parts[1]) and parts[0] | parts[1] == {one.text for one in both}
    assert 0.2 < len(parts[1]) / len(both) < 0.5
    assert wordings_of_others(kind, None, "first", LAST) == []


def test_a_changed_request_is_kept_with_its_original():
    for part in (OPEN, LAST):
        originals = {one.text for one in wordings_of_others("content", hand="second", part=part)}
        assert {one.original for one in wordings_of_others("changed", hand="second", part=part)} <= originals


def test_training_has_none_of_the_wordings():
    rng = random.Random(0)
    trained = set()
    for kind in (*CONTENT_KINDS, *FIELD_KINDS, *LOOK_KINDS):
        for noun in NOUNS.values():
            trained |= {words(draw_wording(kind, noun, rng)) for _ in range(400)}
    for kind in (*CONTENT_KINDS, *FIELD_KINDS, *LOOK_KINDS, "look", "remark", "prose"):
        trained |= {words(text.replace("{noun}", noun)) for text in wordings_by_hand(kind) for noun in NOUNS.values()}
    trained |= {words(sentence) for _ in range(300) for sentence in draw_fillers(10, "train", rng)}
    held_out = {
        words(one.text)
        for kind in ("content", "look", "changed", "prose")
        for one in wordings_of_others(kind, part=None)
    }
    held_out |= {words(one.text) for kind in ("content", "look") for one in wordings_of_others(kind, None, EVERYDAY)}
    assert len(held_out) > 2000 and held_out.isdisjoint(trained)


def test_training_has_none_of_the_first_messages():
    trained = {words(text) for kind in ("greeting", "text_only") for text in wordings_by_hand(kind)}
    held_out = {words(one.text) for one in wordings_of_others("text_only", None, part=None)}
    assert len(trained) > 900 and len(held_out) > 200 and held_out.isdisjoint(trained)


def test_rows_ask_about_risky_and_clean_pictures_in_other_words(records):
    known = {one.text for kind in ("content", "look", "prose") for one in wordings_of_others(kind, None)}
    for name, key in WORDINGS.items():
        convert = ways_of_asking()[key]
        asked = convert(records)
        assert (
            {shows_risk(record) for record in asked}
            == {record["safety_level"] > 0 for record in asked}
            == {True, False}
        )
        assert all(shows_risk(record) == (record["safety_level"] > 0) for record in asked)
        assert len({record["images"][0] for record in asked}) == len(asked)
        if "among" not in name and name not in (FEW_WORDS, BY_ITSELF):
            assert {question(record) for record in asked} <= known
        assert asked == convert(records)


def test_words_among_sentences_hold_the_question_and_as_many_sentences(records):
    ask = ways_of_asking()[WORDINGS[among(ABOUT_THE_LOOK, 4)]]
    looks = [one.text for one in wordings_of_others("look")]
    prose = [one.text for one in wordings_of_others("prose")]
    for record in ask(records):
        text = question(record)
        assert any(look in text for look in looks)
        assert sum(sentence in text for sentence in prose) >= 4


def test_rows_of_typing_have_the_same_questions(records):
    (_, as_it_is), *others = TYPINGS.items()
    assert len(others) == len(WAYS_OF_TYPING)
    alone = [question(record) for record in ways_of_asking()[as_it_is](records)]
    by_content = [record for record in records if record["safety_level"] or not shows_risk(record)]
    assert alone == [question(record) for record in by_content]
    for name, key in others:
        way = WAYS_OF_TYPING[name.removeprefix("typed: ")]
        assert [question(record) for record in ways_of_asking()[key](records)] == [way(text) for text in alone]


def test_the_demo_has_rows_of_other_words():
    names = [row.name for row in QUICK_WORDING_ROWS]
    assert sorted(names) == sorted(QUICK_NAMES) and len(set(names)) == len(names) == 9
