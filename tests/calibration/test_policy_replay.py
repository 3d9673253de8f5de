"""Replay of an audit trail: what another policy would have done, exactly where the trail holds all windows."""

import json
import random
from collections import Counter

import pytest
import torch
from support.rigged import BOS, GREEDY, batch, prompt

from safevlm_hf import SafeLlavaForConditionalGeneration, SafetyConfig, SafetyPolicy
from safevlm_hf.calibration import policy_replay
from safevlm_hf.calibration.policy_replay import PolicyReplay, replay_audit
from safevlm_hf.modeling.safety_audit import encode_logits, read_audit
from safevlm_hf.modeling.safety_policy import ACTIONS


CONFIG = SafetyConfig()
REFUSE = {"actions": {"*": {"high": "refuse"}}}


def drawn_policy(number: int) -> dict:
    """A policy that nobody would write."""
    chance = random.Random(number)
    risky = [name for name in CONFIG.categories if name != "safe"]
    off = chance.sample(risky, chance.randrange(3))
    on = [name for name in risky if name not in off]
    ladder = [("answer", "condition", "refuse"), ("answer", "answer", "refuse"), ("condition", "refuse", "refuse")]
    return {
        "categories": dict.fromkeys(off, False),
        "risk_threshold": chance.random(),
        "thresholds": {name: chance.uniform(0.1, 0.4) for name in chance.sample(on, 2)},
        "actions": {name: dict(zip(CONFIG.levels[1:], chance.choice(ladder))) for name in chance.sample(on, 3)},
        "temperatures": {"level": chance.uniform(0.2, 2.0), "category": chance.uniform(0.2, 2.0)},
    }


@pytest.fixture
def judged(tiny_config):
    """A model whose windows disagree, and inputs of several samples: one with two pictures, and one with none."""
    tiny_config.safety_config.is_trained = True
    model = SafeLlavaForConditionalGeneration(tiny_config).eval()
    model.generation_config.update(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    head = model.model.safety_head
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=1.0)
        head.q_proj.weight.normal_(std=1.0)  # so that each word looks elsewhere
        head.level_head.weight.normal_(std=1.0)
        head.category_head.weight.normal_(std=1.0)
    rows = [prompt(*range(10 + 7 * row, 30 + 9 * row)) for row in range(5)] + [prompt(5, 6, 8, images=2), [BOS, 7]]
    return model, {**batch(*rows), "pixel_values": torch.randn(7, 3, 56, 56)}


def trail(judged, folder, windows: bool, policy=None):
    model, inputs = judged
    path = folder / f"{windows}.jsonl"
    model.assess(**inputs, safety_policy=policy, safety_audit={"path": path, "windows": windows})
    return path


@pytest.mark.parametrize("number", range(8))
def test_with_all_windows_it_is_what_the_model_decides(judged, tmp_path, number):
    """Whatever policy wrote the trail, temperatures and switched-off categories included."""
    path, policy = trail(judged, tmp_path, True, drawn_policy(100 + number)), drawn_policy(number)
    model, inputs = judged
    model.assess(**inputs, safety_policy=policy, safety_audit=tmp_path / "expected.jsonl")
    before, expected = (read_audit(file)[0] for file in (path, tmp_path / "expected.jsonl"))
    replayed = [PolicyReplay(policy).decide(line) for line in before]
    assert [sample.after for sample in replayed] == [line["action"] for line in expected]
    assert [sample.before for sample in replayed] == [line["action"] for line in before]
    assert all(sample.is_exact for sample in replayed)


