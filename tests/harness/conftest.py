"""A checkpoint that refuses risky pictures, and benchmarks as the exporter writes them."""

import pytest
import torch
from standins import STANDINS
from tiny_training import NANO_SAFETY

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE
from safevlm_hf.evaluation.benchmarks import load_benchmark
from safevlm_hf.harness.export import export_benchmark


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The nano base with a head that finds a high risk of privacy in every picture."""
    torch.manual_seed(0)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model.config.safety_config.is_trained = True
    head = model.model.safety_head
    with torch.no_grad():
        for linear, answer in ((head.level_head, 3), (head.category_head, 4)):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[answer] = 9.0
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def export(tmp_path):
    """Write a stand-in as the exporter does; gives what was written."""

    def export(name, output=tmp_path / "data", **options):
        copy = STANDINS[name](tmp_path / "copies" / name)
        return export_benchmark(load_benchmark(name, copy, cache_dir=tmp_path / "cache", **options), output)

    return export
