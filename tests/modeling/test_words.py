"""A head that reads words of its own: what a word is, what the promise is in words, and where the words come from."""

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.tiny_backbones import head_config

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaProcessor, SafetyConfig
from safevlm_hf.benchmarks.ways_of_typing import WAYS_OF_TYPING
from safevlm_hf.data import NANO_BASE
from safevlm_hf.modeling import safety_word_head
from safevlm_hf.modeling.safety_losses import clean_losses
from safevlm_hf.modeling.safety_modules import readings_of
from safevlm_hf.modeling.safety_word_head import SafetyWordHead
from safevlm_hf.modeling.safety_words import WORDS_FILE, SafetyWords
from safevlm_hf.training.collator import SafetyCollator
from safevlm_hf.training.stages import known_runs


WORDS = SafetyWords()
TEXT = "Please read it to me, word by word: I can't see that well today. Thanks!"
SMALL = {"head_reading": "words", "head_word_size": 16, "head_hidden_size": 32, "num_attention_heads": 4}
SENTENCES = {"head_sentence_layers": 1, "head_sentence_size": 32}
CONCEPTS = {**SENTENCES, "head_concepts": 6}
KINDS = {"windows": {}, "sentences": SENTENCES, "concepts": CONCEPTS}


def make_head(**sizes) -> SafetyWordHead:
    torch.manual_seed(0)
    head = SafetyWordHead(head_config(24, num_safety_tokens=4, **SMALL, **sizes)).eval()
    for weight in head.parameters():
        weight.data.normal_(std=0.3)
    return head


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture(scope="module")
def sentence_head():
    return make_head(**SENTENCES)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def any_head(request):
    return make_head(**request.param)


def make_model(**sizes) -> SafeLlavaForConditionalGeneration:
    config = SafeLlavaConfig.from_base_config(
        SafeLlavaConfig.from_pretrained(NANO_BASE), num_safety_tokens=4, projector_depth=1, **SMALL, **sizes
    )
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, config=config).eval()
    with torch.no_grad():
        for layer in (model.model.safety_head.level_head, model.model.safety_head.category_head):
            layer.weight.normal_()
        model.model.safety_head.scale.weight.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def any_model(request):
    return make_model(**request.param)


@pytest.fixture(scope="module")
def processor(model):
    return SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)


def ask(processor, *texts: str):
    picture = Image.new("RGB", (112, 112), "orange")
    content = [[{"type": "image", "image": picture}, {"type": "text", "text": text}] for text in texts]
    return processor.apply_chat_template(
        [[{"role": "user", "content": parts}] for parts in content],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True},
    )


def tokens_of(inputs, row: int = 0) -> list[str]:
    ids, turns = inputs["question_ids"][row].unbind(-1)
    return WORDS.tokens(ids[turns > 0].tolist())


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------

SAME = {
    "capitals",
    "Title Case",
    "no capitals",
    "doubled blanks",
    "newlines",
    "tabs",
    "underscores",
    "no-break blanks",
    "commas",
    "full-width letters",
    "zero-width characters",
    "a dot between words",
}


@pytest.mark.parametrize("way", sorted(SAME))
def test_ways_of_typing_that_change_no_word(way):
    assert WORDS.ids(WAYS_OF_TYPING[way](TEXT)) == WORDS.ids(TEXT)


def test_look_alike_letters_in_latin_words():
    for word in TEXT.split():
        typed = WAYS_OF_TYPING["homoglyphs"](word)
        if any(one.isascii() and one.isalpha() for one in typed):  # a word without one may be of another language
            assert WORDS.ids(typed) == WORDS.ids(word), typed


@pytest.mark.parametrize(
    "one, other",
    [("ısı", "isi"), ("Maße", "Masse"), ("рот", "pot"), ("уха", "yxa"), ("كتب", "كاتب"), ("να", "va"), ("は", "ば")],
)
def test_words_of_other_languages_stay_apart(one, other):
    assert WORDS.ids(one) != WORDS.ids(other)


def test_marks_signs_and_emoji_are_no_words():
    assert WORDS.ids(" .,;!?\n\t…😀🔥—_\u200b\ufe0f") == []


