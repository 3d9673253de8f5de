"""`safevlm verify`: the digest of the safety weights, whatever files they are in."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaModel
from safevlm_hf.data import NANO_BASE, NANO_SAFE


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture
def digest_of(call):
    def digest_of(folder):
        code, out, _ = call("verify", "--model", folder)
        assert code == 0
        return out.strip()

    return digest_of


def test_the_rule_that_cuts_words_is_part_of_the_digest(tmp_path, digest_of):
    shipped = shutil.copytree(NANO_SAFE, tmp_path / "shipped")
    expected = digest_of(shipped)
    rule = shipped / "safety_words.json"
    rule.write_text(rule.read_text().replace("[^\\\\p{L}", "[^\\\\p{Lu}", 1))
    assert expected.startswith("float16:") and digest_of(shipped) != expected


def test_files_backbone_and_policy_are_no_part_of_the_digest(checkpoint, tmp_path, digest_of):
    expected = digest_of(checkpoint)
    assert expected.startswith("float32:")
    model = SafeLlavaForConditionalGeneration.from_pretrained(checkpoint)
    model.generation_config.safety_policy = {"risk_threshold": 0.4}
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    SafeLlavaModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "base")
    assert digest_of(tmp_path / "shards") == digest_of(tmp_path / "base") == expected


def test_another_weight_or_name_differs(call, checkpoint, copy, digest_of):
    expected = digest_of(checkpoint)
    words = "verify", "--model", copy, "--expect", expected
    assert call(*words) == (0, f"{expected}\n", "")
    config = json.loads((copy / "config.json").read_text())
    names = config["safety_config"]["categories"]
    names[0], names[1] = names[1], names[0]
    (copy / "config.json").write_text(json.dumps(config))
    code, out, err = call(*words)
    assert code == 1 and out != f"{expected}\n" and err.startswith(f"{copy} differs") and expected in err
    shutil.copy(f"{checkpoint}/config.json", copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.safety_tokens.head"][0, 0] += 1e-6
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert call(*words)[0] == 1


def test_another_precision_is_told_apart_from_another_weight(call, checkpoint, tmp_path, digest_of):
    SafeLlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert digest_of(tmp_path).startswith("bfloat16:")
    code, _, err = call("verify", "--model", tmp_path, "--expect", digest_of(checkpoint))
    assert code == 1 and "the weights are bfloat16, and the digest was made of float32 ones" in err


@pytest.mark.parametrize("expected", ["", "float32", "0" * 64, f"float32:{'g' * 64}"])
def test_what_is_no_digest_is_an_error(fails, checkpoint, expected):
    assert "a dtype, a colon, 64 hex digits" in fails("verify", "--model", checkpoint, "--expect", expected)


def test_a_stock_checkpoint_has_no_safety_weights(fails):
    assert "no safety weights" in fails("verify", "--model", NANO_BASE)
