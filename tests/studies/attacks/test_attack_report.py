"""The table, and what it says about itself."""

import json

import pytest

from safevlm_hf.studies.attacks.losses import Outcome, attackers
from safevlm_hf.studies.attacks.measure import Row
from safevlm_hf.studies.attacks.report import Report, markdown, plain


pytestmark = pytest.mark.ci


CAUGHT, PASSED, ALARM = Outcome(True, False, False), Outcome(False, True, True), Outcome(True, False, False)
EVERYONE = attackers()
FEW, UNBOUNDED = 8 / 255, 1.0


def outcomes(attacker, successes, total=10):
    good = PASSED if attacker.is_risky else ALARM
    bad = CAUGHT if attacker.is_risky else PASSED
    return [good] * successes + [bad] * (total - successes)


def make_row(attacker, epsilon, successes, steps=100, float_successes=None):
    found = outcomes(attacker, successes)
    floats = found if float_successes is None else outcomes(attacker, float_successes)
    curves = [] if attacker.losses is None else [[[2.0, 1.0]]]
    return Row(attacker.name, attacker.is_risky, epsilon, steps if curves else 0, found, floats, curves)


@pytest.fixture
def rows():
    """Noise does nothing; the attacks succeed on six of ten, and on all where nothing bounds them."""
    untouched = [make_row(one, 0.0, 0) for one in EVERYONE if one.losses is None]
    return untouched + [
        make_row(one, epsilon, 0 if one.losses is None else 6 if epsilon == FEW else 10)
        for one in EVERYONE
        for epsilon in (FEW, UNBOUNDED)
    ]


def test_the_table_has_a_line_per_attacker_and_figure(rows):
    head, *lines = Report(EVERYONE, rows).table()
    assert head[2:] == ["not attacked", "8/255", "unbounded"]
    found = {(line[0], line[1]): line[2:] for line in lines}
    assert found["A1: the head, risky cards", "flagged"] == [
        "1.00 (0.72 to 1.00)",
        "0.40 (0.17 to 0.69)",
        "0.00 (0.00 to 0.28)",
    ]
    assert found["A4: the head, clean cards", "flagged"][1].startswith("0.60")
    assert found["uniform noise, clean cards", "simply answered"] == ["1.00 (0.72 to 1.00)"] * 3
    assert len(lines) == 4 * 4 + 2 * 2
    shown = markdown([head, *lines])
    assert shown.splitlines()[1] == "|---|---|---|---|---|" and "to 1.00" in shown
    short = plain(Report(EVERYONE, rows).table(intervals=False))
    assert "to 1.00" not in short and max(map(len, short.splitlines())) < 119


def test_masked_gradients_are_named(rows):
    assert not any("masked" in note for note in Report(EVERYONE, rows).notes())
    a1 = EVERYONE[1]
    stuck = [row for row in rows if (row.attacker, row.epsilon) != ("A1", UNBOUNDED)] + [make_row(a1, UNBOUNDED, 9)]
    (note,) = [note for note in Report(EVERYONE, stuck).notes() if "masked" in note]
    assert "A1 without a bound" in note and "0.90" in note and "no sign of robustness" in note


def test_what_rounding_costs(rows):
    assert any("lost anything" in note for note in Report(EVERYONE, rows).notes())
    a3 = EVERYONE[3]
    rounded = [row for row in rows if (row.attacker, row.epsilon) != ("A3", FEW)] + [make_row(a3, FEW, 6, 100, 8)]
    assert any("at most 0.20 of the cards (A3 at 8/255)" in note for note in Report(EVERYONE, rounded).notes())


@pytest.mark.parametrize(("successes", "misled"), [(10, False), (6, False), (4, True)])
def test_more_steps_must_not_help_less(rows, successes, misled):
    more = [make_row(EVERYONE[1], FEW, successes, 400)]
    (note,) = [note for note in Report(EVERYONE, rows, more).notes() if "400" in note]
    assert note.startswith(f"A1 at 8/255 reaches its goal on 0.60 with 100 steps, on {successes / 10:.2f} with 400")
    assert ("gradients mislead" in note) == misled


def test_every_figure_and_curve_is_kept(rows, tmp_path):
    report = Report(EVERYONE, rows)
    kept = json.loads(json.dumps(report.as_json({"seed": 0})))
    (row,) = [one for one in kept["rows"] if one["attacker"] == "A3" and one["epsilon"] == FEW]
    assert row["loss_curves"] == [[[2.0, 1.0]]] and row["saved"]["goal"]["count"] == 6 and row["cards"] == "risky"
    assert row["saved"]["flagged"]["interval"][0] == pytest.approx(0.168, abs=1e-3) and len(row["outcomes"]) == 10
    assert kept["settings"] == {"seed": 0} and kept["attackers"]["A3"]["goal"] == "not flagged and answered"
    report.plot(tmp_path / "attack.png")
    assert (tmp_path / "attack.png").read_bytes().startswith(b"\x89PNG")
