import pytest
from support.standins import STANDINS

from safevlm_hf.benchmarks import load_benchmark


@pytest.fixture
def standin(tmp_path):
    """Write the stand-in of a benchmark; gives its folder."""

    def standin(name, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return STANDINS[name](folder, **options)

    return standin


@pytest.fixture
def load(tmp_path):
    """Load a benchmark from a folder, with the pictures that it keeps below the test's own folder."""

    def load(name, folder, **options):
        return load_benchmark(name, folder, cache_dir=tmp_path / "kept", **options)

    return load
