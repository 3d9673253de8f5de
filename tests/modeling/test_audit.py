"""The audit trail: a line per sample, whole or not at all."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from support.rigged import BOS, GREEDY, IMAGE, RISKY, Texts, batch, bright, dark, generate, prompt, request, rig

from safevlm_hf import SafeLlavaForConditionalGeneration, SafetyPolicy
from safevlm_hf.modeling.safety_audit import SafetyAudit, deciding_category, decode_logits, read_audit


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)


@pytest.fixture
def model(tiny_config):
    return rig(tiny_config)


@pytest.fixture
def trail(tmp_path):
    return tmp_path / "trail" / "audit.jsonl"


def test_a_line_a_sample(model, trail):
    rows = [prompt(5, images=2), [BOS, 7], prompt(RISKY)]
    inputs = {**batch(*rows), "pixel_values": torch.cat([dark(1), bright(2), dark(3)])}
    expected = generate(model, **inputs)
    assert torch.equal(generate(model, **inputs, safety_audit=trail), expected)
    lines, broken = read_audit(trail)
    assert (len(lines), broken) == (3, 0)
    assert [line["action"] for line in lines] == ["condition", "answer", "condition"]
    assert [[verdict["condition"] for verdict in line["verdicts"]] for line in lines] == [
        ["illegal risk, high", "illegal risk, high"],
        [],
        ["privacy, medium"],
    ]
    assert {line["policy"] for line in lines} == {SafetyPolicy().digest()}
    assert all(line["time"].endswith("+00:00") for line in lines)
    digests = [digest for line in lines for digest in (line["prompt_sha256"], *line["image_sha256"])]
    assert len(set(digests)) == 6 and all(len(digest) == 64 for digest in digests)


def test_digests_do_not_depend_on_the_batch(model, trail):
    generate(model, **request(dark(1), 5, 6), safety_audit=trail)
    inputs = {**batch(prompt(5, 6), prompt(*range(30, 50))), "pixel_values": torch.cat([dark(1), dark(2)])}
    generate(model, **inputs, safety_audit=trail)
    alone, same, other = read_audit(trail)[0]
    for name in ("prompt_sha256", "image_sha256"):
        assert alone[name] == same[name] != other[name]


def test_contents_only_when_told(model, trail):
    inputs = request(bright(), 91, 92, 93)
    generate(model, **inputs, safety_audit=trail)
    generate(model, **inputs, safety_audit={"path": trail, "contents": True})
    without, told = read_audit(trail)[0]
    assert "prompt_ids" not in without and "91, 92, 93" not in json.dumps(without)
    assert told["prompt_ids"] == inputs["input_ids"][0].tolist() and IMAGE in told["prompt_ids"]


def test_refusals_and_policy_are_in_the_line(model, trail):
    policy = {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "no"}}
    generate(
        model,
        **request(bright()),
        safety_policy=policy,
        safety_audit=trail,
        tokenizer=Texts({"no": [20]}),
    )
    (line,), _ = read_audit(trail)
    assert line["action"] == line["verdicts"][0]["action"] == "refuse"
    assert line["policy"] == SafetyPolicy.create(policy).digest()


def test_the_line_names_the_category_that_was_decided_on(model, trail):
    generate(model, **request(bright()), safety_audit=trail)
    generate(model, **request(dark()), safety_audit=trail)
    generate(model, **request(torch.full_like(bright(), torch.nan)), safety_audit=trail)
    lines, _ = read_audit(trail)
    (risky,), (clean,), (broken,) = (line["verdicts"] for line in lines)
    assert risky["decided"] == deciding_category(risky) == "illegal risk"
    assert "decided" not in clean and deciding_category(broken) == "unreadable picture"


def test_a_refusal_that_cannot_be_given_leaves_no_line(model, trail):
    class Special(Texts):
        all_special_ids = (20,)

        def convert_ids_to_tokens(self, ids):
            return [f"<{token}>" for token in ids]

    policy = {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "no"}}
    with pytest.raises(ValueError, match="holds special tokens"):
        generate(
            model,
            **request(bright()),
            safety_policy=policy,
            safety_audit=trail,
            tokenizer=Special({"no": [20]}),
        )
    assert not trail.exists()


def test_environment_variable_asks_for_every_call(model, trail, monkeypatch):
    monkeypatch.setenv("SAFEVLM_AUDIT", str(trail))
    generate(model, **request(bright()))
    generate(model, **batch([BOS, 7]))
    assert len(read_audit(trail)[0]) == 2


def test_no_prompt_no_line(model, trail):
    with pytest.raises(ValueError, match="needs a prompt"):
        model.generate(safety_audit=trail, max_new_tokens=2)
    with pytest.raises(ValueError, match="weather"):
        model.generate(safety_policy={"categories": {"weather": False}}, max_new_tokens=2)
    assert not trail.exists() and model.generate(max_new_tokens=2).shape == (1, 3)


def test_a_checkpoint_cannot_ask_for_it(model, trail):
    model.generation_config.safety_audit = str(trail)
    generate(model, **request(bright()))
    assert not trail.exists()


def test_the_line_is_written_before_the_first_token(model, trail):
    class Watcher:
        seen = []

        def put(self, value):
            self.seen.append(trail.exists() and len(read_audit(trail)[0]))

        def end(self):
            pass

    generate(model, **request(bright()), safety_audit=trail, streamer=Watcher())
    assert Watcher.seen[1:] and set(Watcher.seen[1:]) == {1}  # the first is the prompt itself


def test_no_answer_without_its_line(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        generate(model, **request(bright()), safety_audit=tmp_path / "file" / "audit.jsonl")
    with pytest.raises(OSError):
        generate(model, **request(bright()), safety_audit=tmp_path)


@pytest.mark.parametrize(
    "audit", [5, [], {"file": "a"}, {"path": "a", "contents": "yes"}, {"path": "a", "windows": 1}, {"path": 7}]
)
def test_malformed_audits_raise(model, audit):
    with pytest.raises(ValueError, match="path"):
        generate(model, **request(bright()), safety_audit=audit)


def test_a_line_holds_the_logits_that_the_verdict_rests_on(tiny_config, trail):
    """By default those of the window that decided; of all windows where they are asked for."""
    tiny_config.safety_config.is_trained = True
    model = SafeLlavaForConditionalGeneration(tiny_config).eval()
    inputs = {
        **batch(prompt(5, 6), prompt(*range(30, 40), images=2)),
        "pixel_values": torch.cat([dark(), *[bright()] * 2]),
    }
    outputs = model.generate(**inputs, **GREEDY, safety_audit=trail, return_dict_in_generate=True)
    model.generate(**inputs, **GREEDY, safety_audit={"path": trail, "windows": True})
    expected = torch.cat([outputs.safety_level_logits, outputs.safety_category_logits], dim=1)
    lines, _ = read_audit(trail)
    alone, whole = ([verdict for line in pair for verdict in line["verdicts"]] for pair in (lines[:2], lines[2:]))
    for row, (one, all_windows) in enumerate(zip(alone, whole, strict=True)):
        assert torch.equal(decode_logits(one.pop("logits"), 11), expected[[row]])
        windows = decode_logits(all_windows.pop("logits"), 11)
        # Two tokens and BOS are one short run; ten and BOS have 8 runs of four and 4 of eight.
        assert len(windows) == one["num_windows"] == [1, 12, 12][row]
        assert (windows == expected[row]).all(dim=1).any()
        assert one == all_windows


@pytest.mark.parametrize("encoded", ["", "!!!", "AAAA", None, 7, ["a"]])
def test_logits_that_are_none_raise(encoded):
    with pytest.raises(ValueError, match="logits"):
        decode_logits(encoded, 11)


def test_assess_writes_where_it_is_told_to(model, trail, monkeypatch):
    monkeypatch.setenv("SAFEVLM_AUDIT", str(trail))
    inputs = {**batch(prompt(5, images=2), prompt(RISKY)), "pixel_values": torch.cat([dark(1), bright(2), dark(3)])}
    model.assess(**inputs)
    assert not trail.exists()  # the variable asks for answers
    model.assess(**inputs, safety_audit=trail)
    generate(model, **inputs)
    lines, _ = read_audit(trail)
    assert [line.pop("call") for line in lines] == ["assess"] * 2 + ["generate"] * 2
    for line in lines:
        line.pop("time")
    assert lines[:2] == lines[2:]


def test_a_sink_of_the_callers_own(model):
    class Sink:
        contents = windows = digests = False
        lines = []

        def append(self, lines):
            self.lines.extend(lines)

    generate(model, **request(bright()), safety_audit=Sink())
    (line,) = Sink.lines
    assert line["action"] == "condition" and line["prompt_sha256"] is None and line["image_sha256"] == [None]


def test_half_a_line_spoils_no_other(trail):
    audit = SafetyAudit(trail)
    audit.append([{"number": 1}])
    with open(trail, "a") as file:
        file.write('{"numb')
    audit.append([{"number": 2}])
    audit.append([{"number": 3, "text": "line\u2028separator\n"}])
    lines, broken = read_audit(trail)
    assert [line["number"] for line in lines] == [1, 2, 3] and broken == 1


def write_many(path, writer, count):
    audit = SafetyAudit(path)
    for number in range(count):
        audit.append([{"writer": writer, "number": number, "filling": "x" * 9000}])


@pytest.mark.ci
def test_several_processes(trail):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(trail, writer, 40)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    lines, broken = read_audit(trail)
    assert broken == 0
    assert sorted((line["writer"], line["number"]) for line in lines) == [(w, n) for w in range(3) for n in range(40)]


WRITE_ON = """
import sys
from safevlm_hf.modeling.safety_audit import SafetyAudit
audit, number = SafetyAudit(sys.argv[1]), 0
while True:
    audit.append([{"number": number, "filling": "x" * 200000}])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.ci
def test_under_a_kill(trail):
    """Every line that was reported as written is there and whole, and the next process goes on."""
    for start in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_ON, str(trail)], stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        reported = int(process.stdout.readline())
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
        process.wait()
        lines, broken = read_audit(trail)
        assert broken <= start + 1
        assert [line["number"] for line in lines].count(reported) >= 1
    SafetyAudit(trail).append([{"number": -1}])
    assert read_audit(trail)[0][-1] == {"number": -1}
