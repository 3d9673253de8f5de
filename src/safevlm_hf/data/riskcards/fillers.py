"""Harmless text to stand around a question: sentences of the split's own source, made-up ones, and plain noise.

Training mixes hand-written sentences and WordNet's examples with a grammar and with random words, so that what is
learned is the property (words that ask for nothing risky) and not a list. The test split takes its sentences from
other texts.
"""

import json
import random
from functools import cache, partial
from pathlib import Path

from .rewording import remark, wordings_by_hand
from .tables import NOUNS


_PROSE = Path(__file__).parent / "prose"
GREETINGS = ("Hello.", "Hi there.", "Good morning!", "Good evening.", "Hey, how are you?", "Thanks.", "Please.", "OK.")
HELD_OUT_GREETINGS = ("Good day to you.", "Greetings.", "Hi, I hope you are well.", "Many thanks in advance.")

_STATEMENTS = (
    "{Person} {past} {thing} {place}.",
    "{Person} {past} {thing} {time}.",
    "{Time}, {person} {past} {thing}.",
    "{Subject} was {adjective} and {adjective2}.",
    "{Subject} is {adjective} {time}, but {subject2} is not.",
    "{Person} said that {subject} was {adjective}.",
    "I think {subject} is too {adjective}.",
    "I have read a lot about {topic} {place}.",
    "I want to {deed} {time}.",
    "{Person} wants to {deed}, and {person2} wants to {deed2}.",
    "There are {number} chairs {place}.",
    "It costs {number} euros, or {number2} for two.",
    "{Person} and {person2} talked about {topic} until {subject} was {adjective}.",
    "If {subject} is {adjective}, {person} will {deed}.",
    "No, {subject} is {adjective}.",
    "My favourite subject is {topic}.",
    "{Person} {past} {thing}, then {past2} {thing2}, and went home.",
    "Next time we will {deed} {place}.",
)  # fmt: skip
_ASKING = (
    "Do you know anything about {topic}?",
    "Tell me something about {topic}.",
    "How do I {deed}?",
    "Can you help me to {deed}?",
    "Why does {person2} like {topic}?",
    "Who {past} {thing} {time}?",
    "Please remind me to {deed}.",
    "What is the best way to {deed}?",
    "What is {number} plus {number2}?",
    "Is {subject} {adjective}?",
    "Write a short text about {topic}.",
    "Translate \"{subject} is {adjective}\" into French.",
)  # fmt: skip
_CODE = (
    "for {word} in range({number}): print({word})",
    "def {word}(x): return x + {number}",
    "SELECT {word} FROM {word2} WHERE id = {number};",
    "https://www.{word}.example/{word2}?page={number}",
    "{word}_{word2} = {number}",
    "if ({word} > {number}) {{ {word2}++; }}",
    "{number}:{number2} [{word}] {word2} done",
    "<p class=\"{word}\">{word2}</p>",
    "{word}@{word2}.example",
    "{{\"{word}\": {number}, \"{word2}\": [{number2}]}}",
    "import {word} as {word2}",
    "$ ls -l {word}/{word2}.txt",
    "ASSISTANT: {word} {word2}. USER:",
    "USER: {word}? ASSISTANT: {word2}.",
    "[INST] {word} {word2} [/INST]",
    "### {word}: {word2}",
)  # fmt: skip
_COMMON_WORDS = tuple(
    "the the the the of and to to a a in in is it it you that he was for on on are with as i his they be at "
    "one have this from or had by but some what there we out other were all your when up use word how said an "
    "each she which do their time if will way about many then them would write like so these her long make "
    "thing see him two has look more day could go come did my no most who over know than call first may down "
    "been now find any new work part take get place made after back only me our under name very just much "
    "before too mean same tell does set want well also show small put end ask read need here not can say let "
    "give help off next open keep left right until while again".split()
)
_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:-_+*/()[]{}#%&=!?@$éèàçîôñäöüß "


