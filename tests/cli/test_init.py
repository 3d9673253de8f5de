"""`safevlm init` as a user types it: what is shown, where, and the exit code."""

import json
import shutil

import pytest
import torch
from command_line import HOSTILE, write_json
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, LlavaForConditionalGeneration

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE


pytestmark = pytest.mark.ci


def test_init_with_a_taxonomy(call, fails, tmp_path, checkpoint):
    name = HOSTILE.replace("\x1b", "")
    categories = ["self-harm", name, "safe"]
    taxonomy = write_json(tmp_path / "taxonomy.yaml", {"categories": categories, "levels": ["safe", "[b]bad"]})
    folder = tmp_path / "untrained"
    options = ["--taxonomy", taxonomy, "--num-safety-tokens", 4, "--num-condition-tokens", 2]
    code, out, err = call("init", NANO_BASE, folder, *options)
    assert (code, err) == (0, "") and out.startswith(f"{folder}: an untrained safe checkpoint")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is SafeLlavaForConditionalGeneration and type(processor) is SafeLlavaProcessor
    safety = model.config.safety_config
    assert safety.categories == processor.categories == categories
    assert (safety.num_safety_tokens, safety.num_condition_tokens, safety.is_trained) == (4, 2, False)
    assert model.model.safety_head.category_head.weight.shape[0] == 3
    assert safety.reads_words and "question_ids" in processor.model_input_names

    _, out, _ = call("policy", "show", "--model", folder)
    assert name in out and "[b]bad" in out and "\x1b" not in out
    assert "untrained" in fails("assess", "x.png", "--model", folder)
    assert "is there already" in fails("init", NANO_BASE, folder)
    assert "is there already" in fails("init", NANO_BASE, taxonomy)
    assert "trained safety modules already" in fails("init", checkpoint, tmp_path / "again")
    write_json(taxonomy, {"categories": ["a", "b"]})
    assert "must contain 'safe'" in fails("init", NANO_BASE, tmp_path / "other", "--taxonomy", taxonomy)
    write_json(taxonomy, {"categories": [HOSTILE, "safe"]})
    assert "must be printable" in fails("init", NANO_BASE, tmp_path / "other", "--taxonomy", taxonomy)
    assert not (tmp_path / "other").exists()


def base_in(folder, dtype: str, weights: dict):
    """The nano base with other weights, whose config names this dtype."""
    shutil.copytree(NANO_BASE, folder)
    config = json.loads((NANO_BASE / "config.json").read_text())
    write_json(folder / "config.json", {**config, "dtype": dtype})
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "in_file, in_config", [("float32", "bfloat16"), ("float16", "bfloat16"), ("bfloat16", "float16")]
)
def test_a_dtype_that_would_round_weights_is_refused(call, fails, tmp_path, in_file, in_config):
    torch.manual_seed(0)
    own = load_file(NANO_BASE / "model.safetensors")
    weights = {name: torch.randn(weight.shape).to(getattr(torch, in_file)) for name, weight in own.items()}
    weights = {name: weight * 1e-6 if in_file == "bfloat16" else weight for name, weight in weights.items()}
    base = base_in(tmp_path / "base", in_config, weights)
    error = fails("init", base, tmp_path / "safe")
    assert f" in {in_file}, and the model is {in_config}" in error and not (tmp_path / "safe").exists()
    # What it says to do.
    assert f'`dtype="{in_file}"`' in error
    stock = LlavaForConditionalGeneration.from_pretrained(base, dtype=in_file)
    shutil.copytree(base, tmp_path / "again")
    stock.save_pretrained(tmp_path / "again")
    assert call("init", tmp_path / "again", tmp_path / "safe")[0] == 0
    kept = AutoModel.from_pretrained(tmp_path / "safe").state_dict()
    for name, weight in stock.state_dict().items():
        assert kept[name].dtype == weight.dtype and torch.equal(kept[name], weight), name


def test_weights_that_a_narrower_dtype_holds_are_taken(call, tmp_path):
    own = load_file(NANO_BASE / "model.safetensors")
    weights = {name: weight.to(torch.bfloat16).float() for name, weight in own.items()}
    base = base_in(tmp_path / "base", "bfloat16", weights)
    assert call("init", base, tmp_path / "safe")[0] == 0
    kept = AutoModel.from_pretrained(tmp_path / "safe").get_input_embeddings().weight
    (words,) = (weight for name, weight in weights.items() if "embed_tokens" in name)
    assert kept.dtype == torch.bfloat16 and torch.equal(kept.float(), words)


def test_a_base_without_safetensors_is_refused(fails, tmp_path):
    weights = load_file(NANO_BASE / "model.safetensors")
    base = base_in(tmp_path / "base", "float32", weights)
    (base / "model.safetensors").unlink()
    torch.save(weights, base / "pytorch_model.bin")
    assert "no weights in safetensors files" in fails("init", base, tmp_path / "safe")
    assert not (tmp_path / "safe").exists()
