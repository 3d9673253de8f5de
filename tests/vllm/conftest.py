"""Skipped without vLLM."""

import importlib.util
import os

import pytest
import torch
from served import CHATS, POLICY, SAFETY, answer, rig

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
    torch.manual_seed(0)
    model.model.safety_head.apply(model._init_weights)
    model.initialize_from_embeddings(processor.tokenizer)
    rig(model, processor)
    model.config.safety_config.is_trained = True
    model.generation_config.safety_policy = POLICY
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    model = SafeLlavaForConditionalGeneration.from_pretrained(folder).eval()
    return folder, [answer(model, processor, chat) for chat in CHATS]
