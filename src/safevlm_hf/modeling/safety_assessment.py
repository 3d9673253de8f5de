"""Verdicts without an answer: `assess` gives them, `explain` also says what they rest on."""

from collections.abc import Callable
from typing import Any

import torch

from .safety_audit import SafetyAudit, audit_lines
from .safety_explanation import SafetyExplanation, explain_head, explain_word_head
from .safety_inputs import SafetyInputs, SafetyOutput, decide_samples, verdict_output
from .safety_policy import ACTIONS, SafetyPolicy


TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")  # what a processor gives and a verdict does not need


class SafetyAssessmentMixin:
    """For a generating model with [`SafetyGenerationMixin`]. The language model does not run."""

    @torch.no_grad()
    def assess(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        safety_policy: SafetyPolicy | dict | None = None,
        question_mask: torch.Tensor | None = None,
        question_ids: torch.LongTensor | None = None,
        safety_audit=None,
        **image_inputs,
    ) -> SafetyOutput:
        """
        The verdict on each image under the text of its own sample, without running the language model.

        Args:
            input_ids, pixel_values, attention_mask, inputs_embeds, question_mask, question_ids, image_inputs: as for
                `generate`.
            safety_policy: as for `generate`.
            safety_audit: as for `generate`, for this call alone: the environment variable asks for answers.

        Returns:
            [`SafetyOutput`]; `processor.post_process_safety` gives it by name.
        """
        prompt = (input_ids, inputs_embeds, attention_mask, question_mask, question_ids)
        outputs, safety_inputs, policy = self._judge(prompt, pixel_values, image_inputs, safety_policy)
        audit = SafetyAudit.create(safety_audit)
        if audit is not None:
            of_images = {name: image_inputs[name] for name in self.model.image_arguments if name in image_inputs}
            pixels = self.model.split_pixels(pixel_values, **of_images)
            prompts = self._prompts(input_ids, inputs_embeds, attention_mask)
            self._append_lines(audit, policy, safety_inputs, prompts, pixels)
        return verdict_output(outputs, policy)

    def _append_lines(self, audit: SafetyAudit, policy: SafetyPolicy, safety_inputs: SafetyInputs, prompts, pixels):
        actions = [ACTIONS[action] for action, _, _ in decide_samples(safety_inputs, self.config.safety_config)]
        audit.append(audit_lines(audit, self, policy, actions, safety_inputs.record, prompts, pixels, call="assess"))

    @torch.no_grad()
    def explain(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        safety_policy: SafetyPolicy | dict | None = None,
        question_mask: torch.Tensor | None = None,
        question_ids: torch.LongTensor | None = None,
        **image_inputs,
    ) -> SafetyExplanation:
        """
        The verdict on each image as by `assess`, and what it rests on: a map of the image, weights of the question's
        tokens, and exact contributions of both, without running the language model.

        Args: as for `assess`; the policy changes nothing but the decision.

        Returns:
            [`SafetyExplanation`]; `safevlm_hf.evaluation.plot_verdict` draws it.

        Raises:
            `ValueError`: without `pixel_values`, or where positions and images do not match.
        """
        prompt = (input_ids, inputs_embeds, attention_mask, question_mask, question_ids)
        outputs, safety_inputs, policy = self._judge(prompt, pixel_values, image_inputs, safety_policy)
        rows, block_lengths = outputs.safety_image_rows, [len(block) for block in outputs.pooler_output]
        explain: Callable = explain_word_head
        question: tuple[torch.Tensor, ...] = (self.model.words_of(safety_inputs),)
        if not self.config.safety_config.reads_words:
            mask = self.model.question_mask_of(safety_inputs, block_lengths)
            explain, question = explain_head, (safety_inputs.text_embeds, mask)
        explained: dict[str, Any] = explain(
            self.model.safety_head,
            *(part.to(rows.device)[rows] for part in question),
            self.model.safety_tokens()[0],
            outputs.safety_features,
            outputs.safety_window_ids,
            outputs.safety_is_window.shape[1],
            outputs.safety_level_logits,
            outputs.safety_category_logits,
            self.config.safety_config.safe_category,
            self.config.safety_grid_size,
            outputs.safety_key_mask,
        )
        return SafetyExplanation(**explained, **verdict_output(outputs, policy))

    def _judge(self, prompt: tuple, pixel_values, image_inputs: dict, safety_policy):
        """Encoded images, the inputs of their verdicts, and the policy; `prompt` as for `_conversation`."""
        if pixel_values is None:
            raise ValueError("`assess` and `explain` need `pixel_values`: a sample without an image has no verdict.")
        unknown = image_inputs.keys() - {*self.model.image_arguments, *TOKEN_TYPES}
        if unknown:
            raise TypeError(f"`assess` and `explain` take no argument {', '.join(sorted(unknown))}.")
        self._warn_weak_safety()
        policy = self._policy(safety_policy)
        conversation, safety_inputs = self._conversation(*prompt)
        safety_inputs = self._judged(conversation, policy, safety_inputs)
        return self.model.encode_images(pixel_values, image_inputs, safety_inputs), safety_inputs, policy


__all__ = ["TOKEN_TYPES", "SafetyAssessmentMixin"]