def test_scripts_without_blanks_are_cut_into_characters():
    assert len(WORDS.ids("读出来")) == 3 and len(WORDS.ids("อ่าน")) >= 3


def test_words_joined_to_one_are_not_one_word():
    assert len(WORDS.ids(WAYS_OF_TYPING["words joined"](TEXT))) >= 8


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from([" ", "\n", ". ", " -- ", "\u00a0", "😀"]))
def test_a_seam_changes_no_word(one, other, seam):
    # A mark that combines with the letter before it is a part of that letter.
    assert WORDS.ids(f"{one}{seam}x {other}") == WORDS.ids(one) + WORDS.ids(f"x {other}")


# --------------------------------------------------------------------------------------------------
# The promise
# --------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=12) | st.sampled_from(("Read", "CARD", "\u0430sk", "e\u0301", "\u200bgo", "ﬁre"))))
def test_the_shortcut_for_ascii_gives_the_files_own_tokens(parts):
    for text in (" ".join(parts), "\u00a0".join(parts), "".join(parts)):
        assert WORDS.ids(text) == WORDS.tokenizer.encode(text, add_special_tokens=False).ids


def test_another_rule_has_no_shortcut(tmp_path):
    rule = json.loads(WORDS.file.read_text())
    rule["normalizer"]["normalizers"].append({"type": "Replace", "pattern": {"String": "card"}, "content": "paper"})
    (tmp_path / WORDS_FILE).write_text(json.dumps(rule))
    assert SafetyWords(tmp_path / WORDS_FILE).ids("card") == WORDS.ids("paper") != WORDS.ids("card")


def windows_of(head, ids: list[int]):
    question, keys = (
        torch.tensor([ids], dtype=torch.long),
        torch.randn(1, 10, 24, generator=torch.Generator().manual_seed(1)),
    )
    with torch.no_grad():
        levels, categories, is_window = head(question, torch.ones_like(question, dtype=torch.bool), keys)
    return torch.cat([levels, categories], dim=-1)[is_window]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_window_of_a_run_of_words_is_a_window_of_the_whole(head, data):
    ids = data.draw(st.lists(st.integers(100, 30000), min_size=4, max_size=90))
    start = data.draw(st.integers(0, len(ids) - 4))
    run = ids[start : start + data.draw(st.integers(4, len(ids) - start))]
    of_whole, of_run = windows_of(head, ids), windows_of(head, run)
    nearest = torch.cdist(of_run, of_whole, p=torch.inf).min(dim=1).values
    assert nearest.max() < 1e-4


@pytest.mark.parametrize("count, expected", [(0, 1), (1, 1), (3, 1), (4, 1), (5, 2), (8, 6), (9, 8)])
def test_number_of_windows(head, count, expected):
    assert len(windows_of(head, list(range(1000, 1000 + count)))) == expected


@pytest.mark.parametrize("num_images, num_samples", [(9, 9), (1, 1), (7, 3)])
@pytest.mark.parametrize("num_readings", [0, 3])
def test_training_reads_groups_of_like_length_and_finds_the_same(
    any_head, monkeypatch, num_images, num_samples, num_readings
):
    head = any_head
    torch.manual_seed(0)
    monkeypatch.setattr(head.tree, "word_dropout", 0.0)
    monkeypatch.setattr(safety_word_head, "WHOLE_ALONE", 0.0)
    for module in head.modules():
        if isinstance(module, torch.nn.Dropout):
            monkeypatch.setattr(module, "p", 0.0)
    question_ids = torch.randint(0, 100, (num_samples, 40))
    is_asked = torch.rand(num_samples, 40) < torch.linspace(1, 0, num_samples)[:, None]  # the last asks nothing
    rows = torch.arange(num_images) % num_samples
    mask = torch.rand(num_images, num_readings, 16) < 0.5 if num_readings else None
    arguments = question_ids, is_asked, torch.randn(num_images, 20, 24), mask, rows
    expected, given = head(*arguments), head.train()(*arguments)
    head.eval()
    assert torch.equal(given.is_window, expected.is_window) and expected.is_window.any()
    for mine, whole in (
        (given.level_logits, expected.level_logits),
        (given.category_logits, expected.category_logits),
    ):
        torch.testing.assert_close(mine[expected.is_window], whole[expected.is_window])


