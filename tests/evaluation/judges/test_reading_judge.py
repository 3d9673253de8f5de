"""What all judges that read have in common, with a judge that asks nobody."""

import json
import shutil
from dataclasses import replace

import pytest
from judged_items import item, pairs, picture

from safevlm_hf.evaluation.judges.prompts import JudgePrompt
from safevlm_hf.evaluation.judges.reading_judge import LONGEST_TEXT, Cost, ReadingJudge, Reply
from safevlm_hf.evaluation.judges.rubrics import PREFERENCE, REFUSAL, SCORE_BY_CATEGORY
from safevlm_hf.evaluation.protocol.cache import JsonLinesCache
from safevlm_hf.items import Answer


PROMPT = JudgePrompt(task="Judge.")


class FakeJudge(ReadingJudge):
    """Replies with `replies` in turn; an exception among them is raised, `None` is no reply."""

    def __init__(self, cache, replies=(), prompt=PROMPT, model="fake", **options):
        super().__init__("fake", prompt, cache, **options)
        self.model = model
        self.replies = list(replies)
        self.asked = []

    def _model_settings(self):
        return {"kind": "fake", "model": self.model}

    def _ask(self, requests, keep):
        for request in requests:
            reply = self.replies.pop(0)
            if isinstance(reply, BaseException):
                raise reply
            self.asked.append(request)
            if reply is not None:
                keep(request, reply)
            yield Reply(request, failure="busy" if reply is None else None)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "judgements.jsonl"


def judge(judge, *pair):
    return judge.judge(*pair, progress=False)


def test_scores_and_failures(cache):
    judgements = judge(FakeJudge(cache, ["7", "7 or 8", ""]), *pairs("A.", "B.", "C.", None, "x" * LONGEST_TEXT))
    assert [one.score for one in judgements] == [7.0, None, None, None, None]
    assert [one.reply for one in judgements] == ["7", "7 or 8", "", None, None]
    assert judgements[1].failure == "unreadable reply: expected one number from 0 to 10, got '7 or 8'"
    assert judgements[3].failure == "no answer to judge: out of memory"
    assert judgements[4].failure == "question and answer have 20011 characters, more than the 20000 that are judged"


def test_labels(cache):
    judgements = judge(FakeJudge(cache, ["Refusal", "no"], REFUSAL), *pairs("A.", "B."))
    assert judgements[0].label == "refusal" and judgements[1].failure.startswith(
        "unreadable reply: expected one of answer"
    )


def test_preferences(cache):
    items, answers = pairs(*"ABCDEFGH")
    items = [replace(one, expected="An answer.") for one in items]
    asked = FakeJudge(cache, ["first"] * 4 + ["second"] * 2 + ["tie", "win"], PREFERENCE)
    found = judge(asked, items, answers)
    places = [one.text.index("<first answer") < one.text.index("\nAn answer.") < one.text.index("<second answer")
              for one in asked.asked]  # fmt: skip
    # The published answer stood first where `places` says so.
    assert [one.label for one in found[:4]] == ["loss" if first else "win" for first in places[:4]]
    assert [one.label for one in found[4:6]] == ["win" if first else "loss" for first in places[4:6]]
    assert found[6].label == "tie" and found[7].failure.startswith("unreadable reply: expected one of first, second")


def test_nothing_is_asked_twice(cache):
    first = judge(FakeJudge(cache, ["7", "unreadable"]), *pairs("A.", "B."))
    again = FakeJudge(cache)
    assert judge(again, *pairs("A.", "B.")) == first and again.asked == []


def test_a_stopped_run_goes_on_where_it_was(cache):
    with pytest.raises(KeyboardInterrupt):
        judge(FakeJudge(cache, ["7", "8", KeyboardInterrupt()]), *pairs("A.", "B.", "C.", "D."))
    rest = FakeJudge(cache, ["9", "10"])
    assert [one.score for one in judge(rest, *pairs("A.", "B.", "C.", "D."))] == [7, 8, 9, 10]
    assert len(rest.asked) == 2


def test_a_judge_that_did_not_reply_is_asked_again(cache):
    judgements = judge(FakeJudge(cache, [None, "8"]), *pairs("A.", "B."))
    assert [one.failure for one in judgements] == ["busy", None]
    again = FakeJudge(cache, ["7"])
    assert [one.score for one in judge(again, *pairs("A.", "B."))] == [7, 8] and len(again.asked) == 1


def test_equal_questions_are_asked_once(cache):
    items = [item("1"), item("2"), item("3", "Other?")]
    answers = [Answer(one.id, "A star.") for one in items]
    fake = FakeJudge(cache, ["7", "8"])
    assert [one.score for one in judge(fake, items, answers)] == [7, 7, 8] and len(fake.asked) == 2


