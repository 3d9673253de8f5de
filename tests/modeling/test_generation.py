"""Safe generation on a model whose condition visibly changes the answer: every way of generating is conditioned."""

import copy
import threading

import pytest
import torch
from support.rigged import (
    BLOCK,
    BOS,
    EOS,
    GREEDY,
    ILLEGAL_HIGH,
    IMAGE,
    MODES,
    NEW,
    PAD,
    PRIVACY_MEDIUM,
    RISKY,
    SAFE,
    UNCONDITIONED,
    answers,
    batch,
    bright,
    conditions,
    count_calls,
    dark,
    generate,
    prompt,
    request,
    rig,
)
from transformers import DynamicCache, GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, StaticCache
from transformers.generation import utils as generation_utils
from transformers.utils import logging

from safevlm_hf import SafeLlavaForConditionalGeneration, SafetyPolicy


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # these models are too small to share


@pytest.fixture
def model(tiny_config):
    return rig(tiny_config)


# --------------------------------------------------------------------------------------------------
# Every way of generating is conditioned
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_condition_changes_the_answer(model, mode):
    inputs = request(bright())
    conditioned = generate(model, **inputs, **mode)
    unconditioned = generate(model, **inputs, **mode, **UNCONDITIONED)
    for sequences in (conditioned, unconditioned):
        assert (sequences[:, : inputs["input_ids"].shape[1]] == inputs["input_ids"]).all()
    assert answers(conditioned, len(prompt(1, 2, 3))) != answers(unconditioned, len(prompt(1, 2, 3)))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_safe_image_is_answered_as_without_policy(model, mode):
    inputs = request(dark())
    conditioned = generate(model, **inputs, **mode)
    assert torch.equal(conditioned, generate(model, **inputs, **mode, **UNCONDITIONED))


@pytest.mark.parametrize("mode", ["static cache", "no cache", "prompt lookup"])
def test_greedy_modes_give_the_greedy_answer(model, mode):
    inputs = request(bright())
    assert torch.equal(generate(model, **inputs, **MODES[mode]), generate(model, **inputs))


@pytest.mark.parametrize("mode", ["greedy", "static cache", "beams", "no cache", "sampling"])
def test_vision_and_safety_run_once_a_request(model, mode):
    inputs = {**batch(prompt(5), prompt(6, 7, 8)), "pixel_values": torch.cat([bright(), dark()])}
    parts = (model.model.vision_tower, model.model.safety_projector, model.model.safety_head)
    calls = [count_calls(part) for part in parts]
    generate(model, **inputs, **MODES[mode])
    assert [len(of_part) for of_part in calls] == [1, 1, 1]


def test_language_model_does_not_run_before_prefill(model):
    lengths = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    inputs = request(bright())
    generate(model, **inputs, max_new_tokens=3)
    assert lengths == [inputs["input_ids"].shape[1], 1, 1]


@pytest.mark.parametrize("assistant", ["itself", "a smaller one"])
def test_assisted_decoding(model, tiny_config, assistant):
    if assistant == "itself":
        draft = model
    else:
        config = copy.deepcopy(tiny_config)
        config.text_config.num_hidden_layers = 1
        draft = SafeLlavaForConditionalGeneration(config).eval()
        draft.generation_config.update(pad_token_id=PAD, eos_token_id=EOS)
    inputs = request(bright())
    calls = count_calls(model.model.vision_tower)
    assisted = generate(model, **inputs, assistant_model=draft)
    assert len(calls) == 1
    assert torch.equal(assisted, generate(model, **inputs))
    assert not torch.equal(assisted, generate(model, **inputs, assistant_model=draft, **UNCONDITIONED))


class Collector:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.ids, self.ended = [], False

    def put(self, value):
        self.ids += value.flatten().tolist()

    def end(self):
        self.ended = True