def test_with_the_deciding_window_alone_it_is_a_lower_bound(judged, tmp_path):
    """Never stricter than what the model decides, and where it calls itself exact, just that."""
    model, inputs = judged
    inexact = softer = 0
    for number in range(12):
        policy = drawn_policy(number)
        lines, _ = read_audit(trail(judged, tmp_path / str(number), False, drawn_policy(100 + number)))
        model.assess(**inputs, safety_policy=policy, safety_audit=tmp_path / f"{number}.jsonl")
        for line, expected in zip(lines, read_audit(tmp_path / f"{number}.jsonl")[0]):
            sample = PolicyReplay(policy).decide(line)
            found, right = ACTIONS.index(sample.after), ACTIONS.index(expected["action"])
            assert found == right if sample.is_exact else found <= right
            inexact += not sample.is_exact
            softer += found < right
    assert inexact and softer  # the bound is one, and is said to be one


def test_under_its_own_policy_nothing_changes(judged, tmp_path):
    for windows in (True, False):
        path = trail(judged, tmp_path, windows, REFUSE)
        report = replay_audit(path, REFUSE)
        assert report.samples == 7 and not report.changes() and not report.recalibrated
        assert report.to_dict()["cut_off"] == 0 and report.to_dict()["assessed"] == 7


def test_a_shadow_trail_is_compared_with_what_would_have_been_done(judged, tmp_path):
    model, inputs = judged
    path = tmp_path / "audit.jsonl"
    options = {"safety_policy": REFUSE, "safety_audit": {"path": path, "windows": True}, "safety_shadow": True}
    model.generate(**inputs, **GREEDY, **options)
    assert {line["action"] for line in read_audit(path)[0]} == {"answer"}
    assert not replay_audit(path, REFUSE).changes() and not replay_audit(path, REFUSE).assessed
    changes = replay_audit(path, {"enabled": False}).changes()
    assert changes and {after for _, _, after, _, _ in changes} == {"answer"}


def test_of_two_pictures_the_higher_level_names_the_category():
    verdict = {"action": "condition", "level_probabilities": dict.fromkeys(CONFIG.levels, 0.25)}
    high = {**verdict, "decided": "privacy", "level": "high", "risk": 0.8}
    low = {**verdict, "decided": "politics", "level": "low", "risk": 0.9}
    assert policy_replay._category_before([low, high]) == policy_replay._category_before([high, low]) == "privacy"


def line_of(level, category, action="answer", num_windows=1, config=CONFIG, **fields):
    """An audit line with one picture and one window of these logits."""
    logits = torch.tensor([[*level, *category]], dtype=torch.float32)
    levels, categories = logits[0, : len(level)].softmax(0), logits[0, len(level) :].softmax(0)
    verdict = {
        "category": "safe",
        "level": "safe",
        "risk": 1 - float(levels[0]),
        "level_probabilities": dict(zip(config.levels, levels.tolist())),
        "category_probabilities": dict(zip(config.categories, categories.tolist())),
        "action": action,
        "flagged_categories": [],
        "review_categories": [],
        "num_windows": num_windows,
        "logits": encode_logits(logits),
    }
    return {"action": action, "verdicts": [verdict], **fields}


HIGH_PRIVACY = ([0, 0, 0, 9.0], [0, 0, 0, 0, 9.0, 0, 0])


def test_a_change_is_counted_under_the_category_of_the_stricter_side(tmp_path):
    softer = line_of(*HIGH_PRIVACY, action="refuse")
    softer["verdicts"][0]["flagged_categories"] = ["privacy"]
    path = tmp_path / "audit.jsonl"
    stricter = [line_of(*HIGH_PRIVACY, num_windows=1 + count % 2) for count in range(3)]
    path.write_text("\n".join(map(json.dumps, [softer, *stricter])) + '\n{"half a li')
    report = replay_audit(path, {"actions": {"*": {"low": "answer", "high": "condition"}}})
    assert report.changes() == [("privacy", "answer", "condition", 3, 0), ("privacy", "refuse", "condition", 1, 0)]
    assert report.cut_off == 1 and report.by_actions()["answer", "condition"] == 3
    report = replay_audit(
        path, {"actions": {"*": {"low": "answer", "high": "condition"}, "fairness": {"high": "refuse"}}}
    )
    assert report.changes()[0] == ("privacy", "answer", "condition", 3, 1)  # a window that was left out may be refused


