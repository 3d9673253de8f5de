"""Both examples from the command line to checkpoints that load again: arguments, data, result, card and upload."""

import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from support.hub_server import HubServer
from support.tiny_training import NANO_SAFETY, messages, plain_text, published, read_records, write, write_checkpoint
from transformers import AutoModel, AutoProcessor

import safevlm_hf.training.run
from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaProcessor, SafetyConfig
from safevlm_hf.data import NANO_BASE
from safevlm_hf.data.records import RecordError
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.data.riskcards.tables import NEW_TOPICS, TOPICS, scope_of
from safevlm_hf.training.arguments import CONFIGS, SafetyTrainingArguments, nano_config, parse_arguments
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.run import command_line, read_taxonomy, run_stage1, run_stage2, safe_margin


ROOT = Path(__file__).parents[2]
CODE = {"safe_llava.py", "modeling_safety.py", "configuration_safety.py", "processing_safety.py"}
LABELS = ("safety_category", "safety_level")
STAGE1 = {
    "num_safety_tokens": 4,
    "num_condition_tokens": 4,
    "num_safety_heads": 4,
    "projector_depth": 1,
}
SHORT = {
    "num_riskcards": 12,
    "max_eval_samples": 4,
    "clean_share": 0.5,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
}


def flags(**values) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def run_example(stage: int, *args, hub: HubServer, home: Path):
    """A stage as a user runs it, in a process of its own, with its Hub."""
    dropped = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, f"examples/run_stage{stage}.py", *map(str, args)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.fixture(scope="module")
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def stage1(hub, folder):
    """The result of stage 1 on the embedded default, run from one YAML file and pushed."""
    values = {**STAGE1, **SHORT, "output_dir": str(folder / "stage1"), "riskcards_dir": str(folder / "riskcards")}
    values |= {"push_to_hub": True, "hub_model_id": "org/stage1"}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    run_example(1, path, hub=hub, home=folder / "home")
    return folder / "stage1"


@pytest.fixture(scope="module")
def stage2(hub, folder, stage1):
    """The merged result of stage 2, run with flags and pushed."""
    values = {**SHORT, "output_dir": folder / "stage2", "riskcards_dir": folder / "riskcards", "lora_r": 4}
    values |= {"save_strategy": "steps", "save_steps": 1}  # adapters on the way
    values |= {"model_name_or_path": stage1, "push_to_hub": True, "hub_model_id": "org/stage2"}
    run_example(2, *flags(**values), hub=hub, home=folder / "home")
    return folder / "stage2"


@pytest.fixture(scope="module")
def drawn(stage1, folder):
    """The records that stage 1 drew."""
    (path,) = folder.glob("riskcards/**/validation.jsonl")
    return read_records(path)


