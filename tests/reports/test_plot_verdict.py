"""The plot of a verdict, and how much of a map lies on a known region."""

import json
import random
import sys

import matplotlib
import pytest
import torch
from matplotlib import pyplot
from PIL import Image

from safevlm_hf.demo.localisation import explain_records, localisation_figures, region_mass, riskcards_localisation
from safevlm_hf.modeling.safety_explanation import SafetyExplanation
from safevlm_hf.modeling.safety_policy import SafetyVerdict
from safevlm_hf.reports.plot_verdict import plot_verdict


CATEGORIES = ("politics", "illegal risk", "privacy", "safe")


@pytest.fixture
def explanation():
    shares = torch.rand(2, 8, 8)
    weights = torch.tensor([[0, 0.5, 0.2, 0.3], [0, 0, 0.0, 1.0]])
    return SafetyExplanation(
        map=shares / shares.sum(dim=(1, 2), keepdim=True),
        question_weights=weights,
        question_contributions=weights * torch.tensor([1.0, -1.0, 1.0, 1.0]),
    )


@pytest.fixture
def verdict():
    return SafetyVerdict(
        sample=0,
        category="privacy",
        level="high",
        risk=0.9,
        category_probabilities=dict(zip(CATEGORIES, (0.05, 0.2, 0.65, 0.1))),
        level_probabilities={"safe": 0.1, "high": 0.9},
        condition="privacy, high",
        action="refuse",
        flagged_categories=("privacy",),
        review_categories=("illegal risk",),
    )


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


# --------------------------------------------------------------------------------------------------
# The plot
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [None, ["<image>", "<s>", "ĠWhat", "$x_1$"]])
def test_a_picture_on_disk(explanation, verdict, tokens, tmp_path):
    path = tmp_path / "verdict.png"
    figure = plot_verdict(Image.new("RGB", (64, 48), "teal"), explanation, verdict, path=path, tokens=tokens)
    assert isinstance(figure, matplotlib.figure.Figure)
    with Image.open(path) as saved:
        assert 1000 < saved.width < 2500 and 300 < saved.height < 1500
        assert len(set(saved.convert("L").resize((200, 100)).tobytes())) > 20


