"""A safe model with a part taken out: it still answers, and nothing else has changed."""

import pytest
import torch
from asked import draw, item
from support.tiny_training import NANO_SAFETY
from transformers import AutoModelForImageTextToText, AutoProcessor

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE
from safevlm_hf.evaluation.answering_items import model_answers
from safevlm_hf.studies.baselines.parts import (
    as_stock_model,
    replace_conditions_by_text,
    take_out_block_tokens,
    take_out_head_tokens,
)
from safevlm_hf.studies.cost import Meter, MeteredModel


pytestmark = pytest.mark.ci

OFF = {"enabled": False}


@pytest.fixture
def one(tmp_path):
    return item(question="What colour is the card?", images=[draw(tmp_path)])


def ask(model, processor, one, policy=OFF):
    (answer,) = model_answers(model, processor, 8, policy, do_sample=False)([one])
    return answer


def set_large(weight):
    with torch.no_grad():
        weight.normal_(std=3.0)


def test_head_tokens_decide_nothing_once_they_are_out(nano_model, nano_processor, one):
    before = ask(nano_model, nano_processor, one)
    set_large(nano_model.model.safety_tokens.head)
    assert ask(nano_model, nano_processor, one).risk != pytest.approx(before.risk, abs=1e-4)
    take_out_head_tokens(nano_model)
    without = ask(nano_model, nano_processor, one)
    assert without.text == before.text and 0 <= without.risk <= 1  # the block, and so the answer, is as it was


def test_block_tokens_take_no_positions_once_they_are_out(nano_model, nano_processor, one):
    meter = Meter()
    before = ask(MeteredModel(nano_model, meter), nano_processor, one)
    take_out_block_tokens(nano_model, nano_processor)
    without = ask(MeteredModel(nano_model, meter), nano_processor, one)
    with_tokens, without_tokens = (call.tokens_in for call in meter.calls)
    assert with_tokens - without_tokens == NANO_SAFETY["num_safety_tokens"]
    assert without.risk == pytest.approx(before.risk, abs=1e-6) and "red" in without.text  # the head is as it was


def test_conditions_of_text_are_those_of_an_untrained_table(nano_model, nano_processor):
    fresh = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)
    fresh.initialize_from_embeddings(nano_processor.tokenizer)
    before = {name: value.clone() for name, value in nano_model.state_dict().items()}
    replace_conditions_by_text(nano_model, nano_processor.tokenizer)
    assert torch.equal(nano_model.model.safety_conditions.weight, fresh.model.safety_conditions.weight)
    changed = [name for name, value in nano_model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["model.safety_conditions.weight"]


def test_a_model_without_conditions_has_none_to_replace(nano_processor):
    sizes = {**NANO_SAFETY, "num_condition_tokens": 0}
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=sizes)
    with pytest.raises(ValueError, match="no conditions"):
        replace_conditions_by_text(model, nano_processor.tokenizer)


def test_fine_tuning_alone_is_a_stock_checkpoint_with_the_same_answers(one, tmp_path):
    sizes = {**NANO_SAFETY, "num_condition_tokens": 0, "num_safety_tokens": 0}
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, safety_config=sizes).eval()
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    with torch.no_grad():
        model.model.language_model.layers[-1].mlp.down_proj.weight.mul_(0.2)  # as if it had been trained
    as_stock_model(model, str(NANO_BASE)).save_pretrained(tmp_path / "stock")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock", use_safetensors=True).eval()
    assert stock.config.model_type == "llava"
    answer = ask(stock, AutoProcessor.from_pretrained(NANO_BASE), one, policy=None)
    assert answer.text == ask(model, processor, one).text and answer.action is None


def test_a_language_model_that_reads_safety_tokens_is_no_stock_model(nano_model):
    with pytest.raises(ValueError, match="got 4 and 4"):
        as_stock_model(nano_model, str(NANO_BASE))