def verdicts(checkpoint, records):
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    assert type(model) is SafeLlavaForConditionalGeneration and type(processor) is SafeLlavaProcessor
    batch = SafetyCollator(processor, model.config.safety_config)(list(records))
    return model.assess(**{name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")})


def training_record(checkpoint) -> dict:
    return json.loads((checkpoint / "config.json").read_text())["training_record"]


# --------------------------------------------------------------------------------------------------
# Arguments
# --------------------------------------------------------------------------------------------------


def values_of(parsed) -> dict:
    return {field.name: getattr(one, field.name) for one in parsed for field in fields(one)}


@pytest.mark.parametrize("stage", [1, 2])
def test_without_arguments_it_is_the_embedded_default(stage):
    found = values_of(parse_arguments(stage, []))
    assert found == values_of(parse_arguments(stage, [str(nano_config(stage))]))
    wanted = yaml.safe_load(nano_config(stage).read_text())
    names = ("output_dir", "clean_share", "num_riskcards", "learning_rate", "warmup_steps", "num_train_epochs")
    assert [found[name] for name in names] == [wanted[name] for name in names]
    assert found["model_name_or_path"] == ("runs/stage1" if stage == 2 else str(NANO_BASE))
    assert found["train_file"] is None


def test_flags_and_yaml_give_the_same(tmp_path):
    path = tmp_path / "run.yml"
    path.write_text("learning_rate: 1e-4\nlora_dropout: 5e-2\nwarmup_steps: 7\nuse_lora: false\ntrain_file: a.jsonl\n")
    words = flags(learning_rate="1e-4", lora_dropout="5e-2", warmup_steps=7, use_lora="false", train_file="a.jsonl")
    by_yaml, by_flags = parse_arguments(2, [str(path)]), parse_arguments(2, words)
    assert values_of(by_yaml) == values_of(by_flags)
    assert by_yaml[2].learning_rate == 1e-4 and by_yaml[2].gradient_accumulation_steps == 8


def test_flags_win_over_the_yaml_file_in_front_of_them(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-3\nseed: 3\nnew_categories: [fraud]\nsave_total_limit: null\nuse_lora: true\n")
    alone = values_of(parse_arguments(2, [str(path)]))
    mixed = values_of(parse_arguments(2, [str(path), *flags(learning_rate="1e-4", warmup_steps=7), "--no_use_lora"]))
    assert alone["save_total_limit"] is None and alone["new_categories"] == ["fraud"] and alone["seed"] == 3
    changed = {name: value for name, value in mixed.items() if value != alone[name]}
    assert changed == {"learning_rate": 1e-4, "warmup_steps": 7, "use_lora": False}
    with pytest.raises(ValueError, match="unknown option .*run.yaml in the command line"):
        parse_arguments(2, ["--seed", "1", str(path)])
    with pytest.raises(ValueError, match="a YAML file stands in front of all flags"):
        parse_arguments(2, ["--overwrite_output_dir", str(path)])


def test_the_option_to_overwrite_changes_nothing_else(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\noutput_dir: runs/own\n")
    for words in ([], [str(path)], ["--seed", "3"]):
        without, overwriting = parse_arguments(1, words), parse_arguments(1, [*words, "--overwrite_output_dir"])
        assert not without[2].overwrite_output_dir and overwriting[2].overwrite_output_dir
        changed = {name for name, value in values_of(without).items() if value != values_of(overwriting)[name]}
        assert changed == {"overwrite_output_dir"}


def test_a_warm_up_that_is_longer_than_the_training_is_shortened(caplog):
    args = parse_arguments(2, ["--warmup_steps", "300"])[2]
    with caplog.at_level("WARNING"):
        assert args.get_warmup_steps(300) == 300 and not caplog.records
        assert args.get_warmup_steps(50) == 5
    assert "`warmup_steps` is 300, and the training has 50 steps: its warm-up is shortened to 5." in caplog.text


def test_unknown_arguments_are_errors_that_name_them(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1.0e-4\nlora_rank: 8\n")
    with pytest.raises(ValueError, match="lora_rank"):
        parse_arguments(2, [str(path)])
    with pytest.raises(ValueError, match="lora_rank"):
        parse_arguments(2, ["--lora_rank", "8"])
    path.write_text("lora_r: 8\n")
    with pytest.raises(ValueError, match="lora_r"):  # stage 1 has no adapters
        parse_arguments(1, [str(path)])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- seed", "must hold options and their values .* got a list"),
        ("seed: [", "expected YAML, but"),
        ("seed: 1\nlora_r: 8\nseed: 2", "the key 'seed' comes twice"),
        ("learning_rate: fast", "`learning_rate`: invalid float value: 'fast'"),
        ("lora_r: yes", "`lora_r`: invalid int value: 'True'"),
        ("seed: 1.5", "`seed`: invalid int value: '1.5'"),
        ("use_lora: perhaps", "`use_lora`: .*got perhaps but expected one of yes/no"),
        ("seed: null", "`seed` must be of type int, got None"),
        ("output_dir: [runs]", r"`output_dir` must be of type str, got \['runs'\]"),
        ("new_categories: {fraud: 1}", "`new_categories` must be of type list, got {'fraud': 1}"),
        ("eval_strategy: sometimes", "sometimes"),
        ("max_eval_sample: 3", "unknown option max_eval_sample in .*; is it max_eval_samples?"),
    ],
)
def test_a_yaml_file_that_is_wrong_names_what_is(tmp_path, text, reason):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}|{reason}") as error:
        parse_arguments(2, [str(path)])
    assert re.search(reason, str(error.value))


# --------------------------------------------------------------------------------------------------
# Results
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_stage1_leaves_a_checkpoint_that_knows_what_made_it(stage1, drawn):
    config = json.loads((stage1 / "config.json").read_text())
    assert config["safety_config"]["is_trained"] is True
    record = config["training_record"]
    assert record["base_model"] == NANO_BASE.name  # no folder of this machine: the config is published
    assert (
        record["scope"]
        == scope_of(TOPICS)
        == f"drawn cards of {len(TOPICS)} topics, English questions; not photographs"
    )
    (stage,) = record["stages"]
    assert (stage["stage"], stage["train_data"], stage["num_records"]) == (1, "RiskCards", 12)
    assert stage["learning_rate"] == 1e-3 and stage["epochs"] == pytest.approx(0.67)
    assert stage["command"] == "run_stage1.py tiny.yaml" or stage["command"] == "examples/run_stage1.py tiny.yaml"
    assert {"eval_loss", "eval_lm_loss", "eval_safety_loss", "eval_level_accuracy"} <= stage["metrics"].keys()
    shares = [drawn[column].count(max(drawn[column], key=drawn[column].count)) / 4 for column in LABELS]
    assert [stage["metrics"][f"eval_most_frequent_{name}"] for name in ("category", "level")] == shares
    assert record["figures"]["attack_success_rate"] == stage["metrics"]["eval_attack_success_rate"]
    assert verdicts(stage1, drawn).safety_level_logits.shape == (4, 4)


@pytest.mark.ci
def test_stage2_leaves_the_verdicts_and_changes_the_answers(stage1, stage2, drawn):
    before, after = verdicts(stage1, drawn), verdicts(stage2, drawn)
    assert torch.equal(before.safety_level_logits, after.safety_level_logits)
    assert torch.equal(before.safety_category_logits, after.safety_category_logits)
    old, new = (AutoModel.from_pretrained(path).state_dict() for path in (stage1, stage2))
    assert old.keys() == new.keys()  # merged: no adapter is left
    assert not torch.equal(*(w["model.language_model.layers.0.self_attn.q_proj.weight"] for w in (old, new)))
    assert not list(stage2.glob("adapter*"))


@pytest.mark.ci
def test_the_record_and_the_card_tell_both_stages(stage2):
    record = training_record(stage2)
    assert [stage["stage"] for stage in record["stages"]] == [1, 2] and record["base_model"] == NANO_BASE.name
    assert record["scope"] == scope_of(TOPICS)
    card = (stage2 / "README.md").read_text()
    for words in (
        f"trained on {record['scope']}.",
        "`nano_base`",
        "### Stage 1",
        "### Stage 2",
        "RiskCards",
        "attack success rate",
        "0.001",
    ):
        assert words in card
    assert ModelCard(card).data.eval_results[0].metric_value == record["figures"]["attack_success_rate"]


@pytest.mark.ci
@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_push_to_hub_brings_the_whole_checkpoint(name, hub, request):
    checkpoint = request.getfixturevalue(name)
    files = hub.files(f"org/{name}")
    assert {"model.safetensors", "config.json", "generation_config.json", "README.md"} <= set(files)
    assert {"processor_config.json", "tokenizer.json", "chat_template.jinja"} | CODE <= set(files)
    for file in {"model.safetensors", "config.json", "README.md"}:
        assert files[file] == (checkpoint / file).read_bytes(), file
    card = files["README.md"].decode()
    assert f'from_pretrained("org/{name}", trust_remote_code=True)' in card and "SafeVLM" in card
    assert str(checkpoint) not in card and str(NANO_BASE) not in card
    # One commit brings the result: nothing unfinished is left beside it.
    assert len(hub.commits[f"org/{name}"]) == 1
    assert not any(file.startswith("adapter") for file in files)


def test_the_published_arguments_hold_no_token(tmp_path):
    args = SafetyTrainingArguments(output_dir=str(tmp_path), hub_token="hf_secret")
    assert b"hf_secret" not in pickle.dumps(args) and args.hub_token == "hf_secret"


@pytest.mark.ci
def test_stage2_as_an_adapter_loads_again(stage1, drawn, tmp_path):
    values = {**SHORT, "lora_r": 4, "output_dir": tmp_path, "model_name_or_path": stage1, "merge_adapter": "false"}
    (train_file,) = stage1.parent.glob("riskcards/**/train.jsonl")
    trainer = run_stage2(flags(**values, train_file=train_file, max_grad_norm=0))
    assert (tmp_path / "adapter_model.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
    card = (tmp_path / "README.md").read_text()
    assert "### Stage 2" in card and str(stage1) not in card

    model, processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is SafeLlavaForConditionalGeneration and type(processor) is SafeLlavaProcessor
    batch = SafetyCollator(processor, model.config.safety_config)(list(drawn))
    with torch.no_grad():
        wanted = trainer.model.eval()(**batch).logits
        assert torch.equal(model(**batch).logits, wanted)
        plain = AutoModel.from_pretrained(stage1)(**batch).logits
    assert not torch.allclose(plain, wanted)

    # A merged result takes its place whole: an adapter beside it would be applied once more.
    (tmp_path / "checkpoint-99").mkdir()
    words = flags(**{**values, "merge_adapter": "true"}, train_file=train_file)
    merged = run_stage2([*words, "--overwrite_output_dir"]).model
    assert not list(tmp_path.glob("adapter_*")) and not (tmp_path / "checkpoint-99").exists()
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(**batch).logits, merged.eval()(**batch).logits)


@pytest.mark.ci
def test_a_checkpoint_on_the_way_is_a_result_of_stage1(stage1, drawn, tmp_path):
    (train_file,) = stage1.parent.glob("riskcards/**/train.jsonl")
    values = {**STAGE1, **SHORT, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 0}
    values["output_dir"] = tmp_path
    run_stage1(flags(**values, train_file=train_file))
    config = json.loads((tmp_path / "checkpoint-1" / "config.json").read_text())
    assert config["safety_config"]["is_trained"] is True
    verdicts(tmp_path / "checkpoint-1", drawn)
    # ... and where the same command goes on.
    shutil.rmtree(tmp_path / "checkpoint-2")
    resumed = run_stage1(flags(**values, train_file=train_file, resume_from_checkpoint="true"))
    assert resumed.state.global_step == 2 and (tmp_path / "checkpoint-2").exists()
    with pytest.raises(ValueError, match="holds no whole checkpoint to resume from: without"):
        values["output_dir"] = tmp_path / "empty"
        run_stage1(flags(**values, train_file=train_file, resume_from_checkpoint="true"))


@pytest.mark.ci
@pytest.mark.ci
@pytest.mark.parametrize("run, start", [(run_stage1, NANO_BASE), (run_stage2, "stage1")])
def test_a_result_is_not_overwritten_unasked(stage1, monkeypatch, run, start):
    monkeypatch.setattr(safevlm_hf.training.run, "find_family", lambda *_: pytest.fail("something is loaded"))
    before = (stage1 / "model.safetensors").stat().st_mtime_ns
    words = flags(**SHORT, model_name_or_path=stage1 if start == "stage1" else start, output_dir=stage1)
    with pytest.raises(ValueError, match=f"{stage1} holds a model: `--overwrite_output_dir` replaces it"):
        run(words)
    assert (stage1 / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(pytest.fail.Exception, match="something is loaded"):
        run([*words, "--overwrite_output_dir"])


def test_checkpoints_of_a_run_that_did_not_end_are_not_mixed_with_another_run(tmp_path):
    write_checkpoint(tmp_path / "checkpoint-3")
    args = SafetyTrainingArguments(output_dir=str(tmp_path))
    with pytest.raises(ValueError, match="did not end: `--resume_from_checkpoint true` goes on"):
        args.refuse_to_overwrite()
    SafetyTrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="true").refuse_to_overwrite()


@pytest.mark.ci
def test_several_gpus_in_one_process_are_an_error(stage1, tmp_path, monkeypatch):
    monkeypatch.setattr(SafetyTrainingArguments, "n_gpu", 4)
    with pytest.raises(ValueError, match="4 GPUs are visible to one process.*torchrun --nproc_per_node 4"):
        run_stage2(flags(**SHORT, model_name_or_path=stage1, output_dir=tmp_path, lora_r=4))


def test_options_that_would_do_nothing_are_errors(tmp_path):
    with pytest.raises(ValueError, match="`label_smoothing_factor` has no effect"):
        SafetyTrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)


@pytest.mark.ci
@pytest.mark.parametrize("level_accuracy, category_accuracy, named", [(0.5, 0.9, "level"), (0.6, 0.2, "category")])
def test_verdicts_at_chance_are_a_warning_before_stage2(
    stage1, tmp_path, caplog, level_accuracy, category_accuracy, named
):
    config = json.loads((stage1 / "config.json").read_text())
    figures = {"eval_level_accuracy": level_accuracy, "eval_category_accuracy": category_accuracy}
    figures |= {"eval_most_frequent_level": 0.5, "eval_most_frequent_category": 0.5}
    config["training_record"]["stages"][0]["metrics"] |= figures
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="`risk_prior` is learned in stage 1"):
        run_stage2(flags(**SHORT, model_name_or_path=tmp_path, output_dir=tmp_path / "out", risk_prior=0.2))
    (message,) = (record.getMessage() for record in caplog.records if "stage 1 longer" in record.getMessage())
    assert f"{tmp_path} has learned nothing about the {named} yet: " in message and "0.500" in message


