"""Ways around the verdict that were found, each closed: what a call, a cache or a config could do to lose it."""

import copy
import json
from functools import partial

import pytest
import torch
from support.rigged import (
    BLOCK,
    BOS,
    EOS,
    GREEDY,
    ILLEGAL_HIGH,
    IMAGE,
    PAD,
    PRIVACY_MEDIUM,
    RISKY,
    SAFE,
    UNCONDITIONED,
    Texts,
    answers,
    batch,
    bright,
    conditions,
    dark,
    generate,
    prompt,
    request,
    rig,
)
from torch import nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StaticCache

from safevlm_hf import SafeLlavaForConditionalGeneration
from safevlm_hf.modeling.safety_audit import read_audit
from safevlm_hf.modeling.safety_cache import CACHE
from safevlm_hf.modeling.safety_decision import calibrated_risks, condition_rows, decide
from safevlm_hf.modeling.safety_inputs import SafetyInputs
from safevlm_hf.modeling.safety_outputs import SafetyImageOutput, decide_samples
from safevlm_hf.modeling.safety_policy import SafetyPolicy


REFUSE_ALL = {
    "actions": {"*": {"low": "refuse", "medium": "refuse", "high": "refuse"}},
    "refusals": {"*": "no", "illegal risk": "never", "privacy": "secret"},
}
TEXTS = Texts({"no": [20], "never": [21, 22, 23], "secret": [24, 25]})
REFUSING = {"safety_policy": REFUSE_ALL, "tokenizer": TEXTS}


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)


@pytest.fixture
def model(tiny_config):
    return rig(tiny_config)


def new_cache(model, filled=None):
    """A cache under the name that this transformers has for it."""
    return {CACHE: DynamicCache(config=model.config) if filled is None else filled}


def masked(inputs, marked, turn=1):
    """`question_mask` of the turn's number on the given words of each prompt."""
    marked_words = torch.isin(inputs["input_ids"], torch.tensor(list(marked)))
    return {**inputs, "question_mask": marked_words.long() * turn}


def verdicts(model, **inputs):
    return conditions(model, generate(model, **inputs, return_dict_in_generate=True))


def after_clean_turn(model, **kwargs):
    """A clean turn about a picture, its sequences and its cache."""
    cache = DynamicCache(config=model.config)
    return generate(model, **request(dark()), **new_cache(model, cache), **kwargs), cache


def next_turn(sequences, cache, *words):
    """The new tokens of a further turn, with the mask of the whole conversation."""
    whole = torch.cat([sequences, torch.tensor([words], dtype=torch.long)], dim=1)
    return {"input_ids": whole[:, int(cache.get_seq_length()) :], "attention_mask": torch.ones_like(whole)}


# --------------------------------------------------------------------------------------------------
# The question mask
# --------------------------------------------------------------------------------------------------


def test_only_what_users_said_is_the_question(model):
    inputs = request(dark(), RISKY, 9, 10)
    assert verdicts(model, **inputs) == [PRIVACY_MEDIUM]
    assert verdicts(model, **masked(inputs, [9, 10])) == [SAFE]
    assert verdicts(model, **masked(inputs, [RISKY])) == [PRIVACY_MEDIUM]


@pytest.mark.parametrize("call", ["generate", "assess", "explain"])
@pytest.mark.parametrize("wrong", ["shape", "empty", "one empty", "float", "list", "negative"])
def test_wrong_question_masks_raise(model, call, wrong):
    inputs = {**batch(prompt(9, 10), prompt(9, 11)), "pixel_values": torch.cat([dark(1), dark(2)])}
    mask = masked(inputs, [9, 10])["question_mask"]
    masks = {
        "shape": mask[:, 1:],
        "empty": mask * 0,
        "one empty": mask * torch.tensor([[1], [0]]),
        "float": mask.float(),
        "list": mask.tolist(),
        "negative": -mask,
    }
    with pytest.raises(ValueError, match="question_mask"):
        getattr(model, call)(**inputs, question_mask=masks[wrong])


def test_rows_without_an_image_need_no_question(model):
    inputs = {**batch(prompt(9, RISKY), [BOS, 9]), "pixel_values": dark()}
    assert verdicts(model, **masked(inputs, [RISKY])) == [PRIVACY_MEDIUM]
    assert generate(model, **masked(batch([BOS, 9]), [])) is not None


@pytest.mark.parametrize(
    "remembered, expected",
    [(None, PRIVACY_MEDIUM), (3, PRIVACY_MEDIUM), (2, SAFE), (1, SAFE), (10**30, PRIVACY_MEDIUM)],
)
@pytest.mark.parametrize("call", ["generate", "assess"])
def test_remembered_turns(model, call, remembered, expected):
    inputs = request(dark(), RISKY, 9, 10)
    inputs["question_mask"] = sum(
        (inputs["input_ids"] == word).long() * turn for word, turn in ((RISKY, 3), (9, 2), (10, 1))
    )
    policy = {} if remembered is None else {"remembered_turns": remembered}
    options = {"return_dict_in_generate": True, **GREEDY} if call == "generate" else {}
    outputs = getattr(model, call)(**inputs, safety_policy=policy, **options)
    assert conditions(model, outputs) == [expected]


