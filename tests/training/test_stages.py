"""Each stage trains what the paper says (arXiv 2405.13581, section 3.2), and leaves the rest bit for bit."""

import pytest
import torch
from support.tiny_training import create_trainer
from torch import nn

from safevlm_hf import SafeLlavaForConditionalGeneration, SafetyConfig
from safevlm_hf.training.arguments import PAPER_CLEAN_SHARE, LoraArguments, parse_arguments
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.run import safety_sizes
from safevlm_hf.training.stages import count_parameters, merge, prepare_stage1, prepare_stage2, unwrap


pytestmark = pytest.mark.ci


FULL = LoraArguments(use_lora=False)
LORA = LoraArguments(lora_r=4, lora_alpha=8)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, nano_model):
    if request.param:
        return nano_model
    config = nano_model.config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    return SafeLlavaForConditionalGeneration(config)


def weights(model) -> dict[str, torch.Tensor]:
    """Copies of all weights of the SafeLlava, under the names they have without adapters."""
    named = [*unwrap(model).named_parameters(), *unwrap(model).named_buffers()]
    return {
        name.replace(".base_layer.", "."): weight.detach().clone() for name, weight in named if "lora_" not in name
    }


def train(model, processor, records, folder):
    """Three steps with the real Trainer; half of the records under the head's verdict."""
    trainer = create_trainer(model, processor, records, folder, head_condition_share=0.5)
    trainer.train()
    return trainer.model


def changed(before, after) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def verdicts(model, processor, records) -> list[torch.Tensor]:
    batch = SafetyCollator(processor, model.config.safety_config)(list(records)[:6])
    seen = model.eval().assess(**{name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")})
    return [seen.safety_level_logits, seen.safety_category_logits]


def linears(model) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if name.startswith("model.language_model.layers.") and isinstance(module, nn.Linear)
    }


def test_stage1_trains_the_safety_modules_alone(model, nano_processor, riskcards, tmp_path):
    before = weights(model)
    after = weights(train(prepare_stage1(model), nano_processor, riskcards, tmp_path))
    assert changed(before, after) == {name for name in before if name.startswith("model.safety_")}
    modules = {name.split(".")[1] for name in changed(before, after)}
    assert modules == {"safety_projector", "safety_head", "safety_tokens", "safety_conditions"}


def test_stage2_lora_trains_the_adapters_alone(model, nano_processor, riskcards, tmp_path):
    before, seen, names = weights(model), verdicts(model, nano_processor, riskcards), linears(model)
    adapted = prepare_stage2(model, LORA)
    adapters = {name: weight.detach().clone() for name, weight in adapted.named_parameters() if "lora_" in name}
    reached = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in adapters}
    assert reached == names and len(names) == 7 * 4  # q, k, v, o, gate, up, down of each layer

    train(adapted, nano_processor, riskcards, tmp_path)
    assert changed(before, weights(adapted)) == set()
    assert changed(adapters, {n: w for n, w in adapted.named_parameters() if n in adapters}) == set(adapters)

    merged = merge(adapted)
    assert type(merged) is SafeLlavaForConditionalGeneration
    assert changed(before, weights(merged)) == {f"{name}.weight" for name in names}
    assert all(map(torch.equal, seen, verdicts(merged, nano_processor, riskcards)))


def test_stage2_in_full_trains_the_language_model_without_its_embeddings(model, nano_processor, riskcards, tmp_path):
    before, seen = weights(model), verdicts(model, nano_processor, riskcards)
    after = weights(train(prepare_stage2(model, FULL), nano_processor, riskcards, tmp_path))
    language = {name for name in before if name.startswith(("model.language_model.", "lm_head."))}
    # The output layer is trained where it is not the embeddings themselves.
    expected = {name for name in language if "embed_tokens" not in name and "inv_freq" not in name}
    assert changed(before, after) == expected
    assert ("lm_head.weight" in expected) is not model.config.tie_word_embeddings
    assert all(map(torch.equal, seen, verdicts(model, nano_processor, riskcards)))


def test_counted_parameters(nano_model):
    safety = sum(weight.numel() for name, weight in nano_model.named_parameters() if name.startswith("model.safety_"))
    total = sum(weight.numel() for weight in nano_model.parameters())
    assert count_parameters(prepare_stage1(nano_model)) == (safety, total)


def test_the_defaults_are_the_papers():
    model_args, _, stage1 = parse_arguments(1, ["--seed", "1"])
    stage2_model_args, _, stage2, lora = parse_arguments(2, ["--seed", "1"])
    for args in (stage1, stage2):
        assert (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size) == (1e-5, 3, 2)
    assert (stage1.gradient_accumulation_steps, stage1.warmup_steps) == (16, 20)
    assert (stage2.gradient_accumulation_steps, stage2.warmup_steps) == (8, 300)
    assert (lora.use_lora, lora.lora_r, lora.lora_alpha, lora.lora_dropout) == (True, 256, 16, 0.05)
    assert PAPER_CLEAN_SHARE == pytest.approx(3000 / 14000)
    safety = SafetyConfig(**safety_sizes(model_args))
    assert (safety.num_safety_tokens, safety.num_attention_heads, safety.projector_depth) == (64, 8, 3)
    assert stage2_model_args.model_name_or_path == stage1.output_dir
