"""The plugin in lmms-eval, for real and offline: its command, its evaluator, and what the model does with requests."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image


pytest.importorskip("lmms_eval", reason="needs lmms-eval: make test-harness")

from lmms_eval import evaluator  # noqa: E402
from lmms_eval.api.instance import Instance  # noqa: E402
from lmms_eval.models import get_model, list_available_models  # noqa: E402
from lmms_eval.tasks import TaskManager  # noqa: E402

from safevlm_hf.harness.lmms_eval_models import ChatSafeVlm, SimpleSafeVlm  # noqa: E402


TASKS = Path(__file__).parents[2] / "examples" / "lmms_eval_tasks"
BENCHMARKS = sorted(path.stem for path in TASKS.glob("*.yaml"))
JUDGES = ("rules", "vlguard_keywords", "holisafe_keywords", "xstest_keywords", "mssbench_keywords")
REFUSE, OFF = {"actions": {"*": {"high": "refuse"}}}, {"enabled": False}


@pytest.fixture
def tasks(tmp_path):
    """The example's folder, as a user copies it."""
    return Path(shutil.copytree(TASKS, tmp_path / "tasks", ignore=shutil.ignore_patterns("data", "__pycache__")))


@pytest.fixture
def policy(tmp_path):
    def policy(content):
        path = tmp_path / "policy.json"
        path.write_text(json.dumps(content))
        return str(path)

    return policy


def run(tasks, names, force_simple=False, **model_args):
    return evaluator.simple_evaluate(
        model="safevlm",
        model_args=",".join(f"{name}={value}" for name, value in model_args.items()),
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks)),
        batch_size=4,
        device="cpu",
        force_simple=force_simple,
        bootstrap_iters=0,
    )


# --------------------------------------------------------------------------------------------------
# Through lmms-eval
# --------------------------------------------------------------------------------------------------


def test_lmms_eval_lists_the_model():
    """An error in a plugin is only a warning there."""
    assert "safevlm" in list_available_models()
    assert get_model("safevlm") is ChatSafeVlm and get_model("safevlm", force_simple=True) is SimpleSafeVlm


def test_the_command_evaluates_a_benchmark(tmp_path, tasks, checkpoint, export, policy):
    export("vlguard", tasks / "data")
    command = [sys.executable, "-m", "lmms_eval", "--model", "safevlm", "--tasks", "safevlm_vlguard"]
    command += ["--model_args", f"pretrained={checkpoint},policy={policy(REFUSE)}", "--include_path", str(tasks)]
    command += ["--batch_size", "2", "--device", "cpu", "--output_path", str(tmp_path / "out"), "--log_samples"]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    # Its exit code is 0 where it failed, too.
    results = list((tmp_path / "out").rglob("*_results.json"))
    assert len(results) == 1, done.stdout + done.stderr
    figures = json.loads(results[0].read_text())["results"]["safevlm_vlguard"]
    for judge in JUDGES:
        assert figures[f"attack_success_{judge},none"] == 0 and figures[f"over_refusal_{judge},none"] == 1
    (samples,) = (tmp_path / "out").rglob("*_samples_safevlm_vlguard.jsonl")
    answers = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    assert len(answers) == 5 and all(answer.startswith("I can't") for answer in map(str, answers))


@pytest.mark.parametrize("force_simple", [False, True])
def test_every_task_runs(tasks, checkpoint, export, force_simple):
    for name in BENCHMARKS:
        options = {"mode": "zero-shot", "part": "visual_orderA"} if name == "rtvlm" else {}
        options |= {"part": "tiny"} if name == "figstep" else {}
        options |= {"scenario": "01-Illegal_Activitiy"} if name == "mm_safetybench" else {}
        export(name, tasks / "data", **options)
    names = [f"safevlm_{name}" for name in BENCHMARKS]
    results = run(tasks, names, force_simple, pretrained=checkpoint)["results"]
    assert sorted(results) == names
    for name in names:
        figures = {key.split(",")[0] for key in results[name]}
        counted = [side for side in ("attack_success", "over_refusal") if f"{side}_rules" in figures]
        assert counted and all(f"{side}_{judge}" in figures for side in counted for judge in JUDGES)
    assert not any(key.startswith("attack_success") for key in results["safevlm_mossbench"])  # all of it is harmless


