"""RiskCards: the same cards for the same seed, a split that holds out what it says, and no cue but what is written."""

import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace
from difflib import SequenceMatcher

import pytest
from PIL import Image, ImageDraw

from safevlm_hf.data import riskcards
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import draw_riskcards, text_only_samples, write_riskcards
from safevlm_hf.data.riskcards.questions import Turn
from safevlm_hf.data.riskcards.rewording import draw_wording, wordings_by_hand
from safevlm_hf.data.riskcards.surroundings import interrupt
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS


@pytest.fixture(scope="module")
def train_cards():
    return list(draw_riskcards("train", 2000, surroundings="alone"))


@pytest.fixture(scope="module")
def held_out_cards():
    return list(draw_riskcards("test", 600))


def fields(card):
    return {key: value for key, value in vars(card).items() if key != "images"}


def test_same_seed_draws_the_same_cards():
    first, second = (list(draw_riskcards("train", 12, seed=5)) for _ in range(2))
    assert [fields(card) for card in first] == [fields(card) for card in second]
    assert [card.image.tobytes() for card in first] == [card.image.tobytes() for card in second]


@pytest.mark.parametrize("split, seed", [("train", 6), ("validation", 5)])
def test_other_seed_or_split_draws_other_pictures(split, seed):
    known = {card.image.tobytes() for card in draw_riskcards("train", 40, seed=5)}
    assert known.isdisjoint(card.image.tobytes() for card in draw_riskcards(split, 40, seed=seed))


def test_more_samples_begin_with_the_same_ones():
    few, more = list(draw_riskcards("train", 10)), list(draw_riskcards("train", 20))
    assert [fields(card) | {"pair_id": None} for card in few] == [fields(c) | {"pair_id": None} for c in more[:10]]


def test_pictures_are_rgb_of_one_size(train_cards):
    assert {(card.image.mode, card.image.size) for card in train_cards} == {("RGB", (336, 336))}


@pytest.mark.ci
def test_held_out_split_has_fonts_combinations_and_arrangements_of_its_own(train_cards, held_out_cards):
    seen = train_cards + list(draw_riskcards("validation", 200))

    def combinations(cards):
        return {(card.topic, card.layout, card.colour) for card in cards}

    assert combinations(seen).isdisjoint(combinations(held_out_cards))
    assert {card.font for card in seen}.isdisjoint({card.font for card in held_out_cards})
    new = {card.arrangement for card in held_out_cards} - {card.arrangement for card in seen}
    assert new == set(riskcards.HELD_OUT_ARRANGEMENTS)
    assert {card.topic for card in held_out_cards} <= {card.topic for card in seen}


def test_some_phrasings_are_held_out(train_cards, held_out_cards):
    def phrasings(cards):
        return {(card.kind, card.question) for card in cards}

    assert phrasings(held_out_cards) - phrasings(train_cards)
    held_out = {
        (kind, opening + question.format(noun=noun))
        for kind, questions in riskcards.QUESTIONS.items()
        for index, question in enumerate(questions)
        for place, opening in enumerate(riskcards.OPENINGS)
        for noun in riskcards.NOUNS.values()
        if riskcards.is_held_out_phrasing(place, index)
    }
    assert phrasings(train_cards).isdisjoint(held_out)


@pytest.mark.parametrize("topic", riskcards.TOPICS, ids=lambda topic: topic.text)
def test_every_topic_can_be_drawn_in_both_splits(topic):
    held_out = [
        riskcards.is_held_out_combination(topic.text, layout, colour)
        for layout in riskcards.LAYOUTS
        for colour in riskcards.COLOURS
    ]
    assert 0 < sum(held_out) < len(held_out) / 2


def test_every_category_has_every_level_and_each_its_own_safe_answer(train_cards):
    verdicts = {(card.safety_category, card.safety_level) for card in train_cards}
    assert verdicts == {(6, 0)} | {(category, level) for category in range(6) for level in (1, 2, 3)}
    assert len(set(riskcards.SAFE_ANSWERS.values())) == 18
    for card in train_cards:
        if card.safety_level:
            assert card.answer == riskcards.SAFE_ANSWERS[card.safety_category, card.safety_level]
            assert card.answer.startswith(riskcards.SAFE_PREFIXES[card.safety_level - 1])
            assert not card.complying_answer.startswith(riskcards.SAFE_PREFIXES)
        else:
            assert card.answer == card.complying_answer


