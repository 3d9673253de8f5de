"""`safevlm init` as a user types it: what is shown, where, and the exit code."""

from command_line import HOSTILE, write_json
from transformers import AutoModel, AutoProcessor

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE


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
