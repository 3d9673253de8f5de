"""From records to batches: prompt, answer, question, images, verdict labels, and the condition to answer under."""

import hashlib
import zlib
from collections.abc import Callable
from pathlib import PurePath

import torch
from PIL import Image
from transformers import BatchFeature

from ..data.records import IGNORE_INDEX, load_image, place_images
from ..modeling.configuration_safety import SafetyConfig
from ..modeling.safety_assessment import TOKEN_TYPES
from ..modeling.safety_decision import condition_rows
from .cached_features import CachedFeatures


MOST_KNOWN = 100_000  # records whose rows are kept, of some 10 kB each


class SafetyCollator:
    """
    Batches of records (see `data/records.py`) for any safe model.

    Args:
        processor: a safe model's.
        safety_config: names and sizes of the model.
        head_condition_share: share of records, in [0, 1], that are answered under the head's own verdict; the rest
            under the label's. Chosen by the record's file and line, so that a resumed run sees the same.
        unmasked_share: share of records, in [0, 1], whose whole prompt counts as the question, as it does where a
            caller hands over no question mask. Chosen by file and line, too, and independently of the other share.
        features: the features of pictures that were computed before, where there are some ([`CachedFeatures`]).
    """

    def __init__(
        self,
        processor,
        safety_config: SafetyConfig,
        head_condition_share: float = 0.0,
        unmasked_share: float = 0.0,
        features: CachedFeatures | None = None,
    ):
        self.processor = processor
        self.safety_config = safety_config
        self.head_condition_share = head_condition_share
        self.unmasked_share = unmasked_share
        self.features = features
        self._known: dict[str, dict[str, list]] = {}

    def __call__(self, records: list[dict]) -> BatchFeature:
        """
        Returns:
            `input_ids`, `attention_mask`, `labels` and, where the processor makes them, `question_mask`,
            `mm_token_type_ids` and `token_type_ids` (records, length), padded on the right; `question_ids` (records,
            words, 2) where the head reads words of its own; and, where there are images, `pixel_values`, or features
            in their place, and whatever else the processor gives for them, and `safety_levels`, `safety_categories`
            and `safety_conditions` (images,), -100 where unlabelled, -1 where the head chooses the condition. The
            images of a record have labels of their own and share one condition, that of the record's strictest label.
        """
        references = [image for record in records for image in record["images"]]
        if references and self.features is not None and all(image in self.features for image in references):
            batch = self._pad(self._recall(records)) | {"pixel_values": self.features.read(references)}
        else:
            rows, image_inputs = self._encode(records, load_image)
            batch = self._pad(rows) | image_inputs
        per_image = [record for record in records for _ in record["images"]]
        if not per_image:
            return batch
        batch["safety_levels"] = _image_labels(records, "image_levels", "safety_level")
        batch["safety_categories"] = _image_labels(records, "image_categories", "safety_category")
        levels = torch.tensor([record["safety_level"] for record in per_image])
        categories = torch.tensor([record["safety_category"] for record in per_image])
        by_label = condition_rows(levels.clamp(min=0), categories.clamp(min=0), self.safety_config)
        head_chooses = [zlib.crc32(_line(record)) < self.head_condition_share * 2**32 for record in per_image]
        by_head = torch.tensor(head_chooses) | (levels < 0) | (categories < 0)  # a record without a label has no row
        batch["safety_conditions"] = torch.where(by_head, -1, by_label)
        return batch

    def _is_unmasked(self, record: dict) -> bool:
        # A second CRC would choose records that depend on the first one's.
        digest = hashlib.sha256(_line(record)).digest()
        return int.from_bytes(digest[:4], "big") < self.unmasked_share * 2**32

    def _recall(self, records: list[dict]) -> list[dict[str, list]]:
        """Return rows of records whose pictures' features are kept: nothing else of a row depends on its pictures, so
        it is encoded once."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        new = {record["source"]: record for record in records if record["source"] not in self._known}
        if new:
            rows, _ = self._encode([*new.values()], _blank)
            self._known.update(zip(new, rows))
        return [self._known[record["source"]] for record in records]

    def _pad(self, rows: list[dict[str, list]]) -> BatchFeature:
        # Masks and token types are padded with 0.
        padding = {"input_ids": self.processor.tokenizer.pad_token_id, "labels": IGNORE_INDEX}
        columns = {
            name: torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=padding.get(name, 0)
            )
            for name in rows[0]
        }
        return BatchFeature(columns)

    def _encode(self, records: list[dict], load: Callable) -> tuple[list[dict[str, list]], BatchFeature]:
        """Return a row for each record, and what the processor gives for the pictures."""
        encoded = self._apply_template(records, load)
        question_masks = encoded.get("question_mask") or [None] * len(records)
        names = [name for name in TOKEN_TYPES if name in encoded]
        token_types = [{name: encoded[name][row] for name in names} for row in range(len(records))]
        columns = (encoded["input_ids"], encoded["assistant_masks"], question_masks, token_types)
        rows = [self._encode_row(*row) for row in zip(records, *columns, strict=True)]
        if "question_ids" in encoded:
            special = {*self.processor.image_token_ids, *self.processor.tokenizer.all_special_ids}
            for row, record, words in zip(rows, records, encoded["question_ids"]):
                row["question_ids"] = words
                if self._is_unmasked(record):  # all before the answer, as `generate` reads a prompt without a mask
                    pairs = zip(row["input_ids"], row["labels"])
                    prompt = [int(label == IGNORE_INDEX and token not in special) for token, label in pairs]
                    tokens = torch.tensor([row["input_ids"]]), torch.tensor([prompt])
                    row["question_ids"] = self.processor.words.of_tokens(self.processor.tokenizer, *tokens)[0].tolist()
        image_inputs = {name: value for name, value in encoded.items() if name not in (*rows[0], "assistant_masks")}
        return rows, BatchFeature(image_inputs, tensor_type="pt")

    def _apply_template(self, records: list[dict], load: Callable):
        try:
            return self.processor.apply_chat_template(
                [place_images(record["messages"], record["images"], load) for record in records],
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
                return_tensors=None,
                processor_kwargs={"text_kwargs": {"padding": False}},
            )
        except Exception as error:
            if len(records) == 1:
                raise ValueError(f"{records[0]['source']}: the processor refuses it: {error}") from error
            for record in records:  # they are tried one by one, to name the one that is refused
                self._apply_template([record], load)
            raise

    def _encode_row(self, record: dict, ids, answer_mask, question_mask, token_types: dict) -> dict[str, list]:
        if not any(answer_mask):
            raise ValueError(
                f"{record['source']}: no answer to train on. The chat template must print each answer whole and in "
                "order, or mark it with {% generation %} ... {% endgeneration %}."
            )
        is_unmasked = self._is_unmasked(record)
        # Earlier answers of a risky conversation were given under the verdicts of earlier turns. In a
        # prompt without a mask they count as question, as they do in `generate`.
        if record["safety_level"] > 0 or is_unmasked:
            last = _runs(answer_mask)[-1]
            answer_mask = [int(last.start <= place < last.stop) for place in range(len(answer_mask))]
        answer_mask = self._without_next_turns(ids, answer_mask, record)
        ids, labels = list(ids), [token if marked else IGNORE_INDEX for token, marked in zip(ids, answer_mask)]
        row = {"input_ids": ids, "labels": labels}
        if question_mask is not None:
            row["question_mask"] = [1] * len(ids) if is_unmasked else list(question_mask)
        row |= {name: list(types) for name, types in token_types.items()}
        # Some templates never end an answer, and the model would never learn to stop.
        end = self.processor.tokenizer.eos_token_id
        if labels[-1] not in (IGNORE_INDEX, end):
            added = {"input_ids": end, "labels": end, "question_mask": 0, **dict.fromkeys(TOKEN_TYPES, 0)}
            for name, value in added.items():
                row.get(name, []).append(value)
        return row | {"attention_mask": [1] * len(ids)}

    def _without_next_turns(self, ids: list[int], mask: list[int], record: dict) -> list[int]:
        """Return the mask without a token at an answer's end that is the next turn's first word: where a template ends
        an answer with a space, that space and the word are one token."""
        answers = {
            "".join(part["text"] for part in message["content"] if part["type"] == "text").strip()
            for message in record["messages"]
            if message["role"] == "assistant"
        }
        mask = list(mask)
        for run in _runs(mask):
            whole, shorter = (
                self.processor.tokenizer.decode(ids[run.start : stop], skip_special_tokens=True).strip()
                for stop in (run.stop, run.stop - 1)
            )
            # The last token goes only if the run is an answer of the record without it, and none with it.
            if whole not in answers and shorter in answers:
                mask[run.stop - 1] = 0
        return mask


def _blank(reference: str) -> Image.Image:
    """Return a picture that makes room in the prompt, and is not looked at."""
    return Image.new("RGB", (64, 64))


def _line(record: dict) -> bytes:
    """Return file and line of the record, without the folder: the same run in another folder chooses the same
    records."""
    return PurePath(record["source"]).name.encode()


def _runs(mask: list[int]) -> list[slice]:
    """Return the runs of ones."""
    edges = [place for place, (one, next_one) in enumerate(zip([0, *mask], [*mask, 0])) if bool(one) != bool(next_one)]
    return [slice(*edge) for edge in zip(edges[::2], edges[1::2])]


def _image_labels(records: list[dict], name: str, record_name: str) -> torch.Tensor:
    """Return labels (images,): the record's own for each image, or its one label for all."""
    labels = [record.get(name) or [record[record_name]] * len(record["images"]) for record in records]
    return torch.tensor([label for row in labels for label in row])
