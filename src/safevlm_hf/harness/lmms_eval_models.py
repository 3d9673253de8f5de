"""Safe models in lmms-eval: answers in batches, and likelihoods."""

import json
import os
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from loguru import logger
from PIL import Image
from tqdm import tqdm

from ..asking import ask_or_halve, encode, generate
from ..checkpoints.loading import load, read_policy
from ..modeling.operator_policy import OF_CHECKPOINT, merge_policies


DEFAULT_UNTIL = ["\n\n"]
"""The `until` that lmms-eval fills in where a task names none. It is meant for few-shot prompts, and would cut off a
refusal before its reason."""
DEFAULT_MAX_NEW_TOKENS = 1024
DECODING = ("do_sample", "temperature", "top_p", "top_k", "num_beams", "max_new_tokens")
"""Settings of `generate` that a task can make. Other ones are for other models, and are named in a warning."""


class SafeVlm(lmms):
    """A safe checkpoint in lmms-eval: `--model safevlm --model_args pretrained=CHECKPOINT,policy=FILE`.

    Args:
        pretrained: folder or Hub id.
        policy: a policy file that overrides the checkpoint's own.
        device: as torch names it; unset, the GPU if there is one.
        batch_size: requests per batch; a batch that does not fit into memory is asked in halves.
        max_batch_size: bounds lmms-eval's automatic batch size, which is not supported; it is always passed.

    Raises:
        ValueError: no checkpoint or an untrained one, a policy that does not fit it, a batch size that is no whole
            number, several processes.
    """

    def __init__(
        self,
        pretrained: str,
        policy: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}, expected a whole number of 1 or more.")
        # `load` puts the model on one device, and each process would load its own there.
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("safevlm runs in one process: start lmms-eval without `accelerate launch`.")
        self.batch_size = int(batch_size)
        self.model, self.processor = load(str(pretrained))
        if device is not None:
            self.model = self.model.to(device)
        safety = self.model.config.safety_config
        given = None if policy is None else read_policy(Path(policy), self.model, logger.warning)
        self.policy = merge_policies([(OF_CHECKPOINT, self.model.kept_policy()), (str(policy), given)], safety)

    @abstractmethod
    def conversation(self, request: Instance) -> tuple[list[dict], Mapping[str, Any]]:
        """Return the messages of a request, with PIL images in place, and the task's settings of generation."""

    # -- answers --------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer each request, in their order, and cut off at the task's `until`; lmms-eval's own default is ignored.

        Raises:
            ValueError: a video, a sound, or a picture that is not loaded.
            RuntimeError: a request does not fit into memory, even alone. As an empty text it would be a refusal to one
                metric and an attack's success to the next.
        """
        answers: dict[int, str] = {}
        with tqdm(total=len(requests), desc="answering") as bar:
            for start in range(0, len(requests), self.batch_size):
                rows = range(start, min(start + self.batch_size, len(requests)))
                asked = {row: self.conversation(requests[row]) for row in rows}
                for alike in _alike(asked):
                    messages, settings = zip(*(asked[row] for row in alike))
                    texts = self._answer_or_halve(messages, _decoding(settings[0]))
                    answers |= {row: _cut(text, settings[0]) for row, text in zip(alike, texts, strict=True)}
                bar.update(len(rows))
        return [answers[row] for row in range(len(requests))]

    def _answer_or_halve(self, conversations: Sequence[list[dict]], decoding: dict) -> list[str]:
        try:
            return ask_or_halve(lambda some: self._answer(some, decoding), conversations)
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"a request does not fit into the memory of {self.model.device}, even alone: fewer `max_new_tokens` "
                f"(now {decoding['max_new_tokens']}), smaller pictures, or a larger device."
            ) from error

    def _answer(self, conversations: Sequence[list[dict]], decoding: dict) -> list[str]:
        inputs = encode(self.processor, conversations)
        return generate(self.model, self.processor, inputs, safety_policy=self.policy, **decoding)[0]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError(
            "safevlm has no tasks of several rounds (output_type: generate_until_multi_round): leave them out."
        )

    # -- likelihoods ----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        raise NotImplementedError("lmms-eval has likelihoods for simple models alone: add `--force_simple`.")


class ChatSafeVlm(SafeVlm):
    """A safe model for tasks as messages, which is how a chat template wants them."""

    is_simple = False

    def conversation(self, request: Instance) -> tuple[list[dict], Mapping[str, Any]]:
        _, doc_to_messages, settings, doc_id, task, split = request.args
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        images, videos, sounds = messages.extract_media()
        _check_images([*images, *videos, *sounds], task, doc_id)
        return messages.to_hf_messages(), settings


class SimpleSafeVlm(SafeVlm):
    """A safe model for tasks as one text and pictures (`--force_simple`), and for likelihoods."""

    is_simple = True

    def conversation(self, request: Instance) -> tuple[list[dict], Mapping[str, Any]]:
        text, settings, doc_to_visual, doc_id, task, split = request.args
        return self._user_turn(text, doc_to_visual, doc_id, task, split), settings

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Measure how likely a text is as the answer, under the verdict's condition. A refusal by the policy has no
        likelihood and is left aside.

        Returns:
            Per request, as its `text`, a pair: the mean negative log-likelihood per token in nats, the end of the turn
            included, of which lmms-eval's tasks take the smallest, and whether each token is the likeliest.
        """
        # A bare pair is made a string by lmms-eval 0.7.3, and every task of choices fails on it.
        return [GenerationResult(self._loss(request)) for request in tqdm(requests, desc="likelihoods")]

    @torch.no_grad()
    def _loss(self, request: Instance) -> tuple[float, bool]:
        if len(request.args) != 6:
            raise ValueError("safevlm has no likelihoods without a prompt (metric `acc_mutual_info`).")
        text, target, doc_to_visual, doc_id, task, split = request.args
        answer = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
        asked = self._user_turn(text, doc_to_visual, doc_id, task, split)
        answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": str(answer).strip()}]}]
        prompt = encode(self.processor, [asked])["input_ids"].to(self.model.device)
        inputs = encode(self.processor, [answered], add_generation_prompt=False)
        inputs = inputs.to(self.model.device, self.model.dtype)
        ids, start = inputs["input_ids"], prompt.shape[1]
        # Some templates end a prompt with words that an answer replaces: its tokens then do not follow the prompt's.
        if not ids[:, start:].numel() or not ids[:, :start].equal(prompt):
            raise ValueError(
                f"{task}: the chat template does not put the answer behind its prompt, so it has no likelihood."
            )
        # Labels from `start` on let the verdict see the prompt alone, as where the answer is generated.
        labels = ids.clone()
        labels[:, :start] = -100
        texts = {name: inputs.get(name) for name in ("input_ids", "attention_mask", "question_mask", "question_ids")}
        safety_inputs = self.model.model.prepare_safety_inputs(**texts, labels=labels, policy=self.policy)
        logits = self.model(**inputs, safety_inputs=safety_inputs, use_cache=False).logits[0, start - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, start:])
        return loss.item(), bool((logits.argmax(dim=-1) == ids[0, start:]).all())

    def _user_turn(self, text: str, doc_to_visual, doc_id, task: str, split: str) -> list[dict]:
        images = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        _check_images(images, task, doc_id)
        content = [{"type": "image", "image": image} for image in images]
        return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _alike(asked: Mapping[int, tuple[list[dict], Mapping]]) -> Iterator[list[int]]:
    """Group the rows that can be one batch. All rows of a batch have the same settings, and all have pictures or none
    has any, because some processors take no mixture."""
    groups = defaultdict(list)
    for row, (messages, settings) in asked.items():
        has_images = any(part["type"] == "image" for message in messages for part in message["content"])
        groups[has_images, json.dumps(dict(settings), sort_keys=True, default=str)].append(row)
    return iter(groups.values())


