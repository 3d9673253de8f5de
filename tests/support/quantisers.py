"""Settings of the quantisers; a test that asks for one that is not installed is skipped."""

import pytest
from transformers import BitsAndBytesConfig, TorchAoConfig


def int8(**kwargs):
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    return TorchAoConfig(torchao.Int8WeightOnlyConfig(version=2), **kwargs)


def bits_and_bytes(**kwargs):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    return BitsAndBytesConfig(**kwargs)


QUANTISERS = {
    "torchao int8": int8,
    "bitsandbytes 8 bit": lambda: bits_and_bytes(load_in_8bit=True),
    "bitsandbytes 4 bit": lambda: bits_and_bytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    # As `transformers serve --quantization bnb-4bit` has it.
    "server's 4 bit": lambda: bits_and_bytes(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "skip list of one's own": lambda: bits_and_bytes(load_in_8bit=True, llm_int8_skip_modules=["lm_head"]),
    "torchao's of one's own": lambda: int8(modules_to_not_convert=["lm_head"]),
}
