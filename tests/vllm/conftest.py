"""Skipped without vLLM."""

import importlib.util
import os

import pytest
from served import CHATS, SAFETY, answer, save_rigged

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE


os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # to read the conditions in the engine's process
# This folder's name alone finds a package without a file.
is_installed = getattr(importlib.util.find_spec("vllm"), "origin", None) is not None
collect_ignore_glob = [] if is_installed else ["test_*.py"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder, and transformers' answers to `CHATS`."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=SAFETY).eval()
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model = save_rigged(model, processor, folder)
    return folder, [answer(model, processor, chat) for chat in CHATS]
