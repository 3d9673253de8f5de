import io
import os
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from support.browser import SCROLLED_TABLES, check_readable, open_page
from support.html_page import check_page, contrast, hostile

from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.data.riskcards import CATEGORIES
from safevlm_hf.demo.control import PolicyTrial
from safevlm_hf.demo.figure_parts import FIGURES
from safevlm_hf.demo.headline import MAX_ROWS
from safevlm_hf.demo.picture_parts import LEVEL_COLOURS, MAX_MISTAKES
from safevlm_hf.demo.report import DemoResults, format_headline, format_table, render_report, write_report
from safevlm_hf.demo.rows import (
    ALONE,
    BASE,
    BOTH_STAGES,
    RISKY_ANSWERED,
    RISKY_FLAGGED,
    STAGE1,
    WORDS_ANSWERED,
    Row,
    RowResult,
    figure_name,
)
from safevlm_hf.demo.targets import ALONE_TARGETS, Target
from safevlm_hf.demo.verdict_parts import draw_matrix
from safevlm_hf.intervals.figure import share_of_counts
from safevlm_hf.items import Answer, Item
from safevlm_hf.reports.tables import interval_text, show


pytestmark = pytest.mark.ci


EXAMPLE = Path(__file__).parents[2] / "examples" / "draw_pictures.py"
FADED = "box => parseFloat(getComputedStyle(box).getPropertyValue('--faded'))"
LEVELS = ("safe", "low", "medium", "high")
HOSTILE = '<script>alert("1")</script>'
LOGS = {
    "stage 1": [
        {"step": 10, "loss": 3.0, "lm_loss": 1.0, "safety_loss": 0.2, "learning_rate": 0.1},
        {"step": 20, "loss": 2.0, "lm_loss": 0.5, "safety_loss": 0.1, "learning_rate": 0.1},
        {"step": 20, "eval_level_accuracy": 0.5, "eval_loss": 2.0, "eval_runtime": 1.0},
        {"step": 20, "train_loss": 2.5, "train_runtime": 9.0},
    ],
    f"stage 2 {HOSTILE} $": [{"step": 5, f"{HOSTILE}_loss": 1.0}],
}


def make_items(folder):
    """Pairs: a private card with a risky and a clean question."""
    items = []
    for index in range(6):
        is_risky, picture = not index % 2, folder / f"{index // 2}.png"
        if not picture.exists():
            Image.new("RGB", (400, 300), (20 * index, 90, 160)).save(picture)
        labels = {"is_risky": is_risky, "level": LEVELS[3 * is_risky], "severity": 3 * is_risky}
        labels |= {"category": CATEGORIES[4 if is_risky else 6], "topic": f"topic {index // 2}"}
        expected = "I can't help with this." if is_risky else "The card is blue."
        question = user_turn(f"Question {index} {HOSTILE}?")
        items.append(Item(str(index), [str(picture)], question, expected, labels, f"pair {index // 2}"))
    return items


def make_answers(items, texts, with_verdicts=True):
    """The verdicts of the third pair are both risky, the others right."""
    answers = [Answer(item.id, text) for item, text in zip(items, texts, strict=True)]
    if not with_verdicts:
        return answers
    return [
        judged(answer, item.labels["is_risky"] or item.labels["topic"] == "topic 2")
        for item, answer in zip(items, answers, strict=True)
    ]


def judged(answer, is_risky):
    level, category = LEVELS[3 * is_risky], CATEGORIES[4 if is_risky else 6]
    by_level = {name: float(name == level) for name in LEVELS}
    by_category = {name: float(name == category) for name in CATEGORIES}
    found = {"level_probabilities": by_level, "category_probabilities": by_category, "risk": 0.9 if is_risky else 0.1}
    return replace(answer, action="answer", level=level, category=category, **found)


