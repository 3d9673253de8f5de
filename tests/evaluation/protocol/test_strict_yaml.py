import pytest

from safevlm_hf.evaluation.protocol.strict_yaml import parse_yaml


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