def test_complying_answers_are_short_and_take_the_picture(train_cards):
    assert max(len(card.complying_answer.split()) for card in train_cards) <= 12
    answers = defaultdict(set)
    for card in train_cards:
        answers[card.question].add(card.complying_answer)
    often = [question for question, count in Counter(card.question for card in train_cards).items() if count >= 15]
    assert often
    assert min(len(answers[question]) for question in often) >= 3


def test_pairs_share_the_picture_and_differ_in_the_verdict(train_cards):
    pairs = defaultdict(list)
    for card in train_cards:
        if card.pair_id is not None:
            pairs[card.pair_id].append(card)
    for risky, safe in pairs.values():
        assert risky.image is safe.image
        assert risky.safety_level > 0 and risky.region
        assert (safe.safety_category, safe.safety_level, safe.region) == (6, 0, None)
        assert risky.question != safe.question
    counts = Counter(risky.safety_category for risky, _ in pairs.values())
    num_risky = sum(card.safety_level > 0 for card in train_cards)
    assert 0.35 < len(pairs) / num_risky < 0.5
    assert len(counts) == 6 and counts.most_common(1)[0][0] == riskcards.PRIVACY


def test_one_field_question_is_risky_on_a_private_paper_and_safe_on_a_public_one(train_cards):
    levels = defaultdict(set)
    private = {topic.text for topic in riskcards.PRIVATE_PAPERS}
    for card in train_cards:
        if card.kind in riskcards.FIELD_KINDS:
            levels[card.kind, card.topic in private].add((card.safety_category, card.safety_level))
    assert levels == {
        ("address", True): {(4, 3)},
        ("name", True): {(4, 2)},
        ("address", False): {(6, 0)},
        ("name", False): {(6, 0)},
    }


def test_region_is_inside_the_picture_and_not_all_of_it(train_cards, held_out_cards):
    for card in train_cards + held_out_cards:
        if card.safety_level == 0:
            assert card.region is None
            continue
        left, top, right, bottom = card.region
        assert 0 <= left < right <= 336 and 0 <= top < bottom <= 336
        assert 0.04 < (right - left) * (bottom - top) / 336**2 < 0.85


def test_region_holds_the_text():
    """Drawn white on black, what is white is inside the region, and nearly fills it."""
    look = {"font": "DejaVuSans", "arrangement": "top", "symbol": "star"}
    image = Image.new("RGB", (336, 336))
    arguments = (image, ImageDraw.Draw(image), (20, 60, 310, 260), riskcards.RISKY_TOPICS[0], ["PRANK"])
    region, *_ = riskcards.drawing._draw_content(*arguments, look, [(255, 255, 255)] * 2, random.Random(0))
    left, top, right, bottom = image.getbbox()
    assert region[0] <= left and region[1] <= top and region[2] >= right and region[3] >= bottom
    assert all(abs(a - b) < 30 for a, b in zip(region, image.getbbox(), strict=True))


@pytest.mark.parametrize("attribute", ["layout", "colour", "font", "arrangement", "symbol"])
def test_no_look_gives_the_verdict_away(train_cards, attribute):
    pictures = list({id(card.image): card for card in reversed(train_cards)}.values())  # of a pair the risky one
    counts = defaultdict(Counter)
    for card in pictures:
        counts[getattr(card, attribute)][card.safety_level > 0] += 1
    share = sum(card.safety_level > 0 for card in pictures) / len(pictures)
    for value, count in counts.items():
        assert abs(count[True] / count.total() - share) < 0.2, value
    for category in range(6):
        assert {getattr(card, attribute) for card in pictures if card.safety_category == category} == set(counts)


@pytest.mark.parametrize("clean_share", [0.0, 3 / 14, 0.5, 0.9, 1.0])
@pytest.mark.ci
def test_clean_share_is_kept(clean_share):
    cards = list(draw_riskcards("train", 280, clean_share=clean_share))
    assert sum(card.safety_level == 0 for card in cards) / len(cards) == pytest.approx(clean_share, abs=0.03)


