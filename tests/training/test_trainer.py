"""The Trainer of both stages: what it logs and judges, accumulation, and going on from a checkpoint."""

import json

import pytest
import torch
from support.tiny_training import create_trainer, step_logs
from transformers import set_seed

from safevlm_hf.benchmarks.riskcards import items_of
from safevlm_hf.data.records import IGNORE_INDEX
from safevlm_hf.demo.figures import held_out_figures
from safevlm_hf.evaluation.answering_records import give_answers
from safevlm_hf.items import Answer
from safevlm_hf.modeling.configuration_safety import SafetyConfig
from safevlm_hf.training.arguments import LoraArguments, SafetyTrainingArguments
from safevlm_hf.training.stages import prepare_stage1, prepare_stage2, unwrap
from safevlm_hf.training.trainer import judge_answers


pytestmark = pytest.mark.ci


LORA = LoraArguments(lora_r=4, lora_alpha=8, lora_dropout=0.3)
FULL = LoraArguments(use_lora=False)
ACCURACIES = ("level_accuracy", "category_accuracy")
STAGES = {
    "stage 1": prepare_stage1,
    "stage 2, LoRA": lambda model: prepare_stage2(model, LORA),
    "stage 2, full": lambda model: prepare_stage2(model, FULL),
}


# --------------------------------------------------------------------------------------------------
# Logs
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_steps_log_the_parts_of_the_loss_and_the_verdicts(stage, nano_model, nano_processor, riskcards, tmp_path):
    trainer = create_trainer(
        STAGES[stage](nano_model), nano_processor, riskcards, tmp_path, max_steps=1, per_device_train_batch_size=12
    )
    batch = trainer.data_collator(list(riskcards))
    with torch.no_grad():
        outputs = nano_model.eval()(**batch)
    trainer.train()
    (log,) = step_logs(trainer)
    assert log["loss"] == pytest.approx(log["lm_loss"] + 10 * log["safety_loss"], rel=1e-4)
    # The verdicts of untrained weights, before the one step. LoRA starts as nothing.
    assert log["safety_loss"] == pytest.approx(outputs.safety_loss.item(), rel=1e-4)
    assert log["lm_loss"] == pytest.approx(outputs.lm_loss.item(), rel=1e-4)
    for name, labels in (("level", "safety_levels"), ("category", "safety_categories")):
        right = outputs[f"safety_{name}_logits"].argmax(dim=-1) == batch[labels]
        assert log[f"{name}_accuracy"] == pytest.approx(right.float().mean().item())


def test_language_models_loss_at_every_second_step(nano_model, nano_processor, riskcards, tmp_path):
    calls = []
    nano_model.model.language_model.register_forward_hook(lambda *_: calls.append(1))
    trainer = create_trainer(
        prepare_stage1(nano_model), nano_processor, riskcards, tmp_path, learning_rate=0, lm_loss_every=2
    )
    trainer.train()
    first, second, third = step_logs(trainer)
    assert len(calls) == 1
    for log in (first, third):
        assert "lm_loss" not in log and log["loss"] == pytest.approx(10 * log["safety_loss"], rel=1e-4)
    assert second["loss"] == pytest.approx(2 * second["lm_loss"] + 10 * second["safety_loss"], rel=1e-4)


def test_without_the_language_models_loss(nano_model, nano_processor, riskcards, tmp_path):
    nano_model.model.language_model.forward = None
    block = nano_model.model.safety_tokens.block.clone()
    options = {"lm_loss_every": 0, "max_steps": 12, "per_device_train_batch_size": 12}
    trainer = create_trainer(prepare_stage1(nano_model), nano_processor, riskcards, tmp_path, **options)
    trainer.train()
    assert torch.equal(nano_model.model.safety_tokens.block, block)
    assert step_logs(trainer)[-1]["safety_loss"] < step_logs(trainer)[0]["safety_loss"]


