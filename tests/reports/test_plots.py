"""Plots of a report."""

import re

import pytest

from safevlm_hf.reports.plots import share_curves


@pytest.mark.parametrize(
    "names, num_lines",
    [(("politics", "privacy"), 1), (("the verdict alone", "with the model's own refusals (judge: rules)"), 2)],
)
def test_long_names_of_curves_stand_below_each_other(names, num_lines):
    drawn = share_curves(dict.fromkeys(names, ((0, 1), (0, 1))), {}, "x", "y")
    places = {text: height for height, text in re.findall(r'<text [^>]*\by="([^"]+)"[^>]*>([^<]*)<', drawn)}
    assert len({places[name] for name in names}) == num_lines
