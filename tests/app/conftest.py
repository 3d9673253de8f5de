"""A checkpoint that finds a high risk of privacy in every picture."""

import pytest
import torch
from support.private_checkpoint import save_private

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor


def load(folder):
    return (
        SafeLlavaForConditionalGeneration.from_pretrained(folder).eval(),
        SafeLlavaProcessor.from_pretrained(folder),
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = save_private(tmp_path_factory.mktemp("checkpoint"))
    model, _ = load(folder)
    with torch.no_grad():
        for linear in (model.model.safety_head.level_head, model.model.safety_head.category_head):
            linear.weight.normal_(std=0.1)  # words and picture have a part in the verdict
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(checkpoint):
    """Model and processor. Nobody changes them."""
    return load(checkpoint)
