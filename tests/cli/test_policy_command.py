"""`safevlm policy` as a user types it: what is shown, where, and the exit code."""

import json

import pytest
from command_line import HOSTILE, REFUSE, UNKNOWN_SCOPE, rows, run_alone, write_json
from transformers import AutoModel, AutoProcessor

from safevlm_hf import SafetyPolicy


@pytest.mark.parametrize(
    "text",
    [
        '{"thresholds": {"privacy": 2}}',
        '{"treshold": 1}',
        "{",
        "[]",
        '{"categories": {"x": true}}',
        '{"actions": {"*": {"high": "refuse"}}, "actions": {}}',
    ],
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


def test_policy_show(call, checkpoint, tmp_path):
    code, out, err = call("policy", "show", "--model", checkpoint)
    assert (code, err) == (0, "") and f"{checkpoint} has no policy of its own" in out
    assert SafetyPolicy().digest() in out
    assert rows(out)["privacy"] == ["yes", "-", "by the risk", *["condition"] * 3] and "safe" not in rows(out)

    over = {"categories": {"politics": False}, "thresholds": {"privacy": 0.5}, "review_thresholds": {"privacy": 0.1}}
    code, out, _ = call("policy", "show", "--model", checkpoint, "--policy", write_json(tmp_path / "a.json", over))
    assert code == 0 and f"overridden by {tmp_path}/a.json" in out and SafetyPolicy(**over).digest() in out
    assert rows(out)["privacy"][:3] == ["yes", "0.1", "0.5"]
    assert rows(out)["politics"] == ["no", "-", "by the risk", *["answer"] * 3]
    all_at_once = write_json(tmp_path / "c.json", {"risk_threshold": 1.0, "remembered_turns": 2})
    out = call("policy", "show", "--model", checkpoint, "--policy", all_at_once)[1]
    assert "risk_threshold: 1.0\nremembered_turns: 2\n" in out
    disabled = write_json(tmp_path / "b.json", {"enabled": False, **REFUSE})
    found = rows(call("policy", "show", "--model", checkpoint, "--policy", disabled)[1])
    assert found["privacy"] == ["no", "-", "by the risk", *["answer"] * 3]


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


def test_a_checkpoint_that_could_silence_a_refusal(call, fails, checkpoint, picture, tmp_path):
    folder, own = tmp_path / "calibrated", {"thresholds": {"*": 0.5}, "temperatures": {"category": 5.0}}
    model = AutoModel.from_pretrained(checkpoint)
    model.generation_config.safety_policy = own
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    words, keys = ["--model", folder, "--policy"], json.dumps(own)
    refuse, named = write_json(tmp_path / "a.json", REFUSE), write_json(tmp_path / "b.json", REFUSE | own)
    (tmp_path / "audit.jsonl").write_text('{"action": "answer"}\n')
    assert call("policy", "check", named, "--model", folder)[0] == 0
    assert keys in fails("policy", "check", refuse, "--model", folder)
    assert keys in fails("policy", "replay", tmp_path / "audit.jsonl", *words, refuse)
    assert keys in fails("serve", *words, refuse)
    for command, scope in (["policy", "show"], ""), (["assess", picture], UNKNOWN_SCOPE):
        (warning,) = call(*command, *words, refuse)[2].replace(scope, "").splitlines()
        assert warning.startswith("Warning: The operator's policy refuses") and keys in warning
        assert call(*command, *words, named)[2] == scope


def test_policy_check(call, fails, checkpoint, tmp_path):
    good = write_json(tmp_path / "[b]good.json", REFUSE)
    for options in ([], ["--model", checkpoint]):
        code, out, err = call("policy", "check", good, *options)
        assert (code, err) == (0, "") and out.startswith(f"{good}: a sound policy for ")
    unknown = write_json(tmp_path / "unknown.json", {"categories": {"[red]gambling": False}})
    assert "['[red]gambling']" in fails("policy", "check", unknown)
    # A refusal that could not be given is found here, and not at the first picture.
    cut = write_json(tmp_path / "cut.json", REFUSE | {"refusals": {"*": "I can't help.</s>"}})
    assert "holds special tokens" in fails("policy", "check", cut, "--model", checkpoint)


@pytest.mark.ci
def test_policy_check_comes_at_once_and_without_torch(tmp_path):
    file = write_json(tmp_path / "policy.json", REFUSE)
    first, last = run_alone([f"policy check {file}"], seconds=1.5).splitlines()
    assert first.endswith(f"digest {SafetyPolicy(**REFUSE).digest()}") and last == "[] True"


def test_policy_check_warns_of_refusals_that_no_published_judge_knows(call, checkpoint, tmp_path):
    refusals = {"privacy": HOSTILE, "politics": "I'd rather not say.", "fairness": "I can't help with that."}
    file = write_json(tmp_path / "policy.json", {"refusals": refusals})
    for options in ([], ["--model", checkpoint]):
        code, out, err = call("policy", "check", file, *options)
        assert code == 0 and out.startswith(f"{file}: a sound policy for ")
        first, second = err.splitlines()
        assert first.startswith("Warning: no published keyword judge takes the refusal of 'privacy' for one: ")
        assert "[red]a[/]" in first and "\x1b" not in first
        assert second.endswith("the refusal of 'politics' for one: \"I'd rather not say.\"")


def test_policy_check_warns_of_thresholds_that_every_picture_reaches_or_none(call, tmp_path):
    policy = {
        "risk_threshold": 0.9995,
        "thresholds": {"privacy": 0.0005, "politics": 0.001, "fairness": 0.999, "*": None},
        "review_thresholds": {"privacy": 0.0},
    }
    code, out, err = call("policy", "check", write_json(tmp_path / "policy.json", policy))
    assert code == 0 and "a sound policy" in out
    assert [line.split(":")[1].strip() for line in err.splitlines()] == [
        "`thresholds['privacy']` is 0.0005, under 0.001",
        "`review_thresholds['privacy']` is 0, under 0.001",
        "`risk_threshold` is 0.9995, over 0.999",
    ]


def test_policy_check_warns_of_our_refusals_in_a_language_that_no_published_judge_knows(call, tmp_path):
    for language, warnings in (("en", 0), ("fr", 2)):
        policy = {"language": language, "actions": {"privacy": {"high": "refuse"}}}
        code, _, err = call("policy", "check", write_json(tmp_path / "policy.json", policy))
        assert code == 0 and len(err.splitlines()) == warnings


def test_policy_replay(call, fails, checkpoint, picture, tmp_path):
    """What `chat` wrote down, under a policy that refuses, and under the checkpoint's own."""
    audit, policy = tmp_path / "[red]audit.jsonl", write_json(tmp_path / "new.json", {"risk_threshold": 0.0, **REFUSE})
    chat = ["chat", "--model", checkpoint, "--image", picture, "--audit", audit, "--max-new-tokens", 1]
    assert call(*chat, stdin="What does the card say?\n")[0] == 0
    for options in ([], ["--model", checkpoint]):
        code, out, err = call("policy", "replay", audit, "--policy", policy, *options)
        assert (code, err) == (0, "") and out.startswith(f"What {audit} holds, had it been decided by {policy}, ")
        assert out.splitlines()[0].endswith("Samples: 1")
        assert ("the default policy" in out) != bool(options)
        assert sum(int(cell) for action in ("answer", "condition", "refuse") for cell in rows(out)[action][:4]) == 1
        found = json.loads(call("policy", "replay", audit, "--policy", policy, "--json", *options)[1])
        assert found["samples"] == 1 and found["cut_off"] == 0
    assert "new.json" in fails("policy", "replay", audit, "--policy", tmp_path / "missing" / "new.json")
    broken = write_json(tmp_path / "broken.json", {"categories": {"gambling": False}})
    assert "gambling" in fails("policy", "replay", audit, "--policy", broken)
    for text in ("null", "[]", "[" * 100_000, '{"thresholds": {"*": 0.5, "*": null}}'):
        broken.write_text(text)
        assert "broken.json: " in fails("policy", "replay", audit, "--policy", broken)
    assert "missing.jsonl" in fails("policy", "replay", tmp_path / "missing.jsonl", "--policy", policy)


def test_policy_replay_says_what_it_does_not_know(call, tmp_path):
    audit = tmp_path / "audit.jsonl"
    audit.write_text('{"action": "answer", "verdicts": [{"action": "answer"}]}\n{"half\n{"half')
    policy = write_json(tmp_path / "new.json", {"remembered_turns": 2})
    out = call("policy", "replay", audit, "--policy", policy)[1]
    for note in (
        "Samples without logits, as older versions wrote them: 1.",
        "Lines that are no JSON, and are in no count: 1.",
        "The last line is unfinished",
        "`remembered_turns` is not replayed",
    ):
        assert note in out


def test_policy_replay_of_nothing_is_an_error(fails, tmp_path):
    audit, policy = tmp_path / "audit.jsonl", write_json(tmp_path / "new.json", {})
    for text in ("", "no audit\n"):
        audit.write_text(text)
        reason = fails("policy", "replay", audit, "--policy", policy, "--changes", tmp_path / "changes.jsonl")
        assert f"{audit} holds no sample: expected JSON lines of `--audit`" in reason
    assert not (tmp_path / "changes.jsonl").exists()


def test_policy_replay_writes_which_requests_change(call, fails, checkpoint, picture, tmp_path):
    audit, changes = tmp_path / "audit.jsonl", tmp_path / "new" / "[red]changes.jsonl"
    policy = write_json(tmp_path / "new.json", {"risk_threshold": 0.0, "temperatures": {"level": 3.0}, **REFUSE})
    chat = ["chat", "--model", checkpoint, "--image", picture, "--audit", audit, "--max-new-tokens", 1]
    assert call(*chat, "--policy", write_json(tmp_path / "off.json", {"enabled": False}), stdin="And now?\n")[0] == 0
    replay = ["policy", "replay", audit, "--policy", policy, "--changes"]
    for options, is_asked in (([], True), (["--model", checkpoint, "--overwrite"], False)):
        code, out, _ = call(*replay, changes, *options)
        assert code == 0 and out.rstrip().endswith(f"Samples that change: 1, in {changes}")
        assert "under other temperatures" in out and ("is `--model` missing?" in out) == is_asked
    (line,) = changes.read_text().splitlines()
    change = json.loads(line)
    assert list(change) == ["line", "id", "request_id", "from", "to", "category", "at_least"]
    assert (change["line"], change["from"]) == (1, "answer") != change["to"]
    before = audit.read_text()
    assert "would replace" in fails(*replay, audit) and "would replace" in fails(*replay, audit, "--overwrite")
    assert audit.read_text() == before
