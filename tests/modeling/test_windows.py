"""The promise of the head's windows: words around a question, and tiles around a tile, never soften a decision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_backbones import head_config
from torch.nn import functional as F

from safevlm_hf import SafetyConfig, SafetyPolicy
from safevlm_hf.modeling.safety_decision import decide
from safevlm_hf.modeling.safety_modules import (
    SafetyHead,
    init_safety_weights,
    join_tokens,
    readings_of,
    window_means,
)
from safevlm_hf.modeling.safety_tiles import parts_of_large_maps


CONFIG = SafetyConfig()
RISKS = CONFIG.categories[:-1]
LEVELS = CONFIG.levels[1:]
SIZES = CONFIG.head_window_sizes
SAFE_THIRD = ["politics", "privacy", "safe", "fairness", "misleading", "insults", "illegal risk"]
BOS, IMAGE, BLOCK = 1, 150, 4 + 16 + 3
BFLOAT16_TOLERANCE = 0.05  # of logits of a few units: what is rounded depends on the shape of a product


# --------------------------------------------------------------------------------------------------
# Means
# --------------------------------------------------------------------------------------------------


def naive_windows(values, is_token, sizes):
    tokens = values[is_token]
    if len(tokens) < sizes[0]:
        return [tokens.mean(dim=0)]
    starts = range(len(tokens))
    return [tokens[i : i + size].mean(dim=0) for i in starts for size in sizes if i + size <= len(tokens)]


def means_of(values, is_token, max_tokens=None):
    return window_means(*join_tokens(values, is_token, max_tokens), SIZES)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 5, 8, 31, 32, 33, 80])
def test_windows_are_all_full_runs_of_the_joined_tokens(num_tokens):
    is_token = torch.zeros(1, 100, dtype=torch.bool)
    is_token[0, torch.randperm(100)[:num_tokens]] = True
    values = torch.randn(1, 100, 3)
    means, are_windows = means_of(values, is_token)
    expected = torch.stack(naive_windows(values[0], is_token[0], SIZES))
    torch.testing.assert_close(means[are_windows], expected)


def test_rows_are_independent_and_padding_counts_nowhere():
    values, is_token = torch.randn(3, 40, 2), torch.rand(3, 40) > 0.3
    is_token[:, 0] = True
    values[~is_token] = torch.nan
    means, are_windows = means_of(values, is_token)
    assert torch.isfinite(means[are_windows]).all()
    for row in range(3):
        alone, are_alone = means_of(values[row : row + 1], is_token[row : row + 1])
        assert torch.equal(alone[are_alone], means[row][are_windows[row]])


def test_long_texts_are_exact_and_linear():
    length = 2**15
    values = torch.randn(1, length, 11)
    means, are_windows = means_of(values, torch.ones(1, length, dtype=torch.bool))
    assert means.shape == (1, 4 * length, 11) and are_windows.sum() == 4 * length - sum(size - 1 for size in SIZES)
    expected = values[0, -32:].double().mean(dim=0)
    torch.testing.assert_close(means[0, 4 * (length - 32) + 3].double(), expected, rtol=0, atol=1e-6)


# --------------------------------------------------------------------------------------------------
# The gate
# --------------------------------------------------------------------------------------------------


def gated_heads():
    """The same head with and without its gate."""
    torch.manual_seed(0)
    gated = SafetyHead(head_config(16, categories=SAFE_THIRD, head_gate_size=8))
    gated.apply(init_safety_weights)
    plain = SafetyHead(head_config(16, categories=SAFE_THIRD, head_gate_size=0))
    plain.load_state_dict({name: value for name, value in gated.state_dict().items() if "gate" not in name})
    return gated, plain


@torch.no_grad()
def test_the_gate_moves_the_logits_of_safe_alone_by_the_mean_of_its_runs():
    gated, plain = gated_heads()
    text, keys, mask = torch.randn(2, 12, 16), torch.randn(2, 5, 16), torch.rand(2, 12) < 0.9
    (levels, categories, are_windows), (former_levels, former_categories, _) = (
        head(text, mask, keys) for head in (gated, plain)
    )
    rows, windows = are_windows.nonzero(as_tuple=True)
    scores = torch.stack([gated.gate_scores(F.pad(text, (0, 0, 1, 0)), mask, window[None].expand(2))[row]
                          for row, window in zip(rows, windows)])  # fmt: skip
    assert scores.unique().numel() > 10
    for now, former, safe in ((levels, former_levels, 0), (categories, former_categories, 2)):
        moved = (now - former)[are_windows]
        torch.testing.assert_close(moved[:, safe], -scores)
        assert torch.equal(torch.cat([moved[:, :safe], moved[:, safe + 1 :]], dim=1).count_nonzero(), torch.tensor(0))


@torch.no_grad()
def test_the_gate_reads_words_in_their_order_and_none_in_a_short_question():
    gated, plain = gated_heads()
    words, keys = torch.randn(1, 4, 16), torch.randn(1, 5, 16)
    mask = torch.ones(1, 4, dtype=torch.bool)
    there, back = (gated(text, mask, keys)[0][0, 0] for text in (words, words.flip(1)))
    assert not torch.allclose(there, back, atol=1e-3)
    there, back = (plain(text, mask, keys)[0][0, 0] for text in (words, words.flip(1)))
    torch.testing.assert_close(there, back)
    short = [head(words[:, :3], mask[:, :3], keys)[0][0, 0] for head in (gated, plain)]
    assert torch.equal(*short)


# --------------------------------------------------------------------------------------------------
# The promise
# --------------------------------------------------------------------------------------------------

probabilities = st.floats(0, 1, allow_subnormal=False)
actions = st.lists(st.sampled_from(["answer", "condition", "refuse"]), min_size=3, max_size=3).map(
    lambda names: dict(zip(LEVELS, sorted(names)))
)


@st.composite
def policies(draw):
    off = draw(st.sets(st.sampled_from(RISKS), max_size=3))
    on = st.sampled_from([name for name in RISKS if name not in off])
    thresholds = draw(st.dictionaries(on, probabilities, max_size=3))
    reviews = draw(st.dictionaries(on, probabilities, max_size=2))
    reviews = {name: value for name, value in reviews.items() if value < thresholds.get(name, 2.0)}
    return SafetyPolicy(
        categories=dict.fromkeys(off, False),
        risk_threshold=draw(st.none() | probabilities),
        thresholds=thresholds,
        review_thresholds=reviews,
        actions=draw(st.dictionaries(on, actions, max_size=3)),
        temperatures=draw(st.dictionaries(st.sampled_from(["level", "category"]), st.floats(0.1, 10), max_size=2)),
    )


def strictest(policy, token_logits, is_token):
    """Action, level and risk of the strictest window."""
    means, are_windows = means_of(token_logits, is_token)
    decision = decide(policy, means[..., :4], means[..., 4:], CONFIG)
    index = decision.strictest(are_windows)[0]
    return decision.action_ids[0, index].item(), decision.level_ids[0, index].item()


@settings(max_examples=200, deadline=None)
@given(policies(), st.integers(4, 90), st.integers(0, 2**31), st.data())
def test_a_conversation_is_never_less_strict_than_a_run_of_it(policy, length, seed, data):
    """Whatever the policy: exactly, on the logits of the tokens."""
    start = data.draw(st.integers(0, length - 4))
    stop = data.draw(st.integers(start + 4, length))
    token_logits = 4 * torch.randn(1, length, 11, generator=torch.Generator().manual_seed(seed))
    run = torch.zeros(1, length, dtype=torch.bool)
    run[:, start:stop] = True
    assert strictest(policy, token_logits, torch.ones_like(run)) >= strictest(policy, token_logits, run)


@pytest.fixture
def lively_model(tiny_model):
    """Its verdicts depend on every word."""
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.normal_()
        tiny_model.model.safety_tokens.head.normal_(std=4.0)
        tiny_model.model.safety_head.level_head.weight.normal_()
        tiny_model.model.safety_head.category_head.weight.normal_()
        tiny_model.model.safety_head.q_proj.weight *= 2
    return tiny_model


def prompt(words):
    ids = torch.tensor([[BOS, *[IMAGE] * BLOCK, *words]])
    question_mask = torch.zeros_like(ids)
    question_mask[:, 1 + BLOCK :] = 1
    return {"input_ids": ids, "question_mask": question_mask}


WORDS = st.lists(st.integers(5, 149), min_size=4, max_size=70)


@pytest.mark.ci
def test_the_promise_on_token_ids(lively_model):
    pixels = torch.randn(1, 3, 56, 56)
    seen = set()

    @settings(max_examples=60, deadline=None, database=None)
    @given(policies(), WORDS, st.data())
    def check(policy, words, data):
        start = data.draw(st.integers(0, len(words) - 4))
        stop = data.draw(st.integers(start + 4, len(words)))
        whole, run = (
            lively_model.assess(**prompt(part), pixel_values=pixels, safety_policy=policy)
            for part in (words, words[start:stop])
        )
        strictness = [
            (
                out.safety_action_ids.item(),
                (out.safety_condition_ids.item() - 1) % 3 if out.safety_condition_ids else -1,
            )
            for out in (whole, run)
        ]
        seen.update(strictness)
        assert strictness[0] >= strictness[1]

    check()
    assert len(seen) > 3  # or nothing was tried


@settings(max_examples=40, deadline=None)
@given(WORDS, st.integers(0, 2**31), st.data())
def test_in_bfloat16_a_run_keeps_its_logits_within_a_tolerance(words, seed, data):
    torch.manual_seed(seed)
    head = SafetyHead(head_config(64, num_attention_heads=8, head_gate_size=32))
    head.apply(init_safety_weights)
    torch.nn.init.normal_(head.level_head.weight, std=0.3)
    torch.nn.init.normal_(head.category_head.weight, std=0.3)
    head.bfloat16()
    text, keys = torch.randn(150, 64)[words][None], torch.randn(1, 20, 64).bfloat16()
    start = data.draw(st.integers(0, len(words) - 4))
    stop = data.draw(st.integers(start + 4, len(words)))
    with torch.no_grad():
        whole, _, of_whole = head(text, torch.ones(1, len(words)) > 0, keys)
        run, _, of_run = head(text[:, start:stop], torch.ones(1, stop - start) > 0, keys)
    for window in run[of_run]:
        assert (whole[of_whole] - window).abs().amax(dim=-1).min() < BFLOAT16_TOLERANCE


@torch.no_grad()
def test_the_positions_of_images_are_left_out_and_change_nothing(lively_model):
    """Long and short questions with one and two images in a batch: verdicts as from the whole length."""
    head, seen = lively_model.model.safety_head, []
    inputs = [prompt(words) for words in (range(5, 9), range(5, 90), range(20, 60), [7])]
    length = max(one["input_ids"].shape[1] for one in inputs)
    batch = {
        name: torch.cat([F.pad(one[name], (length - one[name].shape[1], 0)) for one in inputs]) for name in inputs[0]
    }
    batch["input_ids"][0, :BLOCK] = IMAGE  # the longest question fills all that one image leaves
    batch["attention_mask"] = (batch["input_ids"] != 0).long()
    pixels = torch.randn(5, 3, 56, 56)

    def spy(text_embeds, text_mask, keys, max_tokens, feature_mask, rows):
        whole, _, are_windows = SafetyHead.forward(head, text_embeds, text_mask, keys, rows=rows)
        found = SafetyHead.forward(head, text_embeds, text_mask, keys, max_tokens, rows=rows)
        seen.extend([whole[are_windows], found[0][found[2]]])
        assert found[0].shape[1] == max(1, max_tokens) * len(SIZES) < (1 + length) * len(SIZES)
        return found

    head.forward = spy
    verdicts = lively_model.explain(**batch, pixel_values=pixels)
    torch.testing.assert_close(*seen)
    margins = verdicts.question_contributions.sum(dim=1) + verdicts.bias_contributions
    torch.testing.assert_close(margins, verdicts.risk_margin, rtol=0, atol=1e-3)


# --------------------------------------------------------------------------------------------------
# Tiles
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["windows", "mean", "first"])
@pytest.mark.parametrize("rows", [None, [0, 0, 1]], ids=["one picture each", "two pictures in a sample"])
@torch.no_grad()
def test_tiles_are_read_together_and_each_beside_the_whole_picture_without_the_others(pooling, rows):
    head = SafetyHead(head_config(16, categories=SAFE_THIRD, head_pooling=pooling, head_gate_size=8))
    head.apply(init_safety_weights)
    tokens, features, num_tiles = torch.randn(3, 2, 16), torch.randn(3, 4 * 5, 16), [3, 0, 1]
    is_feature = torch.arange(4 * 5) < 5 * (1 + torch.tensor(num_tiles))[:, None]
    rows = torch.tensor([0, 1, 2] if rows is None else rows)
    text, is_token = torch.randn(3, 12, 16), torch.rand(3, 12) > 0.2
    keys, readings = torch.cat([tokens, features], dim=1), readings_of(is_feature, 5)
    *found, is_window = head(text, is_token, keys, feature_mask=readings, rows=rows)
    for image, row in enumerate(rows):
        whole, *tiles = features[image].split(5)[: 1 + num_tiles[image]]
        expected = []
        for read in ([whole, *tiles], *([whole, tile] for tile in tiles)):
            own = torch.cat([tokens[image], *read])[None]
            *alone, of_reading = head(text[row][None], is_token[row][None], own)
            expected.append([logits[of_reading] for logits in alone])
        for logits, of_readings in zip(found, zip(*expected)):
            torch.testing.assert_close(logits[image][is_window[image]], torch.cat(of_readings))


@pytest.mark.parametrize("shape, parts", [((4, 4), 0), ((5, 4), 2), ((9, 8), 6), ((1, 9), 3)])
def test_a_map_that_is_larger_than_the_grid_is_cut_and_nothing_is_lost(shape, parts):
    features = torch.randn(*shape, 2)
    (cut,) = parts_of_large_maps([features], side=4)
    assert len(cut) == parts and all(max(part.shape[:2]) <= 4 for part in cut)
    assert not cut or sum(part.sum() for part in cut).item() == pytest.approx(features.sum().item(), abs=1e-4)


# --------------------------------------------------------------------------------------------------
# The order: action, level, risk; and one condition per sample
# --------------------------------------------------------------------------------------------------


def test_the_strictest_window_is_not_always_the_riskiest():
    """The riskiest window is of a high level that is answered with care, another one of a low level is refused."""
    policy = SafetyPolicy(actions={"privacy": {"low": "refuse", "medium": "refuse", "high": "refuse"}})
    levels = torch.tensor([[[0.0, 0.0, 0.0, 9.0], [0.0, 3.0, 0.0, 0.0]]])
    categories = torch.full((1, 2, 7), -9.0)
    categories[0, 0, 1] = categories[0, 1, 4] = 9.0  # "illegal risk" at the highest level, "privacy" at the lowest
    decision = decide(policy, levels, categories, CONFIG)
    assert decision.risks.argmax() == 0
    assert decision.strictest(torch.ones(1, 2, dtype=torch.bool)).tolist() == [1]
    assert decide(SafetyPolicy(), levels, categories, CONFIG).strictest(torch.ones(1, 2) > 0).tolist() == [0]
    assert decision.strictest(torch.tensor([[True, False]])).tolist() == [0]


def test_level_goes_before_risk():
    levels = torch.tensor([[[0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.5]]])
    categories = torch.zeros(1, 2, 7)
    decision = decide(SafetyPolicy(), levels, categories, CONFIG)
    assert decision.risks[0, 0] > decision.risks[0, 1] > 0.5
    assert decision.strictest(torch.ones(1, 2) > 0).tolist() == [1]


def test_a_mean_says_at_load_that_words_talk_its_verdict_away(tiny_config, tmp_path, caplog):
    from transformers.utils import logging

    from safevlm_hf import SafeLlavaForConditionalGeneration

    logging.enable_propagation()
    for pooling in ("mean", "first", "windows"):
        tiny_config.safety_config.head_pooling = pooling
        SafeLlavaForConditionalGeneration(tiny_config).save_pretrained(tmp_path / pooling)
        caplog.clear()
        SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / pooling)
        assert ("talk its verdict away" in caplog.text) == (pooling != "windows")


def test_long_windows_alone_say_so_at_load_too(tiny_config, tmp_path, caplog):
    from transformers.utils import logging

    from safevlm_hf import SafeLlavaForConditionalGeneration

    logging.enable_propagation()
    for sizes in ([4, 8], [16], [1024]):
        tiny_config.safety_config.head_window_sizes = sizes
        SafeLlavaForConditionalGeneration(tiny_config).save_pretrained(tmp_path / str(sizes[0]))
        caplog.clear()
        SafeLlavaForConditionalGeneration.from_pretrained(tmp_path / str(sizes[0]))
        assert (f"runs of {sizes[0]} tokens" in caplog.text) == (sizes[0] > 4)
