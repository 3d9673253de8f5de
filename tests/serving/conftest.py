"""Skipped without the extra `serve`."""

import importlib.util

import pytest
import torch
from support.tiny_training import NANO_SAFETY

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE


PACKAGES = ("openai", "uvicorn", "fastapi", "prometheus_client")
is_installed = all(importlib.util.find_spec(package) for package in PACKAGES)
collect_ignore_glob = [] if is_installed else ["test_*.py"]
if is_installed:
    from serving_client import CLEAN, inputs_of, load, open_client, point_head


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY).eval()
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model.config.safety_config.is_trained = True
    point_head(model, processor)
    folder = tmp_path_factory.mktemp("served")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def client(checkpoint):
    with open_client(checkpoint) as client:
        yield client


@pytest.fixture(scope="session")
def expected(checkpoint):
    """What the library says itself to the clean picture."""
    model, processor = load(checkpoint)
    inputs = inputs_of(processor, CLEAN)
    sequences = model.generate(**inputs)
    return processor.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
