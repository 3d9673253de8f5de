"""The example that compares all systems, with trainings of two steps."""

import importlib.util
import json
from pathlib import Path

import pytest
from support.html_page import check_page

from safevlm_hf.evaluation.protocol.result import load_result


pytestmark = pytest.mark.ci

EXAMPLE = Path(__file__).parents[3] / "examples/compare_systems.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("compare_systems", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_all_systems_stand_in_one_table_under_one_protocol(example, tmp_path):
    arguments = ["--short", "--size", "8", "--rounds", "1", "--output_dir", str(tmp_path)]
    head, *rows = example.main(arguments)
    names = [row[0] for row in rows]
    assert names[0] == example.STOCK and names[-1] == example.SAFE and len(set(names)) == len(names) == 15
    calls = {row[0]: float(row[head.index("calls")]) for row in rows}
    assert calls["stock model"] == calls["SafeVLM"] == 1 and calls["ECSO"] >= 2 and 1 <= calls["guard first"] <= 2

    results = [load_result(path) for path in tmp_path.glob("riskcards*/*/results.json")]
    assert len(results) == 15 and len({one.protocol.hash for one in results}) == 1
    assert len({one.system.fingerprint for one in results}) == 15
    text = (tmp_path / "comparison.md").read_text()
    assert example.NOTE in text and "never a win" in text and "unreadable" in text
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [*content["systems"]] == names and content["protocol_hash"] == results[0].protocol.hash
    assert content["systems"]["stock model"]["less_stock"]["risky, answered"]["value"] == 0
    check_page((tmp_path / "report.html").read_text())

    checkpoints = tmp_path / "checkpoints"
    times = {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*.safetensors")}
    args = example.parse_args(arguments)
    example.build_entries(args, example.Settings([]))
    assert {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*.safetensors")} == times
    with pytest.raises(ValueError, match="trained with other settings"):
        example.build_entries(example.parse_args([*arguments, "--seed", "1"]), example.Settings([]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "4"], "--size must be at least 8"),
        (["--fine_tuned", "/not/there"], "there is no such folder"),
        (["--guard_kind", "generative"], "name it with --guard"),
        (["--guard_unsafe", "gore"], "name it with --guard"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_trained(example, arguments, said, capsys):
    with pytest.raises(SystemExit):
        example.parse_args(arguments)
    assert said in capsys.readouterr().err
