from dataclasses import replace

import pytest

from safevlm_hf.evaluation.protocol.system import System


SYSTEM = System(
    "SafeVLM", "runs/stage2", weights_hash="a" * 64, policy={"risk_threshold": 0.5}, options={"dtype": "float32"}
)


def test_a_fingerprint_is_of_what_answers():
    assert len(SYSTEM.fingerprint) == 12
    for same in ({"name": "ours"}, {"model": "/elsewhere/stage2"}, {"revision": "main"}):
        assert replace(SYSTEM, **same).fingerprint == SYSTEM.fingerprint
    changes = (
        {"weights_hash": "b" * 64},
        {"weights_hash": None},
        {"chat_template_hash": "c" * 64},
        {"policy": {"enabled": False}},
        {"policy": None},
        {"options": {"dtype": "bfloat16"}},
    )
    assert len({SYSTEM.fingerprint, *(replace(SYSTEM, **change).fingerprint for change in changes)}) == 7
    hub = System("LLaVA", "org/llava", "abc")
    assert hub.fingerprint != replace(hub, revision="abd").fingerprint != replace(hub, model="org/other").fingerprint


def test_it_cannot_change_afterwards():
    options = {"dtype": "float32"}
    system = System("SafeVLM", "x", options=options)
    before = system.fingerprint
    options["dtype"] = "bfloat16"
    assert system.fingerprint == before


@pytest.mark.parametrize(
    "change",
    [
        {"name": " "},
        {"model": None},
        {"revision": 3},
        {"weights_hash": "abc"},
        {"chat_template_hash": "A" * 64},
        {"policy": "strict"},
        {"policy": {"a": {1: 2}}},
        {"options": {"dtype": ["float32"]}},
        {"options": {"scale": float("nan")}},
    ],
)
def test_a_value_that_cannot_be_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SYSTEM, **change)
