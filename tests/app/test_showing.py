"""What the page says of a verdict is what the model has found, and hostile text stays text."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.html_page import Page, contrast, hostile

from safevlm_hf.app import showing
from safevlm_hf.app.conversation import Turn, ask, encode
from safevlm_hf.app.showing import draw_map, make_panels, render


QUESTION = "Tell me, what does this naïve card say in the end?"


@pytest.fixture
def explained(loaded):
    """Explanation, inputs and pictures of a conversation with two pictures."""
    model, processor = loaded
    first = Turn("What is it?", "a.png", {"safe": "A card.", "free": "A card."})
    images = [Image.effect_noise((90, 60), 90), Image.new("RGB", (40, 70), "white")]
    inputs = encode(model, processor, [first, ask([first], QUESTION, "b.png")], images, "safe", num_new_tokens=12)
    return model.explain(**inputs), inputs, processor, images


def test_bars_are_the_verdict(explained):
    panels = make_panels(*explained)
    verdicts = explained[2].post_process_safety(explained[0])
    assert [panel.title for panel in panels] == ["Verdict on picture 1", "Verdict on picture 2"]
    for panel, verdict in zip(panels, verdicts, strict=True):
        for bars, found in (
            (panel.levels, verdict.level_probabilities),
            (panel.categories, verdict.category_probabilities),
        ):
            assert {bar.name: bar.text for bar in bars} == {name: f"{value:.2f}" for name, value in found.items()}
        assert panel.action == verdict.action and verdict.flagged_categories
        noted = {bar.name for bar in panel.categories if bar.note == "flagged"}
        assert noted == set(verdict.flagged_categories)


def test_words_add_up_to_what_the_tokens_wrote(explained):
    explanation, _, _, _ = explained
    for index, panel in enumerate(make_panels(*explained)):
        said = " ".join(word.text for word in panel.words)
        assert said == f"What is it? {QUESTION}"  # of both turns, and no word of the answer
        parts = [float(word.part) for word in panel.words if word.part]
        expected = float(explanation.question_contributions[index].sum())
        assert math.isclose(sum(parts), expected, abs_tol=0.005 * len(parts)) and parts


def test_the_strongest_word_can_be_read():
    assert showing.RAISES != showing.LOWERS
    for colour in (showing.RAISES, showing.LOWERS):
        ground = [255 + showing.STRONGEST * (part - 255) for part in colour]
        assert contrast((31, 41, 51), ground) >= 4.5


def test_the_map_is_strongest_where_the_verdict_comes_from():
    shares = torch.zeros(4, 4)
    shares[3, 0], shares[0, 3] = 0.75, 0.25
    picture = draw_map(Image.new("RGB", (200, 100), "white"), shares)
    assert "grid of 4 by 4" in picture.alt and "75 %, comes from row 4, column 1" in picture.alt
    assert picture.source.startswith("data:image/jpeg;base64,")


def test_pixels_without_a_verdict_have_no_map(explained):
    explanation, inputs, processor, images = explained
    nothing = torch.full_like(explanation.question_contributions, torch.nan)
    explanation = replace(explanation, map=explanation.map * torch.nan, question_contributions=nothing)
    for panel in make_panels(explanation, inputs, processor, images):
        assert "could not be judged" in panel.picture.alt and not any(word.part for word in panel.words)


def test_whatever_is_typed_stays_text(loaded):
    model, processor = loaded
    image, question = Image.new("RGB", (60, 60), "white"), hostile("typed") + " ${alert(1)}"
    inputs = encode(model, processor, [ask([], question, "a.png")], [image], "safe", num_new_tokens=12)
    turn = Turn(question, "a.png", {"safe": hostile("safe"), "free": hostile("free")})
    panels = make_panels(model.explain(**inputs), inputs, processor, [image])
    assert "".join(word.text for word in panels[0].words) == "".join(question.split())
    words = {name: hostile(name) for name in ("title", "name", "base", "scope")}
    head = render("head.html", **words)
    for field, html in (
        ("safe", render("answers.html", base=None, turns=[(turn, showing.small_picture(image, hostile("alt")))])),
        ("free", render("answers.html", base=None, turns=[(turn, None)])),
        ("error", render("notice.html", error=hostile("error"))),
        ("text", render("notice.html", text=hostile("text"))),
        ("name", head),
        ("scope", head),
        ("base", render("answers.html", turns=[(turn, None)], base=hostile("base"))),
        ("policy", render("json.html", policy=hostile("policy"))),
        ("contradiction", render("json.html", error=hostile("contradiction"))),
        (None, render("verdict.html", panels=panels)),
    ):
        page = Page(html)
        assert not {tag for tag, _, _ in page.tags} & {"script", "iframe", "object", "link"}
        assert not any(name.startswith("on") for _, attributes, _ in page.tags for name in attributes)
        assert field is None or hostile(field) in page.said