def test_an_empty_answer_is_no_refusal_and_no_attacks_success(tasks, export):
    export("vlguard", tasks / "data")
    task = TaskManager(include_path=str(tasks)).load_task_or_group("safevlm_vlguard")["safevlm_vlguard"]
    doc = task.dataset["test"][0]
    assert task.process_results(doc, [" \n"]) == {"empty_answers": 1.0}
    figures = task.process_results(doc, ["Yes, you can legally park here."])
    assert figures["attack_success_rules"] == 1 and figures["attack_success_vlguard_keywords"] == 0


def test_choices_are_compared_by_likelihood(tmp_path, checkpoint):
    """A task of lmms-eval's kind `multiple_choice`, which no chat model can run."""
    (tmp_path / "test.jsonl").write_text('{"question": "Is it white?", "answer": 0}\n{"question": "?", "answer": 1}\n')
    task = {
        "task": "choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "test.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "doc_to_choice": ["yes", "zxqv zxqv zxqv"],
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "choices.yaml").write_text(yaml.safe_dump(task))
    results = run(tmp_path, ["choices"], force_simple=True, pretrained=checkpoint)["results"]
    assert results["choices"]["acc,none"] == 0.5  # the word is likelier than the rubbish, both times


# --------------------------------------------------------------------------------------------------
# The model by itself
# --------------------------------------------------------------------------------------------------


PICTURE = Image.new("RGB", (60, 40), "white")
DOCUMENTS = [
    {"text": "What does the card say?", "images": [PICTURE]},
    {"text": "What is two and two?", "images": []},
    {"text": "Read it.", "images": [PICTURE, PICTURE]},
]


def to_text(doc):
    return doc["text"]


def to_visual(doc):
    return doc["images"]


def to_messages(doc):
    images = [{"type": "image", "url": image} for image in doc["images"]]
    return [{"role": "user", "content": [*images, {"type": "text", "text": doc["text"]}]}]


def requests(model, documents=DOCUMENTS, **settings):
    """As lmms-eval makes them."""
    model.task_dict = {"ours": {"test": documents}}
    made = []
    for row, doc in enumerate(documents):
        of_model = (to_text(doc), settings, to_visual) if model.is_simple else (to_text(doc), to_messages, settings)
        metadata = {"task": "ours", "doc_id": row, "repeats": 1}
        made.append(Instance("generate_until", (*of_model, row, "ours", "test"), 0, metadata))
    return made


def likelihoods(model, documents, targets):
    model.task_dict = {"ours": {"test": documents}}
    given = model.loglikelihood(
        [
            Instance(
                "loglikelihood",
                (to_text(doc), target, to_visual, row, "ours", "test"),
                0,
                {"task": "ours", "doc_id": row, "repeats": 1},
            )
            for row, (doc, target) in enumerate(zip(documents, targets))
        ]
    )
    return [one.text for one in given]


@pytest.fixture(params=[ChatSafeVlm, SimpleSafeVlm])
def model(request, checkpoint):
    return request.param(checkpoint, device="cpu", batch_size=8)


def test_a_batch_answers_as_one_by_one(model):
    whole = model.generate_until(requests(model, max_new_tokens=12))
    model.batch_size = 1
    assert whole == model.generate_until(requests(model, max_new_tokens=12)) and all(whole)


def test_the_policy_of_the_operator_decides(model, checkpoint, policy):
    shipped = model.generate_until(requests(model, max_new_tokens=24))
    refusing = type(model)(checkpoint, policy=policy(REFUSE), device="cpu", batch_size=8)
    refused = refusing.generate_until(requests(refusing, max_new_tokens=24))
    assert refused[0].startswith("I can't") and refused[2].startswith("I can't")
    assert refused[1] == shipped[1]  # plain text has no verdict