@pytest.mark.parametrize("arguments", [("dev", 4), ("train", 4, 0, 1.5), ("train", 4, 0, -0.1)])
def test_wrong_arguments_raise_at_once(arguments):
    with pytest.raises(ValueError, match="expected"):
        draw_riskcards(*arguments)


def test_text_only_samples():
    samples = text_only_samples(800)
    assert samples == text_only_samples(800) != text_only_samples(800, seed=1)
    assert {sample.answer for sample in samples if sample.is_harmful} == {riskcards.TEXT_REFUSAL}
    assert not any(s.answer == riskcards.TEXT_REFUSAL for s in samples if not s.is_harmful)
    assert 0.3 < sum(sample.is_harmful for sample in samples) / len(samples) < 0.5
    asked = {sample.question for sample in samples if sample.is_harmful}
    for topic in riskcards.RISKY_TOPICS + riskcards.PRIVATE_PAPERS:
        assert any(topic.request in question for question in asked), topic


def test_records_without_a_picture_are_harmless_by_hand_or_refused(tmp_path):
    path = write_riskcards(tmp_path, "train", 6, surroundings="mixed-short", num_text_only=200)
    records = load_records(path, DEFAULT_CATEGORIES, DEFAULT_LEVELS)
    texts = [record for record in records if not record["images"]]
    assert len(records) == 206 and len(texts) == 200 and {record["safety_level"] for record in texts} == {-100}
    turns = [[turn["content"][0]["text"] for turn in record["messages"]] for record in texts]
    asked, answered = zip(*turns)
    by_hand = {*wordings_by_hand("greeting"), *wordings_by_hand("text_only")}
    assert 90 < sum(text in by_hand for text in asked) < 150
    refused = {text for text, answer in zip(asked, answered) if answer == riskcards.TEXT_REFUSAL}
    assert refused and refused.isdisjoint(by_hand)


def test_written_records_are_the_published_form_and_pairs_share_a_file(tmp_path):
    path = write_riskcards(tmp_path, "train", 60, seed=2, surroundings="alone")
    cards = list(draw_riskcards("train", 60, seed=2, surroundings="alone"))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert path == tmp_path / "train-alone.jsonl" and len(records) == 60
    images = defaultdict(set)
    for record, card in zip(records, cards, strict=True):
        assert (record["safe_type"], record["safe_level"]) == (card.safety_category, card.safety_level)
        assert record["conversations"] == [
            {"from": "USER", "value": f"<image>\n{card.question}"},
            {"from": "ASSISTANT", "value": card.answer},
        ]
        assert (record["region"], record["pair_id"], record["font"]) == (card.region, card.pair_id, card.font)
        with Image.open(tmp_path / record["image"]) as image:
            assert image.size == (336, 336)
        images[record["image"]].add(id(card.image))
    assert all(len(ids) == 1 for ids in images.values())
    assert len(images) == len({id(card.image) for card in cards})


def test_training_asks_twice_about_each_picture_in_other_words():
    cards = list(draw_riskcards("train", 60, seed=2))
    asked = Counter(id(card.image) for card in cards if card.pair_id is None)
    assert set(asked.values()) <= {1, 2} and Counter(asked.values())[2] > len(asked) * 0.8
    texts = defaultdict(set)
    for card in cards:
        texts[id(card.image)].add(json.dumps(card.messages))
    assert sum(len(found) > 1 for found in texts.values()) > len(texts) * 0.8
    held_out = list(draw_riskcards("test", 60))
    assert max(Counter(id(card.image) for card in held_out).values()) <= 2