def test_a_last_turn_without_words_is_not_the_last_that_is_remembered(model):
    """A picture sent alone would otherwise leave no question at all."""
    inputs = masked(request(dark(), RISKY, 9), [RISKY], turn=2)
    assert verdicts(model, **inputs, safety_policy={"remembered_turns": 1}) == [PRIVACY_MEDIUM]


def test_embeddings_carry_the_mask_too(model):
    inputs = masked(request(dark(), RISKY, 9), [9])
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    assert verdicts(model, **inputs) == [SAFE]


# --------------------------------------------------------------------------------------------------
# A conversation in a cache
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["risky", "clean"])
def test_new_tokens_are_judged_with_what_was_said_before(model, first):
    """ "Go on." after a risky question is the risky question still."""
    cache, words = DynamicCache(config=model.config), (RISKY, 9) if first == "risky" else (8, 9)
    sequences = generate(model, **masked(request(dark(), *words), words), **new_cache(model, cache))
    turn = masked(next_turn(sequences, cache, 11, 12), [11])
    assert verdicts(model, **turn, **new_cache(model, cache)) == [PRIVACY_MEDIUM if first == "risky" else SAFE]


def test_turns_of_a_cached_conversation_move_back(model):
    cache = DynamicCache(config=model.config)
    sequences = generate(model, **masked(request(dark(), RISKY), [RISKY]), **new_cache(model, cache))
    turn = masked(next_turn(sequences, cache, 11), [11])
    with pytest.raises(ValueError, match="whole conversation"):  # forgotten, so that the verdict changes
        generate(model, **turn, **new_cache(model, cache), safety_policy={"remembered_turns": 1})
    assert verdicts(model, **turn, **new_cache(model, cache), safety_policy={"remembered_turns": 2}) == [
        PRIVACY_MEDIUM
    ]


@pytest.mark.parametrize("style", ["new tokens only", "whole"])
def test_text_before_the_first_picture_is_part_of_the_question(model, style):
    """The request is made first, and the picture sent after it."""
    cache = DynamicCache(config=model.config)
    sequences = generate(model, **batch([BOS, RISKY, 9]), **new_cache(model, cache))
    turn = next_turn(sequences, cache, *[IMAGE] * BLOCK, 11)
    if style == "whole":
        turn["input_ids"] = torch.cat([sequences, torch.tensor([[*[IMAGE] * BLOCK, 11]])], dim=1)
    assert verdicts(model, **turn, pixel_values=dark(), **new_cache(model, cache)) == [PRIVACY_MEDIUM]


def test_a_cache_of_other_words_is_filled_anew(model):
    """The cache holds the risky question, and the ids say that it was a clean one."""
    cache = DynamicCache(config=model.config)
    sequences = generate(model, **request(dark(), RISKY, 9), **new_cache(model, cache), **UNCONDITIONED)
    whole = torch.cat([sequences, torch.tensor([[11, 12]])], dim=1)
    whole[whole == RISKY] = 8
    expected = generate(model, input_ids=whole, pixel_values=dark(), **UNCONDITIONED)
    assert torch.equal(generate(model, input_ids=whole, **new_cache(model, cache), **UNCONDITIONED), expected)


def test_a_turn_can_be_repeated_after_its_error(model):
    sequences, cache = after_clean_turn(model)
    turn = next_turn(sequences, cache, RISKY)
    with pytest.raises(ValueError, match="whole conversation"):
        generate(model, **turn, **new_cache(model, cache))
    whole = torch.cat([sequences, torch.tensor([[RISKY]])], dim=1)
    expected = generate(model, input_ids=whole, pixel_values=dark())
    assert torch.equal(generate(model, input_ids=whole, **new_cache(model, cache)), expected)


# --------------------------------------------------------------------------------------------------
# A cache is known as `generate` left it
# --------------------------------------------------------------------------------------------------


def refuses_or_raises(model, turn, cache):
    """Under a policy that refuses everything, an unknown cache raises."""
    with pytest.raises(ValueError, match="The cache holds images whose verdict is not known"):
        generate(model, **turn, **new_cache(model, cache), **REFUSING)


@torch.no_grad()
def test_forward_between_two_calls(model):
    """The risky words go into the cache by `forward`, and only the last token comes to `generate`."""
    sequences, cache = after_clean_turn(model)
    turn = next_turn(sequences, cache, RISKY, 9)
    model(turn["input_ids"][:, :-1], **new_cache(model, cache))
    refuses_or_raises(model, {**turn, "input_ids": turn["input_ids"][:, -1:]}, cache)


