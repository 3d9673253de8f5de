"""What an answer costs: every call is counted, and the time is that until a user could read something."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from safevlm_hf.data import NANO_BASE
from safevlm_hf.evaluation.answering_items import model_answers
from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.items import Answer, Item
from safevlm_hf.studies.cost import Meter, Metered, MeteredModel, measure_costs


pytestmark = pytest.mark.ci


@pytest.fixture
def items(tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    questions = ("What colour is it?", "What is this card for?", "Read it to me, please, word by word.")
    return [
        Item(str(number), [str(tmp_path / "red.png")], [{"role": "user", "content": _content(question)}])
        for number, question in enumerate(questions)
    ]


def _content(question):
    return [{"type": "image"}, {"type": "text", "text": question}]


class Slow:
    """Answers with three tokens, the second of which ends it, each after some milliseconds."""

    generation_config = SimpleNamespace(eos_token_id=2)
    name = "slow"

    def __init__(self, first, rest=0.0):
        self.first, self.rest = first, rest

    def generate(self, input_ids, streamer, **inputs):
        streamer.put(input_ids)
        time.sleep(self.first)
        streamer.put(torch.tensor([7]))
        time.sleep(self.rest)
        streamer.end()
        return torch.cat([input_ids, torch.tensor([[7, 2, 0]]).expand(len(input_ids), -1)], dim=1)

    def __call__(self, pixel_values):
        time.sleep(self.first)
        return "logits"


def system(first, rest=0.0, checks=0, last_is_check=False):
    """`checks` calls of a check in front of the answer, or one behind it."""
    meter = Meter()
    answer, check = (MeteredModel(Slow(first, rest), meter, is_check) for is_check in (False, True))

    def ask(items):
        inputs = {"input_ids": torch.ones(len(items), 5, dtype=torch.long)}
        inputs["attention_mask"] = torch.tensor([[0, 1, 1, 1, 1]] * len(items))
        for model in [*[check] * checks, answer, *[check] * last_is_check]:
            model.generate(**inputs)
        return [Answer(item.id, "A red card.") for item in items]

    return Metered(ask, meter)


def measure(systems, items, batch_size=2, rounds=3):
    return measure_costs(systems, items, batch_size, rounds, Bootstrap(50), progress=False)


def test_calls_and_tokens_are_means_over_items(items):
    costs = measure({"one": system(0.0), "two": system(0.0, checks=1)}, items)
    assert (costs["one"].calls, costs["one"].tokens_in, costs["one"].tokens_out) == (1, 4, 2)
    assert (costs["two"].calls, costs["two"].tokens_in, costs["two"].tokens_out) == (2, 8, 4)


def test_time_ends_at_the_first_token_of_the_answer_and_checks_count_in_full(items):
    systems = {
        "stock": system(0.02, rest=0.1),
        "check before": system(0.02, rest=0.1, checks=1),
        "check behind": system(0.02, rest=0.1, last_is_check=True),
    }
    costs = measure(systems, items)
    ms = {name: cost.first_token_ms.value for name, cost in costs.items()}
    assert 20 <= ms["stock"] < 100 <= 120 <= ms["check before"] < 240 <= ms["check behind"]
    assert costs["stock"].ratio.value == costs["stock"].ratio.low == costs["stock"].ratio.high == 1
    ratio = costs["check before"].ratio
    assert 1 < ratio.low <= ratio.value <= ratio.high and ratio.total == 3


def test_a_refusal_without_a_call_takes_the_time_until_it_is_there(items):
    def refuse(asked):
        time.sleep(0.01)
        return [Answer(item.id, "No.") for item in asked]

    cost = measure({"stock": system(0.0), "refusal": Metered(refuse, Meter())}, items)["refusal"]
    assert (cost.calls, cost.tokens_out) == (0, 0) and cost.first_token_ms.value >= 10


def test_a_classifier_is_a_call_without_tokens():
    meter = Meter()
    model = MeteredModel(Slow(0.01), meter, is_check=True)
    assert model(pixel_values=torch.zeros(3, 3, 8, 8)) == "logits" and model.name == "slow"
    (call,) = meter.calls
    assert (call.rows, call.tokens_in, call.tokens_out, call.is_check) == (3, 0, 0, True)


def test_a_metered_model_answers_as_the_model_and_counts_its_tokens(items, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(NANO_BASE).eval()
    processor = AutoProcessor.from_pretrained(NANO_BASE)
    meter = Meter()
    plain, metered = (
        model_answers(one, processor, 12, do_sample=False)(items) for one in (model, MeteredModel(model, meter))
    )
    assert plain == metered
    (call,) = meter.calls
    tokens = processor.tokenizer([answer.text for answer in plain], add_special_tokens=False)["input_ids"]
    assert call.rows == 3 and 0 < call.first_token < call.end
    assert sum(map(len, tokens)) <= call.tokens_out <= sum(map(len, tokens)) + 3  # with their end tokens
    alone = Meter()
    for one in items:
        model_answers(MeteredModel(model, alone), processor, 12, do_sample=False)([one])
    assert sum(one.tokens_in for one in alone.calls) == call.tokens_in  # padding is not counted
    assert sum(one.tokens_out for one in alone.calls) == call.tokens_out


def test_a_stock_model_reads_typed_special_tokens_as_text(items):
    """As the safe one does: one question with an image token would else stop the run of all."""
    model = AutoModelForImageTextToText.from_pretrained(NANO_BASE).eval()
    processor = AutoProcessor.from_pretrained(NANO_BASE)
    one = replace(items[0], messages=[{"role": "user", "content": _content("What is this? <image> </s>")}])
    (answer,) = model_answers(model, processor, 4, do_sample=False)([one])
    assert answer.failure is None and answer.text is not None


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 0}, {"rounds": 0}])
def test_what_cannot_be_measured_is_said_before_a_model_runs(items, options):
    with pytest.raises(ValueError, match="1 to 3 items, as many as have a picture"):
        measure({"stock": None}, items, **options)
