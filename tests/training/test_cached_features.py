"""A frozen tower's features on disk: the same training, each picture encoded once, and what is refused."""

import json
import pickle
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.safety_model_tester import LLAVA_TEMPLATE, tiny_text_config, tiny_tokenizer
from support.tiny_training import NANO_SAFETY, create_trainer, step_logs
from transformers import CLIPImageProcessor, FastVlmConfig, set_seed

import safevlm_hf.training.feature_store
from safevlm_hf import (
    SafeFastVlmConfig,
    SafeFastVlmForConditionalGeneration,
    SafeFastVlmProcessor,
    SafeIdefics3ForConditionalGeneration,
    SafeIdefics3Processor,
    SafeLlavaForConditionalGeneration,
)
from safevlm_hf.data import NANO_BASE, NANO_BASES
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.cached_features import CachedFeatures
from safevlm_hf.training.feature_store import FeatureStore, picture_keys
from safevlm_hf.training.run import cache_features
from safevlm_hf.training.stages import prepare_stage1, prepare_stage2


pytestmark = pytest.mark.ci


def nano():
    set_seed(0)
    return SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY).eval()


def fast_vlm():
    """A tiny FastVLM whose tower gives 2 x 2 positions, and its processor."""
    tokenizer = tiny_tokenizer("<image>")
    tower = {"model_type": "timm_wrapper", "architecture": "test_efficientnet", "do_pooling": False, "num_labels": 0}
    stock = FastVlmConfig(
        vision_config={**tower, "global_pool": "", "hidden_size": 256},
        text_config=tiny_text_config(tokenizer, "llama"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    set_seed(0)
    config = SafeFastVlmConfig.from_base_config(stock, **NANO_SAFETY, projector_grid_size=2)
    processor = SafeFastVlmProcessor(
        image_processor=CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_TEMPLATE,
        num_safety_tokens=config.safety_config.num_safety_tokens,
        num_condition_tokens=config.safety_config.num_condition_tokens,
    )
    return SafeFastVlmForConditionalGeneration(config).eval(), processor


def count_calls(model) -> list:
    """A list that grows by the number of pictures, whenever the tower runs."""
    calls = []
    model.model.vision_tower.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    return calls


def losses(model, processor, records, folder, cache=None, **options):
    set_seed(0)
    trainer = create_trainer(model, processor, records, folder, records, **options)
    if cache is not None:
        cache_features(trainer, str(cache))
    trainer.train()
    evaluated = trainer.evaluate()
    return [log["loss"] for log in step_logs(trainer)] + [evaluated["eval_loss"]], trainer


@pytest.mark.parametrize("family", ("llava", "fast_vlm"))
def test_losses_are_those_without_a_cache(family, nano_processor, riskcards, tmp_path):
    make = {"llava": lambda: (nano(), nano_processor), "fast_vlm": fast_vlm}[family]
    model, processor = make()
    plain, _ = losses(prepare_stage1(model), processor, riskcards, tmp_path)
    model, processor = make()
    cached, trainer = losses(prepare_stage1(model), processor, riskcards, tmp_path, tmp_path / "cache")
    assert len(set(plain)) == len(plain) == 4
    assert cached == pytest.approx(plain, abs=1e-6, rel=1e-6)


def test_stage_2_may_use_it_too(nano_processor, riskcards, tmp_path):
    lora = LoraArguments(lora_r=4, lora_alpha=8, lora_dropout=0.0)
    runs = []
    for cache in (None, tmp_path / "cache"):
        set_seed(0)
        runs.append(losses(prepare_stage2(nano(), lora), nano_processor, riskcards, tmp_path, cache)[0])
    assert runs[1] == pytest.approx(runs[0], abs=1e-6, rel=1e-6)


def test_the_tower_sees_each_picture_once(riskcards, tmp_path):
    num_pictures = len({image for images in riskcards["images"] for image in images})
    model, processor = fast_vlm()
    calls = count_calls(model)
    trainer = create_trainer(prepare_stage1(model), processor, riskcards, tmp_path, max_steps=9)
    cache_features(trainer, str(tmp_path / "cache"))
    trainer.train()
    assert sum(calls) == 1 + num_pictures  # the first one is blank, to see what there is to keep
    again, processor = fast_vlm()
    calls = count_calls(again)
    trainer = create_trainer(prepare_stage1(again), processor, riskcards, tmp_path, max_steps=1)
    cache_features(trainer, str(tmp_path / "cache"))
    trainer.train()
    assert sum(calls) == 1


def test_pictures_are_judged_as_before(riskcards, tmp_path):
    model, processor = fast_vlm()
    trainer = create_trainer(prepare_stage1(model), processor, riskcards, tmp_path)
    plain = trainer.data_collator(list(riskcards))
    cache_features(trainer, str(tmp_path / "cache"))
    cached = trainer.data_collator(list(riskcards))
    assert plain["pixel_values"].ndim == 4 and cached["pixel_values"].shape == (12, 4, 64)
    assert all(torch.equal(plain[name], cached[name]) for name in plain if name != "pixel_values")
    turned = trainer.data_collator(list(riskcards)[::-1])  # of rows that are known by now
    assert all(torch.equal(turned[name], cached[name].flip(0)) for name in cached)
    with torch.no_grad():
        seen = [model(**batch).safety_level_logits for batch in (plain, cached)]
    torch.testing.assert_close(*seen, atol=1e-6, rtol=1e-6)


def test_a_picture_that_was_not_computed_is_seen(riskcards, tmp_path):
    model, processor = fast_vlm()
    trainer = create_trainer(prepare_stage1(model), processor, riskcards.select(range(6)), tmp_path)
    cache_features(trainer, str(tmp_path / "cache"))
    assert trainer.data_collator(list(riskcards.select(range(6))))["pixel_values"].ndim == 3
    assert trainer.data_collator(list(riskcards))["pixel_values"].ndim == 4


def folders_of(cache) -> set[str]:
    return {folder.name for folder in cache.iterdir()}


def test_another_tower_or_other_settings_have_another_folder(tmp_path):
    model, processor = fast_vlm()
    prepare_stage1(model)
    first = CachedFeatures(model, processor, tmp_path).store.folder
    assert CachedFeatures(model, processor, tmp_path).store.folder == first
    processor.image_processor.image_mean = [0.5] * 3
    second = CachedFeatures(model, processor, tmp_path).store.folder
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).flatten()[0] += 1e-3
    third = CachedFeatures(model, processor, tmp_path).store.folder
    with torch.no_grad():
        next(model.model.language_model.parameters()).add_(1)
    assert CachedFeatures(model, processor, tmp_path).store.folder == third
    assert folders_of(tmp_path) == {first.name, second.name, third.name}
    assert json.loads((first / "key.json").read_text())["model"] == "SafeFastVlmForConditionalGeneration"


def test_a_tower_that_is_trained_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a frozen tower"):
        CachedFeatures(*fast_vlm(), tmp_path)


def test_tiles_are_refused(tmp_path):
    model = prepare_stage1(SafeIdefics3ForConditionalGeneration.from_pretrained(NANO_BASES["idefics3"]))
    processor = SafeIdefics3Processor.from_pretrained(NANO_BASES["idefics3"], safety_config=model.config.safety_config)
    with pytest.raises(ValueError, match="SafeIdefics3ForConditionalGeneration cuts them into tiles"):
        CachedFeatures(model, processor, tmp_path)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------
# The store
# --------------------------------------------------------------------------------------------------


def write_pictures(folder, count=5) -> list[str]:
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(path)
    return [str(path) for path in paths]


def encode(references):
    return torch.stack([torch.full((3, 2), float(Image.open(path).getpixel((0, 0))[0])) for path in references])


def test_a_full_disk_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    pictures = picture_keys(write_pictures(tmp_path))
    store, asked = FeatureStore(tmp_path / "cache", {}), []
    usage = namedtuple("usage", "total used free")(1, 1, 256 * 2**20 + 5 * 24 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    def encode_and_count(references):
        asked.extend(references)
        return encode(references)

    with pytest.raises(ValueError, match=r"The features of 5 pictures need 0.3 GB in .*, and 0.3 GB are free"):
        store.fill(pictures, encode_and_count, batch_size=2)
    assert len(asked) == 2 and not list(store.folder.glob("*.safetensors"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=usage.free + 1))
    store.fill(pictures, encode, batch_size=2)
    assert all(key in store for key in pictures.values())


def test_a_run_that_broke_off_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(safevlm_hf.training.feature_store, "SHARD_BYTES", 24)
    pictures, asked = picture_keys(write_pictures(tmp_path)), []

    def break_off(references):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.extend(references)
        return encode(references)

    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path / "cache", {}).fill(pictures, break_off, batch_size=1)
    store, again = FeatureStore(tmp_path / "cache", {}), []
    assert sum(key in store for key in pictures.values()) == 3

    def encode_and_count(references):
        again.extend(references)
        return encode(references)

    store.fill(pictures, encode_and_count)
    assert sorted(asked + again) == sorted(pictures)
    assert [store.read(key)[0, 0].item() for key in pictures.values()] == [0, 1, 2, 3, 4]
    assert not [file for file in store.folder.iterdir() if file.name.startswith(".")]


def test_a_shard_that_is_cut_off_is_not_read(tmp_path, caplog):
    pictures = picture_keys(write_pictures(tmp_path))
    store = FeatureStore(tmp_path / "cache", {})
    store.fill(pictures, encode)
    (shard,) = store.folder.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-4])
    store = FeatureStore(tmp_path / "cache", {})
    assert "cannot be read" in caplog.text
    assert not any(key in store for key in pictures.values())
    store.fill(pictures, encode)
    assert len(load_file(shard)) == 5


def test_keys_are_of_the_bytes(tmp_path):
    first, second, *_ = write_pictures(tmp_path)
    shutil.copy(first, tmp_path / "copy.png")
    joined, turned = f"{first}<split>{second}", f"{second}<split>{first}"
    keys = picture_keys([first, second, str(tmp_path / "copy.png"), joined, turned])
    assert keys[first] == keys[str(tmp_path / "copy.png")]
    assert len(set(keys.values())) == 4


def test_two_processes_share_the_work(tmp_path):
    pictures = picture_keys(write_pictures(tmp_path))
    one, two = (FeatureStore(tmp_path / "cache", {}) for _ in range(2))
    one.fill(pictures, encode, share=slice(0, None, 2))
    two.fill(pictures, encode, share=slice(1, None, 2))
    for store in (one, pickle.loads(pickle.dumps(two))):
        store.find_shards()
        assert [store.read(key)[0, 0].item() for key in pictures.values()] == [0, 1, 2, 3, 4]


def test_sharded_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="with FSDP or DeepSpeed leave it out"):
        cache_features(SimpleNamespace(is_sharded=True), str(tmp_path))
