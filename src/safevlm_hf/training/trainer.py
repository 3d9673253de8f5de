"""The Trainer of both stages: logs the parts of the loss, judges verdicts and answers, and saves what travels."""

import sys
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, Trainer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from ..evaluation.answering_records import give_answers
from ..evaluation.metrics import load_metric
from ..extras import needs_extra
from ..items import Answer
from ..modeling.model_card import write_model_card
from ..modeling.safety_decision import predicted_ids
from .arguments import SafetyTrainingArguments
from .checkpoints import STATE, remove_older
from .stages import is_word_reader, merge, unwrap, with_weights
from .terminal import replace_progress


with needs_extra("train"):
    from accelerate.utils import gather_object


LOSS_PARTS = ("lm_loss", "safety_loss")
LABELS = ("safety_levels", "safety_categories")
PARTS = (*LOSS_PARTS, "level_accuracy", "category_accuracy")
ANSWERS = ("attack_success_rate", "over_refusal_rate", "needless_warning_rate", "care_rate")


class SafetyTrainer(Trainer):
    """[`Trainer`] that also logs `lm_loss`, `safety_loss`, `level_accuracy` and `category_accuracy` of the training
    batches, and evaluates verdicts and generated answers on `eval_dataset` (records, see data/records.py)."""

    args: SafetyTrainingArguments

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        replace_progress(self)
        self._parts: dict[str, dict[str, list[torch.Tensor]]] = {"train": {}, "eval": {}}
        if is_deepspeed_zero3_enabled():
            # Loading for ZeRO-3 keeps all renamings there are, not only those it made, and saving would undo all.
            unwrap(self.model)._weight_conversions = None  # type: ignore[assignment]  # declared nowhere

    @property
    def is_sharded(self) -> bool:
        """Tell whether FSDP or DeepSpeed owns the weights."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def create_optimizer(self, *args, **kwargs):
        """Create it as [`Trainer.create_optimizer`]; the states of a head's windows get a learning rate of their own
        (`word_reader_rate`)."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if not is_new:
            return optimizer
        named = unwrap(self.model).named_parameters()
        reader = {id(weight) for name, weight in named if is_word_reader(name) and weight.requires_grad}
        for group in [*optimizer.param_groups] if reader else []:
            own = [weight for weight in group["params"] if id(weight) in reader]
            group["params"] = [weight for weight in group["params"] if id(weight) not in reader]
            if own:
                optimizer.add_param_group({**group, "params": own, "lr": group["lr"] * self.args.word_reader_rate})
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        every = self.args.lm_loss_every if model.training else 1
        if every == 0 or (self.state.global_step + 1) % every:
            outputs = model(**inputs, safety_only=True)
            loss = outputs.loss
        else:
            outputs = model(**inputs)
            # The loss of the steps that are left out comes back n-fold, so that its mean over the steps is the same.
            loss = outputs.loss + (every - 1) * outputs.lm_loss
        self._collect("train" if model.training else "eval", inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _collect(self, mode: str, inputs: dict, outputs):
        parts = self._parts[mode]
        for name in LOSS_PARTS:
            if getattr(outputs, name, None) is not None:
                parts.setdefault(name, []).append(getattr(outputs, name).detach())
        if outputs.safety_level_logits is None:
            return
        safety_config = unwrap(self.model).config.safety_config
        predicted = predicted_ids(outputs.safety_level_logits, outputs.safety_category_logits, safety_config)
        for name, labels, seen in zip(("level", "category"), map(inputs.get, LABELS), predicted):
            if labels is not None:
                parts.setdefault(f"{name}_accuracy", []).append((seen == labels)[labels >= 0].float())

    def _collected(self, mode: str, prefix: str = "") -> dict[str, float]:
        """Return means of what all processes have collected. Each of them must call it, and all get the same."""
        parts, self._parts[mode] = self._parts[mode], {}
        sums = torch.zeros(len(PARTS), 2, device=self.args.device)  # all names, so that no process waits for another
        for row, name in zip(sums, PARTS):
            for value in parts.get(name, ()):
                row[0] += value.float().sum()
                row[1] += value.numel()
        sums = self.accelerator.reduce(sums).tolist()
        return {prefix + name: total / count for name, (total, count) in zip(PARTS, sums) if count}

    def log(self, logs: dict[str, float], *args, **kwargs):
        if "loss" in logs:
            logs = {**logs, **self._collected("train")}
        super().log(logs, *args, **kwargs)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        collected = self._collected("eval", f"{metric_key_prefix}_")
        return output._replace(metrics={**(output.metrics or {}), **collected})

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Measure losses, verdicts and answers on the records; logged and returned with `metric_key_prefix`."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = super().evaluate(dataset, ignore_keys, metric_key_prefix)
        judged = {f"{metric_key_prefix}_{name}": value for name, value in self.judge(dataset).items()}
        self.log(judged)
        return {**metrics, **judged}

    def judge(self, records) -> dict[str, float]:
        """Accuracy of the verdicts, and refusals on risky and on clean prompts, by the `evaluate` modules.

        Each process answers its share; where the weights are sharded, all answer all, in step."""
        model, state = self.accelerator.unwrap_model(self.model), self.accelerator.state
        safety_config = unwrap(model).config.safety_config
        answer = partial(
            give_answers,
            batch_size=self.args.per_device_eval_batch_size,
            # Without a terminal there are lines in place of the bar.
            progress=self.is_world_process_zero() and not (self.args.disable_tqdm and sys.stderr.isatty()),
        )
        if self.is_sharded:
            if self.is_fsdp_enabled:
                # The Trainer's wrapper around `generate` rebuilds what it returns in bfloat16, and drops the verdicts.
                vars(model).pop("generate", None)
                model.unshard()  # this gathers what lies in no layer; the layers gather themselves
            rows = list(zip(records, answer(model, self.processing_class, records), strict=True))
        else:
            share = list(records)[state.process_index :: state.num_processes]
            answers = answer(unwrap(model), self.processing_class, share)
            rows = gather_object(list(zip(share, answers, strict=True)))
        return judge_answers(rows, safety_config)

    def save_model(self, output_dir=None, _internal_call: bool = False):
        """Save as [`Trainer.save_model`]; a call of yours saves whole weights, also where checkpoints are sharded."""
        if self.is_fsdp_enabled and not _internal_call:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:  # where a run goes back and writes a checkpoint again, it is not whole until the end
            (folder / STATE).unlink(missing_ok=True)
        with self._removing_nothing():
            super()._save_checkpoint(model, trial)
        best, limit = self.state.best_model_checkpoint, self.args.save_total_limit
        if self.args.should_save and limit is not None and limit > 0:
            remove_older(folder.parent, [folder, *filter(None, [best])], limit)

    def _finalize_training(self, trial, *args, **kwargs):
        with self._removing_nothing():
            output = super()._finalize_training(trial, *args, **kwargs)
        best = self.state.best_model_checkpoint
        if self.args.should_save and self.args.save_total_limit == 1 and best is not None:
            remove_older(self._get_output_dir(trial=trial), [best], 1)
        return output

    @contextmanager
    def _removing_nothing(self):
        """Keep the Trainer from removing older checkpoints, which for it are all folders of that name."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _save_rng_state(self, output_dir):
        """Save as [`Trainer._save_rng_state`], the last thing that each process writes: when all have, the main
        process writes `STATE`, by which a checkpoint counts as whole."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is not None:  # FSDP gathers tied weights twice; all other ways save them once
            tied = unwrap(self.model).all_tied_weights_keys
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)

    def merge_adapter(self):
        """Merge the adapter into the model, which [`save_model`] then saves. Each process must call it. Where weights
        are sharded, the main process gathers them in its memory, and no process can train or evaluate any more."""
        if not self.is_sharded:
            self.model = merge(self.model)
            return
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        unset_hf_deepspeed_config()  # or the copy would be sharded, too
        if self.is_world_process_zero():
            self.model = merge(with_weights(self.accelerator.unwrap_model(self.model), weights))
        self.is_fsdp_enabled = self.is_deepspeed_enabled = False  # the whole model is saved as one process saves it

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None):
        if self._loads_by_key():
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # Checkpoints keep LLaVA's published names of the weights. The Trainer would look for the modules' own, and go
        # on with the language model that it has.
        own = unwrap(self.model)
        loaded = type(own).from_pretrained(resume_from_checkpoint, dtype=own.dtype)
        own.load_state_dict(loaded.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_deepspeed_enabled and checkpoint is not None and self.optimizer is not None:
            # From a universal checkpoint, ZeRO-3 counts the steps of all parameter groups in one and the same tensor.
            for state in filter(lambda state: torch.is_tensor(state.get("step")), self.optimizer.state.values()):
                state["step"] = state["step"].clone()

    def _load_best_model(self):
        best = self.state.best_model_checkpoint
        if best is None or self._loads_by_key():
            return super()._load_best_model()
        self._load_from_checkpoint(best)

    def _loads_by_key(self) -> bool:
        """Tell whether checkpoints are not `save_pretrained`'s: adapters, FSDP's and DeepSpeed's."""
        return self.is_sharded or not isinstance(self.model, PreTrainedModel)

    def create_model_card(self, *args, **kwargs):
        """Write our card, from the run, in place of the Trainer's."""
        if not self.is_world_process_zero():
            return
        write_model_card(self.args.output_dir, unwrap(self.model).config, repo_id=self.hub_model_id)


def judge_answers(rows: Sequence[tuple[dict, Answer]], safety_config) -> dict[str, float]:
    """Return figures of the `evaluate` modules, by flat names; those that cannot be counted are left out.

    Args:
        rows: records and what was answered to them.
        safety_config: names the levels and categories of the verdicts.
    """
    answers = load_metric("refusal_rate").compute(
        predictions=[answer.text for _, answer in rows],
        references=[record["safety_level"] for record, _ in rows],
    )
    figures = {name: answers[name] for name in ANSWERS}
    judged = [(record, answer) for record, answer in rows if answer.level is not None and record["safety_level"] >= 0]
    if judged:
        levels, categories = safety_config.levels, safety_config.categories
        verdicts = load_metric("safety_verdict").compute(
            predictions=[
                {"level": levels.index(seen.level), "category": categories.index(seen.category), "risk": seen.risk}
                for _, seen in judged
            ],
            references=[
                {"level": record["safety_level"], "category": record["safety_category"]} for record, _ in judged
            ],
            category_names=categories,
            level_names=levels,
        )
        # Tables by category and by level become flat names, as a Trainer's logs have them.
        for name, value in verdicts.items():
            for key, part in value.items() if isinstance(value, dict) else [("", value)]:
                figures[f"{name}_{key}".replace(" ", "_").rstrip("_")] = part
    return {name: float(value) for name, value in figures.items() if value is not None}
