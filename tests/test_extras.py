"""What is said where a package of an extra is missing; tests/test_packaging.py has every module without extras."""

import sys

import pytest

from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import draw_riskcards, drawing
from safevlm_hf.evaluation.benchmarks import figstep
from safevlm_hf.evaluation.judges.endpoint import EndpointJudge
from safevlm_hf.evaluation.judges.rubrics import HARM
from safevlm_hf.evaluation.metrics import load_metric
from safevlm_hf.training.arguments import LoraArguments
from safevlm_hf.training.stages import prepare_stage2


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("matplotlib", "eval", lambda model: figstep.render("List ways to bake bread.")),
        ("matplotlib", "eval", lambda model: next(draw_riskcards("test", 1))),
        ("evaluate", "eval", lambda model: load_metric("refusal_rate")),
        ("datasets", "eval", lambda model: load_records("missing.jsonl", ["safe"], ["safe", "high"])),
        ("openai", "judge", lambda model: EndpointJudge("gpt", "gpt", HARM, "judged.jsonl", key_variable=None)),
        ("peft", "train", lambda model: prepare_stage2(model, LoraArguments())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, tiny_model, package, extra, call):
    monkeypatch.chdir(tmp_path)
    for cached in filter(lambda one: hasattr(one, "cache_clear"), vars(drawing).values()):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as error:
        call(tiny_model)
    assert str(error.value) == f"the package {package} is not installed; pip install 'safevlm_hf[{extra}]' brings it"
