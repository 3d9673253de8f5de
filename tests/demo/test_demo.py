"""The real main of the demo, in its fast form: everything runs, and nothing is learned."""

import contextlib
import io
import json
import logging
import re

import pytest

from safevlm_hf import progress
from safevlm_hf.demo import run as demo
from safevlm_hf.demo.rows import (
    BASE,
    BOTH_STAGES,
    FIRST,
    PAIRS,
    QUICK_ROWS,
    RISKY_ANSWERED,
    RISKY_FLAGGED,
    STAGE1,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    report = folder / "report.html"
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(progress, "INTERVAL", 0.0)  # every line, for nothing takes long here
        code = demo.main(["--fast", "--seed", "3", "--output_dir", str(folder / "run"), "--report", str(report)])
    logging.getLogger("safevlm_hf").setLevel(logging.NOTSET)  # the demo is quiet, other tests read what is said
    return code, folder / "run", report.read_text(), out.getvalue(), err.getvalue()


@pytest.mark.ci
def test_every_figure_is_kept(run):
    code, folder, *_ = run
    assert code == 0  # the fast form has no targets
    figures = json.loads((folder / "figures.json").read_text())
    assert {BASE, STAGE1, BOTH_STAGES, "localisation", "rows"} == set(figures)
    assert figures[BASE]["attack_success_rate"] is not None and figures[BOTH_STAGES]["level_accuracy"] is not None
    for row in QUICK_ROWS:
        rates = figures["rows"][row.name][BOTH_STAGES]
        assert {RISKY_FLAGGED, RISKY_ANSWERED} <= set(rates)
        for rate in rates.values():
            low, high = rate["low"], rate["high"]
            assert rate["total"] >= 1 and low <= rate["value"] <= high + 1e-9


@pytest.mark.ci
def test_the_report_shows_every_part(run):
    page = run[2]
    for heading in ("Figures", "Around the question", "Policies at work", "Training"):
        assert f"<h2>{heading}</h2>" in page
    assert all(row.name in page for row in QUICK_ROWS)
    assert "demo --fast --seed 3" in page and re.search(r"\(\d+; 0\.\d\d to [01]\.\d\d\)", page)


@pytest.mark.ci
def test_the_terminal_is_calm(run):
    """What is done, one table, and where things are: no dictionaries of logs."""
    out = run[3]
    assert out.startswith("Both stages on the embedded llava base: about 1 minute on two quiet cores.\n")
    assert out.count(demo.FAST_NOTE) == 2 and out.count("Risky prompts answered ") == 1
    assert "{" not in out and "step" not in out
    for heading in ("Stage 1: the safety modules", "Stage 2: the language model", "after both stages: 16 held-out"):
        assert f"\n\n{heading}" in out


@pytest.mark.ci
def test_a_log_shows_the_time_left_after_training_too(run):
    *_, after_training = run[4].split("step 1 of ")
    for part in ("answering", "judging", "explaining", "drawing", "measuring"):
        assert re.search(rf"^{part}: \d+ of \d+, \d\d:\d\d left$", after_training, re.MULTILINE), part


def test_a_base_that_is_not_there_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setitem(demo.NANO_BASES, "idefics3", tmp_path / "none")
    with pytest.raises(ValueError, match="train_nano_base.py --family idefics3 --output_dir .*none"):
        demo.main(["--family", "idefics3"])


def test_a_fast_demo_replaces_no_other(monkeypatch, tmp_path):
    """By its folder: a checkpoint that has learned nothing must not be taken for the demo's."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write_config(stage, folder, *_, **__):
        written.append(str(folder))
        pytest.fail("far enough")

    monkeypatch.setattr(demo, "write_config", write_config)
    monkeypatch.setattr(demo, "quiet", lambda *_: None)
    monkeypatch.setitem(demo.NANO_BASES, "idefics3", tmp_path)
    idefics3 = ["--family", "idefics3"]
    for words in ([], ["--full"], ["--fast"], idefics3, [*idefics3, "--fast"]):
        with pytest.raises(pytest.fail.Exception, match="far enough"):
            demo.main(words)
    folders = ("demo", "demo", "demo_fast", "demo_idefics3", "demo_idefics3_fast")
    assert written == [f"runs/{name}" for name in folders]


@pytest.mark.ci
def test_the_checkpoints_load(run):
    folder = run[1]
    assert {"stage1", "stage2", "first"} <= {path.name for path in folder.iterdir()}
    model, processor = demo.reload(folder / "stage2")
    assert model.config.training_record["figures"]["num_samples"] == demo.FAST.num_test_samples
    assert demo.reload(folder / "first")[0].config.safety_config.head_pooling == "first"


def test_a_full_run_measures_what_its_targets_need():
    for extent in (demo.QUICK, demo.FULL):
        names = {row.name for row in extent.rows}
        needed = {target.figure.rsplit("; ", 1)[0] for target in extent.targets if "; " in target.figure}
        assert needed <= names | {PAIRS}, needed - names
    assert demo.FULL.num_row_samples >= 400 and set(demo.FULL.poolings.values()) == {"mean", "first"}
    assert FIRST in demo.QUICK.poolings
