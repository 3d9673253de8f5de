"""Skipped without vLLM."""

import importlib.util
import os

import pytest
from served import make_checkpoint


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
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
