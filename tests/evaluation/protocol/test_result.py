import json
import random
from dataclasses import replace

import pytest

from safevlm_hf.evaluation.metrics.judged import attack_success, over_refusal
from safevlm_hf.evaluation.metrics.verdicts import risk_auroc
from safevlm_hf.evaluation.protocol.answer_cache import AnswerCache
from safevlm_hf.evaluation.protocol.cache import JsonLinesCache
from safevlm_hf.evaluation.protocol.protocol import Protocol
from safevlm_hf.evaluation.protocol.result import Counts, EvaluationResult, Times, load_result, save_result
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.intervals.figure import Figure
from safevlm_hf.items import Answer, Item


FEW = Bootstrap(20)
SYSTEM = System("ours", "runs/stage2", weights_hash="a" * 64, policy={"risk_threshold": 0.5})
ITEMS = [
    Item(
        id=f"{number}",
        images=[],
        messages=[{"role": "user", "content": [{"type": "text", "text": f"Question {number}"}]}],
        labels={"is_risky": number % 3 == 0, "type": "ab"[number % 2]},
        group=f"{number // 2}",
    )
    for number in range(24)
]


def evaluate(folder, items):
    """A run from beginning to end: answers and judgements come from the caches where they are there."""
    protocol = Protocol.of("cards", "test", items, decoding={}, max_new_tokens=8, judges={"rules": "1"})
    answers, judgements = [], []
    with (
        AnswerCache(folder / "answers.jsonl", SYSTEM, protocol) as cache,
        JsonLinesCache(folder / "judged.jsonl") as judged,
    ):
        for item in items:
            answers.append(
                cache.get(item) or cache.put(item, Answer(item.id, random.choice("xyz"), risk=random.random()))
            )
            judgements.append(judged.put(item.id, random.choice(["answer", "care", "refusal", None])))
    figures = [
        *attack_success(items, judgements, "rules").figures("type", FEW),
        over_refusal(items, judgements, "rules").figure(FEW),
        risk_auroc(items, answers).figure(FEW),
    ]
    return EvaluationResult(
        protocol, SYSTEM, figures, Counts(len(items), missing=2), FEW, Times(durations={"answers": random.random()})
    )


@pytest.fixture
def result(tmp_path):
    return evaluate(tmp_path, ITEMS)


def test_made_again_it_is_the_same_but_for_the_times(tmp_path):
    paths = []
    for number in range(2):
        items = random.sample(ITEMS, len(ITEMS))
        paths.append(save_result(evaluate(tmp_path, items), tmp_path / f"results{number}.json"))
    texts = [path.read_text() for path in paths]
    assert texts[0] != texts[1]
    beginnings = [text[: text.index('  "times": {')] for text in texts]  # the last key
    assert beginnings[0] == beginnings[1]
    assert json.loads(texts[0])["figures"]


def test_a_file_and_back(result, tmp_path):
    path = save_result(result, tmp_path / "results.json")
    again = load_result(path)
    assert again == result and again.to_json() == path.read_text()
    content = json.loads(path.read_text())
    assert (content["benchmark"], content["split"], content["protocol_hash"]) == (
        "cards",
        "test",
        result.protocol.hash,
    )
    assert content["counts"] == {"items": 24, "missing": 2, "failed": 0, "published": None}


def test_a_result_from_before_the_published_size_was_kept(result, tmp_path):
    path = save_result(replace(result, counts=Counts(24, published=30)), tmp_path / "results.json")
    assert load_result(path).counts.published == 30
    content = json.loads(path.read_text())
    del content["counts"]["published"]
    path.write_text(json.dumps(content))
    assert load_result(path).counts == Counts(24)


@pytest.mark.parametrize(
    "published, text",
    [
        (None, "40 items"),
        (442, "40 items of 442 published (not the whole benchmark)"),
        (40, "40 items of 40 published"),
        (39, "40 items, where 39 are published"),
    ],
)
def test_a_copy_that_is_cut_off_is_told_from_a_whole_one(published, text):
    assert Counts(40, published=published).describe_items() == text


def test_a_whole_copy_with_an_item_left_out_is_the_whole_benchmark():
    assert Counts(41, 1, published=42).describe_items() == "41 items of 42 published"


def test_parts_that_do_not_fit_together(result):
    figure = Figure("f", 0.5, None, None, 2)
    with pytest.raises(ValueError, match="counts.items is 3, expected the protocol's 24"):
        replace(result, counts=Counts(3))
    with pytest.raises(ValueError, match="each name, part and judge once"):
        replace(result, figures=[figure, replace(figure, value=1)])
    with pytest.raises(
        ValueError, match="the judge of a figure is 'somebody', expected one of the protocol's, .'rules'"
    ):
        replace(result, figures=[replace(figure, judge="somebody")])
    with pytest.raises(ValueError, match="failed is 5, expected at most the 4 items"):
        Counts(4, failed=5)
    with pytest.raises(ValueError, match="date\n.*an ISO 8601 date"):
        Times(date="yesterday")


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def change(content, path, value):
    *parts, last = path
    for part in parts:
        content = content[part]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["figures"], None, "missing keys figures"),
        (["more"], 1, "unknown keys 'more'"),
        (["format"], 1, "format is 1, expected 2: .* Evaluate again, into another folder"),
        (["protocol_hash"], "0" * 12, "protocol_hash is '000000000000'"),
        (["protocol", "max_new_tokens"], 9, "protocol_hash is"),
        (["benchmark"], "others", "benchmark is 'others'"),
        (["split"], "dev", "split is 'dev'"),
        (["protocol", "judges"], {}, "protocol_hash is"),
        (["protocol", "decoding"], "greedy", "protocol: decoding is 'greedy'"),
        (["system"], [], "system: expected the keys name"),
        (["system", "policy"], 3, "system: policy is 3"),
        (["counts", "items"], 3, "counts.items is 3"),
        (["counts", "failed"], -1, "counts: failed is -1"),
        (["counts", "published"], "all", "counts: published is 'all'"),
        (["bootstrap", "seed"], "x", "bootstrap: seed is 'x'"),
        (["times", "date"], 5, "times: date is 5"),
        (["times", "date"], "yesterday", "times: date is 'yesterday', expected an ISO 8601 date"),
        (["bootstrap", "seed"], 2**32, "bootstrap: seed is 4294967296, expected less than 4294967296"),
        (["times", "durations"], {"answers": "long"}, "times: durations.answers is 'long'"),
        (["figures"], {}, "figures is {}"),
        (["figures", 1], "<script>", "figure 2: expected the keys name"),
        (["figures", 0, "value"], "1", "figure 1: value is '1'"),
        (["figures", 0, "low"], 2, "figure 1: .low, high. is"),
        (["figures", 0, "value"], 10**400, "figure 1: value is 1000"),
        (["system", "policy"], deep(60), "system: policy: it is nested in more than 50 levels"),
    ],
)
def test_a_file_that_was_changed_gives_one_clear_error(result, tmp_path, path, value, message):
    file = save_result(result, tmp_path / "results.json")
    content = json.loads(file.read_text())
    change(content, path, value)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"results.json: {message}"):
        load_result(file)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff\xff", b"[" * 50_000, b'{"format": NaN}'])
def test_a_foreign_file_gives_one_clear_error(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="results.json: "):
        load_result(path)


def test_a_failed_save_leaves_the_old_file(result, tmp_path, monkeypatch):
    path = save_result(result, tmp_path / "results.json")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(OSError, match="No space"):
        save_result(result, path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.glob(".*")] == []