def test_streamer(model):
    inputs, streamer = request(bright()), Collector()
    sequences = generate(model, **inputs, streamer=streamer)
    assert streamer.ended and streamer.ids == sequences[0].tolist()
    assert not torch.equal(sequences, generate(model, **inputs, **UNCONDITIONED))


def chunked(model, inputs, **kwargs):
    return generate(model, **inputs, prefill_chunk_size=7, **kwargs)


SPLITS_IMAGES = hasattr(generation_utils, "_slice_mm_encoder_output")


@pytest.mark.skipif(SPLITS_IMAGES, reason="this transformers splits images into chunks")
@pytest.mark.parametrize("place", ["call", "config", "model"])
def test_chunked_prefill_that_drops_images_is_refused(model, place):
    inputs = request(bright())
    if place == "call":
        inputs["prefill_chunk_size"] = 7
    elif place == "config":
        inputs["generation_config"] = GenerationConfig(prefill_chunk_size=7)
    else:
        model.generation_config.prefill_chunk_size = 7
    with pytest.raises(ValueError, match="prefill_chunk_size=7"):
        model.generate(**inputs)


@pytest.mark.skipif(not SPLITS_IMAGES, reason="this transformers does not split images into chunks")
def test_chunked_prefill(model):
    inputs = {**batch(prompt(5), prompt(6, 7, 8)), "pixel_values": torch.cat([bright(), dark()])}
    sequences = chunked(model, inputs)
    assert torch.equal(sequences, generate(model, **inputs))
    assert not torch.equal(sequences, chunked(model, inputs, **UNCONDITIONED))


def test_chunked_prefill_of_embeddings(model):
    inputs = request(bright())
    embeds = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    expected = generate(model, **inputs, inputs_embeds=embeds)
    try:
        sequences = chunked(model, {**inputs, "inputs_embeds": embeds})
    except (ValueError, RuntimeError, IndexError):
        return  # embeddings cannot be split either; an answer that never saw the block would be wrong
    assert torch.equal(sequences, expected)


def test_chunked_prefill_without_images(model):
    inputs = batch([BOS, *range(20, 40)])
    assert torch.equal(generate(model, **inputs, prefill_chunk_size=7), generate(model, **inputs))


# --------------------------------------------------------------------------------------------------
# Batches
# --------------------------------------------------------------------------------------------------


def test_batch_of_mixed_verdicts_equals_single(model):
    rows = [prompt(5, 6), prompt(8, 9, 10, 11, 12), prompt(RISKY, 14, 15), prompt(20)]
    images = [bright(1), dark(2), dark(3), bright(4)]
    inputs = {**batch(*rows), "pixel_values": torch.cat(images)}
    together = generate(model, **inputs, return_dict_in_generate=True)
    assert conditions(model, together) == [ILLEGAL_HIGH, SAFE, PRIVACY_MEDIUM, ILLEGAL_HIGH]
    for row, (ids, image) in enumerate(zip(rows, images)):
        single = generate(model, **batch(ids), pixel_values=image)
        expected = single[0, len(ids) :].tolist()
        assert together.sequences[row, -NEW:].tolist()[: len(expected)] == expected


def test_padding_is_told_by_the_call_where_no_config_tells_it(model):
    """Without masks, a row's question is its own, as when it is alone."""
    for config in (model.generation_config, model.config.get_text_config()):
        config.pad_token_id = None
    rows = [prompt(RISKY, 5, 6, 7, 8, 9), prompt(11)]
    ids, settings = batch(*rows)["input_ids"], {"pad_token_id": PAD}
    outputs = generate(model, input_ids=ids, pixel_values=torch.cat([dark(1), dark(2)]), **settings,
                       return_dict_in_generate=True)  # fmt: skip
    single = generate(model, input_ids=torch.tensor([rows[1]]), pixel_values=dark(2), return_dict_in_generate=True)
    torch.testing.assert_close(outputs.safety_level_logits[1], single.safety_level_logits[0])