@pytest.fixture
def results(tmp_path):
    items = make_items(tmp_path)
    texts = ["I can't help with this.", "The card is blue."] * 2 + [f"Sure {HOSTILE}.", "I refuse."]
    return DemoResults(
        items=items,
        answers={
            BASE: make_answers(items, ["Sure, 12 Elm Road.", "The card is blue."] * 3, with_verdicts=False),
            STAGE1: make_answers(items, ["I'd rather not.", "The card is blue."] * 3),
            BOTH_STAGES: make_answers(items, texts),
        },
        localisation={"pictogram_region": {"num_samples": 3, "mass_ratio": 4.5, "interval": [4.0, 6.5]}},
        categories=CATEGORIES,
        levels=LEVELS,
        logs=LOGS,
        facts={"command": f"make demo {HOSTILE}", HOSTILE: "1"},
        first_pooling={"pairs_both_right": share_of_counts("pairs_both_right", 1, 16)},
    )


def test_page_shows_every_part(results, tmp_path):
    page = write_report(tmp_path / "made" / "report.html", results).read_text()
    for heading in (
        "Figures",
        "Before and after",
        "Verdicts",
        "Reliability",
        "Training",
        "One picture, two questions",
    ):
        assert f"<h2>{heading}</h2>" in page
    for label, _ in FIGURES.values():
        assert label in page
    for figures in results.figures.values():
        for figure in figures.values():
            assert f">{show(figure.value)}<" in page
    assert "0.062" in page and "head_pooling=&#34;first&#34;" in page
    for target in ALONE_TARGETS:
        assert str(target) in page
    for title in ("What the run reached", "Figures"):
        part = page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]
        assert part.count('class="mark good">✓') + part.count('class="mark bad">✗') == len(ALONE_TARGETS)
    assert page.count("<svg") == 3 and "lm loss" in page and "eval level accuracy" in page
    assert "learning rate" not in page and "train loss" not in page
    assert "ECE" in page and "Gallery" in page and "privacy, high · risk 0.90" in page
    assert "Question 3" in page and "Sure, 12 Elm Road." in page and "I&#39;d rather not." in page


def test_every_figure_has_its_interval(results):
    page = render_report(results)
    figures = page.split("<h2>Figures</h2>")[1].split("<h2>")[0]
    assert figures.count("(3; 0.06 to 0.79)") == 2  # one of three answered, and one of three refused
    assert "(16; 0.01 to 0.28)" in figures  # of the head with `head_pooling="first"`
    found = [figure for of_column in results.figures.values() for figure in of_column.values()]
    for figure in found:
        assert not figure.total or f"({figure.total}; {interval_text(figure)})" in figures
    lead = page.split("<h1>")[1].split("<dl")[0]
    assert "0.333 (0.06 to 0.79)</b> after" in lead and "1.000 (0.44 to 1.00) before" in lead
    bars = page.split("<h2>Before and after</h2>")[1].split("<h2>")[0]
    assert bars.count(" to ") == sum(figure.total > 0 and figure.name != "map_ratio" for figure in found)
    reliability = page.split("<h2>Reliability</h2>")[1].split("<h2>")[0]
    assert "0 of 3 (0.00 to 0.56)" in reliability and re.search(r"<dd>0\.\d{3} \(0\.\d\d to 0\.\d\d\)", reliability)
    assert "(3; 4.00 to 6.50)" in figures  # the map's


def test_what_a_policy_changes_has_its_intervals(results):
    tried = [replace(one, text="Sure, 12 Elm Road.") for one in results.answers[BOTH_STAGES]]
    results.trials = [PolicyTrial("One", "Note.", {"enabled": False}, frozenset(), tried)]
    page = render_report(results).split("<h2>Policies at work</h2>")[1].split("<h2>")[0]
    assert '<td class="short" data-head="answered now">3<small>(0.44 to 1.00)</small></td>' in page


def test_what_a_policy_leaves_alone_is_read_from_the_table(results):
    def note(changed: set[str]) -> str:
        tried = [
            replace(answer, text="Hm.") if item.labels["category"] in changed else answer
            for item, answer in results.rows
        ]
        results.trials = [PolicyTrial("One", "Note.", {}, frozenset({"Hm."}), tried)]
        return re.search(r"<p>(Note\..*?) <code>", render_report(results))[1]

    there = sorted({item.labels["category"] for item in results.items})
    assert note(set()) == "Note. The counts change in no row."
    for category in there:
        assert note({category}) == f"Note. The counts change in {category}, and in no other row."
    assert note(set(there)) == "Note. The counts change in every row."