def test_logs_cover_the_steps_since_the_last(nano_model, nano_processor, riskcards, tmp_path):
    by_step = create_trainer(prepare_stage1(nano_model), nano_processor, riskcards, tmp_path / "one", learning_rate=0)
    by_three = create_trainer(
        nano_model, nano_processor, riskcards, tmp_path / "three", learning_rate=0, logging_steps=3
    )
    by_step.train()
    by_three.train()
    (log,), logs = step_logs(by_three), step_logs(by_step)
    assert len(logs) == 3
    for name in ("lm_loss", "safety_loss", "level_accuracy", "category_accuracy"):
        assert log[name] == pytest.approx(sum(one[name] for one in logs) / 3, abs=1e-4)


def test_evaluation_judges_verdicts_and_answers(nano_model, nano_processor, riskcards, tmp_path):
    trainer = create_trainer(
        prepare_stage1(nano_model), nano_processor, riskcards, tmp_path, eval_records=riskcards, max_steps=1,
        eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=12,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_lm_loss"] + 10 * metrics["eval_safety_loss"], rel=1e-4)
    answers = give_answers(nano_model, nano_processor, riskcards, progress=False)
    figures = {name: one.value for name, one in held_out_figures(items_of(riskcards), answers).items()}
    for name in ("attack_success_rate", "over_refusal_rate", "needless_warning_rate", *ACCURACIES):
        assert metrics[f"eval_{name}"] == pytest.approx(figures[name], abs=1e-4)
    logged = {name for log in trainer.state.log_history[:-2] for name in log}  # during training, not at its end
    assert {name for name in metrics if name.startswith("eval_")} <= logged


def test_figures_of_unlabelled_records_are_left_out():
    record = {"safety_level": IGNORE_INDEX, "safety_category": IGNORE_INDEX}
    judged = Answer("1", "It is four.", action="answer", level="safe", category="safe", risk=0.0)
    figures = judge_answers([(record, Answer("0", "It is four.")), (record, judged)], SafetyConfig())
    assert not {"attack_success_rate", "over_refusal_rate", "needless_warning_rate", "level_accuracy"} & set(figures)
    assert all(isinstance(value, float) for value in figures.values())


def test_a_share_outside_0_to_1_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"`head_condition_share` must be in \[0, 1\], got 1.5"):
        SafetyTrainingArguments(output_dir=str(tmp_path), head_condition_share=1.5)


# --------------------------------------------------------------------------------------------------
# Accumulation
# --------------------------------------------------------------------------------------------------