def test_what_does_not_belong_to_the_question_counts_nowhere(any_head):
    head = any_head
    ids = torch.randint(1000, 30000, (1, 12))
    is_asked = torch.ones(1, 12, dtype=torch.bool)
    is_asked[0, 5:] = False
    keys = torch.randn(1, 10, 24)
    with torch.no_grad():
        levels, _, is_window = head(ids, is_asked, keys)
        alone, _, are_windows = head(ids[:, :5], is_asked[:, :5], keys)
    torch.testing.assert_close(levels[is_window], alone[are_windows])


@pytest.mark.parametrize(
    "count, runs",
    [
        (0, {32: [0]}),
        (8, {32: [0]}),
        (9, {32: [0], 8: [0, 4]}),
        (32, {32: [0], 16: [0, 8, 16], 8: [*range(0, 28, 4)]}),
        (33, {32: [0, 16], 16: [0, 8, 16, 24], 8: [*range(0, 29, 4)]}),
        (49, {32: [0, 16, 32], 16: [*range(0, 41, 8)], 8: [*range(0, 45, 4)]}),
    ],
)
def test_runs_of_the_sentence_encoder_cover_every_word(head, sentence_head, count, runs):
    ids = list(range(1000, 1000 + count))
    starts, sizes = sentence_head.tree.places(count, "cpu")
    is_window = sentence_head.tree(torch.tensor([ids], dtype=torch.long), torch.tensor([[count]]))[1][0]
    own = torch.arange(len(starts)) >= len(head.tree.places(count, "cpu")[0])
    found = {size: starts[own & is_window & (sizes == size)].tolist() for size in (32, 16, 8)}
    assert {size: places for size, places in found.items() if places} == runs


def test_a_run_is_read_by_itself(sentence_head):
    """What stands in another run changes nothing, however much a question is filled up."""
    ids = torch.randint(1000, 30000, (2, 64))
    ids[1, :32] = ids[0, :32]
    tree = sentence_head.tree
    (starts, sizes), nine = tree.places(64, "cpu"), torch.tensor([[9]])
    with torch.no_grad():
        states = tree.sentences(ids, torch.tensor([[64], [64]]), torch.ones_like(ids, dtype=torch.bool))
        short = tree.sentences(ids[:1, :20], nine, torch.arange(20)[None] < 9)
        shorter = tree.sentences(ids[:1, :9], nine, torch.ones(1, 9, dtype=torch.bool))
    is_alike = (starts + sizes <= 32)[-states.shape[1] :]
    assert is_alike.any() and torch.equal(torch.isclose(states[0], states[1], atol=1e-5).all(dim=-1), is_alike)
    are_runs = [torch.cat(tree.sentences.are_runs(width, nine), dim=1) for width in (20, 9)]
    torch.testing.assert_close(short[are_runs[0]], shorter[are_runs[1]])


def test_a_concept_is_found_where_it_is_shown_and_asked_about():
    """What is masked is not seen, and what no window asks about says nothing."""
    concepts = make_head(**CONCEPTS).concepts
    features, is_read = torch.randn(2, 5, 24), torch.tensor([[True] * 5, [True, True, False, False, True]])
    states = torch.randn(2, 3, 32)
    with torch.no_grad():
        found = concepts(states, features, is_read)
        torch.testing.assert_close(found[1:], concepts(states[1:], features[1:, [0, 1, 4]]))
        torch.testing.assert_close(found[:1], concepts(states[:1], features[:1]))
        concepts.ask.bias.fill_(-100.0)
        torch.testing.assert_close(concepts(states, features), concepts.say.bias.expand(2, 3, 32))


def test_without_each_feature_is_as_if_it_were_masked():
    concepts = make_head(**CONCEPTS).concepts
    features, is_read = torch.randn(2, 5, 24), torch.tensor([[True] * 5, [False, True, False, False, False]])
    with torch.no_grad():
        found = concepts.shown_without_each(features, is_read)
        for place in range(5):
            is_left = is_read & (torch.arange(5) != place)
            torch.testing.assert_close(found[:, place], concepts.shown(features, is_left))