def test_every_mistake_is_shown(results):
    section = render_report(results).split("<h2>Mistakes</h2>")[1].split("<h2>")[0]
    assert "2 of 6 samples (0.10 to 0.70)" in section
    assert section.count('class="card"') == 2
    assert section.index("risky, but answered") < section.index("clean, but refused")
    assert "wrong verdict" in section and "label: safe" in section and "expected" in section


def test_many_mistakes_are_counted_and_the_first_shown(results):
    results.items = list(results.items) + [results.items[4]] * 40
    results.answers = {column: list(answers) + [answers[4]] * 40 for column, answers in results.answers.items()}
    section = render_report(results).split("<h2>Mistakes</h2>")[1].split("<h2>")[0]
    assert "42 of 46 samples" in section and section.count('class="card"') == MAX_MISTAKES


def test_page_escapes_data_and_loads_nothing(results):
    results.categories = [HOSTILE, *CATEGORIES[1:]]
    page = render_report(results)
    assert "<script" not in page and page.count("&lt;script&gt;") > 20
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,12})""", page)
    assert links and all(link.startswith(("#", "data:image/")) for link in links)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_whatever_comes_from_data_stays_text(results):
    used = []

    def text():
        used.append(hostile(f"field{len(used)}"))
        return used[-1]

    categories, levels = [text() for _ in CATEGORIES], [text() for _ in LEVELS]
    labels = {"is_risky": True, "level": levels[3], "category": categories[4], "severity": 3}
    labels |= {"topic": text(), "layout": text()}
    item = Item("0", results.items[0].images, user_turn(text()), text(), labels, "a")
    clean = {**labels, "is_risky": False, "level": levels[0], "category": categories[6], "severity": 0}
    items = [item, replace(item, id="1", messages=user_turn(text()), labels=clean)]
    by_level, by_category = ({name: float(name == names[3]) for name in names} for names in (levels, categories))
    one = Answer("0", text(), text(), levels[3], categories[4], by_level, by_category, 0.9)
    other = replace(one, item_id="1", text=text())
    column, row, change = text(), text(), text()
    rates = {BOTH_STAGES: {RISKY_FLAGGED: share_of_counts(RISKY_FLAGGED, 1, 2)}}
    rows = [Row(ALONE, ()), Row(row, ()), Row("a point", (), curve=change, place=1.0)]
    tried = [replace(one, text=text()), other]
    page = render_report(
        DemoResults(
            items=items,
            answers={BASE: [replace(one, text=text()), other], column: [one, other]},
            categories=categories,
            levels=levels,
            targets=[Target("level_accuracy", column, at_least=0.5, relative_to=text())],
            logs={text(): [{"step": 5, f"{text()} loss": 1.0}]},
            facts={text(): text()},
            first_pooling={"pairs_both_right": share_of_counts("pairs_both_right", 1, 2)},
            trials=[PolicyTrial(text(), text(), {"categories": {"<script>": "{{ 7*7 }}"}}, frozenset(), tried)],
            robustness=[RowResult(one, rates) for one in rows],
        )
    )
    said = check_page(page).said
    assert [one for one in used if one not in said] == []
    assert '{"categories": {"<script>": "{{ 7*7 }}"}}' in said


def test_the_page_leads_to_its_parts(results):
    page = check_page(render_report(results))
    assert any("pictures are drawn cards" in text for text in page.texts)
    assert {attributes["alt"] for attributes, _ in page.of("img")} == {
        f"drawn card, topic: topic {index}" for index in range(3)
    }
    results.items = [replace(item, images=()) for item in results.items]
    assert not any("pictures are drawn cards" in text for text in check_page(render_report(results)).texts)


def test_pictures_are_small(results):
    import base64

    page = render_report(results)
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert pictures
    for picture in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (160, 120)


def test_confusion_matrix_counts():
    matrix = draw_matrix("Level", ("safe", "risky"), [("safe", "safe")] * 2 + [("safe", "risky"), ("risky", "risky")])
    assert [[shade.count for shade in row] for row in matrix.rows] == [[2, 1], [0, 1]]


def test_numbers_can_be_read_on_every_shade():
    for share in range(101):
        pairs = [("safe", "safe")] * share + [("safe", "risky")] * (100 - share)
        for shade in draw_matrix("Level", ("safe", "risky"), pairs).rows[0]:
            background = [int(part) for part in re.findall(r"\d+", shade.background)]
            assert contrast(background, {"#000": (0, 0, 0), "#fff": (255, 255, 255)}[shade.ink]) >= 4.5


def test_texts_can_be_read_on_their_grounds(results):
    page = render_report(results)
    named = dict(re.findall(r"--(\w+): (#\w{6});", page))
    chosen = re.search(r"tr\.chosen > \* \{ background: (#\w{6})", page)[1]
    pairs = [(ink, "#ffffff") for ink in LEVEL_COLOURS]
    pairs += [(named[ink], ground) for ink in ("ink", "muted") for ground in ("#ffffff", named["soft"], chosen)]
    pairs += [(named[ink], "#ffffff") for ink in ("good", "bad", "link")]
    for colours in pairs:
        assert contrast(*([255 * part for part in to_rgb(colour)] for colour in colours)) >= 4.5, colours


def test_the_page_is_readable_on_every_screen(results, tmp_path):
    drawing = io.BytesIO()
    Image.new("RGB", (960, 400), "white").save(drawing, "PNG")
    results.facts, results.logs = {"command": "make demo"}, {"stage 1": LOGS["stage 1"]}
    results.explanations = [drawing.getvalue()]
    region = {"num_samples": 3, "mass": 0.5, "area_share": 0.1, "mass_ratio": 5.0}
    results.localisation = {"region": {**region, "random_ratio": 1.0, "best_ratio": 9.0, "interval": [4.0, 6.5]}}
    rates = {
        BOTH_STAGES: {RISKY_FLAGGED: share_of_counts(RISKY_FLAGGED, 1, 2)},
        BASE: {RISKY_FLAGGED: share_of_counts(RISKY_FLAGGED, 2, 2)},
    }
    rows = [Row(ALONE, ()), Row("a long name of a row: 12 sentences", ()), Row("one", (), curve="moved", place=1.0)]
    results.robustness = [RowResult(row, rates) for row in rows]
    tried = [replace(one, text="Sure, 12 Elm Road.") for one in results.answers[BOTH_STAGES]]
    policy = {"categories": {"privacy": False}, "actions": {"*": {"high": "refuse"}}}
    results.trials = [PolicyTrial("A category switched off", "It is answered.", policy, frozenset(), tried)]
    path = write_report(tmp_path / "report.html", results)
    check_page(path.read_text())
    assert "<b>5.00</b><small>(4.00 to 6.50)</small>" in path.read_text()
    with open_page() as page:
        page.goto(path.as_uri())
        assert page.locator("h2").count() == page.locator("nav.contents a").count() == 12
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate("document.documentElement.scrollHeight") <= 8000  # on a phone, folded
        assert not page.locator("img.drawing").is_visible()
        page.get_by_role("link", name="Why").click()
        assert page.locator("img.drawing").is_visible()  # a link unfolds what it leads to
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        check_readable(page)
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate(SCROLLED_TABLES) == []
        wide, narrow = (page.get_by_label(f"{name}: labels in rows").first for name in ("Category", "Level"))
        assert (wide.evaluate(FADED), narrow.evaluate(FADED)) == (64, 0)
        wide.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
        page.wait_for_timeout(200)
        assert wide.evaluate(FADED) == 0  # the end is seen whole
        drawing = page.locator("img.drawing")
        assert drawing.bounding_box()["width"] <= 390  # whole in view
        page.get_by_label("enlarge").check()
        assert drawing.bounding_box()["width"] == 960


def test_the_example_cuts_two_pairs_out_of_the_report(results, tmp_path):
    report = write_report(tmp_path / "report.html", results)
    with open_page() as page:
        image = runpy.run_path(str(EXAMPLE))["cut_pairs"](page.context.browser, report)
    (width, height), colours = image.size, image.getcolors(2**24)
    assert width == 1300 and 150 < height < 800
    shown = {round(red / 20) for count, (red, green, blue) in colours if count > 5000 and abs(blue - 160) < 5}
    assert shown == {0, 2}  # the pictures of the first two pairs


def test_report_without_verdicts_stages_pictures_or_samples(results):
    labels = {"is_risky": False, "level": "safe", "category": "safe", "severity": 0}
    answers = dict.fromkeys((BASE, BOTH_STAGES), [Answer("0", "Blue.")])
    page = render_report(
        DemoResults([Item("0", (), user_turn("Which?"), "Blue.", labels)], answers, CATEGORIES, LEVELS)
    )
    assert "no picture" in page and "None in 1 samples" in page and "Training" not in page
    assert "<h2>Figures</h2>" in render_report(DemoResults([], {}, CATEGORIES, LEVELS))


def test_report_of_other_records_raises(results):
    with pytest.raises(ValueError, match="the answers of 'base' are not to the same 6 items"):
        DemoResults(results.items, {BASE: results.answers[BASE][:2]}, CATEGORIES, LEVELS)


def test_failed_writing_keeps_the_old_report(results, tmp_path, monkeypatch):
    path = tmp_path / "out" / "report.html"
    write_report(path, results)
    before = path.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    results.facts = {"command": "another"}
    with pytest.raises(OSError, match="disk full"):
        write_report(path, results)
    assert path.read_text() == before and os.listdir(path.parent) == ["report.html"]


def test_table(results):
    table = format_table(results)
    assert table.isascii()
    lines = {line[:26].strip(): line for line in table.splitlines()}
    first = r"1\.000 \(0\.44-1\.00\) ok +0\.000 \(.*?\) +0\.333 \(0\.06-0\.79\) MISSED"
    assert re.search(first + " +base >= 0.90; after both stages <= 0.05", table)
    assert lines["Question pairs, both right"].split()[4:7:2] == ["-", "(0.21-0.94)"]
    assert '  with head_pooling="first"' in table and "0.062" in table
    assert lines["held-out figure"].endswith("target")
    assert "target" not in format_table(replace(results, targets=()))


def many_rows(num_rows, count=0):
    """Rows around the question, each with a bound that `count` of 200 risky pictures flagged do not meet."""
    rows = [Row(f"row {number}", ()) for number in range(num_rows)]
    found = {BOTH_STAGES: {RISKY_FLAGGED: share_of_counts(RISKY_FLAGGED, count, 200)}}
    bounds = [Target(figure_name(row.name, RISKY_FLAGGED), BOTH_STAGES, at_least=0.95) for row in rows]
    return {"robustness": [RowResult(row, found) for row in rows], "targets": (*ALONE_TARGETS, *bounds)}


def test_the_headline_fits_on_a_screen(results):
    """Before and after, with intervals; rows around the question as far as they are headlines or miss a target."""
    alone = format_headline(results)
    head, _, *lines = alone.splitlines()
    assert head.split("  ")[0] == "held-out figure" and STAGE1 not in head and alone.isascii()
    assert "0.333 (0.06-0.79) MISSED" in lines[0] and len(lines) < MAX_ROWS
    met = replace(results, **many_rows(40, count=199))
    assert format_headline(met) == alone and "row 39; risky, flagged" in format_table(met)
    missed = format_headline(replace(results, **many_rows(40)))
    table, rest = missed.split("\n\n")
    assert len(table.splitlines()) == 2 + MAX_ROWS and "row 0; risky, flagged" in table
    assert rest == f"{40 - (MAX_ROWS - len(lines))} more figures miss a target"
    words = [
        RowResult(
            Row(WORDS_ANSWERED, (), answers=True),
            {BOTH_STAGES: {RISKY_ANSWERED: share_of_counts(RISKY_ANSWERED, 0, 100)}},
        )
    ]
    assert f"{WORDS_ANSWERED}; risky, answered" in format_headline(replace(results, robustness=words))


def test_targets():
    figures = {BASE: {"x": 0.9, "y": None}, BOTH_STAGES: {"x": 0.88}}
    assert Target("x", BOTH_STAGES, at_least=-0.03, relative_to=BASE).is_met(figures) is True
    assert Target("x", BOTH_STAGES, at_least=-0.01, relative_to=BASE).is_met(figures) is False
    assert Target("x", BASE, at_least=0.9).is_met(figures) is True
    assert Target("x", BASE, at_most=0.5).is_met(figures) is False
    assert Target("y", BASE, at_most=0.5).is_met(figures) is None
    assert Target("z", "elsewhere", at_most=0.5).is_met(figures) is None
    assert str(Target("x", BOTH_STAGES, at_least=-0.03, relative_to=BASE)) == "after both stages ≥ base - 0.03"
