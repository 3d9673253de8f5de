"""The report of an evaluation as somebody reads it: every number under its name, on a phone too."""

import pytest
from PIL import Image
from support.html_page import Page, check_page

from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.evaluation import report as evaluation_report
from safevlm_hf.evaluation.counting import NOT_FLAGGED
from safevlm_hf.evaluation.judges.base import Judgement
from safevlm_hf.evaluation.pipeline import Evaluated
from safevlm_hf.evaluation.protocol.protocol import Protocol
from safevlm_hf.evaluation.protocol.result import Counts, EvaluationResult
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.evaluation.report import num_headlines, render_evaluation_report, summary_rows
from safevlm_hf.intervals.figure import Figure
from safevlm_hf.items import Answer, Item


FIGURES = [
    Figure("risk_auroc", 0.875, 0.5, 1.0, 2),
    Figure("over_refusal_rate", 0.25, None, None, 1, judge="rules"),
    Figure("score/posters", 111.0, None, None, 2),
    Figure("over_refusal_rate", 0.125, None, None, 1, part="type=x", judge="rules"),
]


@pytest.fixture
def page(tmp_path):
    pictures = [str(tmp_path / "risky.png"), str(tmp_path / "harmless.png")]
    for path in pictures:
        Image.new("RGB", (20, 20), "navy").save(path)
    items = [
        Item(path.split("/")[-1], [path], user_turn("What?"), labels={"is_risky": path.endswith("risky.png")})
        for path in pictures
    ]
    answers = [Answer(item.id, "A card.", "answer", "safe", "safe", risk=0.1) for item in items]
    judges = {"rules": "f", "keywords": "f"}
    protocol = Protocol("mme", "all", 2, "a" * 64, "b" * 64, {}, 9, judges)
    judgements = {name: [Judgement(item.id, name, label="answer") for item in items] for name in judges}
    evaluated = [
        Evaluated(EvaluationResult(protocol, System(name, "m"), figures, Counts(2, 5, 1)), items, answers, judgements)
        for name, figures in (("base", FIGURES[1:]), ("safe", FIGURES))
    ]
    html = render_evaluation_report([evaluated])
    check_page(html)
    return Page(html)


def test_the_lead_counts_the_items(page):
    assert ": 2 items, 5 left out (" in page.said and "1 without an answer" in page.said


def test_every_figure_names_its_judge_and_every_cell_its_system(page):
    texts = [text.strip() for text in page.texts if text.strip()]
    rows = texts[texts.index("Figures over all items") : texts.index("Do the judges agree?")]
    assert rows[1:5] == ["figure", "base", "safe", "over refusal rate"] and rows[5] == "judge: rules"
    parts = rows.index("By parts and tasks (2 figures)")
    assert rows.index("risk AUROC") < parts and rows.index("score/posters") > parts
    # On a narrow screen the head is not seen, and a cell shows the name of its column.
    assert {attributes.get("data-head") for attributes, _ in page.of("td")} == {
        "base",
        "safe",
        "difference",
        "answers",
        "agreement",
        "kappa",
        "they differ on",
    }
    assert "none" in rows and "target" not in rows


def test_every_figure_has_an_interval_or_the_reason_why_not(page):
    said = [text.strip() for text in page.texts]
    assert "(0.500 to 1.000; n 2)" in said and "(no interval: no draw changes it; n 1)" in said
    agreed = said[said.index("Do the judges agree?") :]
    assert agreed[agreed.index("1.00") + 1] == "(0.34 to 1.00)"  # 2 of 2


def test_only_drawn_cards_are_said_to_be_drawn(page):
    assert "drawn cards" not in page.said
    protocol = Protocol("riskcards", "test", 1, "a" * 64, "b" * 64, {}, 9, {})
    result = EvaluationResult(protocol, System("base", "m"), [], Counts(1))
    one = Evaluated(result, [Item("a", (), user_turn("What?"))], [Answer("a", "A card.")], {})
    assert "drawn cards" in Page(render_evaluation_report([[one]])).said


