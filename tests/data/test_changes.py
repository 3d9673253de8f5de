"""Changes of pictures: they change what they say, by as much as they say, and the boxes go with what they bound."""

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from safevlm_hf.data import riskcards
from safevlm_hf.data.riskcards import sampling
from safevlm_hf.data.riskcards.changes import CHANGES, change_at_random, change_picture, give_shape
from safevlm_hf.data.riskcards.drawing import draw_picture, draw_two_cards


GEOMETRIC = ("moved", "turned", "scaled", "cropped")
RISKY, CLEAN = riskcards.RISKY_TOPICS[0], riskcards.CLEAN_TOPICS[0]


def red_box_on_grey(box):
    image = Image.new("RGB", (336, 336), (128, 128, 128))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(255, 0, 0))
    return image


def red_bounds(image):
    pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("box", [[120, 100, 220, 200], [2, 5, 102, 105], [230, 226, 330, 326]])
def test_box_bounds_the_same_content_as_before(change, box):
    for seed in range(12):
        image, (found,) = change_picture(red_box_on_grey(box), [box], change, 1.0, "train", random.Random(seed))
        assert image.size == (336, 336) and image.mode == "RGB"
        # In bad light red is no longer red; there and in what keeps places, the box must be the old one.
        if change not in GEOMETRIC:
            assert found == box
            continue
        bounds = red_bounds(image)
        margin = 24 if change == "turned" else 6  # the bounds of a turned box are wider than what it holds
        assert all(abs(a - b) <= margin for a, b in zip(bounds, found, strict=True)), (seed, bounds, found)


@pytest.mark.parametrize("change", GEOMETRIC)
def test_pictogram_stays_inside(change):
    for seed in range(12):
        picture = draw_picture(RISKY, "test", random.Random(seed), change=change)
        left, top, right, bottom = picture.pictogram_region
        assert 0 <= left < right <= 336 and 0 <= top < bottom <= 336
        assert min(right - left, bottom - top) >= 0.55 * riskcards.PICTOGRAM_SIZES[0]


@pytest.mark.parametrize("change", CHANGES)
def test_stronger_changes_change_more(change):
    picture = draw_picture(RISKY, "test", random.Random(0))
    before = np.asarray(picture.image).astype(float)

    def difference(strength):
        total = 0.0
        for seed in range(8):
            boxes = [picture.pictogram_region]
            image, _ = change_picture(picture.image, boxes, change, strength, "train", random.Random(seed))
            total += np.abs(np.asarray(image) - before).mean()
        return total

    assert 0 < difference(0.1) < difference(1.0)


def test_training_pictures_have_no_change_up_to_three():
    image, box = red_box_on_grey([120, 100, 220, 200]), [120, 100, 220, 200]
    rng = random.Random(0)
    changed = [change_at_random(image, [box], "train", rng)[0].tobytes() != image.tobytes() for _ in range(100)]
    assert 0.6 < np.mean(changed) < 0.95


def test_test_pictures_are_upright_unless_asked():
    first, second = (draw_picture(RISKY, "test", random.Random(3)) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    left, top, right, bottom = first.pictogram_region
    assert (right - left, bottom - top)[0] == bottom - top


@pytest.mark.parametrize("change, strength", [("melted", 1.0), ("moved", 0.0), ("moved", 1.1), ("jpeg", float("nan"))])
def test_wrong_change_or_strength_raises(change, strength):
    with pytest.raises(ValueError, match="expected"):
        draw_picture(RISKY, "test", random.Random(0), change=change, strength=strength)


@pytest.mark.parametrize("topics", [(RISKY, CLEAN), (CLEAN, RISKY)])
def test_two_cards_speak_of_the_risky_one(topics):
    halves = set()
    for seed in range(16):
        picture = draw_two_cards(*topics, "test", random.Random(seed))
        assert picture.topic == RISKY and picture.layout == "card"
        left, top, right, bottom = picture.region
        is_in_a_row = right <= 172 or left >= 164
        assert is_in_a_row or bottom <= 172 or top >= 164
        halves.add((is_in_a_row, left >= 164 or top >= 164))
        assert left <= picture.pictogram_region[0] and picture.pictogram_region[2] <= right
    assert len(halves) == 4


def test_a_shape_changes_size_and_shape_and_the_boxes_go_along():
    box, ratios = [120, 100, 220, 200], set()
    for seed in range(30):
        image, (found,) = give_shape(red_box_on_grey(box), [box], "train", random.Random(seed))
        ratios.add(round(image.width / image.height, 1))
        assert all(abs(a - b) <= 3 for a, b in zip(red_bounds(image), found, strict=True)), (seed, found)
    assert ratios == {0.5, 0.7, 1.0, 1.5, 2.0}


def test_cards_of_varied_shapes():
    plain, varied = (
        list(riskcards.draw_riskcards("test", 12, varied_shapes=is_varied)) for is_varied in (False, True)
    )
    assert {card.image.size for card in plain} == {(336, 336)} and len({card.image.size for card in varied}) > 6
    left, top, right, bottom = varied[0].pictogram_region
    assert 0 <= left < right <= varied[0].image.width and 0 <= top < bottom <= varied[0].image.height


@pytest.mark.parametrize("split, is_varied", [("train", True), ("train", False), ("test", True)])
def test_training_with_varied_shapes_sees_more_of_what_is_hard(monkeypatch, split, is_varied):
    """Small print, and questions about names and addresses; the test split keeps its shares."""
    asked, shaped = [], []
    choose, vary = sampling._choose_risky, sampling.vary_shape
    monkeypatch.setattr(sampling, "_choose_risky", lambda rng, **given: asked.append(given) or choose(rng, **given))
    monkeypatch.setattr(sampling, "vary_shape", lambda *given: shaped.append(given[-1]) or vary(*given))
    assert len(list(riskcards.draw_riskcards(split, 6, clean_share=0, varied_shapes=is_varied))) == 6
    is_hard = split == "train" and is_varied
    assert {one.get("field_share", 0.55) for one in asked} == {0.9 if is_hard else 0.55}
    sizes = [shapes.count((2.0, 2.0)) for shapes in shaped]
    assert sizes == ([2 if is_hard else 1] * len(sizes) if is_varied else [])


def test_the_share_of_questions_about_fields_follows_its_number():
    rng = random.Random(0)
    shares = [
        sum(sampling._choose_risky(rng, share)[1] in riskcards.FIELD_KINDS for _ in range(4000)) / 4000
        for share in (0.0, 0.55, 0.9)
    ]
    assert shares[0] == 0 < shares[1] and shares[2] / shares[1] == pytest.approx(0.9 / 0.55, abs=0.3)