def test_a_tile_that_a_picture_lacks_leaves_gradients_numbers():
    """Of pictures with different numbers of tiles, the tiles that some lack are windows, too, which are masked."""
    sizes = {**SMALL, **CONCEPTS, "num_safety_tokens": 4}
    head = make_head(**CONCEPTS).train()
    ids, keys = torch.randint(1000, 30000, (2, 12)), torch.randn(2, 4 + 12, 24)
    readings = readings_of(torch.arange(12) < torch.tensor([[12], [4]]), 4)
    windows = head(ids, torch.ones_like(ids, dtype=torch.bool), keys, readings, torch.arange(2))
    clean_losses(windows, head_config(24, **sizes).safety_config).sum().backward()
    gradients = [weight.grad for weight in head.parameters() if weight.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_training_reads_some_questions_as_a_whole_alone(sentence_head):
    ids, count = torch.randint(1000, 30000, (40, 20)), torch.full((40, 1), 20)
    own = len(make_head().tree.places(20, "cpu")[0])
    is_window = sentence_head.train().tree(ids, count)[1]
    sentence_head.eval()
    is_whole_alone = is_window.sum(dim=1) == 1
    assert is_window[:, own].all() and 5 < is_whole_alone.sum() < 35
    assert torch.equal(is_window[~is_whole_alone], sentence_head.tree(ids, count)[1][~is_whole_alone])


def test_runs_that_training_knows_are_not_read_again(sentence_head, monkeypatch):
    """However much they are filled up, and without one of their words they are others."""
    sentences, lengths = sentence_head.tree.sentences, []
    read = type(sentences)._read
    monkeypatch.setattr(
        type(sentences), "_read", lambda self, ids, is_read: lengths.append(len(ids)) or read(self, ids, is_read)
    )
    ids, count = torch.randint(1000, 30000, (3, 40)), torch.tensor([[40], [9], [9]])
    ids[2, :9] = ids[1, :9]
    are_words = torch.arange(40) < count
    without_one = are_words & (torch.arange(40) != 4)

    asked = [(ids, count, are_words), (ids, count, without_one), (ids[1:, :12], count[1:], are_words[1:, :12])]
    with torch.no_grad():
        expected = [sentences(*one) for one in asked]
        lengths.clear()
        with known_runs(sentence_head):
            found = [sentences(*one) for one in asked]
    # Long, middle and short runs: 2, 4 and 9 of the first question, 1, 0 and 2 of the others; then those that lack a
    # word.
    assert lengths == [3, 4, 11, 2, 1, 4]
    assert sentences.known is None
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)


# --------------------------------------------------------------------------------------------------
# Where the words come from
# --------------------------------------------------------------------------------------------------


def test_the_processor_gives_the_users_words_with_their_turns(processor):
    picture = Image.new("RGB", (112, 112))
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Which colour?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Black."}]},
        {"role": "user", "content": [{"type": "text", "text": "Read it!"}]},
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert tokens_of(inputs) == ["which", "colour", "read", "it"]
    assert inputs["question_ids"][0, :, 1].tolist() == [2, 2, 1, 1]


def test_of_a_plain_prompt_all_words_count(processor):
    inputs = processor(
        images=Image.new("RGB", (112, 112)), text="USER: <image>\nRead it! ASSISTANT:", return_tensors="pt"
    )
    assert tokens_of(inputs) == ["user", "read", "it", "assistant"]


def test_token_ids_alone_are_decoded_by_the_checkpoints_tokenizer(model, processor):
    inputs = ask(processor, TEXT, "Read it!")
    expected = model.assess(**inputs)
    del inputs["question_ids"]
    found = model.assess(**inputs)
    torch.testing.assert_close(found.safety_level_logits, expected.safety_level_logits)
    generated = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
    torch.testing.assert_close(generated.safety_level_logits, expected.safety_level_logits)


def test_without_words_the_picture_is_judged_by_itself(model, processor, caplog, monkeypatch):
    inputs, nothing = ask(processor, TEXT), ask(processor, "...")
    del inputs["question_ids"]
    monkeypatch.setattr(model, "name_or_path", "")
    with caplog.at_level(logging.WARNING):
        found = model.assess(**inputs)
    torch.testing.assert_close(found.safety_level_logits, model.assess(**nothing).safety_level_logits)
    assert "judged by themselves" in caplog.text
    bare = model(**inputs).safety_level_logits
    torch.testing.assert_close(bare, found.safety_level_logits)