def test_several_images_a_sample(model):
    rows = [prompt(5, 6, images=2), prompt(RISKY, images=3), prompt(9)]
    images = [dark(1), bright(2), dark(3), bright(4), dark(5), dark(6)]
    inputs = {**batch(*rows), "pixel_values": torch.cat(images)}
    outputs = generate(model, **inputs, return_dict_in_generate=True)
    assert conditions(model, outputs) == [ILLEGAL_HIGH] * 5 + [SAFE]  # one per sample, its strictest
    assert outputs.safety_level_logits.argmax(dim=-1).tolist() == [0, 3, 2, 3, 2, 0]
    assert outputs.safety_image_rows.tolist() == [0, 0, 1, 1, 1, 2]
    alone = generate(model, **batch(rows[1]), pixel_values=torch.cat(images[2:5]))
    assert outputs.sequences[1, -NEW:].tolist() == alone[0, -NEW:].tolist()


@pytest.mark.parametrize("mode", ["greedy", "beams", "several answers"])
def test_text_only_rows_run_as_the_base_model(model, mode):
    stock = stock_copy(model)
    rows = [[BOS, *range(30, 45)], prompt(5), [BOS, RISKY, 31]]
    inputs = {**batch(*rows), "pixel_values": bright()}
    outputs = generate(model, **inputs, return_dict_in_generate=True)
    assert outputs.safety_image_rows.tolist() == [1]
    for row in (0, 2):
        expected = generate(stock, **batch(rows[row]))[0, len(rows[row]) :].tolist()
        assert outputs.sequences[row, -NEW:].tolist()[: len(expected)] == expected
    text = batch(rows[0], rows[2])
    assert torch.equal(generate(model, **text, **MODES[mode]), generate(stock, **text, **MODES[mode]))


def stock_copy(model):
    config = model.config.to_dict()
    config = LlavaConfig(**{key: value for key, value in config.items() if key not in ("model_type", "safety_config")})
    stock = LlavaForConditionalGeneration(config).eval()
    stock.load_state_dict(model.state_dict(), strict=False)
    stock.generation_config = copy.deepcopy(model.generation_config)
    return stock


def test_expanded_batches_keep_images_with_their_rows(model):
    rows = [prompt(5), [BOS, 33, 34], prompt(RISKY, 9, images=2)]
    inputs = {**batch(*rows), "pixel_values": torch.cat([bright(), dark(), dark()])}
    outputs = generate(model, **inputs, num_beams=2, num_return_sequences=2, return_dict_in_generate=True)
    assert conditions(model, outputs) == [ILLEGAL_HIGH, PRIVACY_MEDIUM, PRIVACY_MEDIUM]
    single = generate(model, **batch(rows[2]), pixel_values=torch.cat([dark(), dark()]), num_beams=2)
    assert outputs.sequences[4, -NEW:].tolist() == single[0, -NEW:].tolist()


# --------------------------------------------------------------------------------------------------
# Several turns with one cache
# --------------------------------------------------------------------------------------------------


def first_turn(model, image, *question, **kwargs):
    cache = DynamicCache(config=model.config)
    inputs = request(image, *question)
    sequences = generate(model, **inputs, past_key_values=cache, **kwargs)
    return sequences, cache