@torch.no_grad()
def test_language_model_between_two_calls(model):
    sequences, cache = after_clean_turn(model)
    turn = next_turn(sequences, cache, RISKY, 9)
    model.model.language_model(input_ids=turn["input_ids"][:, :-1], **new_cache(model, cache))
    refuses_or_raises(model, {**turn, "input_ids": turn["input_ids"][:, -1:]}, cache)


def merged_embeddings(model, inputs):
    encoded = model.get_image_features(inputs["pixel_values"])
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    is_image = (inputs["input_ids"] == IMAGE)[..., None]
    return embeds.masked_scatter(is_image, torch.cat(encoded.pooler_output))


@torch.no_grad()
@pytest.mark.parametrize("before", ["an empty cache", "a text"])
def test_forward_of_merged_embeddings(model, before):
    """The cache that it fills is not one without images."""
    cache = DynamicCache(config=model.config)
    if before == "a text":
        generate(model, **batch([BOS, 8]), **new_cache(model, cache))
    inputs = request(bright(), 9)
    model(inputs_embeds=merged_embeddings(model, inputs), **new_cache(model, cache))
    turn = {"input_ids": torch.tensor([[9]]), "attention_mask": torch.ones(1, int(cache.get_seq_length()) + 1).long()}
    refuses_or_raises(model, turn, cache)


@pytest.mark.parametrize("copied", ["the layers", "the whole cache", "one layer"])
def test_copies_that_share_layers(model, copied):
    """A cache that was known to be free of images, with the layers of one that is not."""
    filled = DynamicCache(config=model.config)
    sequences = generate(model, **request(bright()), **new_cache(model, filled), **UNCONDITIONED)
    cache = DynamicCache(config=model.config)
    generate(model, **batch([BOS, *[8] * (sequences.shape[1] - 1)]), max_new_tokens=1, **new_cache(model, cache))
    turn = next_turn(sequences, filled, 9)
    if copied == "the layers":
        cache.layers = filled.layers
    elif copied == "one layer":
        cache.layers[-1] = filled.layers[-1]
    else:
        cache = copy.copy(filled)
        generate(model, **turn, **new_cache(model, filled), **UNCONDITIONED)  # fills the shared layers further
        turn = {"input_ids": torch.tensor([[9]]), "attention_mask": torch.ones(1, cache.get_seq_length() + 1).long()}
    refuses_or_raises(model, turn, cache)


def reorder(cache):
    cache.batch_select_indices(torch.tensor([1, 0]))


def overwrite(cache):
    cache.layers[0].values[0].copy_(cache.layers[0].values[1])


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [reorder, overwrite, lambda cache: cache.crop(-1)], ids=["reorder", "write", "crop"]
)
def test_changes_between_turns(model, change):
    """The first row asks about the clean picture, and gets the keys and values of the risky one."""
    cache = DynamicCache(config=model.config)
    inputs = {**batch(prompt(8), prompt(8)), "pixel_values": torch.cat([dark(), bright()])}
    sequences = generate(model, **inputs, **new_cache(model, cache), **UNCONDITIONED)
    turn = {
        "input_ids": torch.cat([sequences, torch.full((2, 1), 9)], dim=1)[:, cache.get_seq_length() :],
        "attention_mask": torch.ones(2, sequences.shape[1] + 1).long(),
    }
    change(cache)
    refuses_or_raises(model, turn, cache)


@torch.no_grad()
def test_static_cache_is_told_by_its_versions(model):
    """Its tensors stay, and its length can be set back."""
    cache = StaticCache(config=model.config, max_cache_len=64)
    sequences = generate(model, **request(dark()), **new_cache(model, cache), disable_compile=True)
    length = int(cache.get_seq_length())
    for layer in cache.layers:
        layer.cumulative_length.sub_(2)
    model.model.language_model(input_ids=torch.tensor([[RISKY, 9]]), **new_cache(model, cache))
    assert int(cache.get_seq_length()) == length
    refuses_or_raises(model, {**next_turn(sequences, cache, 9), "disable_compile": True}, cache)


@torch.inference_mode()
def test_static_cache_in_inference_mode_is_not_known(model):
    """Where nothing counts changes in place, it could have been filled with anything."""
    cache = StaticCache(config=model.config, max_cache_len=64)
    sequences = model.generate(**request(dark()), **GREEDY, **new_cache(model, cache), disable_compile=True)
    with pytest.raises(ValueError, match="not known"):
        model.generate(**next_turn(sequences, cache, 9), **GREEDY, **new_cache(model, cache), disable_compile=True)


