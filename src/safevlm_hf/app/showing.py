"""Show a verdict on the page: bars, words and a map, as plain values that templates lay out and escape."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from PIL import Image

from ..reports.pages import Picture, inline_picture, templates_of


_TEMPLATES = templates_of(__package__)
SHOWN_SIZE, SMALL_SIZE = 480, 112  # pixels, of the longer side
RAISES, LOWERS = (194, 57, 75), (37, 99, 168)
STRONGEST = 0.45  # opacity of the strongest word: dark text can still be read on it
HEAT = ((0, 0.5, 1), ((255, 255, 191), (217, 153, 0), (51, 0, 26), (0, 191, 230)))
"""Strengths, and at each of them red, green, blue and opacity."""
WORD_STARTS = ("Ġ", "▁", "Ċ")  # tokenizers write the blank or line break before a word so


@dataclass(frozen=True)
class Bar:
    """A probability, and what the policy makes of it in words."""

    name: str
    text: str
    percent: str
    note: str


@dataclass(frozen=True)
class Word:
    """A word of the question; `part` is what it adds to the risk, empty where it did not decide."""

    text: str
    part: str
    colour: str


@dataclass(frozen=True)
class Panel:
    """Everything about the verdict on one picture."""

    title: str
    action: str
    finding: str
    risk: str
    levels: Sequence[Bar]
    categories: Sequence[Bar]
    words: Sequence[Word]
    picture: Picture


def render(template: str, **values) -> str:
    """Return the HTML of one part of the page. Values are escaped."""
    return _TEMPLATES.get_template(template).render(**values)


def read_style() -> str:
    return (resources.files(__package__) / "templates" / "style.css").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------
# Verdicts
# --------------------------------------------------------------------------------------------------


def make_panels(explanation, inputs, processor, images: Sequence[Image.Image]) -> list[Panel]:
    """Return a panel for each picture of a conversation, in their order.

    Args:
        explanation: what `model.explain` returned for `inputs`, one conversation.
        images: its pictures.
    """
    verdicts = processor.post_process_safety(explanation)
    panels = []
    for index, (verdict, image) in enumerate(zip(verdicts, images, strict=True)):
        parts = explanation.question_contributions[index].tolist()
        weights = explanation.question_weights[index].tolist()
        finding = ", ".join(dict.fromkeys((verdict.category, verdict.level)))
        # A category that is both flagged and to review is shown as flagged.
        notes = dict.fromkeys(verdict.review_categories, "to review") | dict.fromkeys(
            verdict.flagged_categories, "flagged"
        )
        panel = Panel(
            title="Verdict" if len(images) == 1 else f"Verdict on picture {index + 1}",
            action=verdict.action,
            finding=finding,
            risk=f"{verdict.risk:.2f}",
            levels=[_bar(name, value) for name, value in verdict.level_probabilities.items()],
            categories=[
                _bar(name, value, notes.get(name, "")) for name, value in verdict.category_probabilities.items()
            ],
            words=_words(_group(processor, inputs), weights, parts),
            picture=draw_map(image, explanation.map[index].float().cpu()),
        )
        panels.append(panel)
    return panels


def _bar(name: str, value: float, note: str = "") -> Bar:
    return Bar(name, f"{value:.2f}", f"{100 * value:.1f}", note)


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------


def _group(processor, inputs) -> list[tuple[str, list[int]]]:
    """Return the words of the question, each with the places of its tokens among those that the explanation weighs."""
    if "question_ids" in inputs:
        return _group_own_words(processor.question_tokens(inputs), inputs["question_ids"][0, :, 1].tolist())
    tokenizer, ids = processor.tokenizer, inputs["input_ids"][0].tolist()
    mask = inputs["question_mask"][0].tolist() if "question_mask" in inputs else [1] * len(ids)
    tokens, last = tokenizer.convert_ids_to_tokens(ids), None
    groups: list[list[int]] = []
    for place, counts in enumerate(mask):
        if not counts:
            continue
        if last is None or place != last + 1 or str(tokens[place]).startswith(WORD_STARTS):
            groups.append([])
        groups[-1].append(place)
        last = place
    return [(tokenizer.decode([ids[place] for place in group]).strip(), group) for group in groups]


def _group_own_words(tokens: Sequence[str], turns: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Join the pieces of the words that the head's own tokenizer made; places of turn 0 are padding."""
    groups: list[tuple[str, list[int]]] = []
    for place, (token, turn) in enumerate(zip(tokens, turns)):
        if token.startswith("##") and groups:
            text, places = groups.pop()
            groups.append((text + token.removeprefix("##"), [*places, place]))
        elif turn:
            groups.append((token, [place]))
    return groups


def _words(groups: list[tuple[str, list[int]]], weights: Sequence[float], parts: Sequence[float]) -> list[Word]:
    """Return the words of the question, with what each adds to the log-odds of the risk."""
    found = [
        (text, math.fsum(parts[place] for place in places), any(weights[place] > 0 for place in places))
        for text, places in groups
    ]
    strongest = max((abs(part) for _, part, decides in found if decides), default=0.0) or 1.0
    words = []
    for text, part, decides in found:
        label, part_text, colour = text or "␣", "", "transparent"
        if decides and math.isfinite(part / strongest):
            red, green, blue = RAISES if part > 0 else LOWERS
            part_text = f"{part:+.2f}"
            colour = f"rgba({red}, {green}, {blue}, {STRONGEST * abs(part / strongest):.2f})"
        words.append(Word(label, part_text, colour))
    return words


# --------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------


def draw_map(image: Image.Image, shares: torch.Tensor) -> Picture:
    """Draw the picture in grey, and over it the share of each place in the verdict, (grid, grid) with a sum of 1."""
    grey = _shrink(image, SHOWN_SIZE).convert("L").point(lambda value: 102 + 0.6 * value)
    if not bool(torch.isfinite(shares).all()):
        return _inline(grey, "The picture, whose pixels could not be judged")
    strengths, channels = HEAT
    levels = (shares / shares.max().clamp(min=1e-12)).numpy()
    colours = np.stack([np.interp(levels, strengths, channel) for channel in channels], axis=-1)
    heat = Image.fromarray(colours.round().astype(np.uint8)).resize(grey.size, Image.Resampling.BILINEAR)
    row, column = divmod(int(shares.argmax()), shares.shape[1])
    alt = (
        f"Heat map over the picture, a grid of {shares.shape[0]} by {shares.shape[1]}: most of the verdict, "
        f"{100 * float(shares.max()):.0f} %, comes from row {row + 1}, column {column + 1}"
    )
    return _inline(Image.alpha_composite(grey.convert("RGBA"), heat), alt)


def small_picture(image: Image.Image, alt: str) -> Picture:
    return _inline(_shrink(image, SMALL_SIZE), alt)


def _shrink(image: Image.Image, side: int) -> Image.Image:
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _inline(image: Image.Image, alt: str) -> Picture:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return inline_picture(buffer.getvalue(), "jpeg", alt)