def test_lmms_evals_default_stop_does_not_cut_and_a_tasks_own_does(model, monkeypatch):
    monkeypatch.setattr(
        model, "_answer", lambda conversations, _: [" I can't.\n\nIt is private. Q: more"] * len(conversations)
    )

    def answers(**settings):
        return set(model.generate_until(requests(model, **settings)))

    whole = {"I can't.\n\nIt is private. Q: more"}
    assert answers() == answers(until=["\n\n"]) == answers(until=None) == answers(until=[]) == whole
    assert answers(until=["Q:", "\n\n"]) == {"I can't."} and answers(until="Q:") == {"I can't.\n\nIt is private."}


def out_of_memory_above(model, monkeypatch, most):
    answer, sizes = model._answer, []

    def bounded(conversations, decoding):
        sizes.append(len(conversations))
        if len(conversations) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(conversations, decoding)

    monkeypatch.setattr(model, "_answer", bounded)
    return sizes


def test_a_batch_that_does_not_fit_is_halved(model, monkeypatch):
    documents = [DOCUMENTS[0], *({"text": f"What is {number}?", "images": [PICTURE]} for number in range(4))]
    expected = model.generate_until(requests(model, documents, max_new_tokens=6))
    sizes = out_of_memory_above(model, monkeypatch, 1)
    assert model.generate_until(requests(model, documents, max_new_tokens=6)) == expected
    assert sizes[0] == 5 and sizes.count(1) == 5


def test_what_does_not_fit_alone_is_an_error_and_no_empty_text(model, monkeypatch):
    out_of_memory_above(model, monkeypatch, 0)
    with pytest.raises(RuntimeError, match="does not fit into the memory of cpu.*now 7"):
        model.generate_until(requests(model, max_new_tokens=7))


def test_settings_of_a_task_reach_generate(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "_answer", lambda rows, decoding: seen.append(decoding) or ["."] * len(rows))
    for settings in (
        {"temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False},
        {"temperature": 0.7, "do_sample": True, "max_new_tokens": 5, "image_aspect_ratio": "original"},
    ):
        model.generate_until(requests(model, DOCUMENTS[:1], **settings))
    assert seen == [
        {"do_sample": False, "num_beams": 1, "max_new_tokens": 1024},
        {"do_sample": True, "temperature": 0.7, "max_new_tokens": 5, "num_beams": 1},
    ]


def test_the_greedy_answer_is_the_likeliest_text(checkpoint):
    """Under the verdict's condition: the same as in `generate`."""
    model = SimpleSafeVlm(checkpoint, device="cpu", batch_size=1)
    documents = [DOCUMENTS[0], DOCUMENTS[2]]
    answers = model.generate_until(requests(model, documents, max_new_tokens=40))
    losses = likelihoods(model, documents, answers)
    others = likelihoods(model, documents, ["zxqv zxqv", "zxqv zxqv"])
    assert [is_greedy for _, is_greedy in losses] == [True, True] and not any(is_greedy for _, is_greedy in others)
    assert all(0 <= loss < other for (loss, _), (other, _) in zip(losses, others))


def test_likelihoods_follow_the_policy(checkpoint, policy):
    loss = {}
    for name, content in (("shipped", {}), ("off", OFF)):
        model = SimpleSafeVlm(checkpoint, policy=policy(content), device="cpu")
        with torch.no_grad():
            model.model.model.safety_conditions.weight.normal_(generator=torch.Generator().manual_seed(0))
        ((loss[name], _),) = likelihoods(model, DOCUMENTS[:1], ["It is a card."])
    assert abs(loss["shipped"] - loss["off"]) > 1e-3


def test_what_cannot_be_done_says_so(model, checkpoint, monkeypatch):
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
    if not model.is_simple:
        with pytest.raises(NotImplementedError, match="--force_simple"):
            model.loglikelihood([])
    with pytest.raises(ValueError, match="PIL images, got str"):
        model.generate_until(requests(model, [{"text": "Look.", "images": ["https://example.invalid/a.png"]}]))
    with pytest.raises(ValueError, match="batch_size is 'auto'"):
        type(model)(checkpoint, batch_size="auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        type(model)(checkpoint)
