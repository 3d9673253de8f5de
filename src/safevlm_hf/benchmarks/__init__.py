"""Benchmarks: published files on the user's disk become items of one type, a file per benchmark.

Nothing is downloaded, and no data is shipped. A copy that is laid out differently is an error that names what is
missing, what is there instead, and where to get it.
"""

from . import (
    figstep,
    holisafe,
    jailbreakv,
    mm_safetybench,
    mmbench,
    mme,
    mossbench,
    mssbench,
    pope,
    riskcards,
    rtvlm,
    safeatlas_vl,
    seed_bench,
    siuo,
    spa_vl,
    vlguard,
    vlsbench,
    vlsu,
    xstest,
)
from .benchmark import Benchmark, Loaded
from .folder import BenchmarkError


_SAFETY = (rtvlm, vlguard, mm_safetybench, figstep, holisafe, spa_vl, mssbench, siuo, vlsbench, jailbreakv)
_OVER_REFUSAL = (mossbench, xstest)
_SEVERITY = (vlsu, safeatlas_vl, riskcards)
_GENERAL_ABILITY = (mmbench, seed_bench, mme, pope)

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK for module in (*_SAFETY, *_OVER_REFUSAL, *_SEVERITY, *_GENERAL_ABILITY)
}
"""The benchmarks by name, in the order in which they are listed."""


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name. Raises [`BenchmarkError`] if there is none."""
    if name not in BENCHMARKS:
        raise BenchmarkError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def load_benchmark(name: str, folder, *, skip_missing: bool = False, cache_dir=None, **options) -> Loaded:
    """Load the items of a benchmark from a copy of its published files. Every picture is decoded once.

    Args:
        name: one of `BENCHMARKS`.
        folder: the copy.
        skip_missing: leave out items whose picture is missing or cannot be read, and name them in `Loaded.missing`,
            instead of raising.
        cache_dir: where pictures are kept that lie in zip files or tables, or are drawn; `safevlm/pictures` in the
            Hub's folder (`HF_HOME`) if unset.
        options: the benchmark's own, such as `part`, `mode` and `seed`; `Benchmark.describe_options` names them.

    Raises:
        BenchmarkError: no such benchmark or option, another layout, a picture that cannot be read, no items. It says
            what was expected, what was found, and where to get the data.
    """
    return find_benchmark(name).load(folder, skip_missing=skip_missing, cache_dir=cache_dir, **options)


def describe_benchmarks() -> list[dict[str, str]]:
    """Describe each benchmark: name, title, source, licence, size, metric, options, and where to get it."""
    return [
        {
            "name": one.name,
            "title": one.title,
            "source": one.source,
            "licence": one.licence,
            "size": one.size,
            "metric": one.metric,
            "options": one.describe_options(),
            "where_to_get": one.where_to_get,
        }
        for one in BENCHMARKS.values()
    ]


__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkError",
    "Loaded",
    "describe_benchmarks",
    "find_benchmark",
    "load_benchmark",
]
