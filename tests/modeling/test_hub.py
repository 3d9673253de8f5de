"""What is saved and pushed loads anywhere: without the package, from the Hub, and after an upload that was cut off."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.hub_server import HubServer
from support.remote_checkpoint import answer, answer_by_pipeline
from support.tiny_training import NANO_SAFETY
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, dynamic_module_utils, set_seed
from transformers.dynamic_module_utils import get_relative_import_files

import safevlm_hf.modeling
from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE
from safevlm_hf.data.riskcards import draw_riskcards
from safevlm_hf.modeling.safety_code import auto_map


TESTS = Path(__file__).parents[1]
FOLDER = Path(safevlm_hf.modeling.__file__).parent
# What LLaVA's file imports, and no other family's.
CODE = sorted([FOLDER / "safe_llava.py", *map(Path, get_relative_import_files(FOLDER / "safe_llava.py"))])
AUTO_MAP = auto_map("safe_llava", "SafeLlava")
REPO = "org/safevlm-nano"

PUSH = """
import json, sys, time
from pathlib import Path
from huggingface_hub import HfApi
from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor

checkpoint, repo, report = sys.argv[1:]
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # the client waits between its tries

model = SafeLlavaForConditionalGeneration.from_pretrained(checkpoint)
processor = SafeLlavaProcessor.from_pretrained(checkpoint)
pushes = []
for _ in range(3):
    try:
        model.push_to_hub(repo, tags=["nano"])
        error = None
    except Exception as caught:
        error = type(caught).__name__
    pushes.append([error, HfApi().list_repo_files(repo)])
processor.push_to_hub(repo)
model.push_to_hub(repo)
own = Path(f"{checkpoint}-processor") / "own.py"  # of the user, and nothing of it is meant for the Hub
own.parent.mkdir()
own.write_text("SECRET = 1")
processor.save_pretrained(str(own.parent), push_to_hub=True, repo_id="org/processor")
json.dump(pushes, open(report, "w"))
"""


def run_python(*command, home: Path, **environment):
    """Run Python in a process that has its own Hugging Face folders, and nothing of this one's settings."""
    dropped = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    kept |= {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, *map(str, command)]
    result = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-6000:]


def load_remotely(checkpoint, photo, folder: Path, *other, **environment) -> dict:
    folder.mkdir()
    script = TESTS / "support" / "remote_checkpoint.py"
    run_python(script, checkpoint, photo, folder, *other, home=folder / "home", **environment)
    return json.loads((folder / "report.json").read_text())


def hub_environment(hub: HubServer) -> dict:
    # The client has no way back from its newer protocol: a Hub that does not speak it needs the switch.
    return {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "safevlm-nano"
    set_seed(0)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model.initialize_from_embeddings(processor.tokenizer)
    model.config.training_record = {"base_model": str(NANO_BASE), "figures": {"attack_success": 0.02}}
    model.generation_config.safety_policy = {"categories": {"politics": False}}
    model.save_pretrained(folder, max_shard_size="5MB")
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    next(iter(draw_riskcards("test", 1, seed=0))).image.save(path)
    return path


@pytest.fixture(scope="module")
def expected(checkpoint, photo):
    """What the package answers from the same folder, without any trust flag."""
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    assert type(model) is SafeLlavaForConditionalGeneration and type(processor) is SafeLlavaProcessor
    assert type(AutoModelForImageTextToText.from_pretrained(checkpoint)) is SafeLlavaForConditionalGeneration
    return {**answer(model, processor, photo), "pipeline": answer_by_pipeline(photo, model=str(checkpoint))}


@pytest.fixture(scope="module")
def hub(checkpoint, tmp_path_factory):
    """A Hub to which the checkpoint was pushed: the weights cut off once for good, then the commit, then neither."""
    folder = tmp_path_factory.mktemp("push")
    with HubServer() as hub:
        hub.cuts = ["lfs_upload"] * 6 + ["commit"]  # the client tries an upload six times, a commit once
        run_python(
            *("-c", PUSH, checkpoint, REPO, folder / "pushes.json"),
            home=folder / "home",
            PYTHONPATH=str(TESTS.parent / "src"),
            **hub_environment(hub),
        )
        hub.pushes = json.loads((folder / "pushes.json").read_text())
        yield hub


def check_report(report: dict, expected: dict):
    for name in ("AutoModel", "AutoModelForImageTextToText", "saved again", "package", "remote beside package"):
        assert report[name]["tokens"] == expected["tokens"], name
        assert report[name]["refusal"] == expected["refusal"] == "Not this one.", name
        for verdict, wanted in zip(report[name]["verdicts"], expected["verdicts"], strict=True):
            assert verdict["risk"] == pytest.approx(wanted["risk"], abs=1e-4), name
            for key in ("sample", "category", "level", "condition"):
                assert verdict[key] == wanted[key], name
    assert report["pipeline"] == expected["pipeline"]
    name, module = report["config"]
    assert name == "SafeLlavaConfig" and module.startswith("transformers_modules.")


def check_carries_code(folder: Path):
    for path in CODE:
        assert (folder / path.name).read_bytes() == path.read_bytes()
    for file in ("config.json", "processor_config.json"):
        saved = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        # Never "repository--module": what is saved refers to its own files.
        assert saved.get("auto_map", {}).items() <= AUTO_MAP.items()


# --------------------------------------------------------------------------------------------------
# The folder
# --------------------------------------------------------------------------------------------------


def test_the_folder_holds_everything(checkpoint):
    assert {path.name for path in checkpoint.iterdir()} == {
        *(path.name for path in CODE),
        *(f"model-0000{shard}-of-00004.safetensors" for shard in (1, 2, 3, 4)),
        "model.safetensors.index.json",
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    }
    assert json.loads((checkpoint / "config.json").read_text())["auto_map"] == AUTO_MAP
    policy = json.loads((checkpoint / "generation_config.json").read_text())["safety_policy"]
    assert policy["categories"] == {"politics": False}
    check_carries_code(checkpoint)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!_]*.py")), ids=lambda path: path.name)
