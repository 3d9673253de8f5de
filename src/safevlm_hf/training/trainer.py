"""The Trainer of both stages: logs the parts of the loss, judges verdicts and answers, and saves what travels."""

import torch
from transformers import PreTrainedModel, Trainer

from ..evaluation.answering import Prediction, answer_records
from ..evaluation.metrics import load_metric
from ..modeling.model_card import write_model_card
from .stages import unwrap


LOSS_PARTS = ("lm_loss", "safety_loss")


class SafetyTrainer(Trainer):
    """[`Trainer`] that also logs `lm_loss`, `safety_loss`, `level_accuracy` and `category_accuracy` of the training
    batches, and evaluates verdicts and generated answers on `eval_dataset` (records, see data/records.py)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._parts = {"train": {}, "eval": {}}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        every = self.args.lm_loss_every if model.training else 1
        if every == 0 or self.state.global_step % every:
            outputs = model(**inputs, safety_only=True)
            loss = outputs.loss
        else:
            outputs = model(**inputs)
            loss = outputs.loss + (every - 1) * outputs.lm_loss
        self._collect("train" if model.training else "eval", inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _collect(self, mode: str, inputs: dict, outputs):
        parts = self._parts[mode]
        for name in LOSS_PARTS:
            if getattr(outputs, name, None) is not None:
                parts.setdefault(name, []).append(getattr(outputs, name).detach())
        for name in ("level", "category"):
            labels = inputs.get({"level": "safety_levels", "category": "safety_categories"}[name])
            if labels is None or outputs.safety_level_logits is None:
                continue
            right = getattr(outputs, f"safety_{name}_logits").argmax(dim=-1) == labels
            parts.setdefault(f"{name}_accuracy", []).append(right[labels >= 0].float())

    def _collected(self, mode: str, prefix: str = "") -> dict[str, float]:
        parts, self._parts[mode] = self._parts[mode], {}
        flat = {name: torch.cat([value.reshape(-1) for value in values]) for name, values in parts.items()}
        return {prefix + name: values.mean().item() for name, values in flat.items() if values.numel()}

    def log(self, logs: dict[str, float], *args, **kwargs):
        if "loss" in logs:
            logs = {**logs, **self._collected("train")}
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(self._collected("eval", f"{metric_key_prefix}_"))
        return output

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Losses, verdicts and answers on the records; logged and returned with `metric_key_prefix`."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = super().evaluate(dataset, ignore_keys, metric_key_prefix)
        judged = {f"{metric_key_prefix}_{name}": value for name, value in self.judge(dataset).items()}
        self.log(judged)
        return {**metrics, **judged}

    def judge(self, records) -> dict[str, float]:
        """Accuracy of the verdicts, and refusals on risky and on clean prompts, by the `evaluate` modules."""
        model = unwrap(self.accelerator.unwrap_model(self.model))
        predictions = answer_records(model, self.processing_class, records, progress=False)
        return judge_predictions(predictions, model.config.safety_config)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None):
        if self._loads_by_key():
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # Checkpoints keep LLaVA's published names of the weights. The Trainer would look for the modules' own, and go
        # on with the language model that it has.
        loaded = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(loaded.state_dict())

    def _load_best_model(self):
        if self._loads_by_key():
            return super()._load_best_model()
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _loads_by_key(self) -> bool:
        """Whether checkpoints are not `save_pretrained`'s: adapters, FSDP's and DeepSpeed's."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled or not isinstance(self.model, PreTrainedModel)

    def create_model_card(self, *args, **kwargs):
        """Our card, from the run, in place of the Trainer's."""
        write_model_card(self.args.output_dir, unwrap(self.model).config, repo_id=self.hub_model_id)


def judge_predictions(predictions: list[Prediction], safety_config) -> dict[str, float]:
    """Figures of the `evaluate` modules, by flat names; those that cannot be counted are left out."""
    answers = load_metric("refusal_rate").compute(
        predictions=[prediction.answer for prediction in predictions],
        references=[prediction.level for prediction in predictions],
    )
    figures = {name: answers[name] for name in ("attack_success_rate", "over_refusal_rate", "care_rate")}
    judged = [prediction for prediction in predictions if prediction.verdict is not None and prediction.level >= 0]
    if judged:
        verdicts = load_metric("safety_verdict").compute(
            predictions=[
                {"level": seen.verdict_level, "category": seen.verdict_category, "risk": seen.verdict.risk}
                for seen in judged
            ],
            references=[{"level": seen.level, "category": seen.category} for seen in judged],
            category_names=safety_config.categories,
            level_names=safety_config.levels,
        )
        for name, value in verdicts.items():
            for key, part in value.items() if isinstance(value, dict) else [("", value)]:
                figures[f"{name}_{key}".replace(" ", "_").rstrip("_")] = part
    return {name: float(value) for name, value in figures.items() if value is not None}