def test_everything_that_decides_a_judgement_is_in_its_key(cache, tmp_path):
    red, blue = picture(tmp_path, "red"), picture(tmp_path, "blue")
    base = {"question": "What?", "images": [red], "category": "privacy"}
    variants = [
        ({}, base, "A."),
        ({}, base, "B."),
        ({}, {**base, "question": "Who?"}, "A."),
        ({}, {**base, "images": [blue]}, "A."),
        ({}, {**base, "category": "politics"}, "A."),
        ({"model": "other"}, base, "A."),
        ({"max_new_tokens": 8}, base, "A."),
        ({"sends_images": False}, base, "A."),
        ({"prompt": PROMPT}, base, "A."),
    ]
    for number, (options, content, text) in enumerate(variants):
        fake = FakeJudge(cache, [str(number)], **{"prompt": SCORE_BY_CATEGORY, **options})
        assert judge(fake, [item(**content)], [Answer("1", text)])[0].score == number
        assert len(fake.asked) == 1


def test_names_and_places_are_not_in_the_key(cache, tmp_path):
    red = picture(tmp_path, "red")
    copy = shutil.copy(red, tmp_path / "copy.png")
    judge(FakeJudge(cache, ["7"]), [item("1", images=[red])], [Answer("1", "A.")])
    other = FakeJudge(cache)
    other.name = "other"
    found = judge(other, [item("9", images=[copy], is_risky=True)], [Answer("9", "A.", action="refuse", risk=0.5)])
    assert [(one.item_id, one.source, one.score) for one in found] == [("9", "other", 7)]


@pytest.mark.parametrize(
    "given, reason",
    [
        ([item("1"), item("2", images=["missing.png"], category="privacy")], "expected an image at 'missing.png'"),
        ([item("1", category="privacy"), item("2", category="weather")], "is 'weather', expected one that a rubric"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(cache, given, reason):
    fake = FakeJudge(cache, ["7", "7"], SCORE_BY_CATEGORY if "rubric" in reason else PROMPT)
    with pytest.raises(ValueError, match=reason):
        judge(fake, given, [Answer(one.id, "A.") for one in given])
    assert fake.asked == [] and not cache.exists()


def test_a_cache_of_others_is_left_alone(cache):
    fake = FakeJudge(cache, ["7"])
    judge(fake, *pairs("A."))
    key = json.loads(cache.read_text())["key"]
    cache.write_text(json.dumps({"key": key, "value": {"score": 10}}) + "\n")
    with pytest.raises(ValueError, match="expected a reply of a judge, found {'score': 10}"):
        judge(FakeJudge(cache), *pairs("A."))


def test_a_second_run_is_refused_and_does_no_harm(cache):
    judge(FakeJudge(cache, ["7"]), *pairs("A."))
    content = cache.read_bytes()
    with JsonLinesCache(cache), pytest.raises(RuntimeError, match="is in use by another run"):
        judge(FakeJudge(cache, ["8"]), *pairs("B."))
    assert cache.read_bytes() == content


# --------------------------------------------------------------------------------------------------
# Cost
# --------------------------------------------------------------------------------------------------


def test_the_cost_is_known_before(cache, tmp_path):
    items, answers = pairs("A" * 400, "B", None, images=[picture(tmp_path)])
    fake = FakeJudge(cache, ["7", "8"], prices={"input": 2.0, "output": 10.0})
    cost = fake.estimate(items, answers)
    prompts = [fake.prompt.text(one, answer.text) for one, answer in zip(items[:2], answers)]
    tokens = sum(len(prompt.encode()) // 4 + 1000 for prompt in prompts)
    assert cost == Cost(2, 0, tokens, 32, pytest.approx((2 * tokens + 10 * 32) / 1e6))
    assert fake.asked == []
    judge(fake, items[:1], answers[:1])
    assert (fake.estimate(items, answers).calls, fake.estimate(items, answers).cached) == (1, 1)
    judge(fake, items, answers)
    assert fake.estimate(items, answers) == Cost(0, 2, 0, 0, 0.0)


def test_the_cost_is_shown_first(cache, capsys):
    FakeJudge(cache, ["7"], prices={"input": 1.0, "output": 1.0}).judge(*pairs("A."))
    out, err = capsys.readouterr()
    assert out == "" and "judge fake: 1 calls (0 judgements are cached), about 1" in err
    assert "about 0.00 at the given prices" in err
    FakeJudge(cache).judge(*pairs("A."))
    assert "calls" not in capsys.readouterr().err
    judge(FakeJudge(cache, ["7"]), *pairs("B."))
    assert capsys.readouterr() == ("", "")


def test_costs_add_up():
    assert Cost(1, 2, 30, 4, 0.5) + Cost(10, 20, 300, 40, 0.25) == Cost(11, 22, 330, 44, 0.75)
    assert (Cost(1, 2, 30, 4) + Cost(1, 2, 30, 4, 0.5)).money is None


def test_prices_are_of_both_kinds(cache):
    with pytest.raises(ValueError, match="expected 'input' and 'output'"):
        FakeJudge(cache, prices={"input": 1.0})