@torch.inference_mode()
def test_turns_in_inference_mode(model):
    sequences, cache = after_clean_turn(model)
    turn = next_turn(sequences, cache, 9, 10)
    whole = {"input_ids": torch.cat([sequences, torch.tensor([[9, 10]])], dim=1), "pixel_values": dark()}
    answer = generate(model, **turn, **new_cache(model, cache))
    expected = generate(model, **whole)
    assert answers(answer, turn["input_ids"].shape[1]) == answers(expected, whole["input_ids"].shape[1])


def test_a_cache_without_a_prompt(model):
    _, cache = after_clean_turn(model)
    with pytest.raises(ValueError, match="without a prompt"):
        generate(model, **new_cache(model, cache))


@torch.no_grad()
@pytest.mark.parametrize("filled_by", ["generate", "forward"])
@pytest.mark.parametrize("then", ["as it is", "copied", "cropped"])
def test_a_common_beginning_without_images_stays_usable(model, filled_by, then):
    """What is known to hold no images may be copied for each continuation, and cut."""
    cache, ids = DynamicCache(config=model.config), batch([BOS, 8, 9, 10, 11])
    if filled_by == "generate":
        generate(model, **ids, **new_cache(model, cache), max_new_tokens=1)
    else:
        model(input_ids=ids["input_ids"], **new_cache(model, cache))
    if then == "copied":
        cache = copy.deepcopy(cache)
    elif then == "cropped":
        cache.crop(-2)
    whole = batch([BOS, 8, 9, 10, 11, 12, 13])
    assert torch.equal(generate(model, **whole, **new_cache(model, cache)), generate(model, **whole))


def test_a_copied_conversation_is_known(model):
    sequences, cache = after_clean_turn(model)
    turn = next_turn(sequences, cache, 9, 10)
    copied = copy.deepcopy(cache)
    expected = generate(model, **turn, **new_cache(model, cache))
    assert torch.equal(generate(model, **turn, **new_cache(model, copied)), expected)


# --------------------------------------------------------------------------------------------------
# What the answer sees of an image
# --------------------------------------------------------------------------------------------------


CONDITION = slice(1 + BLOCK - 3, 1 + BLOCK)  # of a prompt's first image


@pytest.mark.parametrize("cached", [False, True])
def test_a_mask_that_hides_the_condition(model, cached):
    inputs = request(bright())
    if cached:
        cache = DynamicCache(config=model.config)
        sequences = generate(model, **inputs, **new_cache(model, cache))
        inputs = {**next_turn(sequences, cache, 9), **new_cache(model, cache)}
    inputs["attention_mask"][:, CONDITION] = 0
    with pytest.raises(ValueError, match="attention_mask.*hidden"):
        generate(model, **inputs)


@pytest.mark.parametrize("form", ["4-D", "too long", "too short"])
def test_masks_of_another_shape(model, form):
    """Of a longer one the question is read at its end, and the library reads its beginning."""
    inputs = request(bright())
    length = inputs["input_ids"].shape[1]
    if form == "4-D":
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        mask[..., CONDITION] = False
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    else:
        mask = torch.ones(1, length + (5 if form == "too long" else -5), dtype=torch.long)
    with pytest.raises(ValueError, match="attention_mask"):
        generate(model, **{**inputs, "attention_mask": mask})


def positions_of(inputs):
    """As the library finds them: of the tokens that are not masked out, in their order."""
    return (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)


@pytest.mark.parametrize("cached", [False, True])
def test_positions_that_the_model_finds_by_itself(model, cached):
    """A caller may name them, of the new tokens or of all, whatever stands at masked tokens; they change nothing."""
    inputs = {**batch(prompt(9), prompt(RISKY, 9)), "pixel_values": torch.cat([dark(1), bright(2)])}
    of_cache = dict  # nothing
    if cached:
        cache = DynamicCache(config=model.config)
        sequences = generate(model, **inputs, **new_cache(model, cache))
        whole = torch.cat([sequences, torch.tensor([[9], [RISKY]])], dim=1)
        inputs = {"input_ids": whole[:, int(cache.get_seq_length()) :], "attention_mask": (whole != PAD).long()}

        def of_cache():
            return new_cache(model, copy.deepcopy(cache))

    expected = generate(model, **inputs, **of_cache())
    positions = positions_of(inputs)
    num_new = inputs["input_ids"].shape[1]
    elsewhere = torch.where(inputs["attention_mask"] == 0, 7, positions)
    for given in (positions, positions[:, -num_new:], positions.int(), elsewhere):
        assert torch.equal(generate(model, **inputs, position_ids=given, **of_cache()), expected)


