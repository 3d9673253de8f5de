from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from safevlm_hf.evaluation.protocol.protocol import Protocol, package_versions, save_protocol
from safevlm_hf.evaluation.protocol.result import check_comparable
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.items import Item
from safevlm_hf.strict_data import parse_json, parse_yaml, record_from_dict


PROTOCOL = Protocol(
    benchmark="cards",
    split="test",
    num_items=3,
    ids_hash="0" * 64,
    items_hash="1" * 64,
    decoding={"do_sample": False, "num_beams": 1, "temperature": 1.0},
    max_new_tokens=32,
    judges={"rules": "v1", "a model": "abc"},
    judge_prompts={"a model": "2" * 64},
    versions={"transformers": "5.24.0", "torch": "2.13.0", "safevlm_hf": "0.1.0"},
    scoring={"code": "5" * 64, "seed": 0},
)
CHANGES = {
    "benchmark": "others",
    "split": "dev",
    "num_items": 4,
    "ids_hash": "3" * 64,
    "items_hash": "4" * 64,
    "decoding": {"do_sample": True, "num_beams": 1, "temperature": 1.0},
    "max_new_tokens": 64,
    "judges": {"rules": "v2", "a model": "abc"},
    "judge_prompts": {},
    "versions": {"torch": "2.14.0"},
    "scoring": {"code": "5" * 64, "seed": 1},
}


def test_a_hash_that_is_the_same_everywhere():
    assert PROTOCOL.hash == "96951560c494"  # sha256sum of the JSON, by hand
    backwards = {
        name: dict(reversed(value.items())) for name, value in asdict(PROTOCOL).items() if isinstance(value, dict)
    }
    assert replace(PROTOCOL, **backwards).hash == PROTOCOL.hash
    assert replace(PROTOCOL, decoding={"temperature": 1, "num_beams": 1, "do_sample": False}).hash == PROTOCOL.hash


def test_everything_counts():
    assert CHANGES.keys() == asdict(PROTOCOL).keys()
    hashes = {replace(PROTOCOL, **{name: value}).hash for name, value in CHANGES.items()}
    assert len({PROTOCOL.hash, *hashes}) == 12


def test_what_decides_an_answer():
    decides = {
        name
        for name, value in CHANGES.items()
        if replace(PROTOCOL, **{name: value}).answer_hash != PROTOCOL.answer_hash
    }
    assert decides == {"decoding", "max_new_tokens", "versions"}
    scored = replace(PROTOCOL, versions={**PROTOCOL.versions, "scikit-learn": "1.9.0"})
    assert scored.answer_hash == PROTOCOL.answer_hash and scored.hash != PROTOCOL.hash


@pytest.mark.parametrize("ending", ["json", "yaml", "yml"])
def test_files_and_back(tmp_path, ending):
    path = save_protocol(PROTOCOL, tmp_path / f"protocol.{ending}")
    parse = parse_json if ending == "json" else parse_yaml
    again = record_from_dict(Protocol, parse(path.read_bytes(), "a test"), "a test")
    assert again == PROTOCOL and again.hash == PROTOCOL.hash
    first = path.read_bytes()
    assert save_protocol(again, path).read_bytes() == first


def test_of_items():
    items = [
        Item(str(number), [], [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]) for number in range(3)
    ]
    one, other = (Protocol.of("cards", "test", rows, decoding={}, max_new_tokens=8) for rows in (items, items[::-1]))
    assert one == other and one.num_items == 3
    assert one.hash != Protocol.of("cards", "test", items[:2], decoding={}, max_new_tokens=8).hash
    with pytest.raises(ValueError, match="cards, split dev: expected items, found none"):
        Protocol.of("cards", "dev", [], decoding={}, max_new_tokens=8)


def test_versions_leave_out_the_build():
    versions = package_versions()
    always = {"transformers", "torch", "safevlm_hf", "tokenizers", "pillow", "numpy"}
    assert always <= {*versions} <= always | {"torchvision", "scikit-learn"}
    assert torch.__version__.startswith(versions["torch"]) and "+" not in versions["torch"]


@pytest.mark.parametrize(
    "change",
    [
        {"benchmark": ""},
        {"split": None},
        {"num_items": 0},
        {"num_items": True},
        {"num_items": 3.0},
        {"ids_hash": "xyz"},
        {"items_hash": 7},
        {"decoding": []},
        {"decoding": {"stop": ["a"]}},
        {"decoding": {"temperature": float("inf")}},
        {"max_new_tokens": 0},
        {"judges": {"rules": None}},
        {"judge_prompts": {"a model": "short"}},
        {"judge_prompts": {"nobody": "2" * 64}},
        {"versions": {"torch": 2.13}},
        {"scoring": {"code": []}},
    ],
)
def test_a_value_that_cannot_be_is_named(change):
    name = next(iter(change))
    with pytest.raises(ValueError, match=name):
        replace(PROTOCOL, **change)
    with pytest.raises(ValueError, match=f"^protocol.yaml: {name}[^\n]* (is|got) [^\n]*expected [^\n]*$"):
        record_from_dict(Protocol, {**asdict(PROTOCOL), **change}, "protocol.yaml")


def test_unknown_and_missing_keys_are_named():
    content = {**asdict(PROTOCOL), "seed": 3, "model": "x"}
    del content["judges"]
    with pytest.raises(ValueError, match="a file: unknown keys 'seed', 'model' and missing keys judges, expected"):
        record_from_dict(Protocol, content, "a file")


def result(name, **change):
    return SimpleNamespace(protocol=replace(PROTOCOL, **change), system=System(name, "m"))


def test_results_of_one_protocol_go_into_one_table():
    assert check_comparable([]) is None
    assert check_comparable([result("a"), result("b"), result("c")]) is None


def test_results_of_two_protocols_do_not():
    with pytest.raises(ValueError) as error:
        check_comparable(
            [result("a"), result("a"), result("b", max_new_tokens=64, judges={"rules": "v2", "a model": "abc"})]
        )
    text = str(error.value)
    assert text.startswith(f"'a' (protocol {PROTOCOL.hash}) and 'b' (protocol ")
    assert "differ: max_new_tokens: 32 and 64; judges.rules: 'v1' and 'v2'. Run both" in text
