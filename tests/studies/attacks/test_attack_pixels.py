"""The example, on tiny checkpoints."""

import importlib.util
import json
from pathlib import Path

import pytest

from safevlm_hf.data import NANO_BASE
from safevlm_hf.studies.attacks import measure


pytestmark = pytest.mark.ci

EXAMPLE = Path(__file__).parents[3] / "examples/attack_pixels.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("attack_pixels", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tiled, tmp_path):
    folder = tmp_path / "checkpoint"
    tiled.model.save_pretrained(folder)
    tiled.processor.save_pretrained(folder)
    return folder


def test_one_command_gives_table_figures_and_plot(example, checkpoint, records, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "draw_cards", lambda folder, size, seed: (records, records[:3]))
    monkeypatch.setattr(measure, "MAX_NEW_TOKENS", 2)
    output = tmp_path / "attack"
    arguments = ["--model", str(checkpoint), "--output_dir", str(output), "--steps", "2", "--batch_size", "3"]
    example.main([*arguments, "--epsilons", "unbounded", "--more_steps_at", "unbounded"])
    shown = capsys.readouterr().out
    table = (output / "attack.md").read_text()
    assert "not attacked" in shown and "A3: both" in shown and "unbounded" in table and " to " in table
    found = json.loads((output / "attack.json").read_text())
    assert found["settings"]["seed"] == 0 and found["settings"]["dtype"] == "float32"
    assert {"torch", "transformers", "safevlm_hf"} <= set(found["settings"]["versions"])
    assert len(found["rows"]) == 2 + 6 and len(found["more_steps"]) == 4
    assert {(row["cards"], row["saved"]["flagged"]["total"]) for row in found["rows"]} == {("risky", 4), ("clean", 3)}
    assert all(row["steps"] == 8 for row in found["more_steps"])
    a3 = next(row for row in found["rows"] if row["attacker"] == "A3")
    assert [len(batch) for batch in a3["loss_curves"]] == [1, 1] and len(a3["loss_curves"][0][0]) == 3
    assert (output / "attack.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "9"], "--size is 9: a share of fewer than 10 cards says nothing"),
        (["--epsilons", "0"], "0 is no epsilon: a number of 255ths, over 0 and up to 255"),
        (["--epsilons", "256"], "256 is no epsilon"),
        (["--epsilons", "much"], "much is no epsilon"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--risk_weight", "0"], "--risk_weight must be more than 0"),
        (["--more_steps_at", "3"], "--more_steps_at must name some of --epsilons"),
    ],
)
def test_options_that_make_no_sense(example, arguments, said, capsys):
    with pytest.raises(SystemExit):
        example.parse_args(arguments)
    assert said in capsys.readouterr().err


def test_checkpoints_that_cannot_be_attacked(example, tiny, tmp_path):
    tiny.model.config.safety_config.is_trained = False
    try:
        tiny.model.save_pretrained(tmp_path / "untrained")
    finally:
        tiny.model.config.safety_config.is_trained = True
    for checkpoint, said in (
        (NANO_BASE, "is no safe checkpoint: it has no safety head to attack"),
        (tmp_path / "untrained", "has an untrained safety head"),
        (tmp_path / "nothing", "there is no checkpoint"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{said}"):
            example.main(["--model", str(checkpoint), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
