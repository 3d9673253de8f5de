import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safevlm_hf.strict_data import canonical_json, check_keys, digest, parse_json, parse_yaml, short_digest, shorten


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def backwards(value):
    if isinstance(value, dict):
        return {key: backwards(one) for key, one in reversed(value.items())}
    return [backwards(one) for one in value] if isinstance(value, list) else value


@given(JSON)
def test_one_text_for_equal_content(value):
    text = canonical_json(value)
    assert parse_json(text, "a test") == value and text.isascii()
    assert canonical_json(backwards(value)) == text == canonical_json(json.loads(text))


def test_a_hash_that_never_changes():
    assert short_digest({"b": 1, "a": [True, None, 0.5, "ä"]}) == "a93f1e79eb32"
    assert digest({"a": 1.0, "b": (1,)}) == digest({"b": [1], "a": 1}) != digest({"a": True, "b": [1]})
    assert len(digest({})) == 64


def test_endless_nesting():
    endless = {}
    endless["again"] = [endless]
    with pytest.raises(ValueError, match="nested in more than 50 levels"):
        canonical_json(endless)


@pytest.mark.parametrize("value", [math.nan, [math.inf], {1: "a"}, {"a": {2}}, b"bytes", object()])
def test_what_json_does_not_have(value):
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[Infinity]",
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b"1" * 5_000,
        "{'a': 1}",
    ],
)
def test_hostile_text_gives_one_clear_error(text):
    with pytest.raises(ValueError, match="^a file, line 3: ") as error:
        parse_json(text, "a file, line 3")
    assert len(str(error.value)) < 300


def test_keys_that_do_not_fit_are_all_named():
    assert check_keys({"a": 1, "b": 2}, ("b", "a"), "a file") == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="a file: unknown keys 'x', 'y' and missing keys b, expected a, b"):
        check_keys({"a": 1, "x": 2, "y": 3}, ("a", "b"), "a file")
    for other in (None, [], "a", 3):
        with pytest.raises(ValueError, match="a file: expected the keys a, b, got"):
            check_keys(other, ("a", "b"), "a file")


def test_errors_do_not_grow_with_what_they_name():
    assert len(shorten("x" * 10**6)) < 100 and len(shorten({str(number): "y" * 999 for number in range(999)})) < 999


def test_plain_yaml():
    assert parse_yaml(b"a: {b: [1, 2.5, true]}\nc: null\n", "a file") == {"a": {"b": [1, 2.5, True]}, "c": None}


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1, 2]\nb: *x\n",
        "a: 1\na: 2\n",
        "a: {b: 1, b: 2}\n",
        "a: !!python/object/apply:os.system ['true']\n",
        "? [1, 2]\n: 3\n",
        "a: b: c\n",
        "a: [1\n",
        "[" * 2_000,
        b"\xff\xff",
        "a: 2001-99-99\n",
        "--- 1\n--- 2\n",
    ],
)
def test_hostile_yaml_gives_one_clear_error(text):
    with pytest.raises(ValueError, match="^a file: ") as error:
        parse_yaml(text, "a file")
    assert "\n" not in str(error.value)
