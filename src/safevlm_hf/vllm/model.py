"""The model as the engine runs it: base model by transformers, verdict under each image's own question."""

from itertools import accumulate

import torch
from torch.nn.utils.rnn import pad_sequence
from vllm.model_executor.models.transformers import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    TransformersMultiModalForCausalLM,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.tokenizers.registry import cached_tokenizer_from_config

from safevlm_hf.modeling.generation_safety import decide_samples
from safevlm_hf.modeling.safe_llava import SafeLlavaForConditionalGeneration
from safevlm_hf.modeling.safety_inputs import SafetyInputs
from safevlm_hf.modeling.safety_policy import ACTIONS
from safevlm_hf.modeling.safety_refusals import refusal_ids

from .prompts import BLOCK, QUESTION, SAMPLE, SafeLlavaMultiModalProcessor
from .refusals import DECISIONS, Decision
from .settings import read_policy


@MULTIMODAL_REGISTRY.register_processor(
    SafeLlavaMultiModalProcessor, info=MultiModalProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class SafeLlavaForVllm(TransformersMultiModalForCausalLM):
    def __init__(self, *, vllm_config, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.policy = read_policy(vllm_config.model_config)
        self.refuses = self.policy.refuses(self.config.safety_config)
        self.tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
        SafeLlavaForConditionalGeneration._warn_weak_safety(self)

    def _get_features(self, modality: str, pixel_values: torch.Tensor, **kwargs) -> list[torch.Tensor]:
        """One block per image; `kwargs` hold the fields of [`SafeLlavaMultiModalProcessor`].

        A prompt has one condition, that of its strictest picture, and the engine encodes each picture apart. So each
        comes with all pictures of its prompt, is judged with them, and leaves a block of its own.
        """
        blocks = kwargs[BLOCK]
        samples = [torch.cat([own[None], company.to(own)]) for own, company in zip(pixel_values, kwargs[SAMPLE])]
        sizes = [len(sample) for sample in samples]
        safety_inputs = self._safety_inputs(kwargs[QUESTION], sizes, blocks.shape[1], pixel_values.device)
        encoded = self.model.get_image_features(torch.cat(samples), safety_inputs=safety_inputs, return_dict=True)
        if self.refuses:
            self._keep_decisions(blocks, safety_inputs)
        return [encoded.pooler_output[start] for start in accumulate(sizes[:-1], initial=0)]

    def _keep_decisions(self, blocks: torch.Tensor, safety_inputs: SafetyInputs):
        samples = decide_samples(safety_inputs, self.config.safety_config)
        for block, (action, risk, category) in zip(blocks.tolist(), samples):
            is_refused = ACTIONS[action] == "refuse"
            refusal = refusal_ids(self.tokenizer, self.policy.refusal(category)) if is_refused else None
            DECISIONS.add(block, Decision(len(block), risk, refusal))

    def _safety_inputs(self, questions, sizes: list[int], block_length: int, device: torch.device) -> SafetyInputs:
        """Each image as a sample of its own, with its company, under its question."""
        questions = [question.to(device) for question in questions]
        ids = pad_sequence(questions, batch_first=True)
        lengths = torch.tensor([len(question) for question in questions], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        counts = torch.tensor(sizes, device=device) * block_length
        return SafetyInputs(self.model.get_input_embeddings()(ids), mask, counts, policy=self.policy)
