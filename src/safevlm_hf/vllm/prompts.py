"""In the engine's frontend: each image carries its question and its company, and the prompt a key to the decision."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from vllm.model_executor.models.transformers import MultiModalProcessor
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.processing import PromptReplacement

from safevlm_hf.modeling.image_loading import load_images, to_rgb


QUESTION, SAMPLE, BLOCK = "question_ids", "sample_pixel_values", "image_block_ids"
KEY_BITS = 64


class RenderedQuestion(np.ndarray):
    """Token ids of a question, from our renderer: a type that no request can make."""


class SafeLlavaMultiModalProcessor(MultiModalProcessor):
    """
    The backend's processor, with three more fields per image: the question's token ids, all pictures of the prompt
    where there are several, and a key.

    Question and pictures are handed through as processor arguments, which the engine hashes together with the image:
    what it caches of an image belongs to this question and to this company alone. The key, a digest of both, is
    written into the positions of the image's block, whose token ids nobody reads (embeddings take their place): there
    the sampler, who sees no images, finds which decision a prompt waits for.
    """

    def apply(self, inputs, timing_ctx):
        image_token_id = self.info.get_hf_config().image_token_id
        text = [token_id for token_id in inputs.prompt if token_id != image_token_id]
        self._check(inputs, len(inputs.prompt) - len(text))
        question = inputs.hf_processor_mm_kwargs.get(QUESTION, text)
        images = inputs.mm_data_items["image"].get_all_items_for_hash() if "image" in inputs.mm_data_items else []
        kwargs = {QUESTION: np.array(question, dtype=int), SAMPLE: list(images) if len(images) > 1 else []}
        # A user's name for an image says nothing of its pixels.
        return super().apply(replace(inputs, mm_uuid_items=None, hf_processor_mm_kwargs=kwargs), timing_ctx)

    @staticmethod
    def _check(inputs, num_image_tokens: int):
        images = inputs.mm_data_items.get("image", ())
        kwargs = inputs.hf_processor_mm_kwargs
        if any(name != QUESTION or not isinstance(value, RenderedQuestion) for name, value in kwargs.items()):
            raise ValueError(f"SafeLlava takes no `mm_processor_kwargs`, got {list(kwargs)}.")
        if any(image is None for image in images):
            raise ValueError("SafeLlava needs every image itself: a `uuid` alone is not enough.")
        if num_image_tokens != len(images):
            raise ValueError(f"The prompt has {num_image_tokens} image tokens and {len(images)} images.")

    def _get_hf_mm_inputs(self, mm_items, hf_kwargs):
        hf_inputs = super()._get_hf_mm_inputs(mm_items, hf_kwargs)
        if "images" in hf_inputs.hf_data:
            hf_inputs.hf_data["images"] = [_as_judged(image) for image in mm_items["image"].get_all_items_for_hash()]
        return hf_inputs

    def _apply_hf_processor_main(self, mm_items, hf_kwargs):
        question = torch.as_tensor(hf_kwargs[QUESTION])
        hf_inputs = super()._apply_hf_processor_main(mm_items, {})
        if "pixel_values" in hf_inputs:
            pixel_values = hf_inputs["pixel_values"]
            blocks = hf_inputs["image_replacement_ids"].view(len(pixel_values), -1)
            sample = self._read_sample(hf_kwargs[SAMPLE], pixel_values)
            hf_inputs[QUESTION] = question.expand(len(pixel_values), -1)
            hf_inputs[SAMPLE] = sample.expand(len(pixel_values), -1, -1, -1, -1)
            hf_inputs[BLOCK] = torch.stack(
                [
                    self._write_key(block, sample if len(sample) else pixels, question)
                    for block, pixels in zip(blocks, pixel_values)
                ]
            )
        return hf_inputs

    def _read_sample(self, images: list, pixel_values: torch.Tensor) -> torch.Tensor:
        """The pixels of all pictures of a prompt, (images, channels, height, width); none where there is one alone."""
        if not images:
            return pixel_values[:0]
        images = load_images([_as_judged(image) for image in images])
        return self.info.get_hf_processor().image_processor(images, return_tensors="pt")["pixel_values"]

    def _write_key(self, block: torch.Tensor, pixels: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """The token ids of an image's block, (block length,), with its key in two different ids after the first."""
        if len(block) <= KEY_BITS:
            raise ValueError(f"A key takes {KEY_BITS} positions; an image's block of this model has {len(block)}.")
        data = pixels.contiguous().view(torch.uint8).numpy().tobytes() + question.numpy().tobytes()
        digest = np.unpackbits(np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8))
        # BOS begins every prompt, so that a penalty on repetition counts it anyway.
        tokenizer = self.info.get_tokenizer()
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        other_id = next(token_id for token_id in ids if token_id is not None)
        block = block.clone()
        block[1 : 1 + KEY_BITS][torch.from_numpy(digest[:KEY_BITS]) == 0] = other_id
        return block

    def _get_mm_fields_config(self, hf_inputs, hf_processor_mm_kwargs):
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        return {
            **fields,
            QUESTION: MultiModalFieldConfig.batched("image"),
            SAMPLE: MultiModalFieldConfig.batched("image"),
            BLOCK: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs):
        blocks = []
        for item in out_mm_kwargs.get("image", ()):
            del item["image_replacement_ids"]
            blocks.append(item[BLOCK].data.tolist())
        target = [self.info.get_hf_config().image_token_id]
        return [PromptReplacement(modality="image", target=target, replacement=blocks.__getitem__)]


def _as_judged(image):
    """The image as transformers would read it, from the bytes that were sent."""
    return to_rgb(Image.open(io.BytesIO(image.original_bytes))) if isinstance(image, MediaWithBytes) else image