def test_written_files_are_reused_only_for_the_same_arguments(tmp_path):
    path = write_riskcards(tmp_path, "train", 20)
    before = path.stat().st_mtime_ns, path.read_text()
    assert write_riskcards(tmp_path, "train", 20) == path
    assert (path.stat().st_mtime_ns, path.read_text()) == before
    write_riskcards(tmp_path, "train", 21)
    assert len(path.read_text().splitlines()) == 21
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize(
    "written",
    [
        {"train.jsonl": "mine"},
        {"train.json": "mine"},
        {"train.jsonl": "mine", "train.json": "[1]"},
        {"train.jsonl": "mine", "train.json": "[" * 10**5},
        {"train.jsonl": "mine", "train.json": '{"split": "train"}'},
        {"train.jsonl": "mine", "train.json": '{"split": "test", "num_samples": 20, "answer": "", "generator": 1}'},
    ],
)
def test_records_of_somebody_else_are_not_replaced(tmp_path, monkeypatch, written):
    for name, content in written.items():
        (tmp_path / name).write_text(content)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    monkeypatch.setattr(riskcards.disk, "_write_pictures", lambda *_: pytest.fail("something is drawn"))
    with pytest.raises(
        ValueError, match=f"{tmp_path / next(iter(written))} is there, .* Move it away, or draw into another folder"
    ):
        write_riskcards(tmp_path, "train", 20)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_records_that_a_killed_call_has_left_are_taken_if_nobody_changed_them(tmp_path):
    path = write_riskcards(tmp_path, "train", 20)
    (tmp_path / "train.json").unlink()
    records = path.read_text()
    assert write_riskcards(tmp_path, "train", 20).read_text() == records and (tmp_path / "train.json").exists()
    (tmp_path / "train.json").unlink()
    path.write_text(records + "mine\n")
    with pytest.raises(ValueError, match="would replace it"):
        write_riskcards(tmp_path, "train", 20)
    assert path.read_text() == records + "mine\n"


def test_folder_of_another_process_is_taken_and_the_answer_can_be_the_complying_one(tmp_path):
    path = write_riskcards(tmp_path, "train", 20, answer="complying_answer")
    records = path.read_text()
    path.unlink()
    assert write_riskcards(tmp_path, "train", 20, answer="complying_answer").read_text() == records
    for record in map(json.loads, records.splitlines()):
        messages = record.get("messages") or [{"content": turn["value"]} for turn in record["conversations"]]
        assert messages[-1]["content"] == record["complying_answer"]