def test_positions_without_a_mask(model):
    inputs = {**batch(prompt(9), prompt(RISKY, 9)), "pixel_values": torch.cat([dark(1), bright(2)])}
    positions = positions_of(inputs)
    del inputs["attention_mask"]
    assert torch.equal(generate(model, **inputs, position_ids=positions), generate(model, **inputs))
    with pytest.raises(ValueError, match="position_ids"):  # those of the padding count
        generate(model, **inputs, position_ids=torch.arange(positions.shape[1])[None])
    embeds = {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs.pop("input_ids")).detach()}
    del embeds["input_ids"]
    everything = torch.arange(positions.shape[1])[None]
    assert torch.equal(generate(model, **embeds, position_ids=everything), generate(model, **embeds))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "moved",
    ["shifted", "condition", "last", "packed", "negative", "three", "short", "empty", "float", "bool", "list", "4-D"],
)
def test_other_positions_raise(model, cached, moved):
    inputs = request(bright())
    if cached:
        cache = DynamicCache(config=model.config)
        sequences = generate(model, **inputs, **new_cache(model, cache))
        inputs = {**next_turn(sequences, cache, 9), **new_cache(model, cache)}
    own = positions_of(inputs)[:, -inputs["input_ids"].shape[1] :]
    length = own.shape[1]
    far = torch.arange(length) == (length - 1 if cached else CONDITION.stop - 1)
    others = {
        "shifted": own + 500,
        "condition": torch.where(far, 10_000, own),
        "last": torch.where(torch.arange(length) == length - 1, 10_000, own),
        "packed": torch.where(torch.arange(length) >= length - 1, 0, own),  # a sequence of its own begins there
        "negative": own - 1,
        "three": torch.stack([own, own, own + 1]),
        "short": own[:, 1:],
        "empty": own[:0],
        "float": own.float(),
        "bool": own.bool(),
        "list": own.tolist(),
        "4-D": own[None, None],
    }
    with pytest.raises(ValueError, match="position_ids.*out of the answer's sight"):
        generate(model, **inputs, position_ids=others[moved])


def test_text_alone_may_have_its_own_mask_and_positions(model):
    inputs = batch([BOS, 8, 9, 10])
    positions = torch.arange(4)[None]
    inputs["attention_mask"][:, 1] = 0
    assert generate(model, **inputs, position_ids=positions) is not None


def test_masked_image_tokens_are_image_tokens(model):
    """Image tokens under a mask of 0 are image tokens without an image, too."""
    inputs = request(bright())
    del inputs["pixel_values"]
    inputs["attention_mask"][:, 1 : 1 + BLOCK] = 0
    with pytest.raises(ValueError, match="holds image tokens, and no images came with it"):
        generate(model, **inputs)


def test_image_tokens_behind_a_cached_text(model):
    cache = DynamicCache(config=model.config)
    sequences = generate(model, **batch([BOS, 8, 9]), **new_cache(model, cache))
    turn = next_turn(sequences, cache, *[IMAGE] * BLOCK, 11)
    whole = torch.cat([sequences, torch.tensor([[*[IMAGE] * BLOCK, 11]])], dim=1)
    for inputs in (turn, {"input_ids": whole}):
        with pytest.raises(ValueError, match="holds image tokens, and no images came with it"):
            generate(model, **inputs, **new_cache(model, copy.deepcopy(cache)))


def test_more_image_tokens_than_a_cache_has_images(model):
    sequences, cache = after_clean_turn(model)
    with pytest.raises(ValueError, match="the images in the cache take"):
        generate(model, **next_turn(sequences, cache, *[IMAGE] * BLOCK, 9), **new_cache(model, cache))


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("place", [1, 4, 20, BLOCK - 1])
def test_words_inside_a_block(model, place, images):
    ids = prompt(8, images=images)
    ids[-1 - BLOCK + place : -1 - BLOCK + place] = [RISKY]
    inputs = {**batch(ids), "pixel_values": torch.cat([dark(), bright()][:images])}
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    for call in (model.generate, model.assess, model, model.model):
        with pytest.raises(ValueError, match="stands between the image tokens.*SafeLlavaProcessor"):
            call(**inputs)
    with pytest.raises(ValueError, match="stands between the image tokens"):
        generate(model, inputs_embeds=embeds, pixel_values=inputs["pixel_values"])


# --------------------------------------------------------------------------------------------------
# Ways of decoding
# --------------------------------------------------------------------------------------------------


class Prefer:
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.token] += 1000.0
        return scores


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}, {"do_sample": True}, {"prompt_lookup_num_tokens": 3}], ids=str)
def test_image_tokens_are_never_generated(model, mode):
    prefer = LogitsProcessorList([Prefer(IMAGE)])
    for image in (dark(), bright()):
        sequences = generate(model, **request(image), **mode, logits_processor=prefer)
        assert IMAGE not in sequences[0, len(prompt(1, 2, 3)) :].tolist()
    sequences, cache = after_clean_turn(model)
    turn = next_turn(sequences, cache, 9)
    assert IMAGE not in generate(model, **turn, **new_cache(model, cache), logits_processor=prefer)[0].tolist()


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}], ids=str)
def test_a_row_without_an_image_is_decoded_as_it_is_alone(model, mode):
    prefer = LogitsProcessorList([Prefer(IMAGE)])
    inputs = {**batch(prompt(5), [BOS, 8]), "pixel_values": dark()}
    with_image, without = generate(model, **inputs, **mode, logits_processor=prefer)[:, -2:].tolist()
    assert IMAGE not in with_image and IMAGE in without