def second_turn(sequences, *question):
    ids = torch.cat([sequences, torch.tensor([question])], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def new_tokens(turn, cache):
    return {**turn, "input_ids": turn["input_ids"][:, cache.get_seq_length() :]}


@pytest.mark.parametrize("with_pixels", [True, False], ids=["pixels again", "cache alone"])
@pytest.mark.parametrize("question", [(21, 22), (RISKY, 22)], ids=["same verdict", "other verdict"])
def test_reused_cache_answers_as_without_one(model, question, with_pixels):
    sequences, cache = first_turn(model, dark())
    turn = second_turn(sequences, *question)
    pixels = {"pixel_values": dark()} if with_pixels else {}
    outputs = generate(model, **turn, **pixels, past_key_values=cache, return_dict_in_generate=True)
    fresh = generate(model, **turn, pixel_values=dark(), return_dict_in_generate=True)
    assert conditions(model, outputs) == conditions(model, fresh) == [PRIVACY_MEDIUM if RISKY in question else SAFE]
    assert torch.equal(outputs.sequences, fresh.sequences)
    if RISKY in question:
        assert not torch.equal(fresh.sequences, generate(model, **turn, pixel_values=dark(), **UNCONDITIONED))


def test_unchanged_verdict_reuses_the_cache(model):
    sequences, cache = first_turn(model, bright())
    tower, lengths = count_calls(model.model.vision_tower), []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    generate(model, **second_turn(sequences, 21, 22), past_key_values=cache)
    assert not tower and lengths[0] == 3  # the last answer token and the question


def test_new_tokens_only(model):
    sequences, cache = first_turn(model, dark())
    turn = second_turn(sequences, 21, 22)
    expected = generate(model, **turn, pixel_values=dark())
    outputs = generate(model, **new_tokens(turn, cache), past_key_values=cache)
    assert outputs[0].tolist() == expected[0, -outputs.shape[1] :].tolist()


def test_new_tokens_only_raises_when_the_verdict_changes(model):
    sequences, cache = first_turn(model, dark())
    turn = new_tokens(second_turn(sequences, RISKY, 22), cache)
    with pytest.raises(ValueError, match="whole conversation"):
        generate(model, **turn, past_key_values=cache)


def test_policy_change_between_turns_is_honoured(model):
    sequences, cache = first_turn(model, bright(), **UNCONDITIONED)
    turn = second_turn(sequences, 21, 22)
    outputs = generate(model, **turn, past_key_values=cache)
    assert torch.equal(outputs, generate(model, **turn, pixel_values=bright()))
    assert not torch.equal(outputs, generate(model, **turn, pixel_values=bright(), **UNCONDITIONED))


def test_third_turn_sees_the_second_verdict(model):
    sequences, cache = first_turn(model, dark())
    sequences = generate(model, **second_turn(sequences, RISKY), past_key_values=cache)
    turn = second_turn(sequences, 21, 22)  # RISKY is still in the conversation
    outputs = generate(model, **turn, past_key_values=cache, return_dict_in_generate=True)
    assert conditions(model, outputs) == [PRIVACY_MEDIUM]
    assert torch.equal(outputs.sequences, generate(model, **turn, pixel_values=dark()))


def test_cache_of_returned_outputs(model):
    outputs = generate(model, **request(dark()), return_dict_in_generate=True)
    turn = second_turn(outputs.sequences, RISKY, 22)
    again = generate(model, **turn, past_key_values=outputs.past_key_values)
    assert torch.equal(again, generate(model, **turn, pixel_values=dark()))


def test_text_first_image_later(model):
    cache = DynamicCache(config=model.config)
    sequences = generate(model, **batch([BOS, 30, 32]), past_key_values=cache)
    assert IMAGE not in sequences
    turn = second_turn(sequences, *[IMAGE] * BLOCK, 21)
    outputs = generate(model, **turn, pixel_values=dark(), past_key_values=cache)
    assert torch.equal(outputs, generate(model, **turn, pixel_values=dark()))
    turn = second_turn(outputs, RISKY)
    outputs = generate(model, **turn, past_key_values=cache)
    assert torch.equal(outputs, generate(model, **turn, pixel_values=dark()))


def test_second_image_in_a_second_turn(model):
    sequences, cache = first_turn(model, dark(1))
    turn = second_turn(sequences, *[IMAGE] * BLOCK, 21)
    both = torch.cat([dark(1), bright(2)])
    outputs = generate(model, **turn, pixel_values=both, past_key_values=cache)
    assert torch.equal(outputs, generate(model, **turn, pixel_values=both))


@pytest.mark.parametrize("style", ["whole", "new tokens only"])
@pytest.mark.parametrize("form", ["pixel_values", "mm_encoder_outputs"])
def test_first_image_is_not_forgotten_behind_a_second(model, form, style):
    """Both have one condition, which the first has had already, in the cache."""
    sequences, cache = first_turn(model, dark(1))
    whole = second_turn(sequences, *[IMAGE] * BLOCK, 21)
    images = {"pixel_values": bright(2)}
    if form == "mm_encoder_outputs":
        images = {form: {"image": model.get_image_features(bright(2))}}
    turn = whole if style == "whole" else new_tokens(whole, cache)
    with pytest.raises(ValueError, match="do not match" if style == "whole" else "all images again"):
        generate(model, **turn, **images, past_key_values=cache)
    both = torch.cat([dark(1), bright(2)])
    again = generate(model, **whole, pixel_values=both, past_key_values=cache)
    assert torch.equal(again, generate(model, **whole, pixel_values=both))


@pytest.mark.parametrize("encoded", [{"image": None}, "second image"])
def test_mm_encoder_outputs_do_not_hide_cached_images(model, encoded):
    sequences, cache = first_turn(model, dark(1))
    question = (RISKY, 22)
    if encoded == "second image":
        encoded, question = {"image": model.get_image_features(dark(2))}, (*[IMAGE] * BLOCK, RISKY)
    turn = new_tokens(second_turn(sequences, *question), cache)
    with pytest.raises(ValueError, match="whole conversation"):
        generate(model, **turn, mm_encoder_outputs=encoded, past_key_values=cache)


@pytest.mark.parametrize("own_cache", [True, False])
@pytest.mark.parametrize("style", ["whole", "new tokens only"])
def test_cache_that_was_filled_by_forward(model, style, own_cache):
    inputs = request(dark())
    with torch.no_grad():
        cache = model(**inputs, past_key_values=DynamicCache() if own_cache else None).past_key_values
    turn = second_turn(inputs["input_ids"], RISKY, 22)
    turn = new_tokens(turn, cache) if style == "new tokens only" else turn
    try:
        outputs = generate(model, **turn, past_key_values=cache)
    except ValueError as error:
        assert "The cache holds images" in str(error)
    else:
        fresh = generate(model, **second_turn(inputs["input_ids"], RISKY, 22), pixel_values=dark())
        assert outputs[0, -NEW:].tolist() == fresh[0, -NEW:].tolist()


def test_cache_that_was_filled_elsewhere(model):
    """Keys and values that were copied out of a conversation tell nothing of their images."""
    sequences, cache = first_turn(model, dark())
    copied = DynamicCache(config=model.config)
    for layer, filled in enumerate(cache.layers):
        copied.update(filled.keys.clone(), filled.values.clone(), layer)
    with pytest.raises(ValueError, match="filled where nobody saw"):
        generate(model, **new_tokens(second_turn(sequences, RISKY), cache), cache=copied)


def test_expanded_cache_is_refused_without_pixels(model):
    outputs = generate(model, **request(dark()), num_return_sequences=2, do_sample=True, return_dict_in_generate=True)
    turn = second_turn(outputs.sequences[:1], 21)
    turn = {name: value.expand(2, -1) for name, value in turn.items()}
    with pytest.raises(ValueError, match="verdict is not known"):
        generate(model, **turn, past_key_values=outputs.past_key_values)


@pytest.mark.parametrize("style", ["whole", "new tokens only"])
def test_one_cache_for_two_questions(model, style):
    """The cache of one row, repeated: the second row's question has not been part of any verdict."""
    sequences, cache = first_turn(model, dark())
    cache.batch_repeat_interleave(2)
    turn = {name: torch.cat([second_turn(sequences, word)[name] for word in (21, RISKY)]) for name in batch([BOS])}
    turn = turn if style == "whole" else new_tokens(turn, cache)
    with pytest.raises(ValueError, match="verdict is not known"):
        generate(model, **turn, past_key_values=cache)


def test_own_static_cache_over_two_turns(model):
    cache = StaticCache(config=model.config, max_cache_len=64)
    inputs = request(dark())
    sequences = generate(model, **inputs, past_key_values=cache, disable_compile=True)
    turn = second_turn(sequences, RISKY, 22)
    outputs = generate(model, **turn, past_key_values=cache, disable_compile=True)
    assert torch.equal(outputs, generate(model, **turn, pixel_values=dark()))


# --------------------------------------------------------------------------------------------------
# Embeddings and encoded images
# --------------------------------------------------------------------------------------------------


def test_image_features_inside_the_embeddings_raise(model):
    inputs = request(dark(), RISKY, 6)
    ids = inputs["input_ids"]
    features = torch.cat(model.get_image_features(inputs["pixel_values"]).pooler_output)
    embeds = model.get_input_embeddings()(ids).detach()
    embeds = embeds.masked_scatter((ids == IMAGE)[..., None], features.detach())
    for prompt_ids in ({"input_ids": ids}, {}):
        with pytest.raises(ValueError, match="without a verdict.*pass `pixel_values`"):
            generate(model, inputs_embeds=embeds, **prompt_ids)
    assert generate(model, input_ids=ids, inputs_embeds=torch.rand_like(embeds)) is not None  # what is no image


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("image, question", [(bright(), (5, 6)), (dark(), (RISKY, 6))], ids=["bright", "asked"])
def test_inputs_embeds(model, image, question, with_ids):
    inputs = request(image, *question)
    ids = inputs.pop("input_ids")
    embeds = model.get_input_embeddings()(ids).detach()
    expected = answers(generate(model, **inputs, input_ids=ids), ids.shape[1])
    given = {"inputs_embeds": embeds, **({"input_ids": ids} if with_ids else {})}
    outputs = generate(model, **inputs, **given)
    assert outputs[:, -NEW:].tolist() == expected
    unconditioned = generate(model, **inputs, **given, **UNCONDITIONED)
    assert outputs.tolist() != unconditioned.tolist()


def test_encoded_images_get_a_verdict_for_the_question_of_the_call(model):
    encoded = model.get_image_features(dark())
    for question in ((5, 6), (RISKY, 6)):
        inputs = request(dark(), *question)
        expected = generate(model, **inputs)
        del inputs["pixel_values"]
        assert torch.equal(generate(model, **inputs, mm_encoder_outputs={"image": encoded}), expected)


def test_encoded_images_of_the_base_model_are_refused(model):
    inputs = request(bright())
    encoded = stock_copy(model).get_image_features(inputs.pop("pixel_values"))
    with pytest.raises(ValueError, match="no safety features"):
        generate(model, **inputs, mm_encoder_outputs={"image": encoded})


def test_pixels_without_a_prompt_are_refused(model):
    with pytest.raises(ValueError):
        generate(model, pixel_values=bright())


# --------------------------------------------------------------------------------------------------
# What a call leaves behind
# --------------------------------------------------------------------------------------------------


def state(model):
    """What every module holds, hooks and weights aside, and the identity of each value."""
    return {name: {key: id(value) for key, value in vars(module).items()} for name, module in model.named_modules()}


def test_nothing_is_kept_on_the_model(model):
    inputs = request(bright())
    generate(model, **inputs)  # warm up: lazy attributes of the library
    before, config = state(model), model.generation_config.to_dict()
    generate(model, **inputs)
    generate(model, **request(dark(), RISKY), num_beams=2, **UNCONDITIONED)
    model.assess(**inputs)
    assert state(model) == before
    assert model.generation_config.to_dict() == config


def test_generation_config_is_not_written_to(model):
    own = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=PAD)
    before = own.to_dict()
    model.generate(**request(bright()), generation_config=own, safety_policy={"categories": {"privacy": False}})
    assert own.to_dict() == before


