"""The formula of examples/estimate_training.py, held against counts on a small model that trains."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny_training import draw_records
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from safevlm_hf.checkpoints.families import find_family
from safevlm_hf.checkpoints.word_reader import new_reading
from safevlm_hf.data import NANO_BASE
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.stages import prepare_stage1, prepare_stage2, unwrap


pytestmark = pytest.mark.ci


SCRIPT = Path(__file__).parents[1] / "examples" / "estimate_training.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return draw_records(tmp_path_factory.mktemp("cards"))


def prepared(stage: int, **sizes) -> tuple[torch.nn.Module, object]:
    """The nano base as a stage trains it, and its processor. Dropout leaves masks of another size on a CPU."""
    family = find_family(str(NANO_BASE))
    config = family.config.from_base_config(family.config.from_pretrained(NANO_BASE), **new_reading(sizes))
    model = family.model.from_pretrained(NANO_BASE, config=config)
    processor = family.processor.from_pretrained(NANO_BASE, safety_config=config.safety_config)
    model.config.safety_config.is_trained = True  # or its answers would have no condition
    if stage == 1:
        return prepare_stage1(model).train(), processor
    return prepare_stage2(model, LoraArguments(lora_r=64, lora_dropout=0.0)).train(), processor


def batch_of(model, processor, records) -> dict:
    return SafetyCollator(processor, unwrap(model).config.safety_config)([records[0], records[1]])


def load_of(script, sizes, batch):
    length, positions = batch["input_ids"].shape[1], 64
    return script["Load"](
        patches=65,
        image_positions=positions,
        text_tokens=length - positions - sizes.extra_positions,
        batch=2,
        dropout=False,
    )


def kept_bytes(model, batch) -> int:
    """Bytes of what the backward pass needs beside the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("stage", [1, 2])
def test_operations_are_those_that_a_small_model_takes(script, records, stage):
    # Without convolutions: of a grouped one the counter takes the backward pass for that of a full one.
    model, processor = prepared(stage, projector_depth=0)
    batch, sizes = batch_of(model, processor, records), script["measure"](model)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        model(**batch).loss.backward()
    estimated = script["operations"](sizes, load_of(script, sizes, batch), stage)
    assert 2 * sum(estimated.values()) == pytest.approx(counted.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("stage", [1, 2])
def test_activations_are_those_that_a_small_model_keeps(script, records, stage):
    model, processor = prepared(stage)
    batch, sizes = batch_of(model, processor, records), script["measure"](model)
    terms = script["activation_bytes"](sizes, load_of(script, sizes, batch), stage)
    terms["logits and their gradient"] /= 2  # the gradient is made later
    assert sum(terms.values()) == pytest.approx(kept_bytes(model, batch), rel=0.1)


def test_the_published_sizes_are_those_of_the_models(script):
    """The checkpoints' own counts, 7.06 and 8.29 thousand millions, and the layer's, as docs/backbones.md has them."""
    for name, base, safety in (("llava-1.5-7b", 7.06e9, 113e6), ("qwen2.5-vl-7b", 8.29e9, 99e6)):
        sizes = script["measure"](script["build"](name, 1, LoraArguments()))
        assert sizes.total - sizes.safety == pytest.approx(base, rel=2e-3)
        assert sizes.safety == pytest.approx(safety, rel=0.05) and sizes.trained <= sizes.safety


def test_checkpointing_takes_memory_and_gives_work(script):
    model, _ = prepared(2)
    sizes = script["measure"](model)
    load = script["Load"](patches=65, image_positions=64, text_tokens=50)
    cut = replace(load, gradient_checkpointing=True)
    assert sum(script["memory"](sizes, cut, 2, 1).values()) < sum(script["memory"](sizes, load, 2, 1).values())
    assert sum(script["operations"](sizes, cut, 2).values()) > sum(script["operations"](sizes, load, 2).values())


def run(monkeypatch, *options: str):
    monkeypatch.setattr(sys, "argv", ["estimate_training.py", *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_terms_are_shown_and_the_hours_follow_from_them(monkeypatch, capsys):
    run(monkeypatch, "--stage", "2", "--gpus", "8", "--records", "1000")
    shown = capsys.readouterr().out
    assert "640 M of 7816 M trained" in shown and "gradients on their way to the other GPUs" in shown
    work = float(re.search(r"([\d.]+) TFLOP   in all", shown)[1])
    assert f"= {work * 1000 * 3 / (8 * 312 * 0.1) / 3600:.1f} hours" in shown


@pytest.mark.parametrize("options", [("--dtype", "bfloat16"), ("--utilisation", "2"), ("--batch", "0")])
def test_what_no_training_would_do_is_an_error(monkeypatch, capsys, options):
    with pytest.raises(SystemExit):
        run(monkeypatch, *options)
    assert "error: " in capsys.readouterr().err
