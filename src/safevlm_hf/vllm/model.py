"""The model as the engine runs it: base model by transformers, verdict under each image's own question."""

from dataclasses import dataclass
from itertools import chain, groupby, islice

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.core_model_loading import WeightRenaming
from vllm.model_executor.models.transformers import MultiModalDummyInputsBuilder, TransformersMultiModalForCausalLM
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.tokenizers.registry import cached_tokenizer_from_config

from ..modeling.safety_inputs import SafetyInputs
from ..modeling.safety_outputs import decide_samples
from ..modeling.safety_policy import ACTIONS
from ..modeling.safety_refusals import refusal_ids
from .keys import read_key, zero_token_id
from .prompts import BLOCK, COUNTS, DIGEST, PLACE, QUESTION, SAMPLE_PREFIX, SafeMultiModalProcessor, SafeProcessingInfo
from .refusals import DECISIONS, Decision
from .settings import read_policy


@MULTIMODAL_REGISTRY.register_processor(
    SafeMultiModalProcessor, info=SafeProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class SafeModelForVllm(TransformersMultiModalForCausalLM):
    # The head's question is made of the word embeddings, so no adapter may change them. The engine applies adapters
    # below the language model alone: tower, connector and safety modules stay as they are.
    embedding_modules: dict[str, str] = {}

    def __init__(self, *, vllm_config, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.policy = read_policy(vllm_config.model_config)
        self.refuses = self.policy.refuses(self.config.safety_config)
        self.tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
        self.config.safety_config.warn_if_weak()

    def _create_hf_to_vllm_mapper(self):
        super()._create_hf_to_vllm_mapper()
        renamings = self.hf_to_vllm_mapper.orig_to_new_renaming
        self.hf_to_vllm_mapper.orig_to_new_renaming = [_BackboneRenaming(renaming) for renaming in renamings]

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Compute logits as the backend does. No answer gets an image token, which would mark an image's place."""
        logits = super().compute_logits(hidden_states)
        if logits is not None and self.config.image_token_id < logits.shape[-1]:
            logits[..., self.config.image_token_id] = -torch.inf
        return logits

    def embed_multimodal(self, **fields) -> list[torch.Tensor]:
        """Return one block per item; `fields` are those of [`SafeMultiModalProcessor`], one entry per item.

        A prompt has one condition, that of its strictest picture, and the engine encodes each picture apart. So each
        comes with all pictures of its prompt and is judged with them. Where several pictures of a prompt come at once,
        the prompt is encoded once.
        """
        items = [dict(zip(fields, values)) for values in zip(*fields.values(), strict=True)]

        def row_shapes(prompt: list[dict]) -> list[torch.Size]:
            # Fields of several samples are joined along their first dimension, so the others have to be equal.
            return [value.shape[1:] for name, value in prompt[0].items() if name.startswith(SAMPLE_PREFIX)]

        alike = groupby(_by_prompt(items), key=row_shapes)
        return [block for _, prompts in alike for block in self._encode(list(prompts))]

    def _encode(self, prompts: list[list[dict]]) -> list[torch.Tensor]:
        """Return the blocks of all items of these prompts, whose fields can be joined."""
        samples = [prompt[0] for prompt in prompts]
        names = [name for name in samples[0] if name.startswith(SAMPLE_PREFIX)]
        arguments = {
            name.removeprefix(SAMPLE_PREFIX): torch.cat([sample[name] for sample in samples]) for name in names
        }
        safety_inputs = self._safety_inputs(samples, arguments["pixel_values"].device)
        encoded = self.model.get_image_features(**arguments, safety_inputs=safety_inputs, return_dict=True)
        counts = [sample[COUNTS].tolist() for sample in samples]
        if [len(block) for block in encoded.pooler_output] != [*chain.from_iterable(counts)]:
            raise ValueError("The blocks of these pictures have other lengths than their places in the prompt.")
        if self.refuses:
            self._keep_decisions(prompts, safety_inputs)
        blocks = iter(encoded.pooler_output)
        prompt_blocks = [list(islice(blocks, len(sample_counts))) for sample_counts in counts]
        return [found[int(item[PLACE])] for prompt, found in zip(prompts, prompt_blocks) for item in prompt]

    def _keep_decisions(self, prompts: list[list[dict]], safety_inputs: SafetyInputs):
        image_token_id, zero_id = self.config.image_token_id, zero_token_id(self.tokenizer)
        samples = decide_samples(safety_inputs, self.config.safety_config)
        for prompt, (action, risk, category) in zip(prompts, samples):
            is_refused = ACTIONS[action] == "refuse"
            refusal = refusal_ids(self.tokenizer, self.policy.refusal(category)) if is_refused else None
            for item in prompt:
                block = item[BLOCK].tolist()
                start = block.index(image_token_id)
                key = read_key(block, start, image_token_id, zero_id)
                DECISIONS.add(key, Decision(len(block) - start, risk, refusal))

    def _safety_inputs(self, samples: list[dict], device: torch.device) -> SafetyInputs:
        """Make each prompt a sample, under its question."""
        questions = [sample[QUESTION].to(device) for sample in samples]
        counts = torch.stack([sample[COUNTS].sum() for sample in samples]).to(device)
        if self.config.safety_config.reads_words:
            words = [torch.stack([question, torch.ones_like(question)], dim=-1) for question in questions]
            question_ids, nothing = pad_sequence(words, batch_first=True), torch.zeros(len(samples), 1, device=device)
            # A head with words of its own reads their ids, so there are no embeddings to hand over.
            return SafetyInputs(
                nothing[..., None], nothing.bool(), counts, policy=self.policy, question_ids=question_ids
            )
        ids = pad_sequence(questions, batch_first=True)
        lengths = torch.tensor([len(question) for question in questions], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        return SafetyInputs(self.model.get_input_embeddings()(ids), mask, counts, policy=self.policy)


@dataclass(frozen=True)
class _BackboneRenaming:
    """A backbone's conversion of a weight's name. Some backbones take all that they do not know for the language
    model's, and would move the safety modules into it."""

    renaming: WeightRenaming

    def rename_source_key(self, name: str) -> tuple[str, str | None]:
        return (name, None) if name.startswith("model.safety_") else self.renaming.rename_source_key(name)


def _by_prompt(items: list[dict]) -> list[list[dict]]:
    """Group the pictures of one prompt that come one after another, in the order of their places."""
    prompts: list[list[dict]] = []
    for item in items:
        before = prompts[-1][-1] if prompts else None
        if before is not None and torch.equal(before[DIGEST], item[DIGEST]) and before[PLACE] < item[PLACE]:
            prompts[-1].append(item)
        else:
            prompts.append([item])
    return prompts
