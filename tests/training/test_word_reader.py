"""What a head of words starts from, and that stage 1 leaves it as it is."""

import pytest
import torch
from safetensors.torch import load_file

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration
from safevlm_hf.data import NANO_BASE
from safevlm_hf.modeling.safety_words import SafetyWords
from safevlm_hf.training.stages import prepare_stage1
from safevlm_hf.training.word_reader import WORD_READER, start_word_reader


def load(**safety):
    base = SafeLlavaConfig.from_pretrained(NANO_BASE)
    config = SafeLlavaConfig.from_base_config(base, num_safety_tokens=4, projector_depth=1, **safety)
    return SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, config=config).eval()


def test_a_new_head_starts_from_the_words_that_the_package_brings():
    model = load(head_reading="words")
    start_word_reader(model)
    stored = load_file(WORD_READER)
    for name, weight in model.model.safety_head.tree.state_dict().items():
        assert torch.equal(weight, stored[name].float()), name
    assert len(model.model.safety_head.tree.words.weight) == SafetyWords().vocab_size


def test_stage_1_trains_what_a_window_asks_and_not_its_words():
    model = prepare_stage1(load(head_reading="words"))
    of_head = {name for name, weight in model.model.safety_head.named_parameters() if weight.requires_grad}
    assert of_head and not any(name.startswith("tree.") for name in of_head)


def test_sizes_of_ones_own_need_a_reader_of_ones_own():
    with pytest.raises(ValueError, match="head_word_size"):
        start_word_reader(load(head_reading="words", head_word_size=16))


def test_a_head_that_reads_embeddings_starts_as_before():
    model = load()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    start_word_reader(model)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_like_words_have_like_vectors():
    model = load(head_reading="words")
    start_word_reader(model)
    vectors, words = model.model.safety_head.tree.words.weight, SafetyWords()

    def likeness(one: str, other: str) -> float:
        (first,), (second,) = words.ids(one), words.ids(other)
        return torch.cosine_similarity(vectors[first], vectors[second], dim=0).item()

    assert likeness("read", "reading") > likeness("read", "blue") and likeness("red", "green") > likeness(
        "red", "explain"
    )
