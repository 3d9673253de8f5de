"""The command line as a user types it: what is shown, where, and the exit code."""

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
import yaml
from conftest import NANO_SAFETY
from PIL import Image
from transformers import AutoModel, AutoProcessor, logging

import safevlm_hf.demo
import safevlm_hf.training.run
from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor, SafetyPolicy
from safevlm_hf.cli import app, main
from safevlm_hf.cli.app import reason_of
from safevlm_hf.cli.chat import CHAT_COMMANDS
from safevlm_hf.data import NANO_BASE
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.modeling.safety_refusals import REFUSALS
from safevlm_hf.training.arguments import nano_config, parse_arguments


ROOT = Path(__file__).parents[1]
SAFETY_FLAGS = {"num_safety_tokens": 4, "num_condition_tokens": 4, "num_safety_heads": 4, "projector_depth": 1}
SHORT = {
    "num_riskcards": 12,
    "max_eval_samples": 4,
    "clean_share": 0.5,
    "warmup_steps": 0,
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": "true",
}
REFUSE = {"actions": {"*": {"high": "refuse"}}}
HOSTILE = "[red]a[/] :smile:\x1b[31m\\"  # markup, an emoji's name, a terminal's escape code, an open escape
SHOWN = r"[red]a[/] :smile:\x1b[31m" + "\\"


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """What a command sets for its process is set back; the terminal of the tests does not matter."""
    for name in ("NO_COLOR", "FORCE_COLOR", "SAFEVLM_AUDIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(typer.rich_utils, "COLOR_SYSTEM", "auto")
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


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
def picture(tmp_path):
    path = tmp_path / "card.png"
    Image.new("RGB", (60, 40), "white").save(path)
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `safevlm ...` in this process; gives the exit code, stdout and stderr."""

    def call(*words, stdin=""):
        monkeypatch.setattr(sys, "argv", ["safevlm", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def fails(call):
    """Run `safevlm ...`, which must end with one line on stderr and nothing on stdout; gives the line."""

    def fails(*words):
        code, out, err = call(*words)
        assert (code, out) == (2, ""), (code, out, err)
        (line,) = err.splitlines()
        assert line.startswith("Error: ")
        return line

    return fails


def flags(**values) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def write_json(path: Path, value) -> Path:
    path.write_text(json.dumps(value))
    return path


def start(*words, **kwargs) -> subprocess.Popen:
    """`safevlm ...` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "safevlm_hf", *map(str, words)], env=environment, **pipes, **kwargs)


# --------------------------------------------------------------------------------------------------
# Help, errors, colours
# --------------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    found = []
    for name, command in typer.main.get_command(app).commands.items():
        found += [[name, inner] for inner in command.commands] if hasattr(command, "commands") else [[name]]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(call, words):
    code, out, err = call(*words, "--help")
    assert (code, err) == (0, "")
    assert f"Example: safevlm {' '.join(words)} " in out


@pytest.mark.parametrize("words", [[], ["policy"]], ids=["safevlm", "policy"])
def test_without_a_command_it_is_the_help(call, words):
    code, out, err = call(*words)
    assert code in (0, 2) and err == "" and "Commands" in out  # which of them, is up to typer's version


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["asess", "x.png"], "No such command 'asess'."),
        (["assess", "--foo"], "No such option: --foo. See `"),
        (["assess"], "Missing argument"),
        (["assess", "x.png", "--debug"], "No such option: --debug"),
        (["assess", "x.png", "--model", "/no/such/folder"], "there is no checkpoint /no/such/folder"),
        (["assess", "x.png", "--model", NANO_BASE], "untrained safety head"),
        (["chat", "--image", "no[/].png"], "image not found: no[/].png"),
        (["chat", "--max-new-tokens", "0"], "max-new-tokens"),
        (["train", "--stage", "3"], "`--stage` must be 1, 2 or both, got '3'"),
        (["train", "--lora_rank", "3"], "--lora_rank"),
        (["train", "--num_riskcards", "[red]"], "invalid int value: '[red]'"),
        (["train", "--lora_r", "abc"], "invalid int value: 'abc'"),
        (["train", "run.yaml"], "A YAML file is for one stage"),
        (["calibrate"], "Name one target"),
        (["calibrate", "--target-miss-rate", "0.1", "--target-false-positive-rate", "0.1"], "Name one target"),
        (["calibrate", "--target-miss-rate", "3"], "target-miss-rate"),
        (["policy", "check", "[red].json"], "No such file or directory: '[red].json'"),
        (["policy", "show", "--model", "./nothing"], "there is no checkpoint ./nothing"),
    ],
    ids=lambda value: " ".join(map(str, value))[-60:] if isinstance(value, list) else "",
)
def test_errors_take_one_line(fails, words, reason):
    assert reason in fails(*words)


