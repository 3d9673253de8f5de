import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from safevlm_hf.evaluation.protocol.fingerprints import (
    chat_template_hash,
    code_hash,
    hash_items,
    item_hash,
    prompt_hash,
    weights_hash,
)
from safevlm_hf.items import Item


@pytest.fixture
def item(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "b.png")
    content = [{"type": "image"}, {"type": "text", "text": "What colour?"}]
    labels = {"is_risky": False, "level": "safe"}
    return Item("1", [str(tmp_path / "a.png")], [{"role": "user", "content": content}], "red", labels, "pair")


def test_a_prompt_is_its_words_and_pixels(item, tmp_path):
    (tmp_path / "moved.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert prompt_hash(replace(item, images=[str(tmp_path / "moved.png")])) == prompt_hash(item)
    assert prompt_hash(replace(item, labels={}, expected=None, id="2")) == prompt_hash(item)
    others = [
        replace(item, images=[str(tmp_path / "b.png")]),
        replace(item, images=[f"{tmp_path / 'a.png'}<split>{tmp_path / 'b.png'}"]),
        replace(item, images=[str(tmp_path / "a.png"), str(tmp_path / "b.png")]),
        replace(item, images=[]),
        replace(item, messages=[{"role": "user", "content": [{"type": "text", "text": "What colour"}]}]),
    ]
    assert len({prompt_hash(other) for other in (item, *others)}) == 6


def test_an_item_is_everything_that_decides_a_figure(item):
    changes = ({"id": "2"}, {"expected": "blue"}, {"labels": {"is_risky": True}}, {"group": None})
    assert len({item_hash(one) for one in (item, *(replace(item, **change) for change in changes))}) == 5


def test_the_order_of_items_does_not_count(item):
    items = [replace(item, id=str(number)) for number in range(5)]
    assert hash_items(items) == hash_items(items[::-1])
    ids, content = hash_items([replace(one, expected="blue") for one in items])
    assert ids == hash_items(items)[0] and content != hash_items(items)[1]
    with pytest.raises(ValueError, match="1 ids come twice, the first is '3'"):
        hash_items([*items, items[3]])


@pytest.mark.parametrize("name", ["gone.png", "", "a\0b", "x" * 5000])
def test_a_missing_image_is_named(item, name):
    with pytest.raises(ValueError, match="item '1': expected an image at '"):
        item_hash(replace(item, images=[name]))


def test_code_is_its_files(tmp_path):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("1\n")
    other.write_text("2\n")
    before = code_hash([one, other])
    assert before != code_hash([one]) and before == code_hash([str(one), shutil.copy(other, tmp_path / "moved.py")])
    other.write_text("2  # a comment\n")
    assert code_hash([one, other]) != before


def test_chat_templates():
    one, other = (chat_template_hash(SimpleNamespace(chat_template=text)) for text in ("a", "b"))
    assert len(one) == 64 and one != other
    assert chat_template_hash(SimpleNamespace(chat_template=None)) is chat_template_hash(object()) is None


# --------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file(
        {"big": torch.zeros(400, 1000), "small": torch.zeros(10), "none": torch.zeros(0)}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("a card")
    return folder


def change(folder, name, index):
    tensors = {"big": torch.zeros(400, 1000), "small": torch.zeros(10), "none": torch.zeros(0)}
    tensors[name].view(-1)[index] = 1
    save_file(tensors, folder / "model.safetensors")


def test_weights_are_recognised_wherever_they_lie(checkpoint, tmp_path):
    before = weights_hash(checkpoint)
    checkpoint.rename(tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("another card")
    assert weights_hash(tmp_path / "moved") == before and len(before) == 64


@pytest.mark.parametrize(("name", "index"), [("small", 0), ("small", 9), ("big", 0), ("big", -1)])
def test_another_run_of_training_is_seen(checkpoint, name, index):
    # Size and header stay the same.
    before = weights_hash(checkpoint)
    change(checkpoint, name, index)
    assert weights_hash(checkpoint) != before


def test_a_hash_that_results_on_disk_hold(tmp_path):
    long, short = bytes(number % 251 for number in range(300_000)), b"abc"
    tensors = {"long": [3, 300_003], "short": [0, 3]}  # the header's order is not the file's
    described = {name: {"dtype": "U8", "shape": [e - b], "data_offsets": [b, e]} for name, (b, e) in tensors.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **described}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + short + long)
    assert weights_hash(tmp_path) == "03b0a64f334ca92aed258d7664eebcbf81b199f67ab4efb28184aa1c9535bfd3"


def test_settings_count(checkpoint):
    before = weights_hash(checkpoint)
    (checkpoint / "generation_config.json").write_text('{"safety_policy": {"risk_threshold": 0.4}}')
    with_policy = weights_hash(checkpoint)
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    assert len({before, with_policy, weights_hash(checkpoint)}) == 3


def header(**offsets):
    text = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": value} for name, value in offsets.items()})
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        (2**63).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"{}x"[:1],
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"nope",
        (90_000).to_bytes(8, "little") + b"[" * 90_000,
        header(a=[0, 40]),
        header(a=[-4, 0]),
        header(a=[4, 0]),
        header(a="ab"),
        header(a=None),
    ],
)
def test_broken_weights_are_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors: "):
        weights_hash(tmp_path)


def test_no_weights(tmp_path):
    with pytest.raises(ValueError, match="expected a folder with safetensors, found no files"):
        weights_hash(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="found none"):
        weights_hash(tmp_path)