@pytest.mark.ci
def test_a_sentence_encoder_for_a_checkpoint_that_has_its_safety_modules_is_an_error(stage1, tmp_path):
    words = flags(**SHORT, model_name_or_path=stage1, output_dir=tmp_path, sentence_encoder="anything")
    for run in (run_stage1, run_stage2):
        with pytest.raises(ValueError, match="a sentence encoder is a part of new ones"):
            run(words)


def test_sizes_that_a_checkpoint_does_not_have_are_errors(stage1, tmp_path):
    """Also where the option equals a default."""
    default = SafetyConfig().num_safety_tokens
    words = flags(**SHORT, model_name_or_path=stage1, output_dir=tmp_path, num_safety_tokens=default)
    for run in (run_stage1, run_stage2):
        with pytest.raises(ValueError, match=f"with {{'num_safety_tokens': 4}}, and .*{default}}} was asked for"):
            run(words)


# --------------------------------------------------------------------------------------------------
# A user's own data
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_stage1_on_both_forms_of_records(tmp_path, monkeypatch):
    data = write(tmp_path / "own.jsonl", published(), messages(), plain_text(), published(level=2, category=4))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # a script's, not `python -m pytest`'s
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run_stage1.py"), "--hub_token", "hf_secret", "--seed", "1"])
    values = {
        **STAGE1,
        **SHORT,
        "output_dir": tmp_path / "out",
        "per_device_train_batch_size": 1,
        "max_eval_samples": 2,
    }
    trainer = run_stage1(
        flags(**values, train_file=data, validation_file=data, hub_token="hf_secret", max_grad_norm=0)
    )
    assert len(trainer.train_dataset) == 3 and len(trainer.eval_dataset) == 2
    record = training_record(tmp_path / "out")
    assert record["stages"][0]["train_data"] == data.name == record["eval_data"]
    # The record is published.
    assert record["stages"][0]["command"] == "run_stage1.py --hub_token ... --seed 1"
    for file in ("config.json", "README.md", "training_args.bin"):
        assert b"hf_secret" not in (tmp_path / "out" / file).read_bytes()
    for file in ("config.json", "README.md"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text()


@pytest.mark.ci
def test_what_own_data_show_is_the_users_to_say(tmp_path):
    data = write(tmp_path / "own.jsonl", published(), messages(), published(level=2, category=4))
    own = {**STAGE1, **SHORT, "per_device_train_batch_size": 1, "train_file": data, "clean_share": 1}
    run_stage1(flags(**own, output_dir=tmp_path / "silent"))
    assert training_record(tmp_path / "silent")["scope"] is None
    assert "Nothing is known of what it was trained on" in (tmp_path / "silent" / "README.md").read_text()
    scope = "teal cards; no <b>photographs</b>"
    run_stage1(flags(**own, output_dir=tmp_path / "said", scope=scope))
    # The next stage keeps it, on RiskCards, too.
    values = {**SHORT, "model_name_or_path": tmp_path / "said", "riskcards_dir": tmp_path / "riskcards", "lora_r": 2}
    run_stage2(flags(**values, output_dir=tmp_path / "next"))
    assert training_record(tmp_path / "next")["scope"] == scope
    assert "trained on teal cards; no &lt;b&gt;photographs&lt;/b&gt;." in (tmp_path / "next" / "README.md").read_text()


@pytest.mark.parametrize("scope", ["  ", "x" * 301])
def test_a_scope_that_nobody_would_read_is_refused(scope):
    with pytest.raises(ValueError, match="`scope` must have 1 to 300 characters"):
        parse_arguments(1, ["--scope", scope])


def test_the_extended_embedded_default_says_how_many_topics_it_has():
    values = yaml.safe_load((CONFIGS / "nano_new_category.yaml").read_text())
    assert values["scope"] == scope_of(TOPICS + NEW_TOPICS)


def test_bad_records_stop_before_a_model_is_loaded_all_listed(tmp_path, monkeypatch):
    data = write(tmp_path / "own.jsonl", published(), published(level=7), messages(category="nonsense"), messages())
    monkeypatch.setattr(safevlm_hf.training.run, "load", lambda *_: pytest.fail("a model is loaded"))
    values = {**STAGE1, **SHORT, "output_dir": tmp_path / "out"}
    with pytest.raises(RecordError) as error:
        run_stage1(flags(**values, train_file=data))
    assert len(error.value.problems) == 2
    assert f"{data}:2: safe_level is 7" in str(error.value) and f"{data}:3: safety_category" in str(error.value)
    assert str(error.value).endswith(f"`safevlm data check {data}` lists all of them, and loads no model.")
    good = write(tmp_path / "good.jsonl", published())
    with pytest.raises(RecordError):
        run_stage1(flags(**values, train_file=good, validation_file=data))
    with pytest.raises(FileNotFoundError, match="there is no file .*gone.jsonl: expected JSON lines"):
        run_stage1(flags(**values, train_file=tmp_path / "gone.jsonl"))


@pytest.mark.ci
def test_stage2_reads_its_records_before_a_model_is_loaded(stage1, tmp_path, monkeypatch):
    monkeypatch.setattr(safevlm_hf.training.run, "load", lambda *_: pytest.fail("a model is loaded"))
    values = {**SHORT, "model_name_or_path": stage1, "output_dir": tmp_path / "out"}
    with pytest.raises(RecordError):
        run_stage2(flags(**values, train_file=write(tmp_path / "own.jsonl", published(level=7))))


def test_the_margin_of_safe_is_the_prior_in_use_against_that_of_the_data():
    levels = [0] * 20 + [3] * 60 + [-100] * 7
    assert safe_margin(levels, 0.75) == pytest.approx(0)
    assert safe_margin(levels, 0.2) == pytest.approx(math.log(3) + math.log(4))
    for bad, prior, problem in ((levels, 0.0, "between 0 and 1"), ([3, 3, -100], 0.2, "2 of 2 risky")):
        with pytest.raises(ValueError, match=problem):
            safe_margin(bad, prior)


@pytest.mark.ci
def test_stage1_keeps_the_margin_of_its_prior(tmp_path):
    values = {**STAGE1, **SHORT, "max_steps": 1, "riskcards_dir": tmp_path / "cards", "output_dir": tmp_path / "one"}
    trainer = run_stage1(flags(**values, risk_prior=0.2))
    reloaded = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / "one")
    margin = reloaded.config.safety_config.safe_margin
    assert margin == safe_margin(trainer.train_dataset["safety_level"], 0.2) > 1
    with pytest.raises(ValueError, match="`risk_prior` is learned in stage 1"):
        run_stage2(flags(**SHORT, model_name_or_path=tmp_path / "one", output_dir=tmp_path / "two", risk_prior=0.2))


