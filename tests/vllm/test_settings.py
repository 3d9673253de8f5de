"""What cannot be honoured raises before the engine starts."""

import json
import shutil
from types import SimpleNamespace

import pytest
from families import TESTERS
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.models.config import MODELS_CONFIG_MAP

from safevlm_hf.checkpoints.families import BY_MODEL_TYPE
from safevlm_hf.modeling.modeling_safety import SafeModelMixin
from safevlm_hf.vllm import register
from safevlm_hf.vllm.settings import SafeSettings, read_policy


ALLOWED = {"actions": {"*": {"high": "condition"}}}


def create_config(folder, **arguments):
    return EngineArgs(str(folder), dtype="float32", max_model_len=1024, **arguments).create_engine_config()


def action_on_private_papers(model_config) -> str:
    return read_policy(model_config).action("privacy", "high", model_config.hf_config.safety_config)


@pytest.fixture
def lenient(tmp_path, monkeypatch):
    """An operator's policy that does not refuse."""
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(ALLOWED))
    monkeypatch.setenv("SAFEVLM_POLICY", str(path))


def test_checkpoint_policy(checkpoint):
    model_config = create_config(checkpoint[0]).model_config
    assert action_on_private_papers(model_config) == "refuse"
    assert model_config.logits_processors == ["safevlm_hf.vllm.refusals:EngineRefusal"]
    assert model_config.logprobs_mode == "processed_logprobs"


def test_names_that_were_changed_by_hand_are_said(checkpoint, tmp_path, caplog):
    folder = shutil.copytree(checkpoint[0], tmp_path / "copy")
    create_config(folder)
    assert "not as `save_pretrained` wrote it" not in caplog.text
    config = json.loads((folder / "config.json").read_text())
    config["safety_config"]["levels"].reverse()
    config["safety_config"]["levels"] = ["safe", *config["safety_config"]["levels"][:-1]]
    (folder / "config.json").write_text(json.dumps(config))
    create_config(folder)
    assert "its names differ from the digest" in caplog.text


def test_operators_policy(checkpoint, lenient):
    model_config = create_config(checkpoint[0]).model_config
    assert action_on_private_papers(model_config) == "condition"
    assert not model_config.logits_processors and model_config.logprobs_mode == "raw_logprobs"


@pytest.mark.parametrize(
    "arguments",
    [
        {"enable_prompt_embeds": True},
        {"enable_mm_embeds": True},
        {"mm_processor_kwargs": {"do_normalize": False}},
        {"runner": "pooling"},
        {"tokenizer_mode": "mistral"},
    ],
    ids=lambda value: "-".join(value),
)
def test_under_every_policy(checkpoint, lenient, arguments):
    with pytest.raises(ValueError, match="safe model"):
        create_config(checkpoint[0], **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pipeline_parallel_size": 2},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
        {"kv_transfer_config": {"kv_connector": "SharedStorageConnector", "kv_role": "kv_both"}},
    ],
    ids=lambda value: "-".join(value),
)
def test_under_a_policy_that_refuses(checkpoint, arguments):
    with pytest.raises(ValueError, match="policy refuses"):
        create_config(checkpoint[0], **arguments)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SAFEVLM_AUDIT", "audit.jsonl", "SAFEVLM_AUDIT"),
        ("SAFEVLM_POLICY", "nowhere.json", "nowhere.json"),
        ("VLLM_USE_V2_MODEL_RUNNER", "1", "model runner"),
    ],
)
def test_environment(checkpoint, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises((ValueError, OSError), match=message):
        create_config(checkpoint[0])


def test_a_checkpoint_cannot_silence_an_operator_who_refuses(checkpoint, monkeypatch, tmp_path):
    folder, policy = tmp_path / "checkpoint", tmp_path / "policy.json"
    shutil.copytree(checkpoint[0], folder)
    own = {"thresholds": {"*": 0.5}, "temperatures": {"category": 5.0}}
    kept = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**kept, "safety_policy": own}))
    monkeypatch.setenv("SAFEVLM_POLICY", str(policy))
    refuse = {"actions": {"*": {"high": "refuse"}}}
    policy.write_text(json.dumps(refuse))
    with pytest.raises(ValueError, match="operator's policy refuses.*thresholds.*0.5.*temperatures.*5.0"):
        create_config(folder)
    policy.write_text(json.dumps({**refuse, **own}))
    assert action_on_private_papers(create_config(folder).model_config) == "refuse"
    policy.write_text('{"actions": {"*": {"high": "refuse"}}, "actions": {}}')
    with pytest.raises(ValueError, match="'actions' comes twice"):
        create_config(folder)


def test_unknown_category(checkpoint, monkeypatch, tmp_path):
    (tmp_path / "policy.json").write_text('{"categories": {"gambling": false}}')
    monkeypatch.setenv("SAFEVLM_POLICY", str(tmp_path / "policy.json"))
    with pytest.raises(ValueError, match="gambling"):
        create_config(checkpoint[0])


def test_a_family_without_a_comparison_is_refused(monkeypatch):
    """A new one is, until its answers have been compared with transformers'."""
    assert SafeModelMixin.vllm_gap is not None
    family = BY_MODEL_TYPE["safe_llava_next"]
    monkeypatch.setattr(family.model.safe_model_class, "vllm_gap", "its rows come in another order")
    monkeypatch.setitem(MODELS_CONFIG_MAP, family.model.__name__, None)
    register()
    settings = MODELS_CONFIG_MAP[family.model.__name__]
    with pytest.raises(ValueError, match="SafeLlavaNext.*vLLM yet: its rows come in another order"):
        settings.verify_and_update_model_config(
            SimpleNamespace(hf_config=SimpleNamespace(model_type=family.config.model_type))
        )


def test_every_family_is_served_or_refused():
    register()
    for family in BY_MODEL_TYPE.values():
        is_served = family.model.safe_model_class.vllm_gap is None
        assert (MODELS_CONFIG_MAP[family.model.__name__] is SafeSettings) == is_served
        if is_served:  # it has been compared, then
            assert family.config.model_type.removeprefix("safe_") in {"llava", *TESTERS}
