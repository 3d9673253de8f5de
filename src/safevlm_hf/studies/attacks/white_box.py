"""A safe model as an attacker with its weights sees it: head and language model, with gradients for the pictures."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ...data.records import IGNORE_INDEX, load_image
from ...modeling.safety_assessment import TOKEN_TYPES
from ...modeling.safety_inputs import SafetyInputs
from ...modeling.safety_outputs import SafetyImageOutput
from ...modeling.safety_policy import SafetyPolicy
from ...training.collator import SafetyCollator
from .pixels import check_gradients, encode_pixels, to_pixels


QUESTION_INPUTS = ("question_mask", "question_ids")
VERDICT_INPUTS = ("input_ids", "attention_mask", "labels", *QUESTION_INPUTS)
SAFE_CONDITION = 0
"""The row of the condition table under which harmless questions are answered."""


class WhiteBox:
    """A model under a batch of questions, about pictures that may change.

    Args:
        model, processor: a safe model's. Its weights get no gradients.
        records: as `load_records` gives them, with one picture each. They end with the answer that an attacker wants.

    Attributes:
        pictures: those of the records, (3, height, width) each, in [0, 1].
        policy: the checkpoint's own, under which `generate` decides.

    Raises:
        ValueError: a record has more or fewer pictures than one, the policy flags nothing, or no gradient comes
            through the processor.
    """

    def __init__(self, model, processor, records: Sequence[dict]):
        if any(len(record["images"]) != 1 for record in records):
            raise ValueError("an attack takes records with exactly one picture each")
        self.model, self.processor, self.records = model.eval().requires_grad_(False), processor, list(records)
        self.config = model.config.safety_config
        self.policy = SafetyPolicy.create(model.kept_policy(), self.config)
        if self.policy.enabled is False or not any(map(self.policy.is_on, self.config.categories)):
            raise ValueError("the checkpoint's policy flags nothing: there is no verdict to attack")
        images = [load_image(record["images"][0]) for record in records]
        check_gradients(processor, images[0])
        self.pictures = [to_pixels(image).to(model.device) for image in images]
        batch = SafetyCollator(processor, self.config)(self.records)
        text_names = (*VERDICT_INPUTS, *TOKEN_TYPES)
        self.text = {name: batch[name].to(model.device) for name in text_names if name in batch}

    def judge(self, pictures: Sequence[torch.Tensor], rows: list[int]) -> SafetyImageOutput:
        """Return the verdicts on pictures under the questions of these rows. The language model does not run."""
        images = self.encode(pictures)
        return self.model.model.encode_images(images["pixel_values"], images, self._safety_inputs(rows))

    def answer(
        self, pictures: Sequence[torch.Tensor], rows: list[int], condition_id: int | None = None
    ) -> tuple[torch.Tensor, SafetyImageOutput]:
        """Return the cross entropy of the wanted answer, the mean over its tokens, (pictures,), and the verdicts.

        Args:
            condition_id: the row of the condition table to answer under, in place of the verdict's.
        """
        safety_inputs = self._safety_inputs(rows, condition_id)
        # The verdict's inputs have gone into `safety_inputs`; the model takes the rest.
        text = {name: value[rows] for name, value in self.text.items() if name not in ("labels", *QUESTION_INPUTS)}
        outputs = self.model(**{**self.encode(pictures), **text}, safety_inputs=safety_inputs, use_cache=False)
        labels = self.text["labels"][rows, 1:]
        # The logits at a position are those of the next token, so labels begin one position later.
        logits = outputs.logits[:, :-1].float().transpose(1, 2)
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
        return losses.sum(dim=1) / (labels != IGNORE_INDEX).sum(dim=1), safety_inputs.outputs[-1]

    def encode(self, pictures: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return `pixel_values`, and what else the model is told about these pictures."""
        encoded = encode_pixels(self.processor, pictures).to(self.model.device, self.model.dtype)
        names = ("pixel_values", *self.model.model.image_arguments)
        return {name: encoded[name] for name in names if name in encoded}

    def _safety_inputs(self, rows: list[int], condition_id: int | None = None) -> SafetyInputs:
        text = {name: self.text[name][rows] for name in VERDICT_INPUTS if name in self.text}
        condition_ids = None if condition_id is None else torch.tensor([condition_id])
        return self.model.model.prepare_safety_inputs(**text, policy=self.policy, condition_ids=condition_ids)