def test_the_category_is_the_one_that_was_decided_on(tmp_path):
    """Another one that is flagged, too, may be the more probable."""
    line = line_of(*HIGH_PRIVACY, action="refuse")
    line["verdicts"][0] |= {"flagged_categories": ["politics", "privacy"], "decided": "privacy"}
    report = replay_audit(write(tmp_path, line), {"actions": {"*": {"high": "condition"}}})
    assert [change[:3] for change in report.changes()] == [("privacy", "refuse", "condition")]


def test_pictures_that_could_not_be_read(tmp_path):
    line = line_of(*HIGH_PRIVACY)
    line["verdicts"][0]["logits"] = encode_logits(torch.full((1, 11), torch.nan))
    (change,) = replay_audit(write(tmp_path, line), REFUSE).changes()
    assert change[:3] == ("unreadable picture", "answer", "refuse")


def test_another_calibration_is_noticed(tmp_path):
    path = write(tmp_path, line_of([0.3, 0.1, 0.2, 0.6], [0.1, 0.2, 0.3, 0.4, 0.9, 0.0, 0.5]))
    assert replay_audit(path, None).recalibrated == 0
    assert replay_audit(path, {"temperatures": {"level": 2.0}}).recalibrated == 1
    assert replay_audit(path, {"temperatures": {"category": 0.5}}).recalibrated == 1


def test_each_line_has_its_own_taxonomy(tmp_path):
    own = SafetyConfig(categories=["spam", "safe"], levels=["safe", "bad"])
    lines = [line_of([0, 9.0], [9.0, 0], config=own), line_of(*HIGH_PRIVACY)]
    assert len(replay_audit(write(tmp_path, *lines), {}).changes()) == 2
    with pytest.raises(ValueError, match=r"line 1: the policy does not fit.*privacy.*Valid names.*spam"):
        replay_audit(write(tmp_path, *lines), {"categories": {"privacy": False}})


def write(folder, *lines):
    path = folder / "audit.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def broken_lines():
    good = line_of(*HIGH_PRIVACY)
    for name in ("action", "verdicts"):
        yield name, {key: value for key, value in good.items() if key != name}
    for name in ("level_probabilities", "num_windows", "risk"):
        without = {key: value for key, value in good["verdicts"][0].items() if key != name}
        yield name, {**good, "verdicts": [without]}
    yield "`action` is 'shout', expected one of answer", {**good, "action": "shout"}
    yield "logits", {**good, "verdicts": [{**good["verdicts"][0], "logits": "AAAA"}]}
    for nothing in ([1], 5, None):
        yield "it is .* expected an object", nothing
    yield "`verdicts` is 7, expected a list", {**good, "verdicts": 7}
    yield "a verdict is 7, expected an object", {**good, "verdicts": [7]}
    for name, value, reason in (
        ("level_probabilities", {"bad": 1.0, "good": 0.0}, "safe"),
        ("level_probabilities", {}, "expected probabilities by level"),
        ("category_probabilities", {"safe": "much"}, "expected probabilities by category"),
        ("level", "zzz", "`level` is 'zzz', expected one of safe, low, medium, high"),
        ("action", "zzz", "`action` is 'zzz', expected one of answer, review, condition, refuse"),
        ("risk", "zzz", "`risk` is 'zzz', expected a number"),
        ("num_windows", "zzz", "`num_windows` is 'zzz', expected a whole number"),
        ("flagged_categories", 7, "`flagged_categories` is 7, expected a list of categories"),
        ("decided", 7, "`decided` is 7, expected a category"),
        ("logits", 7, "`logits` is 7, expected base64"),
    ):
        yield reason, {**good, "verdicts": [{**good["verdicts"][0], name: value}]}


