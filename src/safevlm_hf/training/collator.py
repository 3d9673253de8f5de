"""From records to batches: prompt, answer, images, verdict labels, and the condition to answer under."""

import zlib

import torch

from ..data.records import load_image
from ..modeling.configuration_safe_llava import SafetyConfig
from ..modeling.safety_policy import condition_rows


IGNORE_INDEX = -100


class SafetyCollator:
    """
    Batches of records (see `data/records.py`) for [`SafeLlavaForConditionalGeneration`].

    Args:
        processor: a [`SafeLlavaProcessor`]; its chat template marks the answers with `{% generation %}`.
        safety_config: names and sizes of the model.
        head_condition_share: share of records, in [0, 1], that are answered under the head's own verdict; the rest
            under the label's. Chosen by the record's source, so that a resumed run sees the same.
    """

    def __init__(self, processor, safety_config: SafetyConfig, head_condition_share: float = 0.0):
        self.processor = processor
        self.safety_config = safety_config
        self.head_condition_share = head_condition_share

    def __call__(self, records: list[dict]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `input_ids`, `attention_mask`, `labels` (records, length), padded on the right; and, where there are
            images, `pixel_values` (images, channels, height, width), `safety_levels`, `safety_categories` and
            `safety_conditions` (images,), -100 where unlabelled, -1 where the head chooses the condition.
        """
        batch = self._encode(records)
        per_image = [record for record in records for _ in record["images"]]
        if not per_image:
            return batch
        levels = torch.tensor([record["safety_level"] for record in per_image])
        categories = torch.tensor([record["safety_category"] for record in per_image])
        by_label = condition_rows(levels.clamp(min=0), categories.clamp(min=0), self.safety_config)
        by_head = torch.tensor([self._head_chooses(record) for record in per_image])
        batch["safety_levels"], batch["safety_categories"] = levels, categories
        batch["safety_conditions"] = torch.where(by_head | (levels < 0) | (categories < 0), -1, by_label)
        return batch

    def _head_chooses(self, record: dict) -> bool:
        return zlib.crc32(record["source"].encode()) < self.head_condition_share * 2**32

    def _encode(self, records: list[dict]) -> dict[str, torch.Tensor]:
        tokenizer = self.processor.tokenizer
        encoded = self.processor.apply_chat_template(
            [_with_images(record) for record in records],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            return_tensors=None,
            processor_kwargs={"text_kwargs": {"padding": False}},
        )
        rows = {"input_ids": [], "attention_mask": [], "labels": []}
        for record, ids, mask in zip(records, encoded["input_ids"], encoded["assistant_masks"]):
            if not any(mask):
                raise ValueError(
                    f"{record['source']}: no answer to train on. The chat template must mark answers with "
                    "{% generation %} ... {% endgeneration %}, as SafeLlavaProcessor's own does."
                )
            ids, labels = list(ids), [token if marked else IGNORE_INDEX for token, marked in zip(ids, mask)]
            # LLaVA's own template never ends an answer.
            if labels[-1] not in (IGNORE_INDEX, tokenizer.eos_token_id):
                ids.append(tokenizer.eos_token_id)
                labels.append(tokenizer.eos_token_id)
            for name, values in (("input_ids", ids), ("attention_mask", [1] * len(ids)), ("labels", labels)):
                rows[name].append(torch.tensor(values))
        fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORE_INDEX}
        batch = {
            name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill[name])
            for name, values in rows.items()
        }
        if encoded.get("pixel_values") is not None:
            batch["pixel_values"] = torch.stack([torch.as_tensor(pixels) for pixels in encoded["pixel_values"]])
        return batch


def _with_images(record: dict) -> list[dict]:
    """The record's messages with its images in their places."""
    images = iter(record["images"])
    messages = []
    for message in record["messages"]:
        content = [
            {"type": "image", "image": load_image(next(images))}
            if part["type"] == "image"
            else {"type": "text", "text": part["text"]}
            for part in message["content"]
        ]
        messages.append({"role": message["role"], "content": content})
    return messages