def test_caller_inputs_are_not_written_to(model):
    inputs, cache = request(bright()), DynamicCache(config=model.config)
    copies = copy.deepcopy(inputs)
    generate(model, **inputs, past_key_values=cache, safety_policy={"categories": {"privacy": False}})
    assert all(torch.equal(inputs[name], copies[name]) for name in copies) and inputs.keys() == copies.keys()


def test_two_threads(model):
    requests = [request(bright(1), 5, 6), request(dark(2), 8, 9, 10), request(dark(3), RISKY)] * 2
    expected = [generate(model, **inputs).tolist() for inputs in requests]
    results = [None] * len(requests)
    barrier = threading.Barrier(len(requests))

    def serve(index):
        barrier.wait()
        results[index] = model.generate(**requests[index], **GREEDY).tolist()

    threads = [threading.Thread(target=serve, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


# --------------------------------------------------------------------------------------------------
# Verdicts, policy, refusals to run
# --------------------------------------------------------------------------------------------------


def test_outputs_carry_the_verdicts(model):
    inputs = {**batch(prompt(5), [BOS, 7], prompt(RISKY)), "pixel_values": torch.cat([bright(), dark()])}
    outputs = generate(model, **inputs, return_dict_in_generate=True)
    assert outputs.safety_level_logits.argmax(-1).tolist() == [3, 2]
    assert outputs.safety_category_logits.argmax(-1).tolist() == [1, 4]
    assert outputs["safety_image_rows"].tolist() == [0, 2]
    text_alone = generate(model, **batch([BOS, 7]), return_dict_in_generate=True)
    assert "safety_level_logits" not in text_alone


def test_assess_gives_the_verdict_of_generate_without_the_language_model(model):
    inputs = {**batch(prompt(5), [BOS, 7], prompt(RISKY)), "pixel_values": torch.cat([bright(), dark()])}
    expected = generate(model, **inputs, return_dict_in_generate=True)
    calls = count_calls(model.model.language_model)
    verdict = model.assess(**inputs)
    assert not calls
    for name in ("safety_level_logits", "safety_category_logits", "safety_condition_ids", "safety_image_rows"):
        assert torch.equal(verdict[name], expected[name])


@pytest.mark.parametrize("call", ["assess", "generate", "forward"])
@pytest.mark.parametrize("rows", [[20], [20, 26], [46, 0]], ids=["short", "two short and long", "both in the first"])
def test_positions_that_do_not_fit_the_images_are_refused(model, call, rows):
    """Blocks that shift would give one sample the block, or the verdict, of another."""
    ids = batch(*([BOS, *[IMAGE] * positions, 5] for positions in rows))
    inputs = {**ids, "pixel_values": torch.cat([bright()] * len(rows))}
    inputs |= {"max_new_tokens": 1} if call == "generate" else {}
    if rows == [46, 0]:
        assert getattr(model, call)(**inputs) is not None
    else:
        with pytest.raises(ValueError, match="SafeLlavaProcessor"):
            getattr(model, call)(**inputs)


def test_assess_needs_an_image(model):
    with pytest.raises(ValueError, match="pixel_values"):
        model.assess(**batch([BOS, 7]))


def test_disabled_category_alone_is_answered_unconditioned(model):
    policy = {"safety_policy": SafetyPolicy(categories={"privacy": False})}
    asked, risky = request(dark(), RISKY), request(bright())
    assert torch.equal(generate(model, **asked, **policy), generate(model, **asked, **UNCONDITIONED))
    assert not torch.equal(generate(model, **asked, **policy), generate(model, **asked))
    assert torch.equal(generate(model, **risky, **policy), generate(model, **risky))


def test_policy_of_the_generation_config(model):
    asked = request(dark(), RISKY)
    expected = generate(model, **asked, **UNCONDITIONED)
    model.generation_config.safety_policy = {"categories": {"privacy": False}}
    assert torch.equal(generate(model, **asked), expected)
    assert torch.equal(generate(model, **asked, safety_policy={}), expected)  # the call's overrides it
    conditioned = generate(model, **asked, safety_policy={"categories": {"privacy": True}})
    assert not torch.equal(conditioned, expected)
    own = GenerationConfig(**GREEDY, pad_token_id=PAD, safety_policy={"categories": {"privacy": True}})
    assert torch.equal(model.generate(**asked, generation_config=own), conditioned)


@pytest.mark.parametrize(
    "policy, match",
    [
        ({"categories": {"weather": False}}, "weather"),
        ({"categories": {"safe": False}}, "safe"),
        ({"categories": "privacy"}, "must map names"),
        ({"threshold": 0.3}, "threshold"),
        ({"enabled": "no"}, "enabled"),
        ("off", "SafetyPolicy"),
    ],
)
@pytest.mark.parametrize("call", ["generate", "assess"])
def test_unknown_policies_raise(model, policy, match, call):
    with pytest.raises(ValueError, match=match):
        getattr(model, call)(**request(bright()), safety_policy=policy)


@pytest.mark.parametrize("name", ["safety_conditions", "safety_inputs"])
def test_conditions_of_the_caller_are_refused(model, name):
    with pytest.raises(ValueError, match=name):
        generate(model, **request(bright()), **{name: torch.zeros(1, dtype=torch.long)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("disabled", [[], ["politics", "misleading"]], ids=["default", "partly"])
def test_unreadable_pixels_end_under_a_highest_level(model, value, disabled):
    image = dark()
    image[0, 0, 3, 3] = value
    inputs = {**batch(prompt(5), prompt(6)), "pixel_values": torch.cat([image, dark()])}
    verdict = model.assess(**inputs, safety_policy={"categories": dict.fromkeys(disabled, False)})
    names = conditions(model, verdict)
    assert names[0].endswith("high") and names[1] == SAFE


def test_paged_cache_is_refused(model):
    inputs = request(bright())
    paged = {"cache_implementation": "paged"}
    for given in (paged, {"generation_config": GenerationConfig(**paged)}):
        with pytest.raises(ValueError, match="[Pp]aged"):
            model.generate(**inputs, **given)


def test_untrained_head_says_so_once(model, caplog):
    model.config.safety_config.is_trained = False
    logging.warning_once.cache_clear()
    generate(model, **batch([BOS, 7]))
    assert "untrained" not in caplog.text
    for _ in range(2):
        generate(model, **request(bright()))
        model.assess(**request(bright()))
    assert caplog.text.count("untrained") == 1


# --------------------------------------------------------------------------------------------------
# The pipeline
# --------------------------------------------------------------------------------------------------


def test_pipeline(nano_model, nano_processor):
    from PIL import Image
    from transformers import pipeline

    head, table = nano_model.model.safety_head, nano_model.model.safety_conditions
    with torch.no_grad():
        for linear, answer in ((head.level_head, 3), (head.category_head, 1)):
            linear.weight.zero_()
            linear.bias[answer] = 9.0
        table.weight[0] = 0
        table.weight[1:] = float("nan")  # a condition that no answer survives
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "image": Image.new("RGB", (90, 60), "red")}, {"type": "text", "text": "Hi"}],
        }
    ]
    pipe = pipeline("image-text-to-text", model=nano_model, processor=nano_processor)
    replies = [
        pipe(text=chat, return_full_text=False, generate_kwargs={**GREEDY, **kwargs})[0]["generated_text"]
        for kwargs in ({}, UNCONDITIONED)
    ]
    assert replies[0] != replies[1]
    inputs = nano_processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    sequences = generate(nano_model, **inputs)
    expected = nano_processor.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert replies[0].strip() == expected.strip()