def test_prompt_lookup_drafts_no_image_tokens(model):
    """The word before the image stands at the end of the question again."""
    ids = [BOS, 30, *[IMAGE] * BLOCK, 12, 30]
    inputs = {**batch(ids), "pixel_values": bright()}
    assert torch.equal(generate(model, **inputs, prompt_lookup_num_tokens=3), generate(model, **inputs))


def test_text_alone_may_generate_any_token(model):
    prefer = LogitsProcessorList([Prefer(IMAGE)])
    assert IMAGE in generate(model, **batch([BOS, 8]), logits_processor=prefer)[0].tolist()


DRAFTING = {"is_assistant": True, "return_dict_in_generate": True, "output_scores": True}


@pytest.mark.parametrize("before", [{}, UNCONDITIONED], ids=["conditioned before", "not conditioned before"])
@pytest.mark.parametrize("place", ["call", "model"])
def test_only_a_model_makes_a_draft(model, place, before, tmp_path):
    """`is_assistant` in a caller's config is not the library asking for a draft."""
    cache = DynamicCache(config=model.config)
    sequences = generate(model, **request(bright()), **new_cache(model, cache), **before)
    whole = torch.cat([sequences, torch.tensor([[9]])], dim=1)
    given = {"generation_config": GenerationConfig(**GREEDY, **DRAFTING, pad_token_id=PAD, eos_token_id=EOS)}
    if place == "model":
        model.generation_config.is_assistant, given = True, {**GREEDY, **DRAFTING}
        del given["is_assistant"]
    options = {**given, **REFUSING, **new_cache(model, cache), "safety_audit": tmp_path / "trail"}
    if before:  # the images would have to be shown again, and are left out
        with pytest.raises(ValueError, match="is_assistant=True"):
            model.generate(input_ids=whole, **options)
    else:
        answer = model.generate(input_ids=whole, **options).sequences
        assert answer[0, whole.shape[1] :].tolist()[:3] == TEXTS["never"]
        assert [line["action"] for line in read_audit(tmp_path / "trail")[0]] == ["refuse"]


def test_a_draft_config_with_encoded_images(model):
    inputs = request(bright())
    encoded = {"image": model.get_image_features(inputs.pop("pixel_values"))}
    assistant = GenerationConfig(**GREEDY, **DRAFTING, pad_token_id=PAD, eos_token_id=EOS)
    with pytest.raises(ValueError, match="is_assistant=True"):
        model.generate(**inputs, mm_encoder_outputs=encoded, generation_config=assistant, **REFUSING)