def step_of_gradient_descent(nano_model, processor, records, folder, batch_size: int, accumulation: int):
    """Loss of the first step, and the gradient of each weight: with SGD at rate 1, what the step took off."""
    before = {name: weight.detach().clone() for name, weight in nano_model.named_parameters()}
    trainer = create_trainer(
        prepare_stage1(nano_model), processor, records, folder, max_steps=1, optim="sgd", learning_rate=1.0,
        lr_scheduler_type="constant", max_grad_norm=0, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    trainer.train()
    gradients = {name: before[name] - weight.detach() for name, weight in nano_model.named_parameters()}
    nano_model.load_state_dict(before, strict=False)
    return step_logs(trainer)[0], {name: value for name, value in gradients.items() if ".safety_" in name}


def close(gradient, wanted) -> bool:
    return torch.allclose(gradient, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item() + 1e-6)


def with_one_answer(record):
    """So that every batch has as many tokens to learn per record."""
    *others, answer = record["messages"]
    return {"messages": [*others, {**answer, "content": [{"type": "text", "text": "I see a card."}]}]}


def test_accumulated_steps_are_those_of_the_big_batch(nano_model, nano_processor, riskcards, tmp_path):
    records = riskcards.map(with_one_answer, load_from_cache_file=False, keep_in_memory=True)
    whole, wanted = step_of_gradient_descent(nano_model, nano_processor, records, tmp_path / "whole", 8, 1)
    parts, gradients = step_of_gradient_descent(nano_model, nano_processor, records, tmp_path / "parts", 2, 4)
    for name in ("loss", "lm_loss", "safety_loss", "level_accuracy", "category_accuracy"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4), name
    assert all(gradient.abs().max() > 0 for name, gradient in wanted.items() if "k_proj.bias" not in name)
    for name, gradient in gradients.items():
        assert close(gradient, wanted[name]), name


def test_answers_of_any_length_leave_the_heads_gradient(nano_model, nano_processor, riskcards, tmp_path):
    whole, wanted = step_of_gradient_descent(nano_model, nano_processor, riskcards, tmp_path / "whole", 8, 1)
    parts, gradients = step_of_gradient_descent(nano_model, nano_processor, riskcards, tmp_path / "parts", 2, 4)
    assert parts["safety_loss"] == pytest.approx(whole["safety_loss"], rel=1e-4)
    # Only the head's loss reaches the head.
    head = [name for name in gradients if ".safety_head." in name]
    assert head
    for name in head:
        assert close(gradients[name], wanted[name]), name


# --------------------------------------------------------------------------------------------------
# Resuming
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(stage, nano_model, nano_processor, riskcards, tmp_path):
    start = {name: weight.clone() for name, weight in nano_model.state_dict().items()}
    options = {"max_steps": 4, "head_condition_share": 0.5, "save_total_limit": 0}
    model = STAGES[stage](nano_model)
    whole = create_trainer(model, nano_processor, riskcards, tmp_path, save_strategy="steps", save_steps=2, **options)
    whole.train()
    wanted = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}

    base = model.unload() if hasattr(model, "unload") else model
    base.load_state_dict(start)
    set_seed(123)  # other random numbers, other adapters: what counts comes from the checkpoint
    resumed_model = STAGES[stage](base)
    resumed = create_trainer(resumed_model, nano_processor, riskcards, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))

    logs, wanted_logs = step_logs(resumed)[-2:], step_logs(whole)[-2:]
    assert [log["step"] for log in step_logs(resumed)] == [1, 2, 3, 4]
    for log, wanted_log in zip(logs, wanted_logs, strict=True):
        for name in ("loss", "lm_loss", "safety_loss", "grad_norm"):
            assert log[name] == pytest.approx(wanted_log[name], rel=1e-6), name
    for name, weight in resumed_model.named_parameters():
        if weight.requires_grad:
            assert torch.allclose(weight, wanted[name], rtol=0, atol=1e-6), name
    if stage == "stage 2, LoRA":  # dropout is on: without the checkpoint's random state the losses would differ
        batch = resumed.data_collator(list(riskcards)[:4])
        assert resumed_model.train()(**batch).lm_loss != resumed_model(**batch).lm_loss


def test_the_best_checkpoint_is_loaded_at_the_end(nano_model, nano_processor, riskcards, tmp_path):
    trainer = create_trainer(
        STAGES["stage 2, full"](nano_model),
        nano_processor,
        riskcards,
        tmp_path,
        eval_records=riskcards.select([0, 1]),
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=0,
        load_best_model_at_end=True,
        metric_for_best_model="eval_level_accuracy",
    )
    trainer.train()
    # Stage 2 leaves the verdicts as they are, so the first is the best.
    best, last = (type(nano_model).from_pretrained(tmp_path / f"checkpoint-{step}") for step in (1, 2))
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(nano_model.get_parameter(name), best.get_parameter(name))
    assert not torch.equal(best.get_parameter(name), last.get_parameter(name))


def test_a_checkpoint_is_complete(nano_model, nano_processor, riskcards, tmp_path):
    trainer = create_trainer(
        prepare_stage1(nano_model),
        nano_processor,
        riskcards,
        tmp_path,
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    trainer.train()
    files = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert {"model.safetensors", "processor_config.json", "optimizer.pt", "modeling_safety.py"} <= files
    config = json.loads((tmp_path / "checkpoint-1" / "config.json").read_text())
    assert config["auto_map"] and config["model_type"] == "safe_llava"
    assert unwrap(trainer.model) is nano_model
