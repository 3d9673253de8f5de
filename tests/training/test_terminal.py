"""What a terminal, or a log file, shows of a training."""

import re

import pytest
from support.tiny_training import create_arguments, create_trainer, published, write

from safevlm_hf import progress
from safevlm_hf.training.arguments import SafetyTrainingArguments
from safevlm_hf.training.run import run_stage1
from safevlm_hf.training.stages import prepare_stage1


pytestmark = pytest.mark.ci  # a training for each test

FIGURE = r"\d+\.\d{3}"
TITLES = ("risky prompts answered", "clean prompts refused", "needless warnings", "right categories")
EVALUATED = "evaluated: " + ", ".join(f"{title} {FIGURE}" for title in TITLES)


@pytest.fixture
def train(nano_model, nano_processor, riskcards, tmp_path, capsys):
    """Two steps, each evaluated, and once more at the end; gives what was written to stderr, in lines."""

    def train(**arguments):
        options = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 12}
        trainer = create_trainer(
            prepare_stage1(nano_model), nano_processor, riskcards, tmp_path, riskcards, **options, **arguments
        )
        capsys.readouterr()
        trainer.train()
        trainer.evaluate()
        out, err = capsys.readouterr()
        assert out == "" and "{" not in err  # none of the Trainer's dictionaries
        return [line for line in re.split("[\r\n]+", err) if line.strip()]

    return train


def test_a_bar_with_the_time_left_and_a_line_per_evaluation(train):
    lines = train(disable_tqdm=False)
    bars = [line for line in lines if line.startswith("training:")]
    assert re.search(rf"1/2 \[\d\d:\d\d<\d\d:\d\d.*, loss {FIGURE}, right levels {FIGURE}\]", "\n".join(bars))
    evaluated = [line for line in lines if line.startswith("step ")]
    assert [re.match(rf"step (\d) of 2, {EVALUATED}", line)[1] for line in evaluated] == ["1", "2"]


def test_lines_where_there_is_no_terminal(train, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    patterns = [f"loss {FIGURE}, right levels {FIGURE}", EVALUATED] * 2
    lines = [line for line in train(disable_tqdm=True) if line.startswith("step")]
    assert len(lines) == 4
    for line, step, pattern in zip(lines, "1122", patterns):
        left = "" if pattern == EVALUATED else r"\d\d:\d\d left: "
        assert re.match(f"step {step} of 2, {left}{pattern}", line), line


def test_the_answers_of_an_evaluation_have_the_time_left_too(train, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert re.fullmatch(r"answering: 12 of 12, \d\d:\d\d left", train(disable_tqdm=True)[1])


def test_lines_are_far_between(train):
    """Of a short training the last step is told, and what is evaluated."""
    lines = [line.split(": ")[0] for line in train()]
    assert lines == ["step 1 of 2, evaluated", "step 2 of 2", "step 2 of 2, evaluated"]


def test_training_on_own_records_is_logged_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    data = write(tmp_path / "own.jsonl", *[published() for _ in range(4)])
    words = f"--train_file {data} --output_dir {tmp_path / 'run'} --max_steps 2 --gradient_accumulation_steps 1"
    words += " --save_strategy no --report_to none --projector_depth 1 --num_safety_tokens 4 --num_safety_heads 4"
    run_stage1(words.split())
    steps = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert len(steps) == 2 and re.match(rf"step 1 of 2, \d\d:\d\d left: loss {FIGURE}", steps[0])


def test_evaluations_on_the_way_are_not_as_frequent_as_logs(tmp_path):
    args = SafetyTrainingArguments(output_dir=str(tmp_path), eval_strategy="steps")
    assert (args.logging_steps, args.eval_steps) == (1, 500)


def test_nothing_is_pinned_for_an_accelerator_that_is_not_there(tmp_path, monkeypatch):
    """torch would warn of it in the middle of the lines."""
    for is_there in (True, False):
        monkeypatch.setattr("torch.accelerator.is_available", lambda there=is_there: there)
        assert create_arguments(tmp_path).dataloader_pin_memory is is_there
    assert not create_arguments(tmp_path, dataloader_pin_memory=False).dataloader_pin_memory


def test_a_bar_is_for_terminals(tmp_path, monkeypatch):
    for is_terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda shown=is_terminal: shown, raising=False)
        assert create_arguments(tmp_path, disable_tqdm=None).disable_tqdm is not is_terminal
