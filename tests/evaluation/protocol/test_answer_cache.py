import math
from dataclasses import replace

import pytest

from safevlm_hf.evaluation.protocol.answer_cache import AnswerCache
from safevlm_hf.evaluation.protocol.protocol import Protocol
from safevlm_hf.evaluation.protocol.system import System
from safevlm_hf.items import Answer, Item


def ask(text, id="1", **more):
    return Item(id, [], [{"role": "user", "content": [{"type": "text", "text": text}]}], **more)


ITEM = ask("What colour is it?", labels={"is_risky": False})
ANSWER = Answer("1", "Blue.", "answer", "safe", "safe", {"safe": 0.9, "low": 0.1}, {"privacy": 1.0}, 0.1)
SYSTEM = System("ours", "runs/stage2", weights_hash="a" * 64)
PROTOCOL = Protocol.of("cards", "test", [ITEM], decoding={"do_sample": False}, max_new_tokens=8, judges={"rules": "1"})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def test_an_answer_is_the_same_again(path):
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        assert cache.get(ITEM) is None
        assert cache.put(ITEM, ANSWER) == cache.get(ITEM) == ANSWER
        cache.flush()
    with AnswerCache(path, SYSTEM, PROTOCOL) as again:
        assert again.get(ITEM) == ANSWER


def test_what_was_done_to_each_image_is_kept_and_missing_in_older_files(path):
    answer = replace(ANSWER, actions=("answer", "refuse"))
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        assert cache.put(ITEM, answer) == cache.get(ITEM) == answer
    older = path.read_text().replace(', "actions": ["answer", "refuse"]', "")
    assert "actions" not in older
    path.write_text(older)
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        assert cache.get(ITEM) == ANSWER


def test_what_decides_an_answer_decides_whether_it_is_there(path):
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        cache.put(ITEM, ANSWER)
        # Another id, label or judge asks nothing new.
        assert cache.get(replace(ITEM, id="2", labels={}, expected="Red.")) == replace(ANSWER, item_id="2")
        assert cache.get(ask("What shape is it?")) is None
    systems = [replace(SYSTEM, name="renamed"), replace(SYSTEM, policy={"enabled": False})]
    for system, is_there in zip(systems, (True, False), strict=True):
        with AnswerCache(path, system, PROTOCOL) as cache:
            assert (cache.get(ITEM) is not None) is is_there
    protocols = [replace(PROTOCOL, judges={}), replace(PROTOCOL, max_new_tokens=9)]
    for protocol, is_there in zip(protocols, (True, False), strict=True):
        with AnswerCache(path, SYSTEM, protocol) as cache:
            assert (cache.get(ITEM) is not None) is is_there


def test_nothing_is_answered_twice(path):
    asked = []

    def run(items):
        with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
            for item in items:
                if cache.get(item) is None:
                    asked.append(item.id)
                    cache.put(item, Answer(item.id, f"Answer {item.id}."))
            return [cache.get(item).text for item in items]

    items = [ask(f"Question {number}", str(number)) for number in range(6)]
    run(items[:4])
    path.write_bytes(path.read_bytes()[:-7])  # a kill in the fourth
    assert run(items) == [f"Answer {number}." for number in range(6)]
    assert asked == ["0", "1", "2", "3", "3", "4", "5"]
    before = path.read_bytes()
    run(items)
    assert path.read_bytes() == before and len(asked) == 7


def test_failures_are_outcomes(path):
    failed = Answer("1", None, failure="out of memory")
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        cache.put(ITEM, failed)
        assert cache.get(ITEM) == cache.put(ITEM, ANSWER) == failed
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        assert cache.get(ITEM) == failed


def test_numbers_that_json_does_not_have(path):
    broken = replace(ANSWER, risk=math.nan, level_probabilities={"safe": math.nan, "low": 0.5})
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        assert cache.put(ITEM, broken) == replace(ANSWER, risk=None, level_probabilities=None)


def test_an_answer_to_another_item_is_refused(path):
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        with pytest.raises(ValueError, match="the answer is to item '2', the item is '1'"):
            cache.put(ITEM, replace(ANSWER, item_id="2"))


def test_a_cache_of_something_else_is_named(path):
    with AnswerCache(path, SYSTEM, PROTOCOL) as cache:
        cache._cache.put(cache._key(ITEM), {"score": 3})
        with pytest.raises(ValueError, match="answers.jsonl: an answer: unknown keys 'score' and missing keys text"):
            cache.get(ITEM)