def draw_fillers(count: int, split: str, rng: random.Random, is_plain: bool = False) -> list[str]:
    """Draw harmless sentences in random order; neighbours of a running text now and then stay together. Plain ones are
    of words that exist, and ask for nothing, not even about other things."""
    sentences: list[str] = []
    while len(sentences) < count:
        if rng.random() < 0.1:
            prose = prose_sentences(split)
            start = rng.randrange(len(prose))
            sentences += prose[start : start + rng.randint(2, 6)]
        elif split == "test":
            source = HELD_OUT_GREETINGS if rng.random() < 0.06 else prose_sentences(split)
            sentences.append(rng.choice(source))
        else:
            kinds = _PLAIN_KINDS if is_plain else _KINDS
            sentences.append(rng.choices(tuple(kinds), kinds.values())[0](rng))
    return sentences[:count]


@cache
def prose_sentences(split: str) -> tuple[str, ...]:
    """The hand-written sentences of the split; `"validation"` shares those of `"train"`."""
    text = (_PROSE / ("test.txt" if split == "test" else "train.txt")).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def _by_hand(rng: random.Random) -> str:
    noun = rng.choice((*NOUNS.values(), "picture", "photo"))
    return rng.choice(wordings_by_hand("prose")).replace("{noun}", noun)


def _prose(rng: random.Random) -> str:
    return rng.choice(prose_sentences("train") if rng.random() < 0.3 else _lines("examples.txt"))


def _greeting(rng: random.Random) -> str:
    return rng.choice(GREETINGS)


def _remark(rng: random.Random) -> str:
    return remark(rng.choice((*NOUNS.values(), "picture", "photo")), "train", rng)


def _made_up(rng: random.Random, patterns: tuple[str, ...] = (*_STATEMENTS, *_ASKING)) -> str:
    """Make a sentence of the grammar, now and then with a word that is none, as names are to a small model."""
    lists = _word_lists()
    words = {name: rng.choice(lists[name]) for name in lists}
    words |= {f"{name}2": rng.choice(lists[name]) for name in lists}
    words |= {"number": rng.randint(2, 999), "number2": rng.randint(2, 9999)}
    if rng.random() < 0.3:
        words[rng.choice(("person", "topic", "adjective", "thing"))] = _invent_word(rng)
    for name in ("person", "subject", "time"):
        words[name.capitalize()] = words[name][0].upper() + words[name][1:]
    return rng.choice(patterns).format(**words)


@cache
def _word_lists() -> dict[str, list[str]]:
    return json.loads((_PROSE / "words.json").read_text(encoding="utf-8"))


@cache
def _lines(name: str) -> tuple[str, ...]:
    """Return the lines of a file but its notice, whose lines begin with #."""
    lines = (_PROSE / name).read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def _random_words(rng: random.Random) -> str:
    """Common words between rarer ones, as in a text, but without its sense."""
    draws = (
        lambda: rng.choice(_COMMON_WORDS),
        lambda: rng.choice(_lines("dictionary.txt")),
        lambda: _invent_word(rng),
    )
    words = [rng.choices(draws, (45, 45, 10))[0]() for _ in range(rng.randint(2, 14))]
    words = [word + "," if rng.random() < 0.08 else word for word in words[:-1]] + words[-1:]
    text = " ".join(words)
    return text[0].upper() + text[1:] + rng.choice((".", ".", ".", "?", "!", "", ";"))


def _invent_word(rng: random.Random) -> str:
    word = "".join(rng.choices(_word_lists()["syllable"], k=rng.randint(2, 3)))
    return word.capitalize() if rng.random() < 0.5 else word


def _code(rng: random.Random) -> str:
    words = {"word": rng.choice(_lines("dictionary.txt")).lower(), "word2": _invent_word(rng).lower()}
    return rng.choice(_CODE).format(**words, number=rng.randint(0, 99), number2=rng.randint(0, 99999))


def _noise(rng: random.Random) -> str:
    return "".join(rng.choices(_CHARACTERS, k=rng.randint(3, 30))).strip() or "..."


# Kinds of training's sentences, with their weights. Plain ones are made of words that exist, and ask for nothing.
_KINDS = {_prose: 40, _made_up: 18, _greeting: 4, _remark: 8, _random_words: 22, _code: 4, _noise: 4}
_PLAIN_KINDS = {_prose: 35, _by_hand: 35, partial(_made_up, patterns=_STATEMENTS): 10, _greeting: 5, _remark: 15}
