"""Verdicts without an answer: `assess` gives them, `explain` also says what they rest on."""

from typing import Any

import torch

from .safety_audit import AuditedCall, SafetyAudit, audit_lines
from .safety_explanation import SafetyExplanation, explain_head, explain_word_head
from .safety_outputs import SafetyOutput, decide_samples, verdict_output
from .safety_policy import ACTIONS, SafetyPolicy


TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")  # a processor gives them, and a verdict does not need them


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
        Give the verdict on each image under the text of its own sample, without running the language model.

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
            arguments = {name: image_inputs[name] for name in self.model.image_arguments if name in image_inputs}
            pixels = self.model.split_pixels(pixel_values, **arguments)
            prompts = self.unpadded_prompts(input_ids, inputs_embeds, attention_mask)
            actions = [ACTIONS[action] for action, _, _ in decide_samples(safety_inputs, self.config.safety_config)]
            call = AuditedCall("assess", policy, actions, safety_inputs.outputs, prompts, pixels)
            audit.append(audit_lines(audit, self, call))
        return verdict_output(outputs, policy)

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
        Give the verdict on each image as `assess` does, and what it rests on: a map of the image, weights of the
        question's tokens, and exact contributions of both, without running the language model.

        Args: as for `assess`; the policy changes nothing but the decision.

        Returns:
            [`SafetyExplanation`]; `safevlm_hf.reports.plot_verdict` draws it.

        Raises:
            `ValueError`: without `pixel_values`, or where positions and images do not match.
        """
        prompt = (input_ids, inputs_embeds, attention_mask, question_mask, question_ids)
        outputs, safety_inputs, policy = self._judge(prompt, pixel_values, image_inputs, safety_policy)
        rows, head, safety_tokens = outputs.safety_image_rows, self.model.safety_head, self.model.safety_tokens()[0]
        if self.config.safety_config.reads_words:
            question_ids = self.model.words_of(safety_inputs).to(rows.device)[rows]
            explained: dict[str, Any] = explain_word_head(head, question_ids, safety_tokens, outputs, self.config)
        else:
            mask = self.model.question_mask_of(safety_inputs, [len(block) for block in outputs.pooler_output])
            text_embeds, text_mask = (part.to(rows.device)[rows] for part in (safety_inputs.text_embeds, mask))
            explained = explain_head(head, text_embeds, text_mask, safety_tokens, outputs, self.config)
        for name, value in verdict_output(outputs, policy).items():
            if name in SafetyExplanation.__dataclass_fields__:  # it is about the window that decided alone
                explained[name] = value
        return SafetyExplanation(**explained)

    def _judge(self, prompt: tuple, pixel_values, image_inputs: dict, safety_policy):
        """Return encoded images, the inputs of their verdicts, and the policy; `prompt` as for `read_conversation`."""
        if pixel_values is None:
            raise ValueError("`assess` and `explain` need `pixel_values`: a sample without an image has no verdict.")
        unknown = image_inputs.keys() - {*self.model.image_arguments, *TOKEN_TYPES}
        if unknown:
            raise TypeError(f"`assess` and `explain` take no argument {', '.join(sorted(unknown))}.")
        self.config.safety_config.warn_if_weak()
        policy = self.policy_in_force(safety_policy)
        conversation, safety_inputs = self.read_conversation(*prompt)
        safety_inputs = self.verdict_inputs(conversation, policy, safety_inputs)
        return self.model.encode_images(pixel_values, image_inputs, safety_inputs), safety_inputs, policy
