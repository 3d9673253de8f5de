"""Samples: which picture, which question about it, and what follows from the two."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from PIL import Image

from .changes import CHANGES, SHAPES, TRAINED_SHAPES
from .drawing import Picture, draw_picture, draw_two_cards, make_small_print, vary_shape
from .questions import Turn, ask, ask_about_two, verdict
from .surroundings import MAX_TRAINED_SENTENCES, TWO_PICTURES_SHARE, check_surroundings, surround
from .tables import (
    CLEAN_TOPICS,
    CONTENT_KINDS,
    LOOK_KINDS,
    NEW_TOPICS,
    PRIVACY,
    PRIVATE_FIELD_LEVELS,
    PRIVATE_PAPERS,
    PUBLIC_PAPERS,
    RISKY_TOPICS,
    SAFE_CATEGORY,
    SPLITS,
    Topic,
)


TWO_CARDS, SMALL_PRINT = "two-cards", "small-print"
QUESTIONS_PER_PICTURE = 2
"""The training split asks twice, in other words each time, for words are learned from more of them; a picture with a
harmless question, too, has two pairs. The other splits ask once."""
TWO_CARDS_SHARE = 0.06
"""This share of the pictures that training sees shows two cards."""
TRAINED_FIELD_SHARE = 0.9
"""With varied shapes, this share of training's questions about private papers is about a field: with fewer, half of
those about a name or an address were missed. For the same reason, training sees small print (`TRAINED_SHAPES`) twice
as often as each other shape."""


@dataclass
class RiskCard:
    """A picture, or two, with a question and what stands around it.

    Attributes:
        images: one RGB picture of 336 x 336 pixels or of a varied shape, or two. The samples about a picture share it.
        messages: the conversation up to the last user turn, with the pictures in their places (see [`Conversation`]).
        question: the last turn's question, without what stands around it.
        answer: the answer of a safe model.
        complying_answer: the answer of a base model that sees no danger; equal to `answer` where the sample is safe.
        safety_category, safety_level: the verdict, 0 to 6 and 0 to 3: the strictest of all turns and pictures.
        image_categories, image_levels: the verdict on each picture.
        kind: what the question is about: a content, look or field kind (`CONTENT_KINDS`, `LOOK_KINDS`, `FIELD_KINDS`).
        pictogram_region: `[left, top, right, bottom]` in pixels of the pictogram.
        region: the same of text, pictogram and symbol, where they make the sample risky; `None` where it is safe.
        text_request: what the topic asks, in plain text and without a picture.
        pair_id: shared by the risky and the safe question about one picture, otherwise `None`.
        surroundings: one of `SURROUNDINGS`.
        topic, layout, colour, font, arrangement, symbol: how the picture was drawn.
    """

    images: list[Image.Image]
    messages: list[dict]
    question: str
    answer: str
    complying_answer: str
    safety_category: int
    safety_level: int
    image_categories: list[int]
    image_levels: list[int]
    kind: str
    pictogram_region: list[int]
    region: list[int] | None
    text_request: str
    pair_id: str | None
    surroundings: str
    topic: str
    layout: str
    colour: str
    font: str
    arrangement: str
    symbol: str

    @property
    def image(self) -> Image.Image:
        """The picture, the first one of two."""
        return self.images[0]


@dataclass(frozen=True)
class _Plan:
    """Arguments that all samples of a set have in common."""

    split: str
    seed: int
    surroundings: str
    change: str | None
    strength: float
    varied_shapes: bool

    def draw(self, topic: Topic, rng: random.Random) -> Picture:
        if self.change == TWO_CARDS:
            return self.draw_two_cards(topic, rng)
        if self.change == SMALL_PRINT:
            return make_small_print(draw_picture(topic, self.split, rng), self.split, rng)
        return self.draw_alone(topic, rng)

    def draw_alone(self, topic: Topic, rng: random.Random) -> Picture:
        return self._shape(draw_picture(topic, self.split, rng, self.change, self.strength), rng)

    def draw_two_cards(self, topic: Topic, rng: random.Random) -> Picture:
        beside = rng.choice(PUBLIC_PAPERS if topic.has_fields else CLEAN_TOPICS)
        return self._shape(draw_two_cards(topic, beside, self.split, rng), rng)

    def _shape(self, picture: Picture, rng: random.Random) -> Picture:
        if not self.varied_shapes:
            return picture
        return vary_shape(picture, self.split, rng, TRAINED_SHAPES if self.is_trained else SHAPES)

    @property
    def is_trained(self) -> bool:
        return self.split != "test"

    @property
    def is_mixed(self) -> bool:
        return self.surroundings in MAX_TRAINED_SENTENCES

    def has_two_cards(self, number: int) -> bool:
        """Tell whether this sample is one of those that training now and then shows with two cards."""
        if not self.is_trained or not self.is_mixed or self.change is not None:
            return False
        # The draw has a generator of its own: it depends on the sample's number alone.
        return random.Random(f"two cards {self.split} {self.seed} {number}").random() < TWO_CARDS_SHARE


def _make_card(picture: Picture, kind: str, number: int, pair_id: str | None, plan: _Plan, rng) -> RiskCard:
    turn = ask(picture, kind, plan.split, rng)
    # Surroundings have a generator of their own: pictures and questions are the same ones whatever stands around.
    rng = random.Random(f"{plan.surroundings} {plan.split} {plan.seed} {number}")
    pictures = [picture]
    two_share = 1.0 if plan.surroundings == "two-pictures" else TWO_PICTURES_SHARE if plan.is_mixed else 0.0
    if rng.random() < two_share and not picture.has_two_cards:
        pictures.insert(rng.randrange(2), _draw_beside(turn, picture, plan, rng))
        turn = ask_about_two(pictures, kind, plan.split, rng)
    conversation = surround(turn, picture, plan.surroundings, plan.split, rng, len(pictures))
    verdicts = [(conversation.safety_category, conversation.safety_level)]
    if len(pictures) > 1:
        verdicts = [verdict(kind, each.topic) for each in pictures]
    return RiskCard(
        images=[each.image for each in pictures],
        messages=conversation.messages,
        question=conversation.last.text,
        answer=conversation.answer,
        complying_answer=conversation.last.complying_answer,
        safety_category=conversation.safety_category,
        safety_level=conversation.safety_level,
        image_categories=[category for category, _ in verdicts],
        image_levels=[level for _, level in verdicts],
        kind=conversation.last.kind,
        pictogram_region=picture.pictogram_region,
        region=picture.region if conversation.safety_level else None,
        text_request=f"How do I {picture.topic.request}?",
        pair_id=pair_id,
        surroundings=plan.surroundings,
        topic=picture.topic.text,
        layout=picture.layout,
        colour=picture.colour,
        font=picture.font,
        arrangement=picture.arrangement,
        symbol=picture.symbol,
    )


def _draw_beside(turn: Turn, picture: Picture, plan: _Plan, rng: random.Random) -> Picture:
    """Draw a second picture, which does not change whether the sample is safe. Papers stand beside papers."""
    clean, risky = (PUBLIC_PAPERS, PRIVATE_PAPERS) if picture.topic.has_fields else (CLEAN_TOPICS, RISKY_TOPICS)
    may_be_risky = turn.safety_level > 0 or turn.kind in LOOK_KINDS
    topics = risky if may_be_risky and rng.random() < 0.35 else clean
    return plan.draw_alone(rng.choice(topics), rng)


def _choose_risky(rng: random.Random, field_share: float = 0.55) -> tuple[Topic, str]:
    """Choose a topic and the kind of a risky question about it. Categories and their levels are equally frequent.
    `field_share` of the private papers that have names and addresses are asked for these."""
    category, level = rng.randrange(SAFE_CATEGORY), rng.randint(1, 3)
    if category == PRIVACY and level > 1 and rng.random() < field_share:
        kinds = [kind for kind, kind_level in PRIVATE_FIELD_LEVELS.items() if kind_level == level]
        return rng.choice(PRIVATE_PAPERS), rng.choice(kinds)
    topics = [topic for topic in RISKY_TOPICS if (topic.safety_category, topic.safety_level) == (category, level)]
    return rng.choice(topics), rng.choices(CONTENT_KINDS, (0.7, 0.3))[0]


def _choose_clean(rng: random.Random) -> tuple[Topic, str]:
    if rng.random() < 0.2:
        return rng.choice(PUBLIC_PAPERS), rng.choice(("address", "name", "read", "colour", "symbol"))
    return rng.choice(CLEAN_TOPICS), rng.choices(CONTENT_KINDS + LOOK_KINDS, (0.45, 0.2, 0.12, 0.08, 0.15))[0]


def draw_riskcards(
    split: str,
    num_samples: int,
    seed: int = 0,
    clean_share: float | None = None,
    new_category: bool = False,
    surroundings: str | None = None,
    change: str | None = None,
    strength: float = 1.0,
    varied_shapes: bool = False,
) -> Iterator[RiskCard]:
    """Draw `num_samples` samples, one after the other; the same ones for the same arguments.

    Args:
        split: `"train"`, `"validation"` (as train, other pictures) or `"test"` (held-out combinations and fonts, half
            of it with a held-out arrangement; words from other sources).
        clean_share: share of samples whose verdict is safe, 0 to 1, default 0.5 (stage 1 of the paper: 3 of 14).
            Some of the risky pictures come with another, safe question, which counts as clean: three in ten in the
            test split, more in the others.
        new_category: all risky pictures are of `NEW_CATEGORY`.
        surroundings: what stands around the questions, one of `SURROUNDINGS`; default `"mixed"`, and `"alone"` in the
            test split. Pictures and questions are the same ones under every surroundings.
        change: how pictures are changed, as in [`draw_picture`]; or `"two-cards"`: each picture shows two cards, of
            which one at most is risky, and questions are about what they say; or `"small-print"`: the card takes a
            quarter of a larger picture.
        strength: of the change, in (0, 1].
        varied_shapes: pictures of several sizes and shapes, for backbones that see them as they are.

    Raises:
        ValueError: unknown split, surroundings or change, a clean share outside 0 to 1 or a strength outside (0, 1].
    """
    clean_share = 0.5 if clean_share is None else clean_share
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    if not 0 <= clean_share <= 1:
        raise ValueError(f"clean_share is {clean_share}, expected 0 to 1")
    if change not in (None, TWO_CARDS, SMALL_PRINT, *CHANGES):
        known = ", ".join((*CHANGES, TWO_CARDS, SMALL_PRINT))
        raise ValueError(f"change is {change!r}, expected None or one of {known}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}, expected more than 0, and at most 1")
    plan = _Plan(split, seed, check_surroundings(surroundings, split), change, strength, varied_shapes)
    if new_category:

        def choose_new(rng: random.Random) -> tuple[Topic, str]:
            return rng.choice(NEW_TOPICS), rng.choices(CONTENT_KINDS, (0.7, 0.3))[0]

        return _draw_samples(plan, num_samples, clean_share, choose_new)
    field_share = {"field_share": TRAINED_FIELD_SHARE} if varied_shapes and plan.is_trained else {}
    return _draw_samples(plan, num_samples, clean_share, partial(_choose_risky, **field_share))


def _draw_samples(plan: _Plan, num_samples: int, clean_share: float, choose_risky) -> Iterator[RiskCard]:
    rng = random.Random(f"{plan.split} {plan.seed}")
    # At most half of the clean samples are pairs' second questions, so that clean pictures remain. Training has more
    # pairs than the test split: harmless words are hardest to judge where the picture is risky.
    most = 0.3 if plan.split == "test" else 0.4
    pair_share = min(most, 0.5 * clean_share / (1 - clean_share)) if clean_share < 1 else 0
    per_picture = QUESTIONS_PER_PICTURE if plan.split == "train" else 1
    num_drawn = num_clean = 0
    while num_drawn < num_samples:
        if num_clean < clean_share * (num_drawn + 1) - 1e-9 and rng.random() < 0.9:
            topic, kind = _choose_clean(rng)
            picture = plan.draw(topic, rng)
            for _ in range(min(per_picture, num_samples - num_drawn)):
                yield _make_single_card(picture, kind, num_drawn, plan, rng)
                num_drawn, num_clean = num_drawn + 1, num_clean + 1
            continue
        if clean_share == 1:
            continue
        topic, kind = choose_risky(rng)
        picture = plan.draw(topic, rng)
        chance = min(1, 2.5 * pair_share) if topic.has_fields else pair_share
        if rng.random() >= chance or num_drawn + 2 > num_samples or picture.has_two_cards:
            for _ in range(min(per_picture, num_samples - num_drawn)):
                yield _make_single_card(picture, kind, num_drawn, plan, rng)
                num_drawn += 1
            continue
        for _ in range(min(per_picture, (num_samples - num_drawn) // 2)):
            pair_id = f"{plan.split}-{plan.seed}-{num_drawn}"
            yield _make_card(picture, kind, num_drawn, pair_id, plan, rng)
            yield _make_card(picture, rng.choice(LOOK_KINDS), num_drawn + 1, pair_id, plan, rng)
            num_drawn, num_clean = num_drawn + 2, num_clean + 1


def _make_single_card(picture: Picture, kind: str, number: int, plan: _Plan, rng: random.Random) -> RiskCard:
    """Make a sample that is none of a pair: it may show two cards."""
    if plan.has_two_cards(number):
        picture = plan.draw_two_cards(picture.topic, random.Random(f"{plan.split} {plan.seed} {number}"))
    # Of two cards in one picture it is not clear whose colour or symbol is meant: they are read.
    kind = "read" if picture.has_two_cards and kind in LOOK_KINDS else kind
    return _make_card(picture, kind, number, None, plan, rng)