def test_stage2_needs_a_trained_head(tmp_path):
    with pytest.raises(ValueError, match=r"nano_base has an untrained safety head, stage 2 needs .* stage 1"):
        run_stage2(flags(**SHORT, model_name_or_path=NANO_BASE, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------
# A taxonomy of one's own, and new categories
# --------------------------------------------------------------------------------------------------


def test_taxonomy_from_a_file(tmp_path):
    taxonomy = tmp_path / "taxonomy.yaml"
    taxonomy.write_text("categories: [self-harm, fraud, safe]\nlevels: [safe, bad]\n")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    record = {"image": "a.png", "safe_type": "fraud", "safe_level": "bad"}
    turns = [{"from": "USER", "value": "<image>\nWhat?"}, {"from": "ASSISTANT", "value": "No."}]
    data = tmp_path / "train.jsonl"
    data.write_text((json.dumps({**record, "conversations": turns}) + "\n") * 4)
    values = {**STAGE1, **SHORT, "clean_share": 0.0, "taxonomy_file": taxonomy, "train_file": data}
    trainer = run_stage1(flags(**values, output_dir=tmp_path / "out"))
    safety = AutoModel.from_pretrained(tmp_path / "out").config.safety_config
    assert (safety.categories, safety.levels) == (["self-harm", "fraud", "safe"], ["safe", "bad"])
    assert trainer.model.model.safety_head.category_head.weight.shape[0] == 3
    with pytest.raises(ValueError, match="taxonomy_file"):
        run_stage1(flags(**values | {"model_name_or_path": tmp_path / "out"}, output_dir=tmp_path / "again"))


@pytest.mark.ci
def test_stage1_keeps_what_an_untrained_safe_checkpoint_says(tmp_path):
    names = [*SafetyConfig().categories, "gambling"]
    config = SafeLlavaConfig.from_base_config(
        SafeLlavaConfig.from_pretrained(NANO_BASE), categories=names, **NANO_SAFETY
    )
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, config=config)
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=config.safety_config)
    model.initialize_from_embeddings(processor.tokenizer)
    model.save_pretrained(tmp_path / "init")
    processor.save_pretrained(tmp_path / "init")
    train_file = write_riskcards(tmp_path, "train", 12, seed=0)
    values = {**SHORT, "model_name_or_path": tmp_path / "init", "train_file": train_file, "learning_rate": 0}
    trainer = run_stage1(flags(**values, output_dir=tmp_path / "out"))
    trained = AutoModel.from_pretrained(tmp_path / "out")
    assert trained.config.safety_config.categories == names and trained.config.safety_config.is_trained
    for name, weight in model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name


