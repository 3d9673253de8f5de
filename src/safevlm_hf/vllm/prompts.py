"""Pictures in the engine's frontend: each one carries its question and its company, and a key to the decision."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from vllm.model_executor.models.transformers import MultiModalProcessingInfo, MultiModalProcessor
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from ..checkpoints.families import BY_MODEL_TYPE
from ..modeling.image_loading import FORMATS, to_rgb
from ..modeling.safety_words import SafetyWords, load_words
from .keys import write_key, zero_token_id


# Fields of an item. Those of the whole sample are named as `get_image_features` names them, behind `SAMPLE_PREFIX`.
SAMPLE_PREFIX = "sample_"
QUESTION, DIGEST, COUNTS, PLACE, BLOCK = "question_ids", "digest", "image_counts", "place", "image_block_ids"
GRID = "image_grid_thw"  # each picture's own: the engine reads it for positions of three dimensions
ON_CPU = (DIGEST, COUNTS, PLACE, BLOCK, GRID)
SAMPLE, PLACES = "sample_images", "places"  # arguments of the processor, which are ours alone


class RenderedQuestion(np.ndarray):
    """Token ids of a question, from our renderer: a type that no request can make."""


class SafeProcessingInfo(MultiModalProcessingInfo):
    """Processing of pictures alone, whatever else the backbone takes."""

    def _get_supported_modalities(self) -> list[str]:
        return ["image"]

    def validate_num_items(self, modality: str, num_items: int):
        check_modality(modality)
        super().validate_num_items(modality, num_items)


def check_modality(modality: str):
    """Raise `ValueError` for what nobody judges."""
    if modality != "image":
        raise ValueError(
            f"There is no verdict on video and audio yet, got {modality}: send pictures, as single frames of a video."
        )


class SafeMultiModalProcessor(MultiModalProcessor):
    """
    Prepare the pictures of a prompt as transformers does, all in one call, and give each of them the whole result,
    the question's token ids and a key.

    Question and pictures are handed through as processor arguments, which the engine hashes together with the picture:
    what it caches of a picture belongs to this question and to this company alone. The key, a digest of both, is
    written into the positions of the picture's block (`keys.py`).
    """

    def apply(self, inputs, timing_ctx):
        image_token_id = self.info.get_hf_config().image_token_id
        text = [token_id for token_id in inputs.prompt if token_id != image_token_id]
        self._check(inputs, len(inputs.prompt) - len(text))
        question = inputs.hf_processor_mm_kwargs.get(QUESTION)
        if question is None:
            # Nobody found the question, so all of the prompt's text is judged: too much, and never too little.
            config, source = self.info.get_hf_config(), self.info.ctx.model_config
            words = read_words(config, source.model, source.revision)
            question = text if words is None else words_of_tokens(words, self.info.get_tokenizer(), config, text)
        images = inputs.mm_data_items["image"].get_all_items_for_hash() if "image" in inputs.mm_data_items else []
        kwargs = {QUESTION: np.array(question, dtype=int), SAMPLE: list(images)}
        # A user's name for a picture says nothing of its pixels.
        return super().apply(replace(inputs, mm_uuid_items=None, hf_processor_mm_kwargs=kwargs), timing_ctx)

    @staticmethod
    def _check(inputs, num_image_tokens: int):
        for modality in inputs.mm_data_items:
            check_modality(modality)
        images = inputs.mm_data_items.get("image", ())
        kwargs = inputs.hf_processor_mm_kwargs
        if any(name != QUESTION or not isinstance(value, RenderedQuestion) for name, value in kwargs.items()):
            raise ValueError(f"A safe model takes no `mm_processor_kwargs`, got {list(kwargs)}.")
        if any(image is None for image in images):
            raise ValueError("A safe model needs every image itself: a `uuid` alone is not enough.")
        if len(images) and not isinstance(images, ImageProcessorItems):
            raise ValueError("A safe model takes pictures, and no embeddings in their place.")
        if num_image_tokens != len(images):
            raise ValueError(f"The prompt has {num_image_tokens} image tokens and {len(images)} images.")

    def _get_mm_hashes(self, inputs):
        # A picture that comes twice in a prompt has two places, and a key at each.
        hashes = super()._get_mm_hashes(inputs)
        return {
            modality: [f"{one}-{place}" for place, one in enumerate(picture_hashes)]
            for modality, picture_hashes in hashes.items()
        }

    def _get_cache_missing_processor_kwargs(self, inputs, mm_is_cached):
        places = [place for place, is_cached in enumerate(mm_is_cached.get("image", ())) if not is_cached]
        return {**inputs.hf_processor_mm_kwargs, PLACES: places}

    def _apply_hf_processor_main(self, mm_items, hf_kwargs) -> BatchFeature:
        images = hf_kwargs[SAMPLE]
        places = hf_kwargs.get(PLACES, range(len(images)))
        if not len(places):
            return BatchFeature()
        sample, blocks = self._prepare(images)
        sample[QUESTION] = torch.as_tensor(hf_kwargs[QUESTION])
        items = [self._item(sample, blocks, place) for place in places]
        return BatchFeature({name: [item[name] for item in items] for name in items[0]})

    def _prepare(self, images: list) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        """Return all that the model reads of a prompt's pictures, and the token ids of each one's block."""
        processor, tokenizer = self.info.get_hf_processor(), self.info.get_tokenizer()
        # Pictures are read as transformers reads them, from the bytes that were sent: the engine's reading may differ.
        pictures = [
            to_rgb(Image.open(io.BytesIO(image.original_bytes), formats=FORMATS))
            if isinstance(image, MediaWithBytes)
            else image
            for image in images
        ]
        # They are handed over as one sample: some processors cut the pictures of a list otherwise.
        data = {"text": [processor.image_token * len(images)], "images": [pictures]}
        outputs = self.info.ctx.call_hf_processor(processor, {**data, "return_text_replacement_offsets": True})
        family = BY_MODEL_TYPE[processor.config_class.model_type]
        names = ("pixel_values", *family.base_model.image_arguments)
        sample = {SAMPLE_PREFIX + name: torch.as_tensor(outputs[name]) for name in names if name in outputs}
        texts = [replaced["replacement"] for replaced in outputs["text_replacement_offsets"][0]]
        return sample, [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def _item(self, sample: dict[str, torch.Tensor], blocks: list[list[int]], place: int) -> dict[str, torch.Tensor]:
        image_token_id = self.info.get_hf_config().image_token_id
        digest = _digest(sample)
        key = hashlib.sha256(digest + place.to_bytes(8, "little")).digest()
        block = write_key(blocks[place], key, image_token_id, zero_token_id(self.info.get_tokenizer()))
        grids = sample.get(SAMPLE_PREFIX + GRID)
        return {
            **sample,
            **({} if grids is None else {GRID: grids[place]}),
            DIGEST: torch.frombuffer(bytearray(digest), dtype=torch.uint8),
            COUNTS: torch.tensor([ids.count(image_token_id) for ids in blocks]),
            PLACE: torch.tensor(place),
            BLOCK: torch.tensor(block),
        }

    def _get_mm_fields_config(self, hf_inputs, hf_processor_mm_kwargs):
        return {name: MultiModalFieldConfig.batched("image", keep_on_cpu=name in ON_CPU) for name in hf_inputs}

    def _get_prompt_updates(self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs):
        image_token_id = self.info.get_hf_config().image_token_id
        # Structure tokens inside a block are none of these.
        image_ids = [image_token_id, zero_token_id(self.info.get_tokenizer())]
        blocks = [
            PromptUpdateDetails.select_token_ids(item[BLOCK].data.tolist(), image_ids)
            for item in out_mm_kwargs.get("image", ())
        ]
        return [PromptReplacement(modality="image", target=[image_token_id], replacement=blocks.__getitem__)]


def read_words(config, checkpoint: str, revision: str | None) -> SafetyWords | None:
    """Return the words of a checkpoint's head; `None` where it reads the language model's tokens."""
    return load_words(checkpoint, is_required=True, revision=revision) if config.safety_config.reads_words else None


def words_of_tokens(words: SafetyWords, tokenizer, config, token_ids: list[int]) -> np.ndarray:
    """Return the ids of the words in all of a prompt's text."""
    ids = torch.tensor([token_ids], dtype=torch.long)
    prompt_words = words.of_tokens(tokenizer, ids, (ids != config.image_token_id).long())[0]
    return prompt_words[prompt_words[:, 1] > 0, 0].numpy()


def _digest(sample: dict[str, torch.Tensor]) -> bytes:
    """Return the SHA-256 of all that a sample's verdict depends on."""
    digest = hashlib.sha256()
    for name, value in sample.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()
