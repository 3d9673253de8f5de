"""A language model on this machine as a judge: causal, or with pictures, any that has a chat template."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ...asking import encode, generate, in_batches
from ...data.records import load_image
from ..protocol.fingerprints import weights_hash
from ..protocol.protocol import package_versions
from .prompts import JudgePrompt
from .reading_judge import ReadingJudge, Reply, Request


class LocalJudge(ReadingJudge):
    """Judge that asks a model of transformers greedily, in batches. Weights are read from safetensors, remote code is
    never run.

    The model is loaded with the first question that is not on disk.

    Args:
        name, prompt, cache, max_new_tokens: as for `ReadingJudge`.
        model: folder or Hub id.
        sends_images: show the item's pictures; for a model that takes them.
        batch_size: questions at once.
        device_map, dtype: as for `from_pretrained`.

    Raises:
        OSError: there is no such model.
        ValueError: `batch_size` is not positive, the model has no chat template, takes no pictures where they are to
            be shown, or its folder holds no safetensors.
    """

    def __init__(
        self,
        name: str,
        model: str | os.PathLike,
        prompt: JudgePrompt,
        cache: str | os.PathLike,
        sends_images: bool = False,
        max_new_tokens: int = 16,
        batch_size: int = 8,
        device_map: str | None = None,
        dtype: str = "auto",
    ):
        super().__init__(name, prompt, cache, sends_images, max_new_tokens)
        if batch_size < 1:
            raise ValueError(f"judge {name!r}: expected a batch_size of at least 1, got {batch_size}")
        self.model = str(model)
        self.batch_size = batch_size
        self.device_map = device_map
        self.dtype = dtype
        # What cannot be a judge is known before anything runs.
        self._model_settings()
        self._processor, self._tokenizer = self._load_processor()

    def _model_settings(self) -> Mapping[str, Any]:
        versions = {name: package_versions()[name] for name in ("transformers", "torch")}
        return {"kind": "local", "dtype": self.dtype, "versions": versions, **self._identity}

    @cached_property
    def _identity(self) -> dict[str, str | None]:
        """Identify the weights: by their content, or by name and commit on the Hub."""
        if Path(self.model).is_dir():
            return {"weights": weights_hash(self.model)}
        from transformers import AutoConfig

        return {"model": self.model, "commit": getattr(AutoConfig.from_pretrained(self.model), "_commit_hash", None)}

    @cached_property
    def _takes_images(self) -> bool:
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

        return type(AutoConfig.from_pretrained(self.model)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    def _load_processor(self) -> tuple:
        """Load processor and tokenizer; of a text model both are its tokenizer."""
        from transformers import AutoProcessor, AutoTokenizer

        if self.sends_images and not self._takes_images:
            raise ValueError(f"judge {self.name!r}: {self.model} takes no pictures (sends_images=False)")
        processor = (AutoProcessor if self._takes_images else AutoTokenizer).from_pretrained(self.model)
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(f"judge {self.name!r}: {self.model} has no chat template, so nothing can be asked")
        tokenizer = getattr(processor, "tokenizer", processor)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return processor, tokenizer

    @cached_property
    def _language_model(self):
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        architecture = AutoModelForImageTextToText if self._takes_images else AutoModelForCausalLM
        return architecture.from_pretrained(
            self.model, dtype=self.dtype, device_map=self.device_map, use_safetensors=True
        ).eval()

    def _ask(self, requests: Sequence[Request], keep: Callable[[Request, str], Any]) -> Iterator[Reply]:
        batches = in_batches(
            partial(self._ask_batch, keep), requests, self.batch_size, lambda one: (len(one.images), len(one.text))
        )
        for _, replies in batches:
            yield from replies

    def _ask_batch(self, keep: Callable[[Request, str], Any], requests: Sequence[Request]) -> list[Reply]:
        asked, failed = {}, []
        for request in requests:
            try:
                # A question that cannot be asked must not stop the others of its batch.
                asked[request] = self._conversation(request)
            except (OSError, ValueError) as error:
                failed.append(Reply(request, failure=f"not asked: {error}"))
        if asked:
            # Templates of models that would think aloud first know `enable_thinking`; the others do not look at it.
            options = {} if self._takes_images else {"enable_thinking": False}
            inputs = encode(self._processor, [*asked.values()], **options)
            settings = {"do_sample": False, "max_new_tokens": self.max_new_tokens}
            texts, _ = generate(self._language_model, self._processor, inputs, **settings)
            for request, text in zip(asked, texts, strict=True):
                keep(request, text)
        return [*failed, *map(Reply, asked)]

    def _conversation(self, request: Request) -> list[dict]:
        """Return the question. Raise `ValueError` where texts hold special tokens or are too long, or a picture cannot
        be read."""
        special = [token for token in self._tokenizer.all_special_tokens if token in request.text]
        if special:
            raise ValueError(f"the question or the answer holds special tokens of the judge, {', '.join(special)}")
        length, longest = len(self._tokenizer(request.text)["input_ids"]), self._tokenizer.model_max_length
        if length > longest:
            raise ValueError(f"the prompt has {length} tokens, more than the judge's {longest}")
        if not self._takes_images:  # templates of text models take plain texts
            return [{"role": "user", "content": request.text}]
        content = [{"type": "image", "image": load_image(image)} for image in request.images]
        return [{"role": "user", "content": [*content, {"type": "text", "text": request.text}]}]