def test_debug_shows_the_traceback(call):
    code, out, err = call("--debug", "policy", "check", "missing.json")
    assert (code, out) == (2, "")
    assert err.startswith("Traceback") and "FileNotFoundError" in err


def test_reasons():
    assert reason_of(ValueError("two\n\n  lines")) == "two lines"
    assert reason_of(KeyError("name")) == "KeyError: 'name'" and reason_of(OSError()) == "OSError:"
    assert "safevlm_hf[train]" in reason_of(ModuleNotFoundError("No module named 'peft'"))
    long = reason_of(ValueError("3000 bad records:\n" + "- a.jsonl:1: broken\n" * 3000))
    assert len(long) <= 1000 and long.endswith("... (`safevlm --debug` shows all of it)")


@pytest.mark.parametrize("words", [["--help"], ["policy", "show", "--model", NANO_BASE], ["foo"]], ids=lambda w: w[0])
def test_colours_only_where_they_are_wanted(call, monkeypatch, words):
    assert "\x1b" not in "".join(call(*words)[1:])
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setattr(typer.rich_utils, "FORCE_TERMINAL", True)
    assert "\x1b[" in "".join(call(*words)[1:])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(call(*words)[1:])


@pytest.fixture
def heeds_ctrl_c():
    """A shell starts what runs in the background with Ctrl-C ignored, and every process hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_talk(checkpoint, picture, heeds_ctrl_c):
    talk = start("chat", "--model", checkpoint, "--image", picture)
    talk.stdin.write("What is it?\n")
    talk.stdin.flush()
    while not talk.stdout.readline().startswith("image 1: "):
        assert talk.poll() is None, talk.stderr.read()
    talk.send_signal(signal.SIGINT)
    _, err = talk.communicate(timeout=60)
    assert talk.returncode == 130 and "Traceback" not in err


def test_a_closed_pipe_is_no_error(checkpoint, picture):
    process = start("assess", *[picture] * 3, "--model", checkpoint, "--json")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert not {"Traceback", "BrokenPipeError", "Error:"} & set(err.split())
    for stream in (process.stdin, process.stderr):
        stream.close()


# --------------------------------------------------------------------------------------------------
# init
# --------------------------------------------------------------------------------------------------


def test_init_with_a_taxonomy(call, fails, tmp_path, checkpoint):
    name = HOSTILE.replace("\x1b", "")
    categories = ["self-harm", name, "safe"]
    taxonomy = write_json(tmp_path / "taxonomy.yaml", {"categories": categories, "levels": ["safe", "[b]bad"]})
    folder = tmp_path / "untrained"
    options = ["--taxonomy", taxonomy, "--num-safety-tokens", 4, "--num-condition-tokens", 2]
    code, out, err = call("init", NANO_BASE, folder, *options)
    assert (code, err) == (0, "") and out.startswith(f"{folder}: an untrained safe checkpoint")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is SafeLlavaForConditionalGeneration and type(processor) is SafeLlavaProcessor
    safety = model.config.safety_config
    assert safety.categories == processor.categories == categories
    assert (safety.num_safety_tokens, safety.num_condition_tokens, safety.is_trained) == (4, 2, False)
    assert model.model.safety_head.category_head.weight.shape[0] == 3

    _, out, _ = call("policy", "show", "--model", folder)
    assert name in out and "[b]bad" in out and "\x1b" not in out
    assert "untrained" in fails("assess", "x.png", "--model", folder)
    assert "is there already" in fails("init", NANO_BASE, folder)
    assert "is there already" in fails("init", NANO_BASE, taxonomy)
    assert "trained safety modules already" in fails("init", checkpoint, tmp_path / "again")
    write_json(taxonomy, {"categories": ["a", "b"]})
    assert "must contain 'safe'" in fails("init", NANO_BASE, tmp_path / "other", "--taxonomy", taxonomy)
    write_json(taxonomy, {"categories": [HOSTILE, "safe"]})
    assert "must be printable" in fails("init", NANO_BASE, tmp_path / "other", "--taxonomy", taxonomy)
    assert not (tmp_path / "other").exists()


# --------------------------------------------------------------------------------------------------
# train
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
    """What the stages are called with, in place of training."""
    called = []
    for number in (1, 2):

        def run(arguments, number=number):
            called.append((number, arguments))
            return SimpleNamespace(args=parse_arguments(number, arguments)[2])

        monkeypatch.setattr(safevlm_hf.training.run, f"run_stage{number}", run)
    return called


def test_train_without_options_is_the_embedded_default(call, runs, tmp_path):
    code, out, _ = call("train", "--output-dir", tmp_path)
    assert code == 0 and out.splitlines() == [f"stage {one} is done: {tmp_path}/stage{one}" for one in (1, 2)]
    assert [number for number, _ in runs] == [1, 2]
    for number, (config,) in runs:
        ours = {"output_dir": f"{tmp_path}/stage{number}"}
        ours |= {"model_name_or_path": f"{tmp_path}/stage1"} if number == 2 else {}
        assert yaml.safe_load(Path(config).read_text()) == yaml.safe_load(nano_config(number).read_text()) | ours


def test_train_gives_its_options_to_the_stages(call, runs, tmp_path):
    options = flags(model_name_or_path="base", learning_rate="1e-4", lora_r="8", use_cpu="true", seed=3)
    options += flags(taxonomy_file="a.yaml", num_safety_tokens=8, dtype="bfloat16", replay_share=0.7)
    options += ["--new_categories", "gambling", "fraud"]
    assert call("train", *options, "--output_dir", tmp_path)[0] == 0
    (model1, data1, args1), (model2, data2, args2, lora) = (parse_arguments(*run) for run in runs)
    assert (model1.model_name_or_path, model2.model_name_or_path) == ("base", f"{tmp_path}/stage1")
    assert [one.output_dir for one in (args1, args2)] == [f"{tmp_path}/stage1", f"{tmp_path}/stage2"]
    assert (
        args1.learning_rate == args2.learning_rate == 1e-4 and args1.use_cpu and args2.seed == 3 and lora.lora_r == 8
    )
    assert (model1.taxonomy_file, model1.num_safety_tokens) == ("a.yaml", 8)
    assert model1.new_categories == ["gambling", "fraud"]
    assert model2.taxonomy_file is model2.new_categories is None and model2.num_safety_tokens == 64
    assert model1.dtype == model2.dtype == "bfloat16" and data1.replay_share == data2.replay_share == 0.7


@pytest.mark.parametrize("stage", [1, 2])
def test_train_one_stage(call, fails, runs, tmp_path, stage):
    assert call("train", "--stage", stage, "--output-dir", tmp_path, "--seed", 3)[0] == 0
    ((number, arguments),) = runs
    parsed = parse_arguments(number, arguments)
    assert number == stage and parsed[2].output_dir == f"{tmp_path}/stage{stage}"
    assert parsed[0].model_name_or_path == (f"{tmp_path}/stage1" if stage == 2 else str(NANO_BASE))
    call("train", "--stage", stage, "--model_name_or_path", "other")
    assert parse_arguments(*runs[-1])[0].model_name_or_path == "other"
    config = tmp_path / "run.yaml"
    config.write_text(f"output_dir: {tmp_path}/own\n")
    assert f"stage {stage} is done: {tmp_path}/own" in call("train", "--stage", stage, config)[1]
    assert runs[-1] == (stage, [str(config)])
    assert "stands alone" in fails("train", "--stage", stage, config, "--seed", 1)


def test_train_checks_the_options_of_both_stages_first(fails, runs):
    assert "lora_alpha" in fails("train", "--lora_alpha", "x")
    assert "lora_r" in fails("train", "--stage", 1, "--lora_r", 8)
    assert not runs


def test_train_both_stages_and_assess(call, tmp_path, picture):
    options = flags(**SAFETY_FLAGS, **SHORT, lora_r=4, riskcards_dir=tmp_path / "riskcards")
    code, out, err = call("train", "--output-dir", tmp_path, *options)
    assert code == 0 and "Traceback" not in err
    record = AutoModel.from_pretrained(tmp_path / "stage2").config.training_record
    assert [stage["stage"] for stage in record["stages"]] == [1, 2]
    code, out, _ = call("assess", picture, "--model", tmp_path / "stage2", "--json")
    assert code in (0, 1) and json.loads(out)["image"] == str(picture)


# --------------------------------------------------------------------------------------------------
# assess
# --------------------------------------------------------------------------------------------------


def test_assess_shows_a_table(call, checkpoint, picture, monkeypatch):
    monkeypatch.chdir(picture.parent)
    other = Path(f"{HOSTILE}.png")
    other.parent.mkdir()  # it has a slash
    picture.rename(other)
    code, out, err = call("assess", other, "--model", checkpoint)
    assert (code, err) == (1, "")
    (row,) = [line for line in out.splitlines() if "condition" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][:4] == [f"{SHOWN}.png", "condition", "privacy", "high"]


def test_a_narrow_table_cuts_nothing(call, checkpoint, picture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = call("assess", picture, "--model", checkpoint)
    first = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert "".join(first) == str(picture) and "…" not in out


def test_assess_in_json(call, checkpoint, picture, tmp_path):
    code, out, err = call("assess", picture, picture, "--model", checkpoint, "--json", "--question", "Whose is it?")
    assert (code, err) == (1, "")
    first, second = map(json.loads, out.splitlines())
    assert first == second and first["image"] == str(picture)
    assert (first["category"], first["level"], first["action"]) == ("privacy", "high", "condition")
    assert first["flagged_categories"] == ["privacy"] and first["risk"] > 0.99
    policy = write_json(tmp_path / "policy.json", {"categories": {"privacy": False}})
    code, out, err = call("assess", picture, "--model", checkpoint, "--json", "--policy", policy)
    assert (code, err, json.loads(out)["action"]) == (0, "", "answer")


def test_pictures_that_cannot_be_read(call, checkpoint, picture, tmp_path):
    broken, missing = tmp_path / "[red]broken.png", tmp_path / "missing.png"
    broken.write_bytes(picture.read_bytes()[:60])
    words = ["assess", picture, broken, missing, picture, tmp_path, "--model", checkpoint]
    code, out, err = call(*words, "--json")
    assert code == 2
    assert [json.loads(line)["image"] for line in out.splitlines()] == [str(picture)] * 2
    errors = err.splitlines()
    assert len(errors) == 3 and all(line.startswith("Error: ") for line in errors)
    assert f"unreadable image: {broken}" in errors[0] and f"image not found: {missing}" in errors[1]
    code, out, _ = call(*words)
    assert code == 2 and out.count("privacy") == 4  # category and flagged
    assert call("assess", missing, "--model", checkpoint)[:2] == (2, "")


@pytest.mark.parametrize(
    "text", ['{"thresholds": {"privacy": 2}}', '{"treshold": 1}', "{", "[]", '{"categories": {"x": true}}']
)
def test_policies_that_are_wrong(fails, checkpoint, picture, tmp_path, text):
    policy = tmp_path / "[red].json"
    policy.write_text(text)
    options = ["--model", checkpoint]
    reason = fails("policy", "check", policy)
    assert str(policy) in reason
    assert fails("assess", picture, "--policy", policy, *options) == reason
    assert fails("policy", "show", "--policy", policy, *options) == reason
    assert fails("policy", "check", policy, *options) == reason


# --------------------------------------------------------------------------------------------------
# policy
# --------------------------------------------------------------------------------------------------


def rows(table: str) -> dict[str, list[str]]:
    """Cells of a table by its first column."""
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in table.splitlines()]
    return {first: rest for first, *rest in filter(None, lines)}


def test_policy_show(call, checkpoint, tmp_path):
    code, out, err = call("policy", "show", "--model", checkpoint)
    assert (code, err) == (0, "") and f"{checkpoint} has no policy of its own" in out
    assert SafetyPolicy().digest() in out
    assert rows(out)["privacy"] == ["yes", "-", "most probable", *["condition"] * 3] and "safe" not in rows(out)

    over = {"categories": {"politics": False}, "thresholds": {"privacy": 0.5}, "review_thresholds": {"privacy": 0.1}}
    code, out, _ = call("policy", "show", "--model", checkpoint, "--policy", write_json(tmp_path / "a.json", over))
    assert code == 0 and f"{tmp_path}/a.json laid over it" in out and SafetyPolicy(**over).digest() in out
    assert rows(out)["privacy"][:3] == ["yes", "0.1", "0.5"]
    assert rows(out)["politics"] == ["no", "-", "most probable", *["answer"] * 3]
    disabled = write_json(tmp_path / "b.json", {"enabled": False, **REFUSE})
    found = rows(call("policy", "show", "--model", checkpoint, "--policy", disabled)[1])
    assert found["privacy"] == ["no", "-", "most probable", *["answer"] * 3]


def test_policy_of_the_checkpoint(call, checkpoint, picture, tmp_path):
    folder = tmp_path / "kept"
    model = AutoModel.from_pretrained(checkpoint)
    model.generation_config.safety_policy = REFUSE
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    code, out, _ = call("policy", "show", "--model", folder)
    assert code == 0 and f"the policy of {folder}\n" in out
    assert rows(out)["privacy"][-3:] == ["condition", "condition", "refuse"]
    assert json.loads(call("assess", picture, "--model", folder, "--json")[1])["action"] == "refuse"


def test_policy_check(call, fails, checkpoint, tmp_path):
    good = write_json(tmp_path / "[b]good.json", REFUSE)
    for options in ([], ["--model", checkpoint]):
        code, out, err = call("policy", "check", good, *options)
        assert (code, err) == (0, "") and out.startswith(f"{good}: a sound policy for ")
    unknown = write_json(tmp_path / "unknown.json", {"categories": {"[red]gambling": False}})
    assert "['[red]gambling']" in fails("policy", "check", unknown)


# --------------------------------------------------------------------------------------------------
# chat
# --------------------------------------------------------------------------------------------------


def test_chat(call, checkpoint, picture, tmp_path):
    policy, audit = write_json(tmp_path / "policy.json", REFUSE), tmp_path / "audit.jsonl"
    lines = ["Hello?", "/image [red]no.png", "/help", "", f"/image {picture}", "What is it?", "And now?", "/new", "Hi"]
    options = ["--model", checkpoint, "--policy", policy, "--audit", audit, "--max-new-tokens", 40]
    code, out, err = call("chat", *options, stdin="\n".join(lines))  # its end ends the talk
    assert (code, err) == (0, "Error: image not found: [red]no.png\n")
    verdict = "image 1: refuse (privacy, high, risk 1.00)"
    refused = [REFUSALS["en"]["privacy"], verdict]
    said = [line.strip() for line in out.splitlines()]
    assert said.count(verdict) == 2 and "\x1b" not in out
    at = said.index(CHAT_COMMANDS)
    assert at > 0 and said[at + 1 : at + 5] == refused * 2  # each answer, then its verdict
    assert len(said) > at + 5  # the last answer has no picture any more
    actions = [json.loads(line)["action"] for line in audit.read_text().splitlines()]
    assert actions == ["answer", "refuse", "refuse", "answer"]


def test_chat_quits(call, checkpoint, picture):
    code, out, err = call("chat", "--model", checkpoint, "--image", picture, stdin="/quit\nWhat is it?\n")
    assert (code, out, err) == (0, "", "")


def test_chat_streams(call, checkpoint, picture, tmp_path, monkeypatch):
    generate, shown = SafeLlavaForConditionalGeneration.generate, []

    def watched(self, *args, **kwargs):
        outputs = generate(self, *args, **kwargs)
        shown.append(sys.stdout.getvalue())
        return outputs

    monkeypatch.setattr(SafeLlavaForConditionalGeneration, "generate", watched)
    policy = write_json(tmp_path / "policy.json", REFUSE)
    assert call("chat", "-m", checkpoint, "-i", picture, "-p", policy, stdin="What?")[0] == 0
    assert [text.strip() for text in shown] == [REFUSALS["en"]["privacy"]]


def test_an_audit_that_cannot_be_written_ends_the_talk(call, checkpoint, picture, tmp_path):
    words = ["--model", checkpoint, "--image", picture, "--audit", tmp_path]
    code, out, err = call("chat", *words, stdin="What is it?\nAgain?")
    assert (code, out.strip()) == (2, "") and err.startswith("Error: ") and str(tmp_path) in err


# --------------------------------------------------------------------------------------------------
# serve
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """What the server is started with."""
    serving, started = pytest.importorskip("safevlm_hf.serving"), {}

    signature = inspect.signature(serving.serve)
    monkeypatch.setattr(
        serving, "serve", lambda *args, **kwargs: started.update(signature.bind(*args, **kwargs).arguments)
    )
    return started


def test_serve_takes_the_operators_prompt(call, checkpoint, tmp_path, started):
    file = tmp_path / "prompt.txt"
    file.write_text("Be kind – and brief.\n", encoding="utf-8")
    for given, expected in ((file, "Be kind – and brief.\n"), ("Be kind.", "Be kind."), ("Be kind. " * 900,) * 2):
        assert call("serve", "--model", checkpoint, "--system-prompt", given)[0] == 0
        assert started["system_prompt"] == expected and not started["trust_client_roles"]
    assert call("serve", "--model", checkpoint, "--trust-client-roles")[0] == 0
    assert started["system_prompt"] is None and started["trust_client_roles"]


@pytest.mark.parametrize("given", ["prompt.txt", "", "   "])
def test_serve_takes_no_mistyped_file_for_a_prompt(call, checkpoint, started, given):
    code, _, err = call("serve", "--model", checkpoint, "--system-prompt", given)
    assert code == 2 and "existing file" in err and not started


# --------------------------------------------------------------------------------------------------
# calibrate and demo
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def unsure(checkpoint, tmp_path):
    """A checkpoint whose verdicts differ, for nothing is calibrated where all are alike."""
    model = AutoModel.from_pretrained(checkpoint)
    with torch.no_grad():
        for linear in (model.model.safety_head.level_head, model.model.safety_head.category_head):
            linear.weight.normal_(std=0.5)
            linear.bias.zero_()
    model.save_pretrained(tmp_path / "unsure")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "unsure")
    return tmp_path / "unsure"


def test_calibrate(call, fails, unsure, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_riskcards(tmp_path / "cards", "test", 100, seed=0)
    files = ["--output", "made/policy.json", "--report", "made/report.html"]
    code, out, _ = call("calibrate", "--model", unsure, "--data", data, "--target-false-positive-rate", 0.4, *files)
    assert code == 0 and out.endswith("policy: made/policy.json   report: made/report.html\n")
    assert set(rows(out)) >= {"clean samples flagged", "risky samples passed"}
    assert "safevlm calibrate --model" in Path("made/report.html").read_text()
    policy = json.loads(Path("made/policy.json").read_text())
    assert set(policy) == {"thresholds", "temperatures"} and len(policy["thresholds"]) == 6
    assert call("policy", "check", "made/policy.json", "--model", unsure)[0] == 0
    assert call("assess", picture, "--model", unsure, "--policy", "made/policy.json")[0] in (0, 1)
    assert not list(Path("made").glob(".*"))

    record = json.loads(data.read_text().splitlines()[0])
    (data.parent / "bad.jsonl").write_text(json.dumps(record | {"safety_category": "[red]x", "safe_type": "[red]x"}))
    words = ["calibrate", "--model", unsure, "--target-miss-rate", 0.4]
    assert "[red]x" in fails(*words, "--data", data.parent / "bad.jsonl")
    assert "missing.jsonl" in fails(*words, "--data", "missing.jsonl")
    assert not Path("policy.json").exists()


def test_calibrate_draws_where_there_is_no_data(call, unsure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["calibrate", "--model", unsure, "--target-miss-rate", 0.5, "--num-riskcards", 100, "--seed", 3]
    assert call(*words)[0] == 0
    assert Path("runs/riskcards/calibration3/test.jsonl").exists() and Path("calibration.html").exists()


def test_demo(call, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(safevlm_hf.demo, "main", lambda words: called.append(words) or 1)
    code, out, err = call("demo", "--seed", 2, "--output_dir", tmp_path, "--report", "r.html")
    assert (code, out, err) == (1, "", "")
    assert called == [["--seed", "2", "--output_dir", str(tmp_path), "--report", "r.html"]]
