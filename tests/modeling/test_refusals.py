"""A refusal is certain: whatever the language model would have said, under every way of generating."""

import copy

import pytest
import torch
from support.rigged import (
    BOS,
    EOS,
    GREEDY,
    IMAGE,
    MODES,
    PAD,
    RISKY,
    Texts,
    answers,
    batch,
    bright,
    count_calls,
    dark,
    generate,
    prompt,
    request,
    rig,
)
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

from safevlm_hf import SafeLlavaForConditionalGeneration, SafetyConfig, SafetyPolicy
from safevlm_hf.modeling.refusal_texts import REFUSALS


REFUSE = {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "no", "illegal risk": "never", "privacy": "secret"}}
TEXTS = Texts({"no": [20], "never": [21, 22, 23], "secret": [24, 25]})


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)


@pytest.fixture
def model(tiny_config):
    return rig(tiny_config)


def refuse(model, policy=REFUSE, **kwargs):
    return generate(model, tokenizer=TEXTS, safety_policy=policy, **kwargs)


def said(row, start):
    """What was said before the end, which must be EOS."""
    ids = row[start:].tolist()
    assert EOS in ids, ids
    assert set(ids[ids.index(EOS) + 1 :]) <= {PAD, EOS}
    return ids[: ids.index(EOS)]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_refusal_in_every_mode(model, mode):
    inputs = request(bright())
    length = inputs["input_ids"].shape[1]
    sequences = refuse(model, **inputs, **mode)
    assert len(sequences) == mode.get("num_return_sequences", 1)
    for row in sequences:
        assert torch.equal(row[:length], inputs["input_ids"][0])
        assert said(row, length) == TEXTS["never"]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_what_is_not_refused_is_answered_as_without_refusals(model, mode):
    for inputs in (request(dark()), request(dark(), RISKY), batch([BOS, *range(30, 45)])):
        assert torch.equal(refuse(model, **inputs, **mode), generate(model, **inputs, **mode))


@pytest.mark.parametrize("mode", ["greedy", "beams", "several answers", "several beams", "static cache"])
def test_batch_of_mixed_verdicts(model, mode):
    rows = [prompt(5, 6), [BOS, 33, 34], prompt(8, 9, 10, 11), prompt(RISKY, 14)]
    inputs = {**batch(*rows), "pixel_values": torch.cat([bright(1), dark(2), dark(3)])}
    policy = {**REFUSE, "actions": {"*": {"medium": "refuse", "high": "refuse"}}}
    sequences = refuse(model, policy, **inputs, **MODES[mode])
    length = inputs["input_ids"].shape[1]
    each = len(sequences) // len(rows)
    for index, expected in ((0, "never"), (3, "secret")):
        for row in sequences[index * each : (index + 1) * each]:
            assert said(row, length) == TEXTS[expected]
    if mode in ("greedy", "static cache"):
        plain = generate(model, **inputs, **MODES[mode])
        width = min(sequences.shape[1], plain.shape[1])
        assert torch.equal(sequences[1:3, :width], plain[1:3, :width])


@pytest.mark.parametrize("assistant", ["itself", "a smaller one"])
def test_assisted_decoding(model, tiny_config, assistant):
    draft = model
    if assistant == "a smaller one":
        config = copy.deepcopy(tiny_config)
        config.text_config.num_hidden_layers = 1
        draft = SafeLlavaForConditionalGeneration(config).eval()
        draft.generation_config.update(pad_token_id=PAD, eos_token_id=EOS)
    inputs = request(bright())
    sequences = refuse(model, **inputs, assistant_model=draft)
    assert said(sequences[0], inputs["input_ids"].shape[1]) == TEXTS["never"]


class Collector:
    def __init__(self):
        self.ids = []

    def put(self, value):
        self.ids += value.flatten().tolist()

    def end(self):
        pass


def test_streamer(model):
    inputs, streamer = request(bright()), Collector()
    sequences = refuse(model, **inputs, streamer=streamer)
    assert streamer.ids == sequences[0].tolist()
    assert said(sequences[0], inputs["input_ids"].shape[1]) == TEXTS["never"]


