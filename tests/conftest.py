import os


# Before any import of a hub library: no test reaches the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import logging  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from support.tiny_training import NANO_SAFETY, draw_records  # noqa: E402
from transformers import set_seed  # noqa: E402

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaProcessor  # noqa: E402
from safevlm_hf.data import NANO_BASE  # noqa: E402


LEVELS = {name: logging.getLogger(name).level for name in ("transformers", "safevlm_hf", "timm")}


@pytest.fixture(autouse=True)
def seed():
    set_seed(0)
    # Threads that wait for a busy core spin: beside other work a run takes `OMP_NUM_THREADS=1`.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(autouse=True)
def logging_as_at_the_start():
    """Commands silence libraries for the whole process."""
    yield
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def tiny_config():
    """A SafeLlava of a few thousand parameters: 4 + 16 + 3 positions per image."""
    return SafeLlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 160,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        image_token_index=150,
        image_seq_length=16,
        safety_config={
            "num_safety_tokens": 4,
            "num_condition_tokens": 3,
            "projector_depth": 1,
            "head_gate_dropout": 0.0,
        },
    )


@pytest.fixture
def tiny_model(tiny_config):
    return SafeLlavaForConditionalGeneration(tiny_config).eval()


@pytest.fixture
def nano_model():
    """The nano base with untrained safety modules."""
    return SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY).eval()


@pytest.fixture
def nano_processor(nano_model):
    return SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=nano_model.config.safety_config)


@pytest.fixture(scope="session")
def riskcards(tmp_path_factory):
    """A dozen drawn records, half of them clean."""
    return draw_records(tmp_path_factory.mktemp("riskcards"))
