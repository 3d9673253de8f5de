"""A checkpoint that refuses risky pictures, and benchmarks as the exporter writes them."""

import pytest
from support.private_checkpoint import save_private
from support.standins import STANDINS

from safevlm_hf.benchmarks import load_benchmark
from safevlm_hf.harness.export import export_benchmark


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_private(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def export(tmp_path):
    """Write a stand-in as the exporter does; gives what was written."""

    def export(name, output=tmp_path / "data", **options):
        copy = STANDINS[name](tmp_path / "copies" / name)
        return export_benchmark(load_benchmark(name, copy, cache_dir=tmp_path / "cache", **options), output)

    return export
