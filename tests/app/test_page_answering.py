"""Two answers at a time are the ones that the model gives one by one."""

import copy

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from safevlm_hf.app.answering import POLICY_OFF, TwoAnswers
from safevlm_hf.app.base import choose_base
from safevlm_hf.app.controls import MAX_TURNS
from safevlm_hf.app.conversation import MAX_CHARACTERS, SIDES, Turn, ask, encode, shown_pictures
from safevlm_hf.data import NANO_BASE


pytestmark = pytest.mark.ci


REFUSE = {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "Not this one."}}


@pytest.fixture
def asked(loaded):
    """A question about a white picture, as both sides' inputs."""
    return TwoAnswers(*loaded, max_new_tokens=12).encode(*white_picture())


def white_picture():
    return [ask([], "What does the card say?", "white.png")], [Image.new("RGB", (60, 60), "white")]


def one_by_one(loaded, inputs, policy):
    model, processor = loaded
    found = model.generate(
        **inputs, safety_policy=policy, max_new_tokens=12, do_sample=False, tokenizer=processor.tokenizer
    )
    return processor.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("policy", [{}, REFUSE], ids=["condition", "refuse"])
def test_both_answers_are_the_models_own(loaded, asked, policy):
    steps = list(TwoAnswers(*loaded, max_new_tokens=12).stream(asked, policy))
    expected = {
        "safe": one_by_one(loaded, asked["safe"], policy),
        "free": one_by_one(loaded, asked["free"], POLICY_OFF),
    }
    assert steps[-1] == expected and (policy == {} or expected["safe"].strip() == "Not this one.")
    assert any(0 < len(step["free"]) < len(expected["free"]) for step in steps)  # they come piece by piece
    for before, after in zip(steps, steps[1:]):
        assert all(after[side].startswith(before[side]) for side in SIDES)


def test_the_other_side_is_the_same_weights(loaded):
    answers = TwoAnswers(*loaded)
    model, other = answers._models.values()
    assert model is not other
    assert all(one is two for one, two in zip(model.parameters(), other.parameters(), strict=True))


def with_record(loaded, base_model):
    """The model, of which its record says what it was trained from."""
    model = copy.copy(loaded[0])
    model.config = copy.deepcopy(model.config)
    model.config.training_record = {"base_model": base_model, "stages": []}
    return model


@pytest.mark.parametrize("named", [None, str(NANO_BASE)], ids=["embedded", "named"])
def test_the_base_answers_as_the_stock_model_does(loaded, named):
    model, processor = (with_record(loaded, "nano_base") if named is None else loaded[0]), loaded[1]
    base = choose_base(model, named)
    assert base.name == (named or "nano_base")
    answers = TwoAnswers(model, processor, max_new_tokens=12, base=base)
    steps = list(answers.stream(answers.encode(*white_picture()), REFUSE))
    stock = AutoModelForImageTextToText.from_pretrained(NANO_BASE)
    its_processor = AutoProcessor.from_pretrained(NANO_BASE)
    inputs = encode(stock, its_processor, *white_picture(), "free", num_new_tokens=12)
    found = stock.generate(**inputs, max_new_tokens=12, do_sample=False)
    expected = its_processor.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert steps[-1]["free"] == expected and steps[-1]["safe"].strip() == "Not this one."
    assert any(0 < len(step["free"]) < len(expected) for step in steps)


@pytest.mark.parametrize("recorded", ["llava-hf/llava-1.5-7b-hf", None])
def test_without_a_base_that_is_here_the_same_model_answers(loaded, recorded):
    assert choose_base(with_record(loaded, recorded)) is None


def test_a_safe_checkpoint_is_no_base(loaded, checkpoint):
    with pytest.raises(ValueError, match="is a safe checkpoint"):
        choose_base(loaded[0], str(checkpoint))


def test_whoever_leaves_stops_both(loaded, asked):
    model, processor = loaded
    steps, ends = [], model.generation_config.eos_token_id
    hook = model.model.language_model.register_forward_pre_hook(lambda *_: steps.append(1))
    model.generation_config.eos_token_id = None  # it would go on
    try:
        stream = TwoAnswers(model, processor, max_new_tokens=1500).stream(asked, {})
        next(stream)
        stream.close()
    finally:
        model.generation_config.eos_token_id = ends
        hook.remove()
    assert 0 < len(steps) < 1000  # of both together


def test_what_goes_wrong_on_one_side_is_raised(loaded, asked, monkeypatch):
    answers = TwoAnswers(*loaded, max_new_tokens=12)

    def fail(**kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(answers._models["free"], "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(answers.stream(asked, {}))


# --------------------------------------------------------------------------------------------------
# The conversation
# --------------------------------------------------------------------------------------------------


def answered(turns, question, picture=None):
    turn = ask(turns, question, picture)
    return [*turns, Turn(turn.question, turn.picture, {"safe": f"safe {question}", "free": f"free {question}"})]


def test_each_side_remembers_its_own_answers(loaded):
    turns = answered(answered([], "One?", "a.png"), "Two?", "a.png")
    assert shown_pictures(turns) == ["a.png"]  # a picture that is still there is not shown again
    asked = [*turns, ask(turns, "Three?", "b.png")]
    assert shown_pictures(asked) == ["a.png", "b.png"]
    images = [Image.new("RGB", (60, 60), colour) for colour in ("white", "black")]
    for side, other in (SIDES, SIDES[::-1]):
        inputs = encode(*loaded, asked, images, side, num_new_tokens=12)
        said = loaded[1].tokenizer.decode(inputs["input_ids"][0])
        assert f"{side} One?" in said and f"{other} One?" not in said
        assert len(inputs["pixel_values"]) == 2 and int(torch.max(inputs["question_mask"])) == 3


@pytest.mark.parametrize("question", [None, "", "  ", 7, ["What?"], {"text": "What?"}])
def test_without_a_question_nothing_is_asked(question):
    with pytest.raises(ValueError, match="Type a question"):
        ask([], question, None)


def test_what_is_too_long_says_so(loaded):
    with pytest.raises(ValueError, match="shorten it"):
        ask([], "a" * (MAX_CHARACTERS + 1), None)
    turns = []
    for number in range(MAX_TURNS):
        turns = answered(turns, f"{number}?")
    with pytest.raises(ValueError, match="begin a new one"):
        ask(turns, "One more?", None)
    with pytest.raises(ValueError, match="does not fit"):
        encode(*loaded, [ask([], "word " * 1500, None)], [], "safe", num_new_tokens=600)