def test_a_conversation_in_a_cache_keeps_its_words(model, processor):
    picture = Image.new("RGB", (112, 112), "orange")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Read it to me, please."}]
    messages = [{"role": "user", "content": content}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    first = model.generate(
        **processor.apply_chat_template(messages, **options), max_new_tokens=2, return_dict_in_generate=True
    )
    answer = processor.decode(first.sequences[0, -2:])
    messages += [
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        {"role": "user", "content": [{"type": "text", "text": "Thanks. Nice weather, is it not?"}]},
    ]
    inputs = processor.apply_chat_template(messages, **options)
    expected = model.assess(**inputs).safety_level_logits
    cached = {name: value for name, value in inputs.items() if name != "pixel_values"}
    whole = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
    torch.testing.assert_close(whole.safety_level_logits, expected)
    cache = first.get("cache", first.get("past_key_values"))
    from_cache = model.generate(**cached, past_key_values=cache, max_new_tokens=1, return_dict_in_generate=True)
    torch.testing.assert_close(from_cache.safety_level_logits, expected)


def test_unknown_words_do_not_make_a_cache_forget_its_own(model, processor, monkeypatch):
    first = model.generate(**ask(processor, TEXT), max_new_tokens=2, return_dict_in_generate=True)
    cache, new = first.get("cache", first.get("past_key_values")), torch.tensor([[20, 21, 22]])
    options = {"past_key_values": cache, "attention_mask": torch.ones(1, int(cache.get_seq_length()) + 3).long()}
    monkeypatch.setattr(model, "name_or_path", "")
    with pytest.raises(ValueError, match="words of the new text are not known"):
        model.generate(new, question_mask=torch.ones_like(new), max_new_tokens=1, **options)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 3),
        torch.zeros(2, 3, 2, dtype=torch.long),
        torch.full((1, 3, 2), 99999),
        -torch.ones(1, 3, 2).long(),
    ],
)
def test_words_that_are_none_raise(model, processor, wrong):
    inputs = ask(processor, TEXT)
    inputs["question_ids"] = wrong
    with pytest.raises(ValueError, match="question_ids"):
        model.assess(**inputs)
    with pytest.raises(ValueError, match="question_ids"):
        model.generate(**inputs, max_new_tokens=1)


def test_training_reads_what_is_asked_and_now_and_then_the_whole_prompt(processor, model, tmp_path):
    Image.new("RGB", (112, 112)).save(tmp_path / "picture.jpg")
    record = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read it!"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "It says hello."}]},
        ],
        "images": [str(tmp_path / "picture.jpg")],
        "safety_level": 0,
        "safety_category": 6,
        "source": "records.jsonl:1",
    }
    batch = SafetyCollator(processor, model.config.safety_config)([record])
    assert tokens_of(batch) == ["read", "it"]
    whole = tokens_of(SafetyCollator(processor, model.config.safety_config, unmasked_share=1.0)([record]))
    assert whole == ["be", "brief", "user", "read", "it", "assistant"]


# --------------------------------------------------------------------------------------------------
# Checkpoints and explanations
# --------------------------------------------------------------------------------------------------


def test_a_checkpoint_carries_its_words(any_model, processor, tmp_path):
    model = any_model
    model.save_pretrained(tmp_path)
    assert (tmp_path / WORDS_FILE).read_bytes() == WORDS.file.read_bytes()
    processor.save_pretrained(tmp_path)
    loaded, own = (
        SafeLlavaForConditionalGeneration.from_pretrained(tmp_path),
        SafeLlavaProcessor.from_pretrained(tmp_path),
    )
    assert own.words.file.parent == tmp_path
    inputs = ask(own, TEXT)
    torch.testing.assert_close(loaded.assess(**inputs), model.assess(**ask(processor, TEXT)))