def test_travelling_code_needs_nothing_of_the_package(path):
    allowed = {*sys.stdlib_module_names, "torch", "timm", "transformers", "huggingface_hub", "numpy", "PIL"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 and (FOLDER / f"{node.module}.py").exists()


def test_shared_files_name_no_backbone():
    families = {family.__name__.rpartition("safe_")[2] for family in safevlm_hf.FAMILIES}
    words = {*families, *(name.replace("_", "") for name in families), "vision_tower", "multi_modal_projector"}
    for path in FOLDER.glob("*.py"):
        if not path.name.startswith(("safe_", "__init__")):
            code = "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())
            names = set(re.findall(r"\w+", re.sub(r'"""(?s:.*?)"""', "", code).lower()))
            assert not names & words, path.name


@pytest.mark.ci
@pytest.mark.parametrize("auto_class", ["AutoConfig", "AutoProcessor"])
def test_one_class_alone_brings_all_code(checkpoint, tmp_path, auto_class):
    """Loaded remotely by itself, and saved again: the folder has the model's code, too."""
    load = f"import sys; sys.modules['safevlm_hf'] = None; from transformers import {auto_class} as found; "
    save = "found.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])"
    run_python("-c", load + save, checkpoint, tmp_path / "saved", home=tmp_path / "home", HF_HUB_OFFLINE="1")
    check_carries_code(tmp_path / "saved")


@pytest.mark.ci
def test_loads_without_the_package(checkpoint, photo, expected, tmp_path):
    report = load_remotely(checkpoint, photo, tmp_path / "remote", HF_HUB_OFFLINE="1")
    check_report(report, expected)
    for saved in ("again", "config", "processor"):
        check_carries_code(tmp_path / "remote" / saved)


def test_package_and_remote_copy_in_one_process(checkpoint, photo, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    remote = {
        name: dynamic_module_utils.get_class_from_dynamic_module(reference, checkpoint)
        for name, reference in AUTO_MAP.items()
    }
    model, processor = (remote[name].from_pretrained(checkpoint) for name in ("AutoModel", "AutoProcessor"))
    assert type(model) is not SafeLlavaForConditionalGeneration
    local = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    assert type(local) is SafeLlavaForConditionalGeneration
    for seen in (answer(model, processor, photo), answer(local, processor, photo)):
        assert seen["tokens"] == expected["tokens"] and seen["verdicts"] == expected["verdicts"]


# --------------------------------------------------------------------------------------------------
# The Hub
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_push_that_was_cut_off_leaves_nothing_and_can_be_repeated(hub):
    (cut_upload, files_1), (cut_commit, files_2), (error, files_3) = hub.pushes
    assert cut_upload and cut_commit and files_1 == files_2 == []
    assert error is None and {"model.safetensors", "config.json", "README.md"} <= set(files_3)
    assert hub.cuts == []
    # One commit of the model, one of the processor; the last push changed nothing.
    assert len(hub.commits[REPO]) == 2


@pytest.mark.ci
def test_a_push_brings_weights_configs_code_and_our_card(hub, checkpoint):
    files = hub.files(REPO)
    for path in CODE:
        assert files[path.name] == path.read_bytes()
    saved = {path.name for path in checkpoint.iterdir() if "safetensors" not in path.name}
    assert set(files) == saved | {"model.safetensors"}
    card = ModelCard(files["README.md"].decode())
    assert card.data.tags == ["safevlm", "safety", "vision-language-model", "nano"]
    assert card.data.eval_results[0].metric_value == 0.02
    assert f'from_pretrained("{REPO}", trust_remote_code=True)' in card.text
    assert str(NANO_BASE) not in card.text
    # `save_pretrained(push_to_hub=True)` of a processor sends its code along.
    sent = set(hub.files("org/processor"))
    assert {"safe_llava.py", "processor_config.json"} <= sent and "own.py" not in sent


@pytest.mark.ci
def test_loads_from_the_hub_without_the_package(hub, photo, expected, tmp_path):
    # A repository without code, whose `auto_map` names the other one; it is saved with its code nevertheless.
    files = {name: content for name, content in hub.files(REPO).items() if not name.endswith(".py")}
    for name in ("config.json", "processor_config.json"):
        for reference in AUTO_MAP.values():
            files[name] = files[name].replace(reference.encode(), f"{REPO}--{reference}".encode())
    hub.commits["org/codeless"] = [files]
    report = load_remotely(REPO, photo, tmp_path / "remote", "org/codeless", **hub_environment(hub))
    check_report(report, expected)
    for saved in ("again", "config", "processor"):
        check_carries_code(tmp_path / "remote" / saved)