@pytest.mark.parametrize("text", ["categories: spam", "- spam", "{", "categories: [a]\ntopics: [b]", ""])
def test_malformed_taxonomies_raise(tmp_path, text):
    path = tmp_path / "taxonomy.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="taxonomy.yaml"):
        read_taxonomy(str(path))


@pytest.mark.ci
def test_new_category_with_replay(folder, stage1, tmp_path):
    values = {**STAGE1, **SHORT, "model_name_or_path": stage1, "new_categories": "gambling", "replay_share": 0.25}
    replay = write_riskcards(tmp_path / "old", "train", 12, seed=0)
    trainer = run_stage1(flags(**values, replay_file=replay, riskcards_dir=tmp_path, output_dir=tmp_path / "out"))
    categories = trainer.train_dataset["safety_category"]
    assert len(categories) == 16 and 7 in categories
    model, processor = AutoModel.from_pretrained(tmp_path / "out"), AutoProcessor.from_pretrained(tmp_path / "out")
    assert model.config.safety_config.categories == processor.categories == [*processor.categories[:7], "gambling"]
    assert model.model.safety_head.category_head.weight.shape[0] == 8
    with pytest.raises(ValueError, match="gambling"):  # it is there already
        run_stage1(flags(**values | {"model_name_or_path": tmp_path / "out"}, output_dir=tmp_path / "again"))
    with pytest.raises(ValueError, match="taxonomy_file"):
        run_stage1(flags(**values | {"model_name_or_path": NANO_BASE}, output_dir=tmp_path / "base"))


@pytest.mark.ci
@pytest.mark.parametrize(
    "values", [{"num_safety_tokens": 9}, {"head_pooling": "first"}, {"new_categories": "gambling"}]
)
def test_stage2_refuses_what_only_stage1_can_do(stage1, tmp_path, values):
    with pytest.raises(ValueError, match="safety modules|stage 1"):
        run_stage2(flags(**SHORT, **values, model_name_or_path=stage1, output_dir=tmp_path))


def test_command_line_of_a_module(monkeypatch):
    """As it can be given again: a module is no file."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("safevlm_hf.demo", None))
    monkeypatch.setattr(sys, "argv", ["/src/safevlm_hf/demo/run.py", "--seed", "1"])
    assert command_line(None) == "python -m safevlm_hf.demo --seed 1"
