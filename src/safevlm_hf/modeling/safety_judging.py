"""Verdict, decision and block from pixels and a question: the path of an image through the safety layer.

`prepare_safety_inputs` finds the question of each sample. The family's `get_image_features` is called under it: in
`generate` by the library, which picks the arguments by its signature; in `forward` and `assess` by `encode_images`.
It encodes as its backbone does and calls `judge_images`: safety projector, and then `judge_and_condition`, which holds
all that depends on the question.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import torch_compilable_check

from .safety_blocks import check_runs, check_structure
from .safety_checks import check_question_ids
from .safety_decision import SafetyDecision, decide, is_readable
from .safety_inputs import SafetyInputs
from .safety_losses import clean_losses
from .safety_modules import Windows, readings_of
from .safety_outputs import SafetyImageOutput
from .safety_policy import DEFAULT_POLICY


MAX_PIXEL = 1000.0  # Largest plausible `pixel_values`: normalised images reach about 3, unnormalised ones 255.


class SafetyJudgingMixin:
    """Judging of images by the safety modules, for a base model with the modules and attributes of
    `SafeModelMixin`."""

    # -- the question ---------------------------------------------------------------------------------------------

    def prepare_safety_inputs(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        question_mask: torch.Tensor | None = None,
        question_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> SafetyInputs:
        """
        Find the question of each sample: what users said, without padding, image positions and (in training) the
        answer.

        Args:
            input_ids: (batch, length). Either these or `inputs_embeds`, which win.
            inputs_embeds: (batch, length, hidden).
            attention_mask: (batch, past + length); other shapes are not read.
            labels: (batch, length); positions other than -100 are the answer and stay out.
            question_mask: (batch, length), not 0 on what users said, as the processor gives it. Without it, all text
                is the question.
            question_ids: (batch, words, 2), as the processor gives them for a head that reads words of its own, and
                what such a head reads; it judges the picture by itself where there are none.
            kwargs: further fields of [`SafetyInputs`].

        Raises:
            `ValueError`: for a `question_mask` of another shape than the prompt's, or `question_ids` of another.
        """
        image_mask = self.image_mask_of(input_ids, inputs_embeds)
        inputs_embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        text_mask = ~image_mask
        if attention_mask is not None and attention_mask.ndim == 2:
            text_mask = text_mask & _mask_of_prompt(attention_mask, text_mask)
        if labels is not None:
            text_mask = text_mask & (labels == -100).to(text_mask.device)
        # The published head reads the first token of the prompt, whoever said it.
        if question_mask is not None and self.config.safety_config.head_pooling != "first":
            if question_mask.shape != text_mask.shape:
                raise ValueError(
                    f"`question_mask` must have the shape of the prompt, {tuple(text_mask.shape)}, got "
                    f"{tuple(question_mask.shape)}: pass it as the processor gave it, beside the same `input_ids`."
                )
            text_mask = text_mask & (question_mask != 0).to(text_mask.device)
        if question_ids is not None:
            check_question_ids(question_ids, len(text_mask), self.config.safety_config)
        kwargs |= {"image_mask": image_mask, "question_ids": question_ids}
        return SafetyInputs(inputs_embeds, text_mask, image_mask.sum(dim=1), **kwargs)

    def image_mask_of(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor | None = None
    ) -> torch.BoolTensor:
        """Mark (batch, length) image positions; `inputs_embeds` win."""
        if inputs_embeds is None:
            return input_ids == self.config.image_token_id
        image_token = torch.full((), self.config.image_token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(image_token)).all(dim=-1)

    def question_mask_of(self, safety_inputs: SafetyInputs, block_lengths: list[int]) -> torch.BoolTensor:
        """Mark (batch, length) what the head reads."""
        return safety_inputs.question(block_lengths) if self.has_structure_tokens else safety_inputs.text_mask

    # -- the verdict ----------------------------------------------------------------------------------------------

    def encode_images(
        self,
        pixel_values: torch.Tensor,
        arguments: dict,
        safety_inputs: SafetyInputs | None = None,
        labels: torch.LongTensor | None = None,
        condition_ids: torch.LongTensor | None = None,
    ) -> SafetyImageOutput:
        """Call `get_image_features` under the question of the prompt, for a `forward` with these arguments."""
        if arguments.get("mm_encoder_outputs") is not None:
            raise ValueError("You cannot specify both pixel_values and mm_encoder_outputs at the same time")
        if safety_inputs is None:
            names = ("input_ids", "inputs_embeds", "attention_mask", "question_mask", "question_ids")
            prompt = {name: arguments.get(name) for name in names}
            safety_inputs = self.prepare_safety_inputs(**prompt, labels=labels, condition_ids=condition_ids)
        given = {name: arguments[name] for name in self.image_arguments if arguments.get(name) is not None}
        return self.get_image_features(pixel_values, **given, safety_inputs=safety_inputs, return_dict=True)

    def judge_images(
        self,
        outputs: BaseModelOutputWithPooling,
        maps: Sequence[torch.Tensor] | torch.Tensor,
        pixels: list[torch.Tensor],
        safety_inputs: SafetyInputs | None,
        tiles: Sequence[Sequence[torch.Tensor]] | None = None,
    ) -> SafetyImageOutput:
        """
        Give encoded images their verdicts, and build their blocks.

        Args:
            outputs: what the backbone's `get_image_features` returned; its `pooler_output` are h_i, one per image.
            maps: (rows, columns, width) per image, what the safety projector reads: the whole picture.
            pixels: of each image, as `split_pixels` gives them.
            safety_inputs: questions and policy. Without them the verdict is on the image alone, under the default
                policy.
            tiles: further maps per image, of its parts, where the backbone cuts pictures.
        """
        # In float16 the safety modules stay in float32.
        dtype = self.safety_tokens.head.dtype
        views = [[whole] for whole in maps]
        if tiles is not None:
            views = [[whole, *parts] for whole, parts in zip(maps, tiles)]
        safety_features = self.safety_projector([view.to(dtype) for image_views in views for view in image_views])
        safety_features, is_key = _join_views(safety_features, list(map(len, views)))
        # Absurd pixel values still give features, and one bad patch can go unnoticed: no verdict rests on them.
        is_picture = torch.stack([(values.abs() <= MAX_PIXEL).all() for values in pixels])
        is_picture = is_picture.to(safety_features.device)
        encoded = SafetyImageOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_features=list(outputs.pooler_output),
            layer_features=outputs.get("deepstack_features"),
            safety_features=torch.where(is_picture[:, None, None], safety_features, torch.nan),
            safety_key_mask=is_key,
        )
        return self.judge_and_condition(encoded, safety_inputs)

    def judge_and_condition(
        self, encoded: SafetyImageOutput, safety_inputs: SafetyInputs | None = None
    ) -> SafetyImageOutput:
        """Give encoded images verdict, decision and block: everything that depends on the question."""
        safety = self.config.safety_config
        extra = safety.num_safety_tokens + safety.num_condition_tokens
        block_lengths = [len(features) + extra for features in encoded.image_features]
        if safety_inputs is None:
            safety_inputs = _no_question(encoded.safety_features, block_lengths)
        self._check_blocks(safety_inputs, block_lengths)
        rows = safety_inputs.image_rows(block_lengths).to(encoded.safety_features.device)
        windows = self._read_windows(encoded, safety_inputs, block_lengths, rows)
        policy = DEFAULT_POLICY if safety_inputs.policy is None else safety_inputs.policy
        # The policy decides every window before one is chosen: the riskiest window need not be the strictest, and
        # adding words must never soften a decision.
        decisions = decide(policy, windows.level_logits, windows.category_logits, safety)
        window_ids = decisions.strictest(windows.is_window)
        level_logits, category_logits = windows.choose(window_ids)
        decision = decide(policy, level_logits, category_logits, safety)
        rows = rows.to(level_logits.device)  # the head may lie on another device than the projector
        condition_ids = _condition_ids(decision, rows, safety_inputs)
        is_seen = is_readable(level_logits, category_logits)
        judged = {
            "pooler_output": self._blocks(encoded.image_features, is_seen, condition_ids),
            "deepstack_features": self._layer_blocks(encoded.layer_features, is_seen),
            "safety_level_logits": level_logits,
            "safety_category_logits": category_logits,
            "safety_condition_ids": condition_ids,
            "safety_action_ids": decision.action_ids,
            "safety_level_ids": decision.level_ids,
            "safety_window_ids": window_ids,
            "safety_window_logits": torch.cat([windows.level_logits, windows.category_logits], dim=-1),
            "safety_is_window": windows.is_window,
            "safety_clean_losses": clean_losses(windows, safety),
            "safety_image_rows": rows,
        }
        conditioned = SafetyImageOutput(**{**encoded, **judged})
        safety_inputs.outputs.append(conditioned)
        return conditioned

    def _check_blocks(self, safety_inputs: SafetyInputs, block_lengths: list[int]):
        """Raise for blocks that do not take the image positions of their rows, and for a token inside a block that the
        processor would not write there."""
        safety = self.config.safety_config
        # Blocks that shift would give one sample the image, or the verdict, of another.
        torch_compilable_check(
            safety_inputs.fit(block_lengths),
            f"Image features and image tokens do not match, tokens: {safety_inputs.image_token_counts.sum()}, "
            f"features: {sum(block_lengths)}. A safe model's image block also holds {safety.num_safety_tokens} safety "
            f"and {safety.num_condition_tokens} condition positions: prepare the inputs with "
            f"{self.config.class_prefix}Processor (the stock processor leaves no room for them).",
        )
        if safety_inputs.image_mask is None:
            return
        if not self.has_structure_tokens:
            check_runs(self, safety_inputs.image_mask, block_lengths)
        elif not torch.compiler.is_compiling():  # it reads values; `generate` and `assess` do not compile the encoding
            check_structure(self, safety_inputs, block_lengths)

    def _read_windows(
        self,
        encoded: SafetyImageOutput,
        safety_inputs: SafetyInputs,
        block_lengths: list[int],
        rows: torch.LongTensor,
    ) -> Windows:
        """Let the head read each window of each image's question; `rows` (images,) are the images' samples."""
        head_tokens, _ = self.safety_tokens()
        head_tokens = head_tokens.expand(len(block_lengths), -1, -1).to(encoded.safety_features)
        keys = torch.cat([head_tokens, encoded.safety_features], dim=1)
        is_key = encoded.safety_key_mask
        readings = None if is_key is None else readings_of(is_key, self.config.safety_grid_size**2)
        if self.config.safety_config.reads_words:
            words = self.words_of(safety_inputs).to(rows.device)
            return self.safety_head(words[..., 0], words[..., 1] != 0, keys, readings, rows)
        text_mask = self.question_mask_of(safety_inputs, block_lengths).to(rows.device)
        text_embeds = safety_inputs.text_embeds.to(rows.device)
        # The positions of an image are no question, and how many they are is known without asking the device.
        max_tokens = None if safety_inputs.image_mask is None else text_mask.shape[1] - min(block_lengths)
        return self.safety_head(text_embeds, text_mask, keys, max_tokens, readings, rows)

    @staticmethod
    def words_of(safety_inputs: SafetyInputs) -> torch.LongTensor:
        """Return `question_ids`, or no word for each sample: the picture is judged by itself then."""
        if safety_inputs.question_ids is not None:
            return safety_inputs.question_ids
        return torch.zeros(len(safety_inputs.text_mask), 1, 2, dtype=torch.long)

    # -- the block ------------------------------------------------------------------------------------------------

    def _blocks(
        self, image_features: list[torch.Tensor], is_seen: torch.BoolTensor, condition_ids: torch.LongTensor
    ) -> list[torch.Tensor]:
        """Build [ s(2) | h_i | c ], (block length, hidden) per image."""
        like, (_, block_tokens) = image_features[0], self.safety_tokens()
        block_tokens, is_seen = block_tokens.to(like), is_seen.to(like.device)
        # An image without a verdict is not seen either: features that are not numbers would break the whole batch's
        # sampling.
        parts = [[block_tokens, torch.where(seen, features, 0.0)] for seen, features in zip(is_seen, image_features)]
        if self.safety_conditions is not None:
            for block, condition in zip(parts, self.safety_conditions(condition_ids).to(like)):
                block.append(condition)
        return [torch.cat(block) for block in parts]

    def _layer_blocks(
        self, layer_features: list[list[torch.Tensor]] | None, is_seen: torch.BoolTensor
    ) -> list[list[torch.Tensor]] | None:
        """Build [ 0 | features | 0 ], (block length, hidden) per layer and image: s(2) and c get nothing of the
        tower's."""
        if layer_features is None:
            return None
        safety = self.config.safety_config
        around = (0, 0, safety.num_safety_tokens, safety.num_condition_tokens)
        blocks = []
        for features in layer_features:
            seen = is_seen.to(features[0].device)
            blocks.append([F.pad(torch.where(*pair, 0.0), around) for pair in zip(seen, features)])
        return blocks