@pytest.mark.parametrize(
    "labels", [{"is_image_risky": True}, {"image_grade": "borderline"}, {"image_grade": "unsafe"}, {"severity": 2}]
)
def test_a_picture_that_its_benchmark_calls_risky_is_blurred_beside_a_harmless_question(labels):
    item = Item("a", (), (), labels={"is_risky": False, **labels})
    assert not evaluation_report._is_harmless(item)
    assert evaluation_report._is_harmless(Item("a", (), (), labels={"is_risky": False, "image_grade": "safe"}))


def test_a_risky_picture_opens_by_keyboard_and_a_harmless_one_is_open(page):
    blurred = {attributes["alt"]: "blurred" in around for attributes, around in page.of("img")}
    assert blurred == {"picture of item risky.png": True, "picture of item harmless.png": False}
    (box,) = (attributes for attributes, _ in page.of("input"))
    assert box["type"] == "checkbox" and box["aria-label"] == "show: picture of item risky.png"


def test_the_curve_has_a_caption(page):
    assert page.of("figcaption") and "at every threshold" in page.said


def test_a_copy_that_is_cut_off_is_named_and_the_headline_stands_over_the_parts():
    figures = [
        Figure("judge_score", 5.0, None, None, 2, judge="rules"),
        Figure("judge_score", 4.0, None, None, 2, part="column=face", judge="rules"),
        Figure("judge_score", 6.0, None, None, 2, part="mean over column", judge="rules"),
    ]
    protocol = Protocol("rtvlm", "all", 2, "a" * 64, "b" * 64, {}, 9, {"rules": "f"})
    result = EvaluationResult(protocol, System("base", "m"), figures, Counts(2, published=442))
    items = [Item(name, (), user_turn("What?")) for name in "ab"]
    evaluated = [Evaluated(result, items, [Answer(item.id, "A card.") for item in items], {})]
    page = Page(render_evaluation_report([evaluated]))
    assert ": 2 items of 442 published (not the whole benchmark), 0 left out (" in page.said
    texts = [text.strip() for text in page.texts]
    parts = texts.index("By parts and tasks (1 figures)")
    assert texts.index("judge score, mean over column") < parts < texts.index("judge score, column=face")
    titles = [row[:2] for row in summary_rows(evaluated)[1:]]
    assert titles == [["judge score", "rules"], ["judge score, mean over column", "rules"]]


def test_figures_beyond_the_first_are_folded():
    """All benchmarks together show no more than a screen holds."""
    figures = [Figure(f"figure_{number:02}", 0.5, None, None, 2) for number in range(30)]
    protocol = Protocol("mme", "all", 1, "a" * 64, "b" * 64, {}, 9, {})
    result = EvaluationResult(protocol, System("base", "m"), figures, Counts(1))
    one = Evaluated(result, [Item("a", (), user_turn("What?"))], [Answer("a", "A card.")], {})
    texts = [text.strip() for text in Page(render_evaluation_report([[one]])).texts]
    folded = texts.index("The other figures over all items (5)")
    assert texts.index("figure 24") < folded < texts.index("figure 25")
    assert [num_headlines(number) for number in (1, 2, 25, 40)] == [25, 12, 1, 1]


def test_the_first_judge_of_a_figure_and_what_was_flagged_come_before_the_rest():
    judged = [Figure("attack_success_rate", 0.5, None, None, 2, judge=name) for name in ("rules", "keywords")]
    ability = [Figure("accuracy", 0.5, None, None, 2, part=part) for part in (None, NOT_FLAGGED)]
    figures = [*judged, *ability, Figure("flagged_rate", 0.5, None, None, 2)]
    protocol = Protocol("mme", "all", 1, "a" * 64, "b" * 64, {}, 9, {"rules": "f", "keywords": "f"})
    result = EvaluationResult(protocol, System("base", "m"), figures, Counts(1))
    evaluated = [Evaluated(result, [Item("a", (), user_turn("What?"))], [Answer("a", "A card.")], {})]
    titles = [row[:2] for row in summary_rows(evaluated, 3)[1:]]
    assert titles == [["attack success rate", "rules"], ["accuracy", ""], ["flagged rate", ""]]
    assert len(summary_rows(evaluated)) == 6