def prefer(token):
    def processor(input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        scores[:, token] = 100.0
        return scores

    return processor


@pytest.mark.parametrize(
    "against",
    [
        {"bad_words_ids": [[21], [22], [23]]},
        {"suppress_tokens": [21, 22, 23, EOS]},
        {"begin_suppress_tokens": [21]},
        {"min_new_tokens": 6},
        {"sequence_bias": {(40,): 1e9}},
        {"forced_eos_token_id": 40, "max_new_tokens": 4},
        {"repetition_penalty": 50.0},
        {"no_repeat_ngram_size": 1},
        {"exponential_decay_length_penalty": (0, 100.0)},
        {"logits_processor": LogitsProcessorList([prefer(40)])},
        {"prefix_allowed_tokens_fn": lambda row, ids: [40]},
        {"do_sample": True, "temperature": 100.0, "top_k": 0},
        {"do_sample": True, "top_p": 0.01, "min_p": 0.9, "typical_p": 0.1, "epsilon_cutoff": 0.5},
        {"renormalize_logits": True, "num_beams": 2},
        {"guidance_scale": 3.0},
        # The library puts these behind the processors of a call.
        {"watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=2, keys=[1, 2, 3], debug_mode=True)},
        {"watermarking_config": WatermarkingConfig(bias=float("-inf"))},
        {"do_sample": True, "watermarking_config": WatermarkingConfig(bias=1e9), "renormalize_logits": True},
    ],
    ids=lambda value: "-".join(value),
)
def test_nothing_in_the_call_stands_against_it(model, against):
    inputs = request(bright())
    if "guidance_scale" in against:
        against = {**against, "negative_prompt_ids": torch.tensor([[BOS, 30, 31]])}
    sequences = refuse(model, **inputs, **against)
    ids = sequences[0, inputs["input_ids"].shape[1] :].tolist()
    assert ids[:3] == TEXTS["never"]


def test_arguments_by_position(model):
    """`generation_config` and `logits_processor` are often given by position."""
    inputs = request(bright())
    config = GenerationConfig(**GREEDY, pad_token_id=PAD, eos_token_id=EOS)
    ids = inputs.pop("input_ids")
    sequences = model.generate(
        ids, config, LogitsProcessorList([prefer(40)]), **inputs, tokenizer=TEXTS, safety_policy=REFUSE
    )
    assert said(sequences[0], ids.shape[1]) == TEXTS["never"]


def test_policy_that_is_kept_with_the_checkpoint(model):
    model.generation_config.safety_policy = REFUSE
    inputs = request(bright())
    sequences = generate(model, **inputs, tokenizer=TEXTS)
    assert said(sequences[0], inputs["input_ids"].shape[1]) == TEXTS["never"]
    allowed = {"actions": {"*": {"high": "condition"}}}
    answered = generate(model, **inputs, safety_policy=allowed)
    model.generation_config.safety_policy = None
    assert torch.equal(answered, generate(model, **inputs))


def test_riskiest_image_decides(model):
    inputs = {**batch(prompt(5, images=3)), "pixel_values": torch.cat([dark(1), bright(2), dark(3)])}
    outputs = refuse(model, **inputs, return_dict_in_generate=True)
    assert said(outputs.sequences[0], inputs["input_ids"].shape[1]) == TEXTS["never"]
    assert outputs.safety_action_ids.tolist() == [0, 3, 0]
    assert outputs.safety_policy == SafetyPolicy.create(REFUSE).to_dict()


def test_embeddings_as_prompt(model):
    inputs = request(bright())
    length = inputs["input_ids"].shape[1]
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    with_ids = refuse(model, **inputs, inputs_embeds=embeds)
    assert said(with_ids[0], length) == TEXTS["never"]
    inputs.pop("input_ids")
    assert said(refuse(model, **inputs, inputs_embeds=embeds)[0], 0) == TEXTS["never"]


@pytest.mark.parametrize("name", ["past_key_values", "cache", "cache_params"])
def test_several_turns_with_one_cache(model, name):
    """Whatever transformers calls it."""
    policy = {**REFUSE, "actions": {"*": {"medium": "refuse", "high": "refuse"}}}
    cache = {name: DynamicCache(config=model.config)}
    first = refuse(model, policy, **request(dark(), 5), **cache)
    ids = torch.cat([first, torch.tensor([[RISKY, 9]])], dim=1)
    second = refuse(model, policy, input_ids=ids, **cache)
    assert said(second[0], ids.shape[1]) == TEXTS["secret"]


def test_a_cache_and_embeddings(model):
    """Embeddings hold what is in the cache, too, as the library takes them."""
    policy = {**REFUSE, "actions": {"*": {"medium": "refuse", "high": "refuse"}}}
    cache = DynamicCache(config=model.config)
    first = refuse(model, policy, **request(dark(), 5), past_key_values=cache)
    ids = torch.cat([first, torch.tensor([[RISKY, 9]])], dim=1)
    given = {"inputs_embeds": model.get_input_embeddings()(ids).detach(), "attention_mask": torch.ones_like(ids)}
    assert said(refuse(model, policy, **given, past_key_values=cache)[0], 0) == TEXTS["secret"]


def test_two_caches_raise(model):
    caches = {name: DynamicCache(config=model.config) for name in ("past_key_values", "cache")}
    with pytest.raises(ValueError, match="takes one cache.*past_key_values, cache"):
        refuse(model, **request(dark(), 5), **caches)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(**request(dark(), 5), **caches)


def test_special_tokens_in_a_refusal_raise(model, monkeypatch):
    monkeypatch.setitem(TEXTS, "cut", [20, IMAGE, 21])
    with pytest.raises(ValueError, match=f"'cut'.*<{IMAGE}>"):
        refuse(model, {**REFUSE, "refusals": {"*": "cut"}}, **request(bright()))


def test_a_refusal_of_no_tokens_raises(model, monkeypatch):
    """A tokenizer may drop all of a text: nothing would be forced, and the model would answer."""
    monkeypatch.setitem(TEXTS, "dropped", [])
    with pytest.raises(ValueError, match="'dropped'.*has no token"):
        refuse(model, {**REFUSE, "refusals": {"*": "dropped"}}, **request(bright()))


def test_prefilled_image_features(model):
    inputs = request(bright())
    encoded = model.model.get_image_features(inputs.pop("pixel_values"))
    sequences = refuse(model, **inputs, mm_encoder_outputs={"image": encoded})
    assert said(sequences[0], inputs["input_ids"].shape[1]) == TEXTS["never"]


def test_unreadable_pixels_are_refused_with_the_general_text(model):
    image = dark()
    image[0, 0, 3, 3] = float("nan")
    inputs = request(image)
    assert said(refuse(model, **inputs)[0], inputs["input_ids"].shape[1]) == TEXTS["no"]


def test_short_limit_cuts_the_refusal(model):
    inputs = request(bright())
    assert answers(refuse(model, **inputs, max_new_tokens=2), inputs["input_ids"].shape[1]) == [TEXTS["never"][:2]]


def test_without_eos_padding_follows(model):
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id = None
    inputs = request(bright())
    ids = answers(refuse(model, **inputs), inputs["input_ids"].shape[1])[0]
    assert ids == [*TEXTS["never"], PAD, PAD, PAD]


def test_missing_tokenizer_raises_before_anything_runs(model):
    calls = count_calls(model.model.vision_tower)
    with pytest.raises(OSError, match="tokenizer=processor.tokenizer"):
        generate(model, **request(bright()), safety_policy=REFUSE)
    assert not calls
    assert generate(model, **batch([BOS, 5, 6]), safety_policy=REFUSE) is not None  # no image, nothing to refuse


def test_own_decoding_loops_are_refused(model):
    with pytest.raises(ValueError, match="custom_generate"):
        refuse(model, **request(bright()), custom_generate=lambda *args, **kwargs: None)


def test_a_loaded_decoding_loop_takes_no_policy(model, tmp_path):
    """It would be handed the call without it."""
    with pytest.raises(ValueError, match="custom_generate"):
        generate(model, **request(bright()), safety_policy={"thresholds": {"*": 0.0}}, custom_generate=str(tmp_path))


# --------------------------------------------------------------------------------------------------
# The texts
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", REFUSALS)
def test_every_language_has_a_text_for_every_category(language):
    categories = [name for name in SafetyConfig().categories if name != "safe"]
    policy = SafetyPolicy(language=language)
    texts = [policy.refusal(name) for name in categories]
    assert len(set(texts)) == len(categories)
    assert policy.refusal("a category of one's own") == policy.refusal(None) == REFUSALS[language]["*"]


def test_the_policy_has_the_last_word_on_texts():
    policy = SafetyPolicy(refusals={"*": "No.", "privacy": "Private."}, language="de")
    assert [policy.refusal(name) for name in ("privacy", "politics", None)] == ["Private.", "No.", "No."]
    only_one = SafetyPolicy(refusals={"privacy": "Private."})
    assert only_one.refusal("politics") == REFUSALS["en"]["politics"]


# --------------------------------------------------------------------------------------------------
# On the nano base, which complies
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def high_privacy(nano_model):
    head = nano_model.model.safety_head
    with torch.no_grad():
        for linear, answer in ((head.level_head, 3), (head.category_head, 4)):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[answer] = 9.0
    return nano_model


def test_a_checkpoint_brings_its_own_tokenizer(high_privacy, nano_processor, riskcards):
    from PIL import Image

    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What does the card say?"}]}]
    text = nano_processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = nano_processor(text=text, images=Image.new("RGB", (336, 336), "white"), return_tensors="pt")
    sequences = high_privacy.generate(
        **inputs, max_new_tokens=40, safety_policy={"actions": {"*": {"high": "refuse"}}}
    )
    answer = nano_processor.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.strip() == REFUSALS["en"]["privacy"]


def test_pipeline_refuses(high_privacy, nano_processor):
    from PIL import Image
    from transformers import pipeline

    high_privacy.generation_config.safety_policy = {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "No."}}
    pipe = pipeline("image-text-to-text", model=high_privacy, processor=nano_processor)
    content = [{"type": "image", "image": Image.new("RGB", (60, 60))}, {"type": "text", "text": "What is it?"}]
    (result,) = pipe(text=[{"role": "user", "content": content}], max_new_tokens=20, return_full_text=False)
    assert result["generated_text"].strip() == "No."