@pytest.mark.parametrize("lost", [{"head_concepts": 0}, {"head_sentence_layers": 1}])
def test_a_trained_checkpoint_is_not_loaded_without_a_part_of_its_head(tmp_path, lost):
    """As where a config of before was put beside the weights: verdicts would be others."""
    model = make_model(**{**CONCEPTS, "head_sentence_layers": 2})
    model.config.safety_config.is_trained = True
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["safety_config"] |= lost
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no place for .* as model.safety_head"):
        SafeLlavaForConditionalGeneration.from_pretrained(tmp_path)


def test_a_checkpoint_that_has_lost_its_words_is_refused(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / WORDS_FILE).unlink()
    with pytest.raises(OSError, match="copy the file from where the checkpoint was saved"):
        SafeLlavaProcessor.from_pretrained(tmp_path)


def test_a_checkpoint_of_before_gives_no_words_and_reads_embeddings(tmp_path):
    config = SafeLlavaConfig.from_base_config(SafeLlavaConfig.from_pretrained(NANO_BASE), projector_depth=1)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, config=config)
    model.save_pretrained(tmp_path)
    SafeLlavaProcessor.from_pretrained(NANO_BASE).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["safety_config"]["head_reading"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert not SafeLlavaConfig.from_pretrained(tmp_path).safety_config.reads_words
    assert "question_ids" not in ask(SafeLlavaProcessor.from_pretrained(tmp_path), TEXT)
    assert not Path(tmp_path / WORDS_FILE).exists()


def test_a_frozen_head_gives_the_verdicts_of_use_in_training_too(processor):
    """Stage 2 answers under the head's own verdicts."""
    model, inputs = make_model(**CONCEPTS), ask(processor, TEXT, "who is she")
    expected = model.assess(**inputs).safety_level_logits
    model.requires_grad_(False).train()
    torch.testing.assert_close(model(**inputs, safety_only=True).safety_level_logits, expected)
    assert model.requires_grad_(True).train().model.safety_head.training


def test_the_parts_of_the_picture_sum_to_the_margin_and_words_count_by_what_is_lost_without_them(any_model, processor):
    model = any_model
    inputs = ask(processor, TEXT, "...", "ok go")
    found = model.explain(**inputs)
    parts = found.image_contributions.sum(dim=(1, 2)) + found.safety_token_contributions + found.bias_contributions
    parts = parts + found.together_contributions
    torch.testing.assert_close(parts, found.risk_margin, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.map.sum(dim=(1, 2)), torch.ones(3))
    torch.testing.assert_close(found.question_weights.sum(dim=1), torch.tensor([1.0, 0.0, 1.0]))
    assert found.question_contributions.shape == inputs["question_ids"].shape[:2]
    assert ((found.question_weights > 0).sum(dim=1) <= torch.tensor([32, 0, 2])).all()


def test_words_of_a_run_count_the_same_however_much_a_batch_is_filled_up():
    """A run is as long as the longest window of words, and is another one."""
    model = make_model(**SENTENCES)
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    alone, filled = ask(processor, TEXT), ask(processor, TEXT, " ".join(f"{number} cards" for number in range(30)))
    count, weight = alone["question_ids"].shape[1], model.model.safety_head.tree.sentences.enter[-1].weight
    for seed in range(30):  # until a run decides, which reads all words
        torch.manual_seed(seed)
        weight.data.normal_(std=3.0)
        found = model.explain(**alone).question_contributions[0]
        if found.all():
            break
    assert len(found) == count and found.all()
    among = model.explain(**filled).question_contributions[0]
    torch.testing.assert_close(among[:count], found, atol=1e-4, rtol=1e-4)
    assert not among[count:].any()


@pytest.mark.parametrize(
    "bad, match",
    [
        ({"head_pooling": "mean"}, "head_pooling"),
        ({"head_window_sizes": [4, 16]}, "head_window_sizes"),
        ({"head_hidden_size": 30}, "num_attention_heads"),
        ({"head_reading": "embeddings", "head_sentence_layers": 1}, "head_sentence_layers"),
        ({"head_reading": "embeddings", "head_concepts": 1}, "head_concepts"),
        ({"head_sentence_layers": 1, "head_vocab_size": 102}, "head_vocab_size"),
    ],
)
def test_sizes_that_do_not_fit_raise(bad, match):
    with pytest.raises(ValueError, match=match):
        SafetyConfig(**{**SMALL, **bad})
