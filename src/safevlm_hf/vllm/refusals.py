"""Refusals in the engine: where the images are encoded the decision is kept, where tokens are sampled it is forced."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from vllm.tokenizers.registry import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from ..modeling.safety_refusals import refusal_ids
from .keys import read_key, zero_token_id
from .settings import read_policy


# These options of a request return scores that no refusal has touched.
TELLING = ("prompt_logprobs", "prompt_logprob_token_ids", "trace_decode_token_ids")


@dataclass(frozen=True)
class Decision:
    """Decision on an image under its question: `refusal` holds the token ids of a fixed text, or nothing."""

    block_length: int  # it counts from the first image position on
    risk: float
    refusal: list[int] | None


class Decisions:
    """Decisions by the key in an image's block, as long as the engine's caches may hold the image. Thousands of
    images fit into these caches; of more than `max_size` the oldest are forgotten, and refused."""

    def __init__(self, max_size: int = 2**18):
        self.max_size = max_size
        self.by_key: OrderedDict[int, Decision] = OrderedDict()

    def add(self, key: int, decision: Decision):
        """Keep the decision on the image with this key. A refusal stays: no later image can take its place."""
        known = self.by_key.pop(key, None)
        self.by_key[key] = known if known is not None and known.refusal else decision
        if len(self.by_key) > self.max_size:
            self.by_key.popitem(last=False)

    def find(self, prompt_ids: list[int], image_token_id: int, zero_id: int) -> list[Decision] | None:
        """Return the decisions on all images of a prompt; `None` where one is not known."""
        decisions, start = [], 0
        while image_token_id in prompt_ids[start:]:
            start = prompt_ids.index(image_token_id, start)
            key = read_key(prompt_ids, start, image_token_id, zero_id)
            if key not in self.by_key:
                return None
            self.by_key.move_to_end(key)
            decisions.append(self.by_key[key])
            start += decisions[-1].block_length
        return decisions


DECISIONS = Decisions()  # one per process: the model writes, the sampler reads


@dataclass
class _Row:
    prompt_ids: list[int]
    output_ids: list[int]  # grows as the answer does
    decisions: list[Decision] | None = None


class EngineRefusal(LogitsProcessor):
    """
    Leave one token possible at each step of a refused request: the fixed text of its riskiest refused image, then the
    end. A request whose images nobody has judged is refused, too. It comes after whatever a request can ask for.
    """

    def __init__(self, vllm_config, device: torch.device, is_pin_memory: bool):
        model_config = vllm_config.model_config
        tokenizer = cached_tokenizer_from_config(model_config)
        if tokenizer.eos_token_id is None:
            raise ValueError("A safety policy that refuses needs a tokenizer with an end token.")
        self.image_token_id = model_config.hf_config.image_token_id
        self.zero_id = zero_token_id(tokenizer)
        self.end_token_id = tokenizer.eos_token_id
        self.unknown = refusal_ids(tokenizer, read_policy(model_config).refusal(None))
        self.rows: dict[int, _Row] = {}

    @classmethod
    def validate_params(cls, sampling_params):
        for name in TELLING:
            if getattr(sampling_params, name, None) is not None:
                raise ValueError(f"`{name}` would tell an answer that the safety policy may refuse.")

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update):
        def new_row(params, prompt_ids, output_ids) -> _Row | None:
            # A prompt of embeddings has no ids: it may hold an image, and counts as one that nobody has judged.
            has_images = prompt_ids is None or self.image_token_id in prompt_ids
            return _Row(prompt_ids or [self.image_token_id], output_ids) if has_images else None

        process_dict_updates(self.rows, batch_update, new_row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for index, row in self.rows.items():
            refusal = self._refusal(row)
            if refusal is None:
                continue
            # Beam search asks for each token with a new request, whose prompt ends with the tokens said before.
            lengths = range(len(refusal), 0, -1)
            already_said = next((n for n in lengths if row.prompt_ids[-n:] == refusal[:n]), 0)
            step = already_said + len(row.output_ids)
            logits[index] = -torch.inf
            logits[index, refusal[step] if step < len(refusal) else self.end_token_id] = 0.0
        return logits

    def _refusal(self, row: _Row) -> list[int] | None:
        # Decisions are looked up until they are there: a prompt is sampled in vain before its last part has been seen.
        row.decisions = row.decisions or DECISIONS.find(row.prompt_ids, self.image_token_id, self.zero_id)
        if row.decisions is None:
            return self.unknown
        refused = [decision for decision in row.decisions if decision.refusal]
        return max(refused, key=lambda decision: decision.risk).refusal if refused else None
