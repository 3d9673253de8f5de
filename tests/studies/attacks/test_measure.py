"""Attacks end to end: the saved picture is asked about as any other, and that counts."""

import pytest
import torch
from PIL import Image

from safevlm_hf.studies.attacks.losses import Outcome, attackers
from safevlm_hf.studies.attacks.measure import Attacks, Row, ask_with_files, ask_with_floats, draw_cards, epsilon_name
from safevlm_hf.studies.attacks.white_box import WhiteBox


pytestmark = pytest.mark.ci

ATTACKERS = {one.name: one for one in attackers()}
EPSILON = 16 / 255


@pytest.fixture(params=["tiny", "tiled"])
def attacks(request, records):
    """Attacks on all pictures that the head flags as they are, and on all others, two at once."""
    checkpoint = request.getfixturevalue(request.param)
    box = WhiteBox(checkpoint.model, checkpoint.processor, records)
    flagged = [one.flagged for one in ask_with_files(box, box.pictures)]
    risky = [record for record, is_flagged in zip(records, flagged) if is_flagged]
    clean = [record for record, is_flagged in zip(records, flagged) if not is_flagged]
    assert risky and clean
    return Attacks(checkpoint.model, checkpoint.processor, risky, clean, batch_size=2)


def test_the_head_is_evaded_and_alarmed_through_the_saved_picture(attacks):
    plan = [(ATTACKERS[name], EPSILON, 20) for name in ("noise", "A1", "clean noise", "A4")]
    untouched = [(ATTACKERS[name], 0.0, 0) for name in ("noise", "clean noise")]
    before, clean_before, noise, evaded, clean_noise, alarmed = attacks.measure([*untouched, *plan], progress=False)
    assert all(one.flagged for one in before.outcomes) and not any(one.flagged for one in clean_before.outcomes)
    assert not any(one.flagged for one in evaded.outcomes) and all(one.flagged for one in alarmed.outcomes)
    by_noise = [not one.flagged for one in noise.outcomes] + [one.flagged for one in clean_noise.outcomes]
    assert not all(by_noise), "noise does what an attack does"
    for row in (evaded, alarmed):
        assert row.steps == 20 and len(row.float_outcomes) == len(row.outcomes)
        assert all(curve[-1] < curve[0] for batch in row.curves for curve in batch)
    assert noise.steps == before.steps == 0


def test_the_language_model_comes_closer_to_the_wanted_answer(attacks):
    for name in ("A2", "A3"):
        (row,) = attacks.measure([(ATTACKERS[name], EPSILON, 5)], progress=False)
        assert all(min(curve) < curve[0] for batch in row.curves for curve in batch)
        assert all(isinstance(one, Outcome) for one in row.outcomes)


def test_the_same_seed_gives_the_same_row(tiny, records):
    attacks = Attacks(tiny.model, tiny.processor, records, [])
    first, second = (attacks.measure([(ATTACKERS["A1"], EPSILON, 3)], progress=False) for _ in range(2))
    assert first == second


def test_floats_and_files_of_8_bits_agree(tiny, records):
    box = WhiteBox(tiny.model, tiny.processor, records)
    assert ask_with_floats(box, box.pictures) == ask_with_files(box, box.pictures)


def test_files_hold_8_bits(tiny, records, monkeypatch):
    box = WhiteBox(tiny.model, tiny.processor, records)
    saved = []
    save = Image.Image.save

    def watch(image, path, **options):
        saved.append((image.mode, path.suffix))
        return save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", watch)
    ask_with_files(box, [torch.rand_like(one) for one in box.pictures])
    assert saved == [("RGB", ".png")] * 4


def test_cards_are_risky_and_clean_and_end_with_what_an_attacker_wants(tmp_path):
    risky, clean = draw_cards(tmp_path, 6, seed=0)
    assert len(risky) == len(clean) == 6
    assert all(record["safety_level"] > 0 for record in risky)
    assert not any(record["safety_level"] for record in clean)
    for record in risky:
        answer = record["messages"][-1]["content"][0]["text"]
        assert answer in record["extra"] and not answer.startswith("I can't")
    again, _ = draw_cards(tmp_path, 6, seed=0)
    assert again == risky


def test_rates_are_of_saved_pictures_unless_floats_are_asked_for():
    hit, miss = Outcome(True, False, False), Outcome(False, True, True)
    row = Row("A4", False, 0.1, 5, [hit, miss], [hit, hit])
    assert row.rate(lambda one: one.flagged).value == 0.5
    assert row.rate(lambda one: one.flagged, as_floats=True).value == 1.0


def test_epsilons_have_names():
    assert [epsilon_name(epsilon) for epsilon in (0.0, 2 / 255, 0.5 / 255, 1.0)] == [
        "not attacked",
        "2/255",
        "0.5/255",
        "unbounded",
    ]
