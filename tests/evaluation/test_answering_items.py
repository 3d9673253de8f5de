"""Answers to items: what has none is a failure of its own."""

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from safevlm_hf.data import NANO_BASE
from safevlm_hf.evaluation.answering_items import answer_items, model_answers
from safevlm_hf.items import Item


class NoCache(dict):
    """Answers by item, kept as the disk's cache keeps them."""

    def get(self, item):
        return super().get(item.id)

    def put(self, item, answer):
        self[item.id] = answer
        return answer

    def flush(self):
        pass


@pytest.fixture
def items(tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    questions = ("What colour is it?", "Tell me more of it. " * 400, "Who is it?")
    return [
        Item(str(number), [str(tmp_path / "red.png")], [{"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": question}]}])
        for number, question in enumerate(questions)
    ]  # fmt: skip


def test_a_prompt_that_the_context_has_no_room_for_is_a_failure(items):
    """What such a model says is noise, which would count as an answer."""
    model = AutoModelForImageTextToText.from_pretrained(NANO_BASE).eval()
    processor = AutoProcessor.from_pretrained(NANO_BASE)
    most = model.config.get_text_config().max_position_embeddings
    answer = model_answers(model, processor, 4, do_sample=False)
    found = answer_items(answer, items, NoCache(), batch_size=3, progress=False)
    assert [one.text is None for one in found] == [False, True, False]
    assert f"the model's context of {most} has room for {most - 4} before an answer of 4" in found[1].failure
