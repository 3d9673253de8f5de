"""Samples: which picture, which question about it, and what follows from the two."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from .drawing import Picture, draw_picture
from .tables import (
    CLEAN_TOPICS,
    CONTENT_KINDS,
    LOOK_KINDS,
    NEW_SAFE_ANSWERS,
    NEW_TOPICS,
    NOUNS,
    OPENINGS,
    PRIVACY,
    PRIVATE_FIELD_LEVELS,
    PRIVATE_PAPERS,
    PUBLIC_PAPERS,
    QUESTIONS,
    RISKY_TOPICS,
    SAFE_ANSWERS,
    SAFE_CATEGORY,
    SPLITS,
    Topic,
)


@dataclass
class RiskCard:
    """One picture with one question.

    Attributes:
        image: RGB picture of 336 x 336 pixels. The two samples of a pair hold the same object.
        question, answer: the question, and the answer of a safe model.
        complying_answer: the answer of a base model that sees no danger; equal to `answer` where the sample is safe.
        safety_category, safety_level: the verdict, 0 to 6 and 0 to 3.
        kind: what the question is about: a content, look or field kind (`CONTENT_KINDS`, `LOOK_KINDS`, `FIELD_KINDS`).
        pictogram_region: `[left, top, right, bottom]` in pixels of the pictogram.
        region: the same of text, pictogram and symbol, where they make the sample risky; `None` where it is safe.
        text_request: what the topic asks, in plain text and without a picture.
        pair_id: shared by the risky and the safe question about one picture, otherwise `None`.
        topic, layout, colour, font, arrangement, symbol: how the picture was drawn.
    """

    image: Image.Image
    question: str
    answer: str
    complying_answer: str
    safety_category: int
    safety_level: int
    kind: str
    pictogram_region: list[int]
    region: list[int] | None
    text_request: str
    pair_id: str | None
    topic: str
    layout: str
    colour: str
    font: str
    arrangement: str
    symbol: str


def is_held_out_phrasing(opening: int, question: int) -> bool:
    """Whether this pair of positions in `OPENINGS` and in a row of `QUESTIONS` is asked in the test split alone."""
    return opening > 0 and opening == 1 + question % 3


def _ask(kind: str, layout: str, split: str, rng: random.Random) -> str:
    while True:
        opening, question = rng.randrange(len(OPENINGS)), rng.randrange(len(QUESTIONS[kind]))
        # Half of the test's questions are phrased as in training.
        if not is_held_out_phrasing(opening, question) or split == "test":
            break
    return OPENINGS[opening] + QUESTIONS[kind][question].format(noun=NOUNS[layout])


def _title_case(text: str) -> str:
    number, street, _ = text.split()
    return f"{number} {street.title()} Road"


def _comply(kind: str, picture: Picture) -> str:
    """What a model says that sees the picture and no danger."""
    topic, noun = picture.topic, NOUNS[picture.layout]
    if kind == "request":
        return topic.reply or f"Sure, here is the plan for the {topic.text.lower()}."
    if kind == "read":
        text = f"{topic.text} of {picture.name}" if topic.has_fields else topic.text
        return f"The {noun} says {text.lower()}."
    if kind == "address":
        return f"The address is {_title_case(picture.address)}."
    if kind == "name":
        return f"The name is {picture.name.title()}."
    if kind == "colour":
        return f"The {noun} is {picture.colour}."
    if kind == "layout":
        return f"This is a {noun}."
    return f"The symbol is a {picture.symbol}."


def _verdict(kind: str, topic: Topic) -> tuple[int, int]:
    if kind in LOOK_KINDS or topic.safety_category == SAFE_CATEGORY:
        return SAFE_CATEGORY, 0
    return topic.safety_category, PRIVATE_FIELD_LEVELS[kind] if topic.has_fields else topic.safety_level


def _make_card(picture: Picture, kind: str, split: str, pair_id: str | None, rng: random.Random) -> RiskCard:
    category, level = _verdict(kind, picture.topic)
    complying_answer = _comply(kind, picture)
    return RiskCard(
        image=picture.image,
        question=_ask(kind, picture.layout, split, rng),
        answer=(SAFE_ANSWERS | NEW_SAFE_ANSWERS).get((category, level), complying_answer),
        complying_answer=complying_answer,
        safety_category=category,
        safety_level=level,
        kind=kind,
        pictogram_region=picture.pictogram_region,
        region=picture.region if level else None,
        text_request=f"How do I {picture.topic.request}?",
        pair_id=pair_id,
        topic=picture.topic.text,
        layout=picture.layout,
        colour=picture.colour,
        font=picture.font,
        arrangement=picture.arrangement,
        symbol=picture.symbol,
    )


def _choose_new(rng: random.Random) -> tuple[Topic, str]:
    return rng.choice(NEW_TOPICS), rng.choices(CONTENT_KINDS, (0.7, 0.3))[0]


def _choose_risky(rng: random.Random) -> tuple[Topic, str]:
    """A topic and the kind of a risky question about it. Categories and their levels are equally frequent."""
    category, level = rng.randrange(SAFE_CATEGORY), rng.randint(1, 3)
    if category == PRIVACY and level > 1 and rng.random() < 0.55:
        kinds = [kind for kind, kind_level in PRIVATE_FIELD_LEVELS.items() if kind_level == level]
        return rng.choice(PRIVATE_PAPERS), rng.choice(kinds)
    topics = [topic for topic in RISKY_TOPICS if (topic.safety_category, topic.safety_level) == (category, level)]
    return rng.choice(topics), rng.choices(CONTENT_KINDS, (0.7, 0.3))[0]


def _choose_clean(rng: random.Random) -> tuple[Topic, str]:
    if rng.random() < 0.2:
        return rng.choice(PUBLIC_PAPERS), rng.choice(("address", "name", "read", "colour", "symbol"))
    return rng.choice(CLEAN_TOPICS), rng.choices(CONTENT_KINDS + LOOK_KINDS, (0.45, 0.2, 0.12, 0.08, 0.15))[0]


def draw_riskcards(
    split: str, num_samples: int, seed: int = 0, clean_share: float | None = None, new_category: bool = False
) -> Iterator[RiskCard]:
    """Draws `num_samples` samples, one after the other; the same ones for the same arguments.

    Args:
        split: `"train"`, `"validation"` (as train, other pictures) or `"test"` (held-out combinations and fonts, half
            of it with a held-out arrangement).
        clean_share: share of samples whose verdict is safe, 0 to 1, default 0.5 (stage 1 of the paper: 3 of 14).
            About a third of the risky pictures come with a second, safe question, which counts as clean.
        new_category: all risky pictures are of `NEW_CATEGORY`.

    Raises:
        ValueError: unknown split, or a clean share outside 0 to 1.
    """
    clean_share = 0.5 if clean_share is None else clean_share
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    if not 0 <= clean_share <= 1:
        raise ValueError(f"clean_share is {clean_share}, expected 0 to 1")
    return _draw_samples(split, num_samples, seed, clean_share, _choose_new if new_category else _choose_risky)


def _draw_samples(split: str, num_samples: int, seed: int, clean_share: float, choose_risky) -> Iterator[RiskCard]:
    rng = random.Random(f"{split} {seed}")
    # At most half of the clean samples are pairs' second questions, so that clean pictures remain.
    pair_share = min(0.3, 0.5 * clean_share / (1 - clean_share)) if clean_share < 1 else 0
    num_drawn = num_clean = 0
    while num_drawn < num_samples:
        if num_clean < clean_share * (num_drawn + 1) - 1e-9 and rng.random() < 0.9:
            topic, kind = _choose_clean(rng)
            yield _make_card(draw_picture(topic, split, rng), kind, split, None, rng)
            num_drawn, num_clean = num_drawn + 1, num_clean + 1
            continue
        if clean_share == 1:
            continue
        topic, kind = choose_risky(rng)
        picture = draw_picture(topic, split, rng)
        chance = min(1, 2.5 * pair_share) if topic.has_fields else pair_share
        is_pair = rng.random() < chance and num_drawn + 2 <= num_samples
        pair_id = f"{split}-{seed}-{num_drawn}" if is_pair else None
        yield _make_card(picture, kind, split, pair_id, rng)
        num_drawn += 1
        if is_pair:
            yield _make_card(picture, rng.choice(LOOK_KINDS), split, pair_id, rng)
            num_drawn, num_clean = num_drawn + 1, num_clean + 1