@pytest.mark.parametrize("reason, line", broken_lines())
def test_what_is_no_audit_line_is_named_by_its_number(tmp_path, reason, line):
    with pytest.raises(ValueError, match=f"line 2: .*{reason}"):
        replay_audit(write(tmp_path, line_of(*HIGH_PRIVACY), line), {"enabled": False})


@pytest.mark.parametrize("text", ["", "\n \n", "garbage\nmore of it", "[" * 100_000])
def test_a_trail_without_any_sample_is_an_error(tmp_path, text):
    path = tmp_path / "audit.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="audit.jsonl holds no sample: expected JSON lines of `--audit`"):
        replay_audit(path, REFUSE)


def test_only_an_unfinished_last_line_is_cut_off(tmp_path):
    path = write(tmp_path, line_of(*HIGH_PRIVACY))
    path.write_bytes(b'{"half\n\n\xff\n' + path.read_bytes() + b'{"action": "ans')
    report = replay_audit(path, REFUSE)
    assert (report.samples, report.unreadable, report.cut_off) == (1, 2, 1)


def test_lines_decided_together_are_what_each_is_alone(judged, tmp_path, monkeypatch):
    """Of many numbers of windows and pictures, and of two taxonomies, across batches."""
    monkeypatch.setattr(policy_replay, "MAX_LINES", 5)
    own = SafetyConfig(categories=["spam", "safe"], levels=["safe", "bad"])
    lines = [line_of([0, 9.0], [9.0, 0], config=own), line_of(*HIGH_PRIVACY, num_windows=2)]
    for windows in (True, False):
        lines[1:1] = read_audit(trail(judged, tmp_path, windows, REFUSE))[0]
    unreadable = line_of(*HIGH_PRIVACY)
    unreadable["verdicts"][0]["logits"] = encode_logits(torch.full((1, 11), torch.nan))
    path = write(tmp_path, *lines, unreadable, {"action": "answer", "verdicts": []})
    for policy in ({"risk_threshold": 0.6, "temperatures": {"level": 0.5}}, {"thresholds": {"*": 0.3}}, {}):
        report, replay = replay_audit(path, policy), PolicyReplay(policy)
        alone = [replay.decide(line) for line in read_audit(path)[0]]
        assert report.samples == len(alone) == 18 and report.recalibrated == sum(one.is_recalibrated for one in alone)
        assert report.at_least.total() == sum(not one.is_exact for one in alone)
        counted = Counter((one.category, one.before, one.after) for one in alone)
        assert report.counts == counted


def test_which_samples_change_is_told_by_their_ids(tmp_path):
    lines = [line_of(*HIGH_PRIVACY, num_windows=2, id=f"own{n}", request_id=f"r{n}") for n in range(2)]
    lines[0]["verdicts"] = []
    report = replay_audit(
        write(tmp_path, *lines), {"actions": {"privacy": {"high": "condition"}, "*": {"high": "refuse"}}}
    )
    change = {"line": 2, "id": "own1", "request_id": "r1", "from": "answer", "to": "condition"}
    assert report.changed == [{**change, "category": "privacy", "at_least": True}]


def test_lines_without_logits_are_counted_apart(tmp_path):
    old = line_of(*HIGH_PRIVACY)
    del old["verdicts"][0]["logits"]
    report = replay_audit(write(tmp_path, old, {"action": "answer", "verdicts": []}), REFUSE)
    assert (report.samples, report.without_logits) == (1, 1)


def test_lines_are_read_one_by_one(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"b"\n' + b"[" * 100_000 + b"\n\xff\n7")
    assert read_audit(path) == ([{"a": 1}, 7], 3)


def test_a_policy_is_a_policy_or_its_dict(tmp_path):
    path = write(tmp_path, line_of(*HIGH_PRIVACY))
    assert replay_audit(path, SafetyPolicy(**REFUSE)).changes() == replay_audit(path, REFUSE).changes()
