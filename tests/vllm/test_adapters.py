"""Adapters that the engine loads may change an answer. They change no verdict, and no refusal."""

import json
from operator import attrgetter

import pytest
import torch
from engine import GREEDY, ask, find_blocks, image_part, start_engine
from safetensors.torch import save_file
from served import CHATS, REFUSED
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from safevlm_hf import SafeLlavaConfig


RANK = 4
LAYERS = "model.language_model.layers"
WORDS = "model.language_model.embed_tokens"
HEAD = "model.safety_head"
LINEARS = {
    "language": [
        f"{LAYERS}.{layer}.self_attn.{name}" for layer in range(4) for name in ("q_proj", "v_proj", "o_proj")
    ],
    "head": [f"{HEAD}.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj", "level_head")],
    "tower": [f"model.vision_tower.encoder.layers.{layer}.self_attn.q_proj" for layer in range(3)],
}


@pytest.fixture(scope="module")
def engine(checkpoint):
    return start_engine(checkpoint[0], enable_lora=True, max_lora_rank=8, max_loras=2)


@pytest.fixture(scope="module")
def widths(checkpoint):
    config = SafeLlavaConfig.from_pretrained(checkpoint[0])
    return {
        "language": (config.text_config.hidden_size,) * 2,
        "head": (config.text_config.hidden_size,) * 2,
        "tower": (config.vision_config.hidden_size,) * 2,
        "words": (config.text_config.vocab_size, config.text_config.hidden_size),
    }


def write_adapter(folder, name: str, widths: dict):
    """In peft's layout, with weights that change whatever they are added to."""
    torch.manual_seed(0)
    size, width = widths[name]
    prefix, weights = "base_model.model", {}
    for module in LINEARS.get(name, []):
        outputs = 4 if module.endswith("level_head") else width
        weights[f"{prefix}.{module}.lora_A.weight"] = torch.randn(RANK, size)
        weights[f"{prefix}.{module}.lora_B.weight"] = torch.randn(outputs, RANK)
    if name == "words":
        weights[f"{prefix}.{WORDS}.lora_embedding_A"] = torch.randn(RANK, size)
        weights[f"{prefix}.{WORDS}.lora_embedding_B"] = torch.randn(width, RANK)
    targets = sorted({key.split(".lora_")[0].rpartition(".")[2] for key in weights})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": targets, "bias": "none"}
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def ask_with(engine, adapter, number: int, *chats):
    messages = [chat.as_messages(image_part) for chat in chats]
    request = LoRARequest(f"adapter {number}", number, str(adapter))
    return engine.chat(messages, SamplingParams(**GREEDY), use_tqdm=False, lora_request=request)


@pytest.mark.parametrize("name", ["language", "head", "tower"])
def test_no_adapter_changes_a_verdict(engine, checkpoint, widths, name, tmp_path):
    adapter = write_adapter(tmp_path, name, widths)
    chats = [chat for chat in CHATS if len(chat.images) == 1][:9]
    answers = [answer for chat, answer in zip(CHATS, checkpoint[1]) if chat in chats]
    engine.reset_mm_cache()
    outputs = ask_with(engine, adapter, [*LINEARS].index(name) + 1, *chats)
    seen, *_ = engine.apply_model(attrgetter("seen"))
    image_token_id = engine.model_config.hf_config.image_token_id
    for output, answer in zip(outputs, answers):
        (block,) = find_blocks(seen, output.prompt_token_ids, image_token_id)
        assert [seen[block][0]] == answer.conditions
        torch.testing.assert_close(torch.tensor([seen[block][1]]), torch.tensor(answer.logits), atol=1e-3, rtol=1e-3)
    ids = [list(output.outputs[0].token_ids) for output in outputs]
    changed = [own != answer.ids for chat, own, answer in zip(chats, ids, answers)]
    refused = [chat.question == REFUSED for chat in chats]
    assert not any(one for one, is_refused in zip(changed, refused) if is_refused)
    assert any(changed) == (name == "language")


def test_an_adapter_of_the_words_is_refused(engine, checkpoint, widths, tmp_path):
    """The head's question is made of them. As `--lora-modules` and the server's own route load it."""
    adapter = write_adapter(tmp_path, "words", widths)
    with pytest.raises(Exception, match="received .*embed_tokens"):
        engine.llm_engine.add_lora(LoRARequest("words", 9, str(adapter)))
    (output,) = ask(engine, CHATS[0])  # it goes on
    assert list(output.outputs[0].token_ids) == checkpoint[1][0].ids
