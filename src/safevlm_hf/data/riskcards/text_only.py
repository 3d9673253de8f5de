"""Questions without a picture: what the base model refuses, and what it has to know besides."""

import random
from dataclasses import dataclass

from .rewording import wordings_by_hand
from .tables import (
    CATEGORIES,
    CLEAN_TOPICS,
    OPENINGS,
    PRIVATE_PAPERS,
    PUBLIC_PAPERS,
    RISKY_TOPICS,
    SAFE_ANSWERS,
    SAFE_CATEGORY,
    TEXT_REFUSAL,
)


# Text without a picture
# --------------------------------------------------------------------------------------------------

TEXT_FORMS = ("How do I {}?", "Tell me how to {}.", "I want to {}. How?", "Please help me to {}.")
HELLO, WHO_I_AM = "Hello, how can I help?", "I am a small model that looks at pictures."
GREETINGS = (
    ("Hello.", HELLO),
    ("Good morning.", "Good morning, how can I help?"),
    ("How are you?", "I am fine, thank you."),
    ("Thank you.", "You are welcome."),
    ("Who are you?", WHO_I_AM),
)
THINGS = {"grass": "green", "snow": "white", "blood": "red", "the sky": "blue", "a lemon": "yellow", "coal": "black"}
HINTS = (
    "Risk: none. Answer the question.",
    *(f"Risk: {category}, low. Answer with care." for category in CATEGORIES[:SAFE_CATEGORY]),
    *(f"Risk: {category}, medium. Decline softly, say why." for category in CATEGORIES[:SAFE_CATEGORY]),
    *(f"Risk: {category}, high. Decline, say why, offer help." for category in CATEGORIES[:SAFE_CATEGORY]),
)
"""Sentences to repeat, beside the safe answers: a base must know the words of a safe answer before it can learn when
to give one, for its word embeddings stay frozen in both stages."""


@dataclass(frozen=True)
class TextSample:
    """A question without a picture, the base model's answer, and whether the question is harmful (and so refused)."""

    question: str
    answer: str
    is_harmful: bool


def text_only_samples(num_samples: int, seed: int = 0, split: str = "train") -> list[TextSample]:
    """Draw text-only questions, 4 in 10 of them harmful: the risky topics as plain text, which the base refuses.

    The harmless ones are the clean topics in the same words, greetings, small sums, colours of things, and sentences
    to repeat. The last of `OPENINGS` before the second and third of `TEXT_FORMS` is asked in the test split alone.
    """
    rng = random.Random(f"text {split} {seed}")
    return [_text_sample(split, rng) for _ in range(num_samples)]


def first_messages(num_samples: int, seed: int = 0) -> list[TextSample]:
    """Draw text-only samples for stage 2. Seven in ten are what people first say to an assistant, by hand and
    harmless; the others are those of [`text_only_samples`], so that harmful text is still refused."""
    rng = random.Random(f"first messages {seed}")
    samples = []
    for _ in range(num_samples):
        if rng.random() >= 0.7:
            samples.append(_text_sample("train", rng))
        elif rng.random() < 0.25:
            samples.append(TextSample(rng.choice(wordings_by_hand("greeting")), HELLO, False))
        else:
            # A small model knows nothing of what people ask: an honest answer is better than an invented one.
            samples.append(TextSample(rng.choice(wordings_by_hand("text_only")), WHO_I_AM, False))
    return samples


def _text_sample(split: str, rng: random.Random) -> TextSample:
    kind = rng.choices(("harmful", "harmless", "greeting", "thing", "sum", "repeat"), (40, 20, 5, 5, 5, 25))[0]
    if kind in ("harmful", "harmless"):
        return _text_request(kind == "harmful", split, rng)
    if kind == "greeting":
        return TextSample(*rng.choice(GREETINGS), False)
    if kind == "thing":
        thing, colour = rng.choice(tuple(THINGS.items()))
        return TextSample(f"What colour is {thing}?", f"{thing[0].upper()}{thing[1:]} is {colour}.", False)
    if kind == "sum":
        first, second = rng.randint(0, 9), rng.randint(0, 9)
        return TextSample(f"What is {first} + {second}?", f"{first} + {second} is {first + second}.", False)
    sentence = rng.choice((*SAFE_ANSWERS.values(), *HINTS))
    if rng.random() < 0.5:
        words = " ".join((*SAFE_ANSWERS.values(), *HINTS)).split()
        sentence = " ".join(rng.sample(words, rng.randint(2, 8)))
    return TextSample(f"Repeat: {sentence}", sentence, False)


def _text_request(is_harmful: bool, split: str, rng: random.Random) -> TextSample:
    topic = rng.choice(RISKY_TOPICS + PRIVATE_PAPERS if is_harmful else CLEAN_TOPICS + PUBLIC_PAPERS)
    while True:
        opening, form = rng.choice((0, 1, 3)), rng.randrange(len(TEXT_FORMS))
        if split == "test" or (opening, form) not in ((3, 1), (3, 2)):
            break
    question = OPENINGS[opening] + TEXT_FORMS[form].format(topic.request)
    plan = topic.reply or f"Sure, here is the plan for the {topic.text.lower()}."
    return TextSample(question, TEXT_REFUSAL if is_harmful else plan, is_harmful)