def _mask_of_prompt(attention_mask: torch.Tensor, text_mask: torch.BoolTensor) -> torch.BoolTensor:
    """Return the part of a mask (batch, past + length) that is about the prompt, (batch, length)."""
    past_length = attention_mask.shape[1] - text_mask.shape[1]
    if past_length < 0:
        raise ValueError(
            f"`attention_mask` must cover the prompt of {text_mask.shape[1]} positions, and has "
            f"{attention_mask.shape[1]}."
        )
    return attention_mask[:, past_length:].to(text_mask.device).bool()


def _join_views(features: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, torch.BoolTensor | None]:
    """Join features (views, positions, hidden) of whole pictures and tiles, `counts` per image, to those of each
    image, (images, most views * positions, hidden), and which of them there are; `None` where all images have one
    view."""
    if max(counts) == 1:
        return features, None
    joined = nn.utils.rnn.pad_sequence(features.split(counts), batch_first=True).flatten(1, 2)
    num_positions = torch.tensor(counts, device=features.device)[:, None] * features.shape[1]
    return joined, torch.arange(joined.shape[1], device=features.device) < num_positions


def _no_question(safety_features: torch.Tensor, block_lengths: list[int]) -> SafetyInputs:
    images, _, hidden_size = safety_features.shape
    return SafetyInputs(
        text_embeds=safety_features.new_zeros(images, 0, hidden_size),
        text_mask=torch.zeros(images, 0, dtype=torch.bool, device=safety_features.device),
        image_token_counts=torch.tensor(block_lengths, device=safety_features.device),
    )


def _condition_ids(decision: SafetyDecision, rows: torch.LongTensor, safety_inputs: SafetyInputs) -> torch.LongTensor:
    """Return the row of the condition table for each image, (images,). A sample has one: that of its strictest
    image."""
    strictest = decision.strictest_images(rows, len(safety_inputs.text_mask))
    condition_ids = decision.condition_ids[strictest[rows]]
    if safety_inputs.condition_ids is None:
        return condition_ids
    given = safety_inputs.condition_ids.to(condition_ids.device)
    return torch.where(given < 0, condition_ids, given)
