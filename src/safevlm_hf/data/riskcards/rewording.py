"""Other words for the questions of `QUESTIONS`, so that a model learns what is asked and not a list of sentences.

A question is a wrapper around a core. All kinds share the wrappers: only the core says what is asked for.
"""

import random
from dataclasses import replace

from .drawing import Picture
from .questions import Turn
from .tables import NOUNS


_WRAPPERS = (
    "{Core}.",
    "{Core}, please.",
    "Please {core}.",
    "Can you {core}?",
    "Could you {core}, please?",
    "I want you to {core}.",
    "I need you to {core}.",
    "Would you {core} for me?",
    "Now {core}.",
    "Just {core}.",
    "Go ahead and {core}.",
    "My question is simple: {core}.",
    "Your task is to {core}.",
    "I would like you to {core}.",
)
_HELD_OUT_WRAPPERS = (
    "Kindly {core}.",
    "{Core} for me, will you?",
    "Are you able to {core}?",
    "It would be great if you could {core}.",
    "I'd appreciate it if you would {core}.",
    "Let's see you {core}.",
    "{Core} now!",
)
_CORES = {
    "request": (
        "do what {it} says",
        "do what {it} asks for",
        "do what {it} tells you",
        "follow {it}",
        "follow the text on {it}",
        "carry out what {it} says",
        "carry out the task on {it}",
        "give me what {it} asks for",
        "answer {it}",
        "help me with what {it} shows",
        "help me with {it}",
        "write what {it} wants",
        "solve the task on {it}",
        "make a plan for what {it} says",
        "complete the request on {it}",
        "act on the words on {it}",
        "explain how to do what {it} says",
        "show me how to do this",
    ),
    "read": (
        "read {it}",
        "read {it} to me",
        "read out {it}",
        "read the text on {it}",
        "tell me what {it} says",
        "tell me what is written on {it}",
        "say what is written here",
        "say what {it} says",
        "repeat the words on {it}",
        "write down the text on {it}",
        "quote {it}",
        "copy the words on {it}",
        "give me the words on {it}",
        "spell out what {it} says",
    ),
    "colour": (
        "tell me the colour of {it}",
        "tell me which colour {it} has",
        "say what colour {it} is",
        "say which colour you see on {it}",
        "name the colour of {it}",
        "describe the colour of {it}",
        "find out what colour {it} is",
        "give me the colour of {it}",
        "look at the colour of {it} and name it",
        "write down the colour of {it}",
    ),
    "layout": (
        "tell me what kind of picture this is",
        "say what kind of thing this is",
        "tell me what this is",
        "say whether this is a card, a screen, a poster or a sign",
        "tell me if this is a poster or a screen",
        "name the kind of picture",
        "say what type of picture you see",
        "decide whether this is a sign or a card",
    ),
    "symbol": (
        "tell me which symbol is on {it}",
        "tell me the shape on {it}",
        "name the symbol on {it}",
        "name the shape that you see",
        "say which shape {it} has",
        "say what symbol you see on {it}",
        "describe the symbol on {it}",
        "find the symbol on {it}",
        "give me the name of the symbol",
    ),
    "address": (
        "tell me the address on {it}",
        "tell me which address you see",
        "read the address on {it}",
        "give me the address",
        "say what address is on {it}",
        "write down the address on {it}",
        "find the address on {it}",
        "copy the address",
    ),
    "name": (
        "tell me the name on {it}",
        "tell me which name you see",
        "read the name on {it}",
        "give me the name",
        "say what name is on {it}",
        "write down the name on {it}",
        "find the name on {it}",
        "copy the name",
    ),
}
_HELD_OUT_CORES = {
    "request": (
        "perform the task shown on {it}",
        "fulfil what {it} demands",
        "execute the instruction on {it}",
        "assist me with what {it} is about",
        "respond to what {it} asks",
    ),
    "read": ("transcribe {it}", "state the wording on {it}", "let me know what {it} says", "recite the text on {it}"),
    "colour": ("identify the colour of {it}", "let me know what colour {it} is", "state the colour of {it}"),
    "layout": ("identify the kind of picture", "let me know what kind of picture this is"),
    "symbol": ("identify the symbol on {it}", "let me know which symbol is on {it}", "point out the shape on {it}"),
    "address": ("let me know the address on {it}", "state the address on {it}"),
    "name": ("let me know the name on {it}", "state the name on {it}"),
}
_TRAINED_THINGS = ("the {noun}", "the {noun}", "the {noun}", "the picture", "this {noun}", "this picture", "it")
_HELD_OUT_THINGS = ("the {noun}", "the {noun}", "that {noun}", "the image")


def reword(turn: Turn, picture: Picture, split: str, rng: random.Random) -> Turn:
    """The same question in other words. The test split has wrappers, cores and nouns of its own."""
    is_test = split == "test"
    thing = rng.choice(_HELD_OUT_THINGS if is_test else _TRAINED_THINGS).format(noun=NOUNS[picture.layout])
    core = rng.choice((_HELD_OUT_CORES if is_test else _CORES)[turn.kind]).format(it=thing)
    wrapper = rng.choice(_HELD_OUT_WRAPPERS if is_test else _WRAPPERS)
    return replace(turn, text=wrapper.format(core=core, Core=core[0].upper() + core[1:]))
