"""Both answers to a conversation, streamed at the same time."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from threading import Event

import torch
from PIL import Image
from transformers import BatchFeature, StoppingCriteria, TextStreamer

from .base import Base
from .conversation import FREE_SIDE, SAFE_SIDE, SIDES, Turn, encode


POLICY_OFF = {"enabled": False}


class TwoAnswers:
    """A checkpoint that answers under its verdict, and beside it the same one without its policy, or its base.

    Args:
        model, processor: a trained checkpoint's.
        max_new_tokens: longest answer.
        base: the model on the other side; `None` for the same one with its policy off.
    """

    def __init__(self, model, processor, max_new_tokens: int = 256, base: Base | None = None):
        self.max_new_tokens = max_new_tokens
        # Backbones keep positions on the model while they answer, and tokenizers their settings, so each side has its
        # own. The second model shares the weights: nothing but the modules around them is copied.
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        other = copy.deepcopy(model, shared) if base is None else base.model
        self._models = {SAFE_SIDE: model.eval(), FREE_SIDE: other.eval()}
        self._processors = {SAFE_SIDE: processor, FREE_SIDE: processor if base is None else base.processor}
        self._tokenizers = {side: copy.deepcopy(self._processors[side].tokenizer) for side in SIDES}
        self._free_options = {"safety_policy": POLICY_OFF} if base is None else {}

    def encode(self, turns: Sequence[Turn], images: Sequence[Image.Image]) -> dict[str, BatchFeature]:
        """Return each side's inputs for its model; see [`encode`]."""
        return {
            side: encode(self._models[side], self._processors[side], turns, images, side, self.max_new_tokens)
            for side in SIDES
        }

    def stream(self, inputs: Mapping[str, BatchFeature], policy: dict) -> Iterator[dict[str, str]]:
        """Yield each side's answer so far, after each piece of either. Closing the iterator stops both answers.

        Args:
            inputs: what [`TwoAnswers.encode`] made.
            policy: of the safe side; it overrides the checkpoint's own.
        """
        options = {SAFE_SIDE: {"safety_policy": policy}, FREE_SIDE: self._free_options}
        pieces: Queue[tuple[str, str | None]] = Queue()
        is_left, texts = Event(), dict.fromkeys(SIDES, "")
        with ThreadPoolExecutor(len(SIDES)) as pool:
            futures = [pool.submit(self._answer, side, inputs[side], options[side], pieces, is_left) for side in SIDES]
            try:
                num_running = len(SIDES)
                while num_running:
                    side, text = pieces.get()
                    if text is None:
                        num_running -= 1
                    else:
                        texts[side] += text
                        yield dict(texts)
                for future in futures:
                    future.result()  # raises what went wrong there
            finally:
                is_left.set()

    def _answer(self, side: str, inputs: BatchFeature, options: dict, pieces: Queue, is_left: Event):
        """Generate one answer; at its end, and where it fails, `None` is the last piece."""
        try:
            self._models[side].generate(
                **inputs,
                **options,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
                streamer=_Pieces(self._tokenizers[side], side, pieces),
                stopping_criteria=[_Left(is_left)],
                tokenizer=self._tokenizers[side],
            )
        finally:
            pieces.put((side, None))


class _Pieces(TextStreamer):
    """Put the words of one side's answer into a queue as they come."""

    def __init__(self, tokenizer, side: str, pieces: Queue):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.side, self.pieces = side, pieces

    def on_finalized_text(self, text: str, stream_end: bool = False):
        self.pieces.put((self.side, text))


class _Left(StoppingCriteria):
    """End an answer that nobody reads any more."""

    def __init__(self, is_left: Event):
        self.is_left = is_left

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        return torch.full((len(input_ids),), self.is_left.is_set(), device=input_ids.device)
