"""What a model says to pictures of floats is what it says to the same pictures in a file."""

import pytest
import torch

from safevlm_hf.asking import encode_prompts
from safevlm_hf.evaluation.answering_records import answer_encoded, give_answers
from safevlm_hf.studies.attacks.losses import risk_margins
from safevlm_hf.studies.attacks.white_box import SAFE_CONDITION, WhiteBox


pytestmark = pytest.mark.ci


@pytest.fixture(params=["tiny", "tiled"])
def checkpoint(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def box(checkpoint, records):
    return WhiteBox(checkpoint.model, checkpoint.processor, records)


def test_verdicts_are_those_on_the_files(checkpoint, box, records):
    encoded = box.judge(box.pictures, [0, 1, 2, 3])
    expected = checkpoint.model.assess(**encode_prompts(checkpoint.processor, records))
    torch.testing.assert_close(encoded.safety_level_logits, expected.safety_level_logits, rtol=0, atol=0.2)
    some = box.judge(box.pictures[1:3], [1, 2])
    torch.testing.assert_close(some.safety_level_logits, encoded.safety_level_logits[1:3], rtol=0, atol=1e-4)


def test_the_wanted_answer_is_as_likely_as_generate_finds_it(checkpoint, records):
    """The greedy answer is wanted: its cross entropy is what `generate` gave for it."""
    inputs = encode_prompts(checkpoint.processor, records[:1])
    outputs = checkpoint.model.generate(
        **inputs, do_sample=False, max_new_tokens=4, return_dict_in_generate=True, output_logits=True
    )
    tokens = outputs.sequences[0, inputs["input_ids"].shape[1] :]
    expected = -torch.stack([logits[0].log_softmax(-1)[token] for logits, token in zip(outputs.logits, tokens)])
    box = WhiteBox(checkpoint.model, checkpoint.processor, records[:1])
    answer = box.text["labels"][0] != -100
    start = int(answer.long().argmax())
    for name, value in (("input_ids", tokens), ("labels", tokens), ("attention_mask", 1), ("question_mask", 0)):
        row = box.text[name][:, : start + len(tokens)]
        padding = row.new_zeros(1, start + len(tokens) - row.shape[1])
        box.text[name] = torch.cat([row, padding], dim=1)
        box.text[name][0, start:] = value
    for name in set(box.text) - {"input_ids", "labels", "attention_mask", "question_mask"}:
        box.text[name] = box.text[name][:, : start + len(tokens)]
    losses, _ = box.answer(box.pictures, [0])
    assert losses.item() == pytest.approx(expected.mean().item(), abs=0.1)


def test_the_condition_changes_the_answer(box):
    (free, _), (safe, _), (strict, _) = (
        box.answer(box.pictures, [0, 1, 2, 3], condition_id) for condition_id in (None, SAFE_CONDITION, 5)
    )
    assert not torch.allclose(safe, strict, atol=1e-3)
    flagged = risk_margins(box.judge(box.pictures, [0, 1, 2, 3]), box.policy, box.config) > 0
    torch.testing.assert_close(free[~flagged], safe[~flagged])


def test_gradients_point_where_the_loss_falls(box):
    """The slope along the gradient is as it says, for the head and for the language model."""
    rows = [0, 1]

    def margins(pictures):
        return risk_margins(box.judge(pictures, rows), box.policy, box.config)

    def losses(pictures):
        return box.answer(pictures, rows, SAFE_CONDITION)[0]

    for loss in (margins, losses):
        leaves = [one.clone().requires_grad_() for one in box.pictures[:2]]
        gradients = torch.autograd.grad(loss(leaves).sum(), leaves)
        size = 1e-3
        ways = [size * gradient / gradient.abs().max() for gradient in gradients]
        up, down = (loss([one + sign * way for one, way in zip(box.pictures, ways)]).detach() for sign in (1, -1))
        expected = torch.stack([(gradient * way).sum() for gradient, way in zip(gradients, ways)])
        torch.testing.assert_close((up - down) / 2, expected, rtol=0.1, atol=1e-5)


def test_weights_get_no_gradients(box):
    assert not any(weight.requires_grad for weight in box.model.parameters())


def test_records_that_cannot_be_attacked(tiny, records):
    two = {**records[0], "images": records[0]["images"] * 2}
    with pytest.raises(ValueError, match="exactly one picture"):
        WhiteBox(tiny.model, tiny.processor, [two])


def test_a_policy_that_flags_nothing(tiny, records):
    tiny.model.generation_config.safety_policy = {"enabled": False}
    try:
        with pytest.raises(ValueError, match="there is no verdict to attack"):
            WhiteBox(tiny.model, tiny.processor, records)
    finally:
        del tiny.model.generation_config.safety_policy


def test_answers_to_encoded_records_are_those_to_the_records(tiny, records):
    expected = give_answers(tiny.model, tiny.processor, records, progress=False, max_new_tokens=4)
    found = answer_encoded(tiny.model, tiny.processor, encode_prompts(tiny.processor, records), max_new_tokens=4)
    assert [one.text for one in found] == [one.text for one in expected]
