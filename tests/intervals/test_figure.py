import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safevlm_hf.intervals.figure import Figure
from safevlm_hf.strict_data import record_from_dict


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(FINITE, st.tuples(FINITE, FINITE).map(sorted), st.text(min_size=1).filter(str.strip))
def test_json_and_back_is_the_same_to_the_last_bit(value, ends, part):
    figure = Figure("f", value, *ends, total=7, failed=1, count=6, least=ends[0], most=ends[1], part=part, judge="us")
    text = json.dumps(asdict(figure), allow_nan=False)
    again = record_from_dict(Figure, json.loads(text), "a test")
    assert again == figure and json.dumps(asdict(again)) == text


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"value": math.nan},
        {"value": "1"},
        {"value": True},
        {"low": 0.5},
        {"low": 0.9, "high": 0.1},
        {"least": 0.1},
        {"total": -1},
        {"total": 2.0},
        {"total": "7"},
        {"failed": 8},
        {"failed": 5, "count": 4},
        {"count": -1},
        {"part": ""},
        {"judge": 3},
    ],
)
def test_a_value_that_cannot_be_is_named(change):
    with pytest.raises(ValueError, match=next(iter(reversed(change)))):
        Figure(**{"name": "f", "value": 0.5, "low": None, "high": None, "total": 7, **change})


def test_unknown_and_missing_keys_are_named():
    data = asdict(Figure("f", None, None, None, 0))
    del data["judge"]
    with pytest.raises(ValueError, match="results.json: unknown keys 'mean' and missing keys judge"):
        record_from_dict(Figure, {**data, "mean": 1}, "results.json")