@pytest.mark.parametrize("mode", [{"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "low"}], ids=["alpha", "dola"])
@pytest.mark.parametrize("place", ["call", "config", "model"])
def test_loops_that_are_loaded_after_the_guard(model, mode, place):
    given = mode
    if place == "config":
        given = {"generation_config": GenerationConfig(**mode, do_sample=False, max_new_tokens=4)}
    elif place == "model":
        model.generation_config.update(**mode)
        given = {}
    with pytest.raises(ValueError, match="loop of its own"):
        model.generate(**request(bright()), **given, trust_remote_code=True, **REFUSING)


@pytest.mark.parametrize("draft", [False, True])
def test_an_output_layer_wider_than_the_vocabulary(model, draft):
    wide = nn.Linear(64, 192, bias=False)
    wide.weight.data[:160] = model.lm_head.weight.data
    model.lm_head = wide
    options = {"assistant_model": rig(copy.deepcopy(model.config))} if draft else {}
    with pytest.raises(ValueError, match="vocab_size"):
        generate(model, **request(bright()), **REFUSING, **options)


def test_a_head_that_hides_its_width(model):
    """What cannot be told before is told at the first step."""

    class Padded(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head, self.weight = head, head.weight

        def forward(self, hidden_states):
            return nn.functional.pad(self.head(hidden_states), (0, 32), value=-100.0)

    model.lm_head = Padded(model.lm_head)
    with pytest.raises(ValueError, match="vocab_size"):
        generate(model, **request(bright()), **REFUSING)


# --------------------------------------------------------------------------------------------------
# The policy of a checkpoint
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    model = SafeLlavaForConditionalGeneration(tiny_config)
    model.generation_config.safety_policy = REFUSE_ALL
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def load(folder, **kwargs):
    return SafeLlavaForConditionalGeneration.from_pretrained(folder, **kwargs)


@pytest.mark.parametrize("lost", ["at loading", "afterwards", "the file", "twice"])
def test_the_policy_survives_another_generation_config(checkpoint, tmp_path, lost):
    if lost == "the file":
        (checkpoint / "generation_config.json").unlink()
    loaded = load(checkpoint, **({"generation_config": GenerationConfig()} if lost == "at loading" else {}))
    if lost in ("afterwards", "twice"):
        loaded.generation_config = GenerationConfig()
    if lost == "twice":
        loaded.save_pretrained(tmp_path / "again")
        (tmp_path / "again" / "generation_config.json").unlink()
        loaded = load(tmp_path / "again")
    assert loaded.policy_in_force(None) == SafetyPolicy.create(REFUSE_ALL)


def test_a_filled_policy_is_told(checkpoint, caplog):
    from transformers.utils import logging

    logging.warning_once.cache_clear()
    loaded = load(checkpoint)
    assert loaded.policy_in_force(None) == SafetyPolicy.create(REFUSE_ALL) and "config.json" not in caplog.text
    loaded.generation_config = GenerationConfig()
    loaded.policy_in_force(None)
    assert "config.json" in caplog.text


def test_the_generation_config_wins(checkpoint, tmp_path):
    loaded = load(checkpoint)
    for own in ({}, {"language": "de"}):
        loaded.generation_config.safety_policy = own
        assert loaded.policy_in_force(None) == SafetyPolicy.create(own)
    loaded.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again", generation_config=GenerationConfig()).policy_in_force(None) == SafetyPolicy(
        language="de"
    )


@pytest.mark.parametrize("call", ["generate", "assess"])
def test_a_call_that_refuses_is_told_once_what_the_checkpoint_could_hide(model, caplog, call):
    from transformers.utils import logging

    logging.warning_once.cache_clear()
    own = {"thresholds": {"*": 0.5}, "temperatures": {"category": 5.0}}
    judge = partial(generate, model, tokenizer=TEXTS) if call == "generate" else model.assess
    model.generation_config.safety_policy = own
    for named in (own, {"temperatures": {"category": 1.0}, "thresholds": {"*": None}}):
        judge(**request(bright()), safety_policy={**REFUSE_ALL, **named})
    assert "could keep a risk" not in caplog.text
    for _ in range(2):
        judge(**request(bright()), safety_policy=REFUSE_ALL)
    assert caplog.text.count("could keep a risk") == 1 and json.dumps(own) in caplog.text


def test_a_generation_config_of_the_call_counts_as_the_checkpoints(model, caplog):
    from transformers.utils import logging

    logging.warning_once.cache_clear()
    given = {"generation_config": GenerationConfig(**GREEDY, pad_token_id=PAD, safety_policy={"enabled": False})}
    given |= {"tokenizer": TEXTS}
    model.generate(**request(bright()), **given, safety_policy={"enabled": True, **REFUSE_ALL})
    assert "could keep a risk" not in caplog.text
    model.generate(**request(bright()), **given, safety_policy=REFUSE_ALL)
    assert '{"enabled": false}' in caplog.text


def test_a_broken_policy_in_the_config_raises(checkpoint):
    file = checkpoint / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "safety_policy": {"categories": {"weather": False}}}))
    with pytest.raises(ValueError, match="weather"):
        load(checkpoint)


# --------------------------------------------------------------------------------------------------
# A sample's strictest image
# --------------------------------------------------------------------------------------------------


def test_samples_are_decided_by_action_then_level_then_risk(model):
    """An image that is surely a little risky does not outdo one that is probably very risky."""
    config = model.config.safety_config
    levels = torch.tensor([[0.0, 9.0, 0.0, 0.0], [1.5, 0.0, 0.0, 2.0], [1.4, 0.0, 0.0, 2.0]])
    categories = 9.0 * nn.functional.one_hot(torch.tensor([4, 1, 1]), 7)
    policy = SafetyPolicy()
    decision = decide(policy, levels, categories, config)
    encoded = SafetyImageOutput(
        safety_level_logits=levels,
        safety_category_logits=categories,
        safety_condition_ids=condition_rows(decision.level_ids, categories.argmax(dim=-1), config),
        safety_action_ids=decision.action_ids,
        safety_level_ids=decision.level_ids,
        safety_image_rows=torch.tensor([0, 0, 0]),
    )
    inputs = SafetyInputs(torch.zeros(1, 1, 4), torch.ones(1, 1).bool(), torch.tensor([3]), policy, outputs=[encoded])
    ((action, risk, category),) = decide_samples(inputs, config)
    assert (action, category) == (2, "illegal risk")
    assert risk == pytest.approx(calibrated_risks(policy, levels[2:]).item())