def _check_images(images: Sequence, task: str, doc_id) -> None:
    for image in images:
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"{task}, document {doc_id}: safevlm reads pictures as PIL images, got {type(image).__name__}: leave "
                "out tasks with videos or sound."
            )


def _decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's settings for `generate`. Decoding is greedy where the task does not ask for a temperature."""
    for name in settings.keys() - {*DECODING, "until"}:
        _warn_once(name)
    decoding = {name: settings[name] for name in DECODING if settings.get(name) is not None}
    decoding.setdefault("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
    decoding.setdefault("num_beams", 1)
    decoding["do_sample"] = decoding.get("temperature", 0) > 0 and decoding.get("do_sample", True)
    if not decoding["do_sample"]:
        # `generate` warns of settings of sampling beside a greedy search.
        for name in ("temperature", "top_p", "top_k"):
            decoding.pop(name, None)
    return decoding


@lru_cache
def _warn_once(name: str) -> None:
    # The cache remembers the names: each is warned of once, and not with each request.
    logger.warning(f"safevlm does not apply the task's generation setting {name!r}: it applies {', '.join(DECODING)}.")


def _cut(text: str, settings: Mapping[str, Any]) -> str:
    """Cut an answer off at the task's `until`, except for lmms-eval's own default."""
    until = settings.get("until") or []
    ends = [until] if isinstance(until, str) else list(until)
    for end in [] if ends == DEFAULT_UNTIL else ends:
        text = text.split(end, 1)[0] if end else text
    return text.strip()
