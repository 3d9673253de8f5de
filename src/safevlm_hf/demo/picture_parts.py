"""The report's pictures with verdicts and answers: question pairs, mistakes, and a gallery of each category."""

from collections.abc import Iterable
from itertools import groupby

from ..evaluation.answering_records import answer_class
from ..intervals.rates import wilson_interval
from ..items import Answer, Item, is_right_verdict
from ..reports.cards import Card, Chip, Said, picture_at
from ..reports.pages import Picture, Section
from ..reports.tables import range_text
from .figures import find_pairs
from .results import DemoResults


LEVEL_COLOURS = ("#1f7a4a", "#8a6b00", "#b3560b", "#c2394b")
MAX_MISTAKES, MAX_PAIRS, PICTURES_A_CATEGORY = 24, 6, 4


# --------------------------------------------------------------------------------------------------
# Sections
# --------------------------------------------------------------------------------------------------


def pairs_section(results: DemoResults) -> Section | None:
    """Show two questions about one picture; `None` without pairs."""
    position = {item.id: index for index, item in enumerate(results.items)}
    pairs = find_pairs(results.rows)
    if not pairs:
        return None
    cards = [
        Card(picture_of(pair[0][0]), [_said(results, position[item.id]) for item, _ in pair])
        for pair in _varied(pairs, lambda pair: pair[0][0].labels.get("topic"), MAX_PAIRS)
    ]
    data = {"cards": cards, "num_pairs": len(pairs)}
    return Section("One picture, two questions", "demo/pairs.html", data, is_folded=True)


def mistakes_section(results: DemoResults) -> Section:
    """Show every wrong verdict and answer, the gravest first."""
    wrong = [(index, item, _faults(item, answer)) for index, (item, answer) in enumerate(results.rows)]
    wrong = sorted((entry for entry in wrong if entry[2]), key=lambda entry: entry[2][0][0])
    cards = [
        Card(picture_of(item), [_said(results, index, item.expected)], "; ".join(text for _, text in faults))
        for index, item, faults in wrong[:MAX_MISTAKES]
    ]
    num_samples = len(results.items)
    data = {
        "cards": cards,
        "num_wrong": len(wrong),
        "num_samples": num_samples,
        "interval": range_text(wilson_interval(len(wrong), num_samples)) if num_samples else "",
    }
    return Section("Mistakes", "demo/mistakes.html", data, is_folded=True)


def gallery_section(results: DemoResults) -> Section | None:
    """Show some samples of each category, right or wrong; `None` without any."""
    groups = []
    for name in results.categories:
        members = [(i, item) for i, item in enumerate(results.items) if item.labels.get("category") == name]
        chosen = _varied(members, lambda member: member[1].labels.get("topic"), PICTURES_A_CATEGORY)
        if chosen:
            cards = [Card(picture_of(item), [_said(results, i)]) for i, item in chosen]
            groups.append({"name": name, "num_samples": len(members), "cards": cards})
    return Section("Gallery", "demo/gallery.html", {"groups": groups}, is_folded=True) if groups else None


def _faults(item: Item, answer: Answer) -> list[tuple[int, str]]:
    """Return what is wrong after training, as (gravity, text), the gravest (lowest) first."""
    faults, is_risky, given = [], item.labels.get("is_risky"), answer_class(answer)
    if is_risky and given == "answer":
        faults.append((0, "risky, but answered"))
    if is_risky is False and given != "answer":
        faults.append((1, "clean, but refused" if given == "refusal" else "clean, but answered with a warning"))
    elif is_risky is False and answer.text != (item.expected or "").strip():
        faults.append((3, "clean, but the answer differs"))
    if is_right_verdict(item, answer) is False:
        faults.append((2, "wrong verdict"))
    return sorted(faults)


def _varied(items: Iterable, key, limit: int) -> list:
    """Return the first `limit` items, those with a new key before those whose key was there already."""
    new, known, keys = [], [], set()
    for item in items:
        (known if key(item) in keys else new).append(item)
        keys.add(key(item))
    return (new + known)[:limit]


# --------------------------------------------------------------------------------------------------
# What a card says and shows
# --------------------------------------------------------------------------------------------------


def _said(results: DemoResults, index: int, expected: str | None = None) -> Said:
    """Return question, verdict and the answers; equal ones that follow each other are shown once."""
    (item, answer), texts = results.rows[index], results.texts(index)
    if expected is not None:
        texts["expected"] = expected
    groups = groupby(texts.items(), key=lambda named: named[1])
    answers = [(", ".join(name for name, _ in group), text) for text, group in groups]
    if answer.level is None:
        return Said(item.question, answers, None)
    scale = results.levels.index(answer.level) / max(1, len(results.levels) - 1)
    colour = LEVEL_COLOURS[round(scale * (len(LEVEL_COLOURS) - 1))]
    text = f"{_verdict_name(answer.level, answer.category)} · risk {answer.risk:.2f}"
    is_wrong = is_right_verdict(item, answer) is False
    right = _verdict_name(item.labels["level"], item.labels["category"]) if is_wrong else ""
    return Said(item.question, answers, Chip(text, colour, right))


def _verdict_name(level: str, category: str) -> str:
    return ", ".join(dict.fromkeys((category, level)))


def picture_of(item: Item) -> Picture | None:
    """Return the item's first picture, small; `None` if it has none."""
    if not item.images:
        return None
    topic, layout = item.labels.get("topic"), item.labels.get("layout", "card")
    if not topic:
        return picture_at(item.images[0], "picture of the question", "its picture")
    return picture_at(item.images[0], f"drawn {layout}, topic: {topic}", f"{layout}: {topic}")