def test_no_state_of_pyplot(explanation, verdict, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import would raise
    plot_verdict(Image.new("RGB", (8, 8)), explanation, verdict).canvas.draw()
    assert not pyplot.get_fignums()


def test_what_is_flagged_is_marked(explanation, verdict):
    found = texts(plot_verdict(Image.new("RGB", (8, 8)), explanation, verdict))
    assert {"0.65 ●", "0.20 ○", "0.10 ", "0.05 "} <= set(found)
    assert any("privacy, high" in text and "0.90" in text and "refuse" in text for text in found)


def test_tokens_with_a_weight_are_shown(explanation, verdict):
    tokens = ["<image>", "<s>", "ĠWhat", "Ċ"]
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    found = texts(plot_verdict(picture, explanation, verdict, tokens=tokens))
    assert {"<s>", "What", "↵"} <= set(found) and "<image>" not in found
    found = texts(plot_verdict(picture, explanation, verdict, index=1, tokens=tokens))
    assert "↵" in found and "What" not in found
    with pytest.raises(ValueError, match="4 positions of the prompt, got 3"):
        plot_verdict(picture, explanation, verdict, tokens=tokens[:3])


def places(figure, *words):
    """Return the first and the last column of each word, in characters."""
    shown = {text.get_text(): round(text.get_position()[0]) for text in figure.axes[-1].texts}
    return [(shown[word], shown[word] + len(word)) for word in words]


@pytest.mark.parametrize(
    "tokens", [["what", "card", "say", "##s"], ["<s>", "▁card", "▁say", "s"], ["<s>", " card", " say", "s"]]
)
def test_a_blank_stands_between_words_and_none_within_one(tokens, explanation, verdict):
    figure = plot_verdict(Image.new("RGB", (8, 8)), explanation, verdict, tokens=tokens)
    assert places(figure, "card", "say", "s") == [(0, 4), (5, 8), (8, 9)]


def test_the_map_of_one_image(explanation, verdict):
    figure = plot_verdict(Image.new("RGB", (32, 16)), explanation, verdict, index=1)
    overlay = figure.axes[1].images[-1]
    assert torch.allclose(torch.tensor(overlay.get_array().data), 100 * explanation.map[1])
    assert overlay.get_extent() == [-0.5, 31.5, 15.5, -0.5]
    with pytest.raises(IndexError):
        plot_verdict(Image.new("RGB", (8, 8)), explanation, verdict, index=2)


# --------------------------------------------------------------------------------------------------
# Localisation
# --------------------------------------------------------------------------------------------------


def test_region_mass_on_whole_and_cut_cells():
    corner = torch.zeros(4, 4)
    corner[0, 1] = 3.0  # x from 10 to 20, y from 0 to 10
    assert region_mass(corner, [10, 0, 20, 10], (40, 40)) == pytest.approx((1.0, 1 / 16))
    assert region_mass(corner, [20, 0, 40, 40], (40, 40)) == pytest.approx((0.0, 0.5))
    assert region_mass(corner, [15, 0, 40, 40], (40, 40)) == pytest.approx((0.5, 0.625))
    assert region_mass(corner, [12, 2, 17, 6], (40, 40)) == pytest.approx((0.5 * 0.4, 20 / 1600))
    assert region_mass(corner, [0, 0, 40, 40], (40, 40)) == pytest.approx((1.0, 1.0))


def test_region_mass_of_pictures_and_maps_that_are_no_squares():
    wide = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
    assert region_mass(wide, [60, 0, 90, 20], (90, 20)) == pytest.approx((0.75, 1 / 3))
    assert region_mass(wide, [0, 10, 90, 20], (90, 20)) == pytest.approx((0.0, 0.5))


def test_a_uniform_map_has_the_mass_of_the_area():
    random.seed(0)
    for _ in range(20):
        left, top = random.uniform(0, 300), random.uniform(0, 300)
        region = [left, top, random.uniform(left + 1, 336), random.uniform(top + 1, 336)]
        mass, area = region_mass(torch.full((8, 8), 1 / 64), region, (336, 336))
        assert mass == pytest.approx(area)


@pytest.mark.parametrize("region", [[10, 10, 10, 20], [-1, 0, 5, 5], [0, 0, 41, 5], [20, 0, 10, 5]])
def test_bad_regions(region):
    with pytest.raises(ValueError, match="empty or leaves the picture of 40 x 40"):
        region_mass(torch.ones(4, 4), region, (40, 40))


def test_a_map_without_mass():
    for empty in (torch.zeros(4, 4), torch.full((4, 4), torch.nan)):
        with pytest.raises(ValueError, match="needs a mass above 0"):
            region_mass(empty, [0, 0, 10, 10], (40, 40))


def test_localisation_figures():
    regions = [[42 * column, 42 * row, 42 * column + 84, 42 * row + 84] for column in range(7) for row in range(7)]
    maps = []
    for left, top, _, _ in regions:
        shares = torch.full((8, 8), 0.25 / 60)
        shares[top // 42 : top // 42 + 2, left // 42 : left // 42 + 2] = 0.75 / 4
        maps.append(shares)
    sizes = [(336, 336)] * len(regions)
    found = localisation_figures(maps, regions, sizes)
    assert found["mass"] == pytest.approx(0.75) and found["area_share"] == pytest.approx(0.1, abs=0.05)
    assert found["mass_ratio"] == pytest.approx(12) and found["best_ratio"] == pytest.approx(16)
    assert 0.85 < found["random_ratio"] < 1.15
    assert found["other_ratio"] < found["mass_ratio"]
    assert found["interval"] == pytest.approx([12, 12])
    assert "interval" not in localisation_figures(maps[:1], regions[:1], sizes[:1])
    mixed = localisation_figures([*maps[:24], *[torch.ones(8, 8)] * 25], regions, sizes)
    low, high = mixed["interval"]
    assert 3 < low < mixed["mass_ratio"] < high < 10
    assert found == localisation_figures(maps, regions, sizes) != localisation_figures(maps, regions, sizes, seed=1)
    # A picture of another size counts by its own.
    wide = [[2 * left, top, 2 * right, bottom] for left, top, right, bottom in regions]
    mixed = localisation_figures([*maps, *maps], [*regions, *wide], [*sizes, *[(672, 336)] * len(regions)])
    assert mixed["mass_ratio"] == pytest.approx(12)
    uniform = localisation_figures([torch.ones(8, 8)] * len(regions), regions, sizes)
    assert uniform["mass_ratio"] == pytest.approx(1)
    with pytest.raises(ValueError, match="49 maps, 48 regions"):
        localisation_figures(maps, regions[1:], sizes)
    with pytest.raises(ValueError, match="0 maps"):
        localisation_figures([], [], [])


def test_records_of_riskcards(nano_model, nano_processor, riskcards):
    records = list(riskcards)
    risky = [record for record in records if record["safety_level"] > 0]
    explained = explain_records(nano_model, nano_processor, risky, batch_size=4)
    assert [one.extra for one in explained] == [json.loads(record["extra"]) for record in risky]
    assert all(one.map.shape == (8, 8) and one.image_size == (336, 336) for one in explained)
    found = riskcards_localisation(nano_model, nano_processor, records, batch_size=4)
    assert {"region", "pictogram_region"} <= set(found)
    assert found["region"]["num_samples"] == len(risky)
    assert found["pictogram_region"]["area_share"] == pytest.approx(0.1, abs=0.05)
    with pytest.raises(ValueError, match="needs risky records"):
        riskcards_localisation(nano_model, nano_processor, [one for one in records if one["safety_level"] == 0])
