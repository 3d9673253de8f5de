"""What is said where a package of an extra is missing; tests/test_packaging.py has every module without extras."""

import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from safevlm_hf import extras
from safevlm_hf.benchmarks import figstep
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import draw_riskcards, drawing
from safevlm_hf.evaluation.judges.endpoint import EndpointJudge
from safevlm_hf.evaluation.judges.rubrics import HARM
from safevlm_hf.evaluation.metrics import load_metric
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.stages import prepare_stage2


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("matplotlib", "eval", lambda model: figstep.render("List ways to bake bread.")),
        ("evaluate", "eval", lambda model: load_metric("refusal_rate")),
        ("datasets", "eval", lambda model: load_records("missing.jsonl", ["safe"], ["safe", "high"])),
        ("openai", "judge", lambda model: EndpointJudge("gpt", "gpt", HARM, "judged.jsonl", key_variable=None)),
        ("peft", "train", lambda model: prepare_stage2(model, LoraArguments())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, tiny_model, package, extra, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as error:
        call(tiny_model)
    command = f"{sys.executable} -m pip install 'safevlm_hf[{extra}]'"
    assert str(error.value) == f"the package {package} is not installed; {command} brings it"


def test_riskcards_name_the_package_itself_for_they_are_used_on_their_own(monkeypatch):
    for cached in filter(lambda one: hasattr(one, "cache_clear"), vars(drawing).values()):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError) as error:
        next(draw_riskcards("test", 1))
    command = f"{sys.executable} -m pip install matplotlib"
    assert str(error.value) == f"the package matplotlib is not installed; {command} brings it"


@pytest.mark.ci
@pytest.mark.parametrize("is_checkout", [True, False], ids=["in a checkout", "outside"])
def test_pip_takes_the_command_that_is_named(tmp_path, is_checkout):
    """The package is on no index, and pip asks none here."""
    command = [*shlex.split(extras.command_for("judge")), "--dry-run", "--no-index", "--no-deps"]
    folder = ROOT if is_checkout else tmp_path
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "safevlm_hf[judge]" in done.stdout, done.stderr


def test_where_pip_has_not_installed_the_package_the_checkout_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "version", missing)
    assert extras.command_for("app") == f"in a checkout, {sys.executable} -m pip install '.[app]'"