def test_cut_off_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(riskcards.disk, "_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_riskcards(tmp_path, "train", 4)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(write_riskcards(tmp_path, "train", 4).read_text().splitlines()) == 4


# --------------------------------------------------------------------------------------------------
# Surroundings
# --------------------------------------------------------------------------------------------------


def said_by(card, role):
    """The texts of a role's messages."""
    return [message["content"][-1]["text"] for message in card.messages if message["role"] == role]


def phrases(sentences, length=5):
    """All runs of `length` words."""
    words = [re.findall(r"[\w']+", sentence.lower()) for sentence in sentences]
    return {tuple(of[start : start + length]) for of in words for start in range(len(of) - length + 1)}


def draw(surroundings, num_samples=24, split="test", **options):
    return list(draw_riskcards(split, num_samples, seed=4, surroundings=surroundings, **options))


@pytest.fixture(scope="module")
def mixed_cards():
    return list(draw_riskcards("train", 1000, seed=1))


@pytest.fixture(scope="module")
def alone_cards():
    return draw("alone")


@pytest.mark.parametrize("name", riskcards.SURROUNDINGS)
def test_surroundings_leave_pictures_questions_and_verdicts_as_they_are(name, alone_cards):
    """So that parts of the held-out split differ in nothing else, and safe questions get the same surroundings."""
    cards = draw(name)
    for card, alone in zip(cards, alone_cards, strict=True):
        assert (card.safety_level > 0) == (alone.safety_level > 0)
        assert card.safety_level == alone.safety_level or len(card.images) == 2
        assert any(image.tobytes() == alone.image.tobytes() for image in card.images)
        assert card.messages[-1]["role"] == "user" and card.question in card.messages[-1]["content"][-1]["text"]
        assert card.topic == alone.topic


@pytest.mark.parametrize("name", ["words-1", "words-4", "words-16", "words-40", "one-before", "one-after"])
def test_words_stand_around_the_question(name, alone_cards):
    sides = set()
    for card, alone in zip(draw(name), alone_cards, strict=True):
        [text] = said_by(card, "user")
        before, after = text.split(alone.question)
        known = set(riskcards.prose_sentences("test")) | set(riskcards.fillers.HELD_OUT_GREETINGS)
        around = before.strip() + " " + after.strip()
        count = int(name.split("-")[1]) if name.startswith("words") else 1
        assert sum(around.count(sentence) for sentence in known) >= count
        sides |= {side for side, words in (("before", before), ("after", after)) if words.strip()}
    assert sides == ({"before", "after"} if name.startswith("words") else {name.split("-")[1]})


@pytest.mark.parametrize("name, numbers", [("turn-2", {2}), ("turn-4", {4}), ("turn-8", {8}), ("turn-2-4", {2, 3, 4})])
def test_the_question_is_in_the_last_turn(name, numbers, alone_cards):
    cards = draw(name)
    assert {len(said_by(card, "user")) for card in cards} == numbers
    for card, alone in zip(cards, alone_cards, strict=True):
        assert [message["role"] for message in card.messages] == ["user", "assistant"] * (len(card.messages) // 2) + [
            "user"
        ]
        assert said_by(card, "user")[-1] == alone.question
        assert not any(text.startswith(riskcards.SAFE_PREFIXES) for text in said_by(card, "assistant"))
        assert (card.answer, card.complying_answer) == (alone.answer, alone.complying_answer)


@pytest.mark.parametrize("words", [5, 20, 60])
def test_operators_prompts_have_about_that_many_words(words):
    cards = draw(f"prompt-{words}")
    counts = [len(said_by(card, "system")[0].split()) for card in cards]
    assert all(0.7 * words <= count <= words for count in counts)
    assert any("turn them down" in said_by(card, "system")[0] for card in draw("prompt-60", 40))
    seen = {said_by(card, "system")[0] for card in draw(f"prompt-{words}", split="train")}
    assert seen.isdisjoint(said_by(card, "system")[0] for card in cards)


def test_a_conversation_remembers_its_risky_turn(alone_cards):
    cards = [pair for pair in zip(draw("earlier-turn"), alone_cards, strict=True) if pair[1].safety_level]
    assert cards
    for card, alone in cards:
        assert said_by(card, "user")[0] == alone.question != said_by(card, "user")[-1]
        assert card.answer == said_by(card, "assistant")[0] == alone.answer
        assert card.complying_answer != alone.complying_answer


def test_after_a_refusal_the_question_comes_again(alone_cards):
    seen = set()
    for card, alone in zip(draw("after-refusal"), alone_cards, strict=True):
        first, again = said_by(card, "user")
        assert first == alone.question and said_by(card, "assistant") == [alone.answer]
        assert (card.answer, card.complying_answer) == (alone.answer, alone.complying_answer)
        seen.add("question" if again == first else again)
    assert "question" in seen and len(seen) > 2


def test_without_a_mask_there_are_rules_and_refusals_around_clean_questions():
    clean = [card for card in draw("no-mask", 120) if card.safety_level == 0]
    assert any(said_by(card, "system") for card in clean)
    refused = [card for card in clean if any(map(is_safe_answer, said_by(card, "assistant")))]
    assert len(refused) >= 5 and not any(is_safe_answer(card.answer) for card in clean)


def is_safe_answer(text):
    return text in riskcards.SAFE_ANSWERS.values()


def test_two_pictures_have_their_own_labels_and_the_strictest_counts():
    cards = draw("two-pictures", 80)
    for card in cards:
        assert len(card.images) == len(card.image_levels) == len(card.image_categories) == 2
        strictest = card.image_levels.index(max(card.image_levels))
        assert (card.safety_level, card.safety_category) == (
            card.image_levels[strictest],
            card.image_categories[strictest],
        )
        assert [part["type"] for part in card.messages[0]["content"]] == ["image", "image", "text"]
    one_risky = [card for card in cards if card.safety_level and 0 in card.image_levels]
    assert {card.image_levels.index(0) for card in one_risky} == {0, 1}
    assert any(0 not in card.image_levels for card in cards)


def test_two_cards_in_one_picture(alone_cards):
    cards = draw(None, 40, change=riskcards.TWO_CARDS)
    assert all(len(card.images) == 1 and card.kind not in riskcards.LOOK_KINDS for card in cards)
    assert {card.safety_level > 0 for card in cards} == {True, False}
    assert all(card.pair_id is None and card.image.size == (336, 336) for card in cards)


def test_small_print_takes_a_quarter_of_a_larger_picture():
    shares = []
    for card in draw(None, 30, change=riskcards.SMALL_PRINT):
        left, top, right, bottom = card.pictogram_region
        assert 0 <= left < right <= card.image.width and 0 <= top < bottom <= card.image.height
        shares.append((right - left) * (bottom - top) / (card.image.width * card.image.height))
    assert 0.015 < sum(shares) / len(shares) < 0.04  # a tenth of the card


def test_styles_change_the_typing_and_not_the_question(alone_cards):
    styled = draw("styles", 200)
    alone = draw("alone", 200)
    changed = [(card, other) for card, other in zip(styled, alone, strict=True) if card.question != other.question]
    assert len(changed) > 120
    texts = [card.question for card in styled]
    assert any(text.isupper() for text in texts) and any(text.islower() for text in texts)
    assert any("\n" in text or "  " in text for text in texts)
    for card, other in changed:
        similar = SequenceMatcher(None, card.question.lower().split(), other.question.lower().split()).ratio()
        assert similar > 0.3 and (card.safety_level, card.answer) == (other.safety_level, other.answer)


def test_rewording_keeps_what_is_asked(alone_cards):
    known = {question.format(noun=noun) for row in riskcards.QUESTIONS.values() for question in row for noun in NOUNS}
    for card, alone in zip(draw("reworded"), alone_cards, strict=True):
        assert card.question != alone.question and card.question not in known
        assert (card.kind, card.answer, card.complying_answer) == (alone.kind, alone.answer, alone.complying_answer)
    trained, held_out = ({card.question for card in draw(name, 150, split=split)} for name, split in REWORDED)
    assert trained.isdisjoint(held_out)


@pytest.mark.parametrize("kind", riskcards.QUESTIONS)
def test_training_words_a_question_in_many_ways(kind):
    rng = random.Random(0)
    texts = [draw_wording(kind, "card", rng) for _ in range(600)]
    assert len(set(texts)) > 150 and not any("{" in text or "  " in text for text in texts)
    words = {word for text in texts for word in re.findall("[a-z]+", text.lower())}
    assert words.isdisjoint({"transcribe", "recite", "identify", "execute", "fulfil", "perform", "kindly", "image"})


NOUNS = set(riskcards.NOUNS.values())
REWORDED = (("mixed", "train"), ("reworded", "test"))


@pytest.mark.ci
def test_training_puts_words_inside_a_question_too(mixed_cards):
    rng = random.Random(0)
    turn = Turn("What does the card ask for?", "request", "")
    text = interrupt(turn, "train", rng).text
    kept = [word for word in text.split() if word in turn.text.split()]
    assert text.split()[0] == "What" and text.split()[-1] == "for?" and len(text.split()) > len(turn.text.split())
    assert [word for word in turn.text.split() if word in kept] == turn.text.split()
    assert interrupt(replace(turn, text="Answer."), "train", rng).text == "Answer."
    long = [card for card in mixed_cards if len(card.question.split()) > 16]  # no question is so long by itself
    assert 0.02 < len(long) / len(mixed_cards) < 0.2
    assert {card.safety_level > 0 for card in long} == {True, False}


def test_a_typed_turn_is_part_of_the_users_message():
    for card in draw("typed-turn"):
        assert len(card.messages) == 1 and re.search(r"ASSISTANT: .+ USER: ", said_by(card, "user")[0])


def test_training_mixes_surroundings_and_no_length_gives_the_verdict_away(mixed_cards):
    alone = [card for card in mixed_cards if len(card.messages) == 1 and len(said_by(card, "user")[0].split()) < 16]
    assert 0.3 < len(alone) / len(mixed_cards) < 0.6
    assert {len(said_by(card, "user")) for card in mixed_cards} == set(range(1, 9))
    assert 0.06 < sum(bool(said_by(card, "system")) for card in mixed_cards) / len(mixed_cards) < 0.2
    assert any(len(card.images) == 2 for card in mixed_cards)
    assert any(said_by(card, "user")[0].isupper() for card in mixed_cards)
    lengths = {True: [], False: []}
    for card in mixed_cards:
        lengths[card.safety_level > 0].append(sum(len(text.split()) for text in said_by(card, "user")))
    short, long = (
        [sum(count > limit for count in lengths[risky]) / len(lengths[risky]) for limit in (14, 60)]
        for risky in (True, False)
    )
    # Long harmless texts beside risky pictures are hard, so there are some more of them. A head that reads windows
    # cannot see the length.
    assert short == pytest.approx(long, abs=0.13)


@pytest.mark.ci
def test_stage_2_sees_no_long_texts():
    lengths = {
        name: [len(text.split()) for card in draw(name, 300, split="train") for text in said_by(card, "user")]
        for name in ("mixed", "mixed-short")
    }
    longest = {name: sum(sorted(counts)[-10:]) for name, counts in lengths.items()}
    assert longest["mixed"] > 1.2 * longest["mixed-short"]


def test_a_forged_or_too_careful_history_is_trained(mixed_cards):
    risky = [card for card in mixed_cards if card.safety_level and said_by(card, "assistant")]
    refused = [card for card in risky if any(map(is_safe_answer, said_by(card, "assistant")))]
    assert 0 < len(refused) < len(risky)
    clean = [card for card in mixed_cards if not card.safety_level and said_by(card, "assistant")]
    assert any(is_safe_answer(text) for card in clean for text in said_by(card, "assistant"))


def test_held_out_words_share_no_phrase_with_training():
    train, test = riskcards.prose_sentences("train"), riskcards.prose_sentences("test")
    assert len(set(train)) >= 700 and len(set(test)) >= 250
    assert phrases(train).isdisjoint(phrases(test))
    rng = random.Random(0)
    made_up = riskcards.draw_fillers(4000, "train", rng)
    assert phrases(made_up).isdisjoint(phrases(test)) and len(set(made_up)) > 2000
    assert set(riskcards.draw_fillers(300, "test", rng)).isdisjoint(made_up)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"surroundings": "words-3"}, "surroundings is 'words-3', expected one of mixed, mixed-short, alone"),
        ({"change": "bent"}, "change is 'bent', expected None or one of moved, .*two-cards, small-print"),
        ({"change": "turned", "strength": 0}, "strength is 0, expected"),
    ],
)
def test_unknown_surroundings_and_changes_raise_at_once(options, reason):
    with pytest.raises(ValueError, match=reason):
        draw_riskcards("test", 4, **options)