def test_two_pictures_one_condition(model):
    """The clean picture's block does not tell the language model that it may answer."""
    inputs = {**batch(prompt(8, images=2)), "pixel_values": torch.cat([dark(), bright()])}
    assert verdicts(model, **inputs) == [ILLEGAL_HIGH, ILLEGAL_HIGH]


# --------------------------------------------------------------------------------------------------
# Further ways that were tried
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_token_healing_with_images(model, cached):
    """It writes the prompt anew from its text: image tokens go, and what users spelt like tokens becomes real."""
    inputs = request(bright())
    if cached:
        cache = DynamicCache(config=model.config)
        sequences = generate(model, **inputs, **new_cache(model, cache))
        inputs = {**next_turn(sequences, cache, 9), **new_cache(model, cache)}
    with pytest.raises(ValueError, match="token_healing=True"):
        generate(model, **inputs, token_healing=True, tokenizer=TEXTS)


@torch.no_grad()
def test_keys_and_values_as_tuples(model):
    """The format of old, which carries no record."""
    sequences, cache = after_clean_turn(model)
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    with pytest.raises((ValueError, AttributeError, TypeError)):
        generate(model, **next_turn(sequences, cache, RISKY), past_key_values=layers)


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}], ids=str
)
def test_other_verdict_under_other_options(model, options):
    sequences, cache = after_clean_turn(model)
    with pytest.raises(ValueError, match="whole conversation"):
        generate(model, **next_turn(sequences, cache, RISKY), **new_cache(model, cache), **options)


@torch.no_grad()
def test_a_cache_that_failed_half_way_is_not_known(model):
    """The call that filled it broke off, so nobody knows how far it came."""

    def stop(input_ids, scores, **kwargs):
        raise KeyboardInterrupt

    sequences, cache = after_clean_turn(model)
    turn = next_turn(sequences, cache, 9)
    with pytest.raises(KeyboardInterrupt):
        generate(model, **turn, **new_cache(model, cache), stopping_criteria=[stop])
    refuses_or_raises(model, {"input_ids": turn["input_ids"][:, -1:]}, cache)


@pytest.mark.parametrize("argument", ["cu_seq_lens_q", "is_causal", "seq_idx", "cache_position", "mm_token_type_ids"])
def test_arguments_of_attention(model, argument):
    """They decide which positions see which, and so whether the answer sees the condition."""
    inputs = request(bright())
    given = {"is_causal": False, "cu_seq_lens_q": torch.tensor([0, 26, 27], dtype=torch.int32)}
    value = given.get(argument, torch.zeros_like(inputs["input_ids"]))
    with pytest.raises(ValueError, match=argument):
        generate(model, **inputs, **{argument: value})


def test_a_callers_own_draft_does_not_open_the_target(model):
    """A draft whose every token is what the policy forbids: the target verifies under its own."""
    draft = rig(copy.deepcopy(model.config))
    inputs = request(bright())
    sequences = generate(model, **inputs, **REFUSING, assistant_model=draft)
    assert sequences[0, inputs["input_ids"].shape[1] :].tolist()[:4] == [*TEXTS["never"], EOS]


@pytest.mark.parametrize("way", ["argument", "generation config"])
def test_a_draft_that_mixes_in_is_refused(model, way):
    """`assistant_ensemble_weight` accepts tokens that the target alone would not: past a condition, and past a refusal
    where the draft has a tokenizer of its own."""
    draft, inputs = rig(copy.deepcopy(model.config)), request(bright())
    if way == "generation config":
        model.generation_config.assistant_ensemble_weight = 0.001
        given = {}
    else:
        given = {"assistant_ensemble_weight": 0.001}
    with pytest.raises(ValueError, match="assistant_ensemble_weight.*knows of no verdict"):
        generate(model, **inputs, assistant_model=draft, **given)


def test_a_thread_beside_a_running_generate_makes_no_draft(model):
    """`is_assistant` is believed inside a target's own call alone, and a call in another thread is not inside it."""
    import threading

    cache = DynamicCache(config=model.config)
    sequences = generate(model, **request(bright()), **new_cache(model, cache))
    whole = torch.cat([sequences, torch.tensor([[9]])], dim=1)
    config = GenerationConfig(**GREEDY, **DRAFTING, pad_token_id=PAD, eos_token_id=EOS)
    answers_of_thread = []

    def serve():
        options = {**REFUSING, **new_cache(model, cache), "generation_config": config}
        answers_of_thread.append(model.generate(input_ids=whole, **options).sequences[0, whole.shape[1] :].tolist())

    def while_running(input_ids, scores):
        if not answers_of_thread:
            thread = threading.Thread(target=serve)
            thread.start()
            thread.join()
        return scores

    generate(model, **request(dark()), logits_processor=LogitsProcessorList([while_running]))
    assert answers_of_thread[0][:3] == TEXTS["never"]
