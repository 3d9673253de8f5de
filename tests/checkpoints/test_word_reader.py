"""What a head of words starts from, and that stage 1 leaves it as it is."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_training import create_trainer
from transformers import BertConfig, BertModel

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration
from safevlm_hf.checkpoints.word_reader import (
    WORD_READER,
    new_reading,
    read_encoder_sizes,
    start_sentence_reader,
    start_word_reader,
)
from safevlm_hf.data import NANO_BASE, NANO_SAFE
from safevlm_hf.modeling.safety_words import SafetyWords
from safevlm_hf.training.stages import prepare_stage1


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


def test_the_states_of_windows_may_learn_at_a_rate_of_their_own(nano_processor, riskcards, tmp_path):
    model = prepare_stage1(load(head_reading="words"), trains_word_reader=True)
    tree = model.model.safety_head.tree
    before = {name: weight.clone() for name, weight in tree.named_parameters()}
    options = {"word_reader_rate": 0.5, "learning_rate": 4e-3, "lr_scheduler_type": "constant"}
    processor = type(nano_processor).from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    trainer = create_trainer(model, processor, riskcards, tmp_path, **options)
    trainer.train()
    rates = {id(weight): group["lr"] for group in trainer.optimizer.param_groups for weight in group["params"]}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    expected = {name: 2e-3 if ".safety_head.tree." in name else 4e-3 for name in trained}
    assert {name: rates[id(weight)] for name, weight in trained.items()} == expected
    changed = {name for name, weight in tree.named_parameters() if not torch.equal(weight, before[name])}
    assert "leaf.0.weight" in changed and "words.weight" not in changed


@pytest.fixture
def sentence_encoder(tmp_path):
    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256)
    encoder = BertModel(config).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    return encoder


def test_a_head_may_read_with_a_sentence_encoder_that_stage_1_leaves_as_it_is(sentence_encoder, tmp_path):
    sizes = read_encoder_sizes(str(tmp_path / "encoder"))
    assert sizes == {"head_sentence_layers": 2, "head_sentence_size": 64}
    model = load(head_reading="words", **sizes)
    start_word_reader(model)
    start_sentence_reader(model, str(tmp_path / "encoder"))
    sentences = model.model.safety_head.tree.sentences
    ids = torch.randint(1000, 30000, (1, 9))
    expected = sentence_encoder(ids).last_hidden_state
    torch.testing.assert_close(sentences.encoder(ids).last_hidden_state, expected)
    prepare_stage1(model)
    trained = {name for name, weight in sentences.named_parameters() if weight.requires_grad}
    assert trained and all(name.startswith(("norm.", "enter.")) for name in trained)
    model.save_pretrained(tmp_path / "safe")
    again = SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / "safe").model.safety_head.tree.sentences
    torch.testing.assert_close(again.encoder(ids).last_hidden_state, expected)


def test_an_encoder_of_another_kind_is_refused(tmp_path):
    BertConfig(vocab_size=100, hidden_size=64, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a BERT with .*30522.* got .*100.*all-MiniLM-L6-v2"):
        read_encoder_sizes(str(tmp_path))


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


@pytest.mark.parametrize(
    "asked, reading",
    [
        ({}, "words"),
        ({"head_pooling": "windows"}, "words"),
        ({"head_pooling": "first"}, "embeddings"),
        ({"head_reading": "embeddings"}, "embeddings"),
    ],
)
def test_new_safety_modules_read_words_unless_they_are_asked_not_to(asked, reading):
    assert new_reading(asked) == {**asked, "head_reading": reading}


@pytest.mark.parametrize("file", [WORD_READER, NANO_SAFE / "model.safetensors"])
def test_the_docs_name_the_hash_of_what_ships(file):
    docs = Path(__file__).parents[2] / "docs/evaluation.md"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in docs.read_text(encoding="utf-8")


def test_what_ships_is_small_and_computes_in_float32():
    file = NANO_SAFE / "model.safetensors"
    assert file.stat().st_size < 24e6 and {weight.dtype for weight in load_file(file).values()} == {torch.float16}
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_SAFE, dtype="auto")
    assert model.dtype == torch.float32 and model.config.safety_config.is_trained