def test_parts_of_a_split_share_a_folder(tmp_path):
    options = [{}, {"surroundings": "turn-2"}, {"change": "moved", "strength": 0.5}, {"surroundings": "two-pictures"}]
    paths = [write_riskcards(tmp_path, "test", 6, **option) for option in options]
    assert [path.name for path in paths] == [
        "test.jsonl",
        "test-turn-2.jsonl",
        "test-moved-0.5.jsonl",
        "test-two-pictures.jsonl",
    ]
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
    assert [len(of_file) for of_file in lines] == [6] * 4
    assert all("conversations" in record for record in lines[0] + lines[2])
    for record in lines[1] + lines[3]:
        assert record["messages"][-1] == {"role": "assistant", "content": record["messages"][-1]["content"]}
        assert len(record["images"]) == len(record["safety_level"]) == len(record["safety_category"])
    before = [path.read_text() for path in paths]
    assert [write_riskcards(tmp_path, "test", 6, **option).read_text() for option in options] == before


@pytest.mark.parametrize("kind", [*riskcards.LOOK_KINDS, *riskcards.CONTENT_KINDS, "name", "look", "remark", "prose"])
def test_wordings_by_hand_are_many_and_different(kind):
    wordings = wordings_by_hand(kind)
    assert len(set(wordings)) == len(wordings) > 150
    assert all(text.strip() and set(re.findall(r"{\w+}", text)) <= {"{noun}"} for text in wordings)
