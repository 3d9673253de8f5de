"""The report's pictures with verdicts and answers: question pairs, mistakes, and a gallery of each category."""

from collections.abc import Iterable, Mapping
from itertools import groupby

from ..evaluation.answering import Prediction
from ..intervals.rates import wilson_interval
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
    """Two questions about one picture; `None` without pairs."""
    position = {id(one): index for index, one in enumerate(results.safe_predictions)}
    pairs = find_pairs(results.safe_predictions)
    if not pairs:
        return None
    cards = [
        Card(picture_of(pair[0]), [_said(results, position[id(one)]) for one in pair])
        for pair in _varied(pairs, lambda pair: pair[0].extra.get("topic"), MAX_PAIRS)
    ]
    data = {"cards": cards, "num_pairs": len(pairs)}
    return Section("One picture, two questions", "report/pairs.html", data, is_folded=True)


def mistakes_section(results: DemoResults) -> Section:
    """Every wrong verdict and answer, the gravest first."""
    wrong = [(i, one, _faults(one)) for i, one in enumerate(results.safe_predictions)]
    wrong = sorted((entry for entry in wrong if entry[2]), key=lambda entry: entry[2][0][0])
    cards = [
        Card(picture_of(one), [_said(results, index, one.expected)], "; ".join(text for _, text in faults))
        for index, one, faults in wrong[:MAX_MISTAKES]
    ]
    num_samples = len(results.safe_predictions)
    data = {
        "cards": cards,
        "num_wrong": len(wrong),
        "num_samples": num_samples,
        "interval": range_text(wilson_interval(len(wrong), num_samples)) if num_samples else "",
    }
    return Section("Mistakes", "report/mistakes.html", data, is_folded=True)


def gallery_section(results: DemoResults) -> Section | None:
    """Some samples of each category, right or wrong; `None` without any."""
    groups = []
    for category, name in enumerate(results.categories):
        members = [(i, one) for i, one in enumerate(results.safe_predictions) if one.category == category]
        chosen = _varied(members, lambda member: member[1].extra.get("topic"), PICTURES_A_CATEGORY)
        if chosen:
            cards = [Card(picture_of(one), [_said(results, i)]) for i, one in chosen]
            groups.append({"name": name, "num_samples": len(members), "cards": cards})
    return Section("Gallery", "report/gallery.html", {"groups": groups}, is_folded=True) if groups else None


def _faults(one: Prediction) -> list[tuple[int, str]]:
    """What is wrong after training, as (gravity, text), the gravest (lowest) first."""
    faults = []
    if one.level > 0 and one.answer_class == "answer":
        faults.append((0, "risky, but answered"))
    if one.level == 0 and one.answer_class != "answer":
        faults.append((1, "clean, but refused or answered with a warning"))
    elif one.level == 0 and one.answer.strip() != one.expected.strip():
        faults.append((3, "clean, but the answer differs"))
    if one.has_right_verdict is False:
        faults.append((2, "wrong verdict"))
    return sorted(faults)


def _varied(items: Iterable, key, limit: int) -> list:
    """The first `limit` items, those with a new key before those whose key was there already."""
    new, known, keys = [], [], set()
    for item in items:
        (known if key(item) in keys else new).append(item)
        keys.add(key(item))
    return (new + known)[:limit]


# --------------------------------------------------------------------------------------------------
# What a card says and shows
# --------------------------------------------------------------------------------------------------


def _said(results: DemoResults, index: int, expected: str | None = None) -> Said:
    """Question, verdict and the answers; equal ones that follow each other are shown once."""
    one, answers = results.safe_predictions[index], results.answers(index)
    if expected is not None:
        answers["expected"] = expected
    return Said(one.question, _joined(answers), _chip(results, one))


def _joined(answers: Mapping[str, str]) -> list[tuple[str, str]]:
    groups = groupby(answers.items(), key=lambda item: item[1])
    return [(", ".join(name for name, _ in group), answer) for answer, group in groups]


def _chip(results: DemoResults, one: Prediction) -> Chip | None:
    if one.verdict is None:
        return None
    scale = one.verdict_level / max(1, len(results.levels) - 1)
    colour = LEVEL_COLOURS[round(scale * (len(LEVEL_COLOURS) - 1))]
    text = f"{_verdict_name(results, one.verdict_level, one.verdict_category)} · risk {one.verdict.risk:.2f}"
    is_wrong = one.has_right_verdict is False
    return Chip(text, colour, _verdict_name(results, one.level, one.category) if is_wrong else "")


def _verdict_name(results: DemoResults, level: int, category: int) -> str:
    return ", ".join(dict.fromkeys((results.categories[category], results.levels[level])))


def picture_of(one: Prediction) -> Picture | None:
    """The prediction's picture, small; `None` if it has none."""
    if one.image is None:
        return None
    topic, layout = one.extra.get("topic"), one.extra.get("layout", "card")
    if not topic:
        return picture_at(one.image, "picture of the question", "its picture")
    return picture_at(one.image, f"drawn {layout}, topic: {topic}", f"{layout}: {topic}")
