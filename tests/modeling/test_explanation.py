"""`model.explain`: exact parts of the verdict's margin, by position of the image and by token of the question."""

import pytest
import torch
from support.tiny_backbones import head_config
from torch.nn import functional as F

from safevlm_hf.modeling.safety_explanation import SafetyExplanation, explain_head
from safevlm_hf.modeling.safety_modules import SafetyHead, init_safety_weights
from safevlm_hf.modeling.safety_outputs import SafetyImageOutput


PAD, BOS, IMAGE = 0, 1, 150
BLOCK = 4 + 16 + 3
FIELDS = [name for name in SafetyExplanation.__dataclass_fields__ if not name.startswith("safety_policy")]


@pytest.fixture
def model(tiny_model):
    """Safety tokens, features and heads on one scale, with biases, so that every part of a verdict shows."""
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.normal_(std=1.0)
        tiny_model.model.safety_tokens.head.normal_(std=1.0)
        _liven(tiny_model.model.safety_head)
    return tiny_model


def _liven(head: SafetyHead) -> SafetyHead:
    with torch.no_grad():
        for name, weight in head.named_parameters():
            if name.endswith("bias") or "head" in name:
                weight.normal_()
    return head


def config_of(pooling, safe_category=6):
    categories = [f"category {place}" for place in range(7)]
    categories[safe_category] = "safe"
    sizes = {"head_window_sizes": [4, 8], "head_gate_size": 0, "projector_grid_size": 3}
    return head_config(32, head_pooling=pooling, categories=categories, **sizes)


def make_head(config):
    head = SafetyHead(config)
    head.apply(init_safety_weights)
    return _liven(head).eval()


def pictures(count=1, seed=0):
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def prompt(*question, images=1):
    return [BOS, *[IMAGE] * BLOCK * images, *question]


def batch(*rows, images=None):
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + list(row) for row in rows])
    count = len(rows) if images is None else images
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": pictures(count)}


def parts(explanation):
    return explanation.image_contributions.sum(dim=(1, 2)) + explanation.safety_token_contributions


# --------------------------------------------------------------------------------------------------
# The head
# --------------------------------------------------------------------------------------------------


def former_forward(head, text_embeds, text_mask, keys):
    """The head as it was trained and published: its logits are for ever."""
    text_embeds = F.pad(text_embeds, (0, 0, 1, 0))
    text_mask = torch.cat([~text_mask.any(dim=1, keepdim=True), text_mask], dim=1)
    if head.pooling == "first":
        first = text_mask.to(torch.int8).argmax(dim=1)
        text_embeds = text_embeds[torch.arange(len(first)), first][:, None]
        text_mask = text_mask.new_ones(len(first), 1)
    query, key, value = (
        states.unflatten(-1, (head.num_heads, -1)).transpose(1, 2)
        for states in (head.q_proj(text_embeds.to(keys.dtype)), head.k_proj(keys), head.v_proj(keys))
    )
    attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    weights = (text_mask / text_mask.sum(dim=1, keepdim=True)).to(attended.dtype)
    pooled = head.out_proj(torch.einsum("nt,nth->nh", weights, attended))
    return head.level_head(pooled).float(), head.category_head(pooled).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_head_is_bit_identical(pooling, dtype):
    head = make_head(config_of(pooling)).to(dtype)
    text, keys = torch.randn(5, 9, 32), torch.randn(5, 20, 32, dtype=dtype)
    mask = torch.rand(5, 9) > 0.4
    mask[0] = False
    with torch.no_grad():
        for logits, expected in zip(head(text, mask, keys), former_forward(head, text, mask, keys)):
            assert torch.equal(logits[:, 0], expected)


@pytest.mark.parametrize(
    "pooling, expected", [("first", [0, 0, 1, 0]), ("mean", [0, 0, 0.5, 0.5]), ("windows", [0, 0, 0.5, 0.5])]
)
def test_pooling_weights(pooling, expected):
    mask = torch.tensor([[False, True, True], [False, False, False]])
    weights = make_head(config_of(pooling)).pooling_weights(mask, torch.zeros(2, dtype=torch.long))
    assert weights.tolist() == [expected, [1, 0, 0, 0]]


def test_pooling_weights_of_a_window_skip_what_is_no_question():
    mask = torch.tensor([[True, False, True, True, False, True, True, True]])
    head = make_head(config_of("windows"))
    (weights,) = head.pooling_weights(mask, torch.tensor([2])).tolist()
    assert weights == [0, 0, 0, 0.25, 0.25, 0, 0.25, 0.25, 0]  # four tokens from the second one on
    (weights,) = head.pooling_weights(torch.ones(1, 8) > 0, torch.tensor([1])).tolist()
    assert weights == [0] + [0.125] * 8


@pytest.mark.parametrize("pooling", ["windows", "mean"])
@pytest.mark.parametrize("safe_category", [0, 3, 6])
def test_every_part_by_hand(safe_category, pooling):
    """Against a loop over heads, tokens and keys in double precision."""
    config = config_of(pooling, safe_category)
    head = make_head(config).double()
    text, mask = torch.randn(1, 3, 32).double(), torch.tensor([[True, False, True]])
    tokens, features = torch.randn(2, 32).double(), torch.randn(1, 9, 32).double()
    keys = torch.cat([tokens, features[0]])
    with torch.no_grad():
        levels, categories, _ = head(text, mask, keys[None])
        levels, categories = levels[:, 0], categories[:, 0]
        encoded = SafetyImageOutput(
            safety_features=features,
            safety_window_ids=torch.zeros(1, dtype=torch.long),
            safety_level_logits=levels,
            safety_category_logits=categories,
        )
        found = explain_head(head, text, mask, tokens, encoded, config)
        level = 1 + levels[0, 1:].argmax()
        category = max((one for one in range(7) if one != safe_category), key=lambda one: categories[0, one])
        direction = head.level_head.weight[level] - head.level_head.weight[0]
        direction = direction + head.category_head.weight[category] - head.category_head.weight[safe_category]
        by_key = torch.zeros(len(keys), 32, dtype=torch.double)
        attended = torch.zeros(len(keys), dtype=torch.double)
        for one in range(4):
            of_head = slice(8 * one, 8 * one + 8)
            for row in (0, 2):
                scores = head.k_proj(keys)[:, of_head] @ head.q_proj(text[0, row])[of_head] / 8**0.5
                attention = scores.softmax(dim=0)
                values = keys @ head.v_proj.weight[of_head].T
                by_key += 0.5 * attention[:, None] * (values @ head.out_proj.weight[:, of_head].T)
                attended += attention / 8
        energy = by_key[2:].square().sum(dim=-1)
        margin = levels[0, level] - levels[0, 0] + categories[0, category] - categories[0, safe_category]

    def check(name, expected):
        torch.testing.assert_close(found[name].flatten().double(), expected, rtol=1e-4, atol=1e-5)

    check("map", energy / energy.sum())
    check("image_attention", attended[2:] / attended[2:].sum())
    check("safety_token_attention", attended[:2].sum()[None])
    check("image_contributions", by_key[2:] @ direction)
    check("safety_token_contributions", (by_key[:2] @ direction).sum()[None])
    check("risk_margin", margin.double()[None])


# --------------------------------------------------------------------------------------------------
# The model
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["windows", "mean", "first"])
def test_parts_sum_to_the_margin(model, pooling):
    model.model.safety_head.pooling = pooling
    inputs = batch(prompt(5, 6, 7, 8, *range(20, 60)), prompt(9, 10))
    found = model.explain(**inputs)
    levels, categories = found.safety_level_logits, found.safety_category_logits
    margin = levels[:, 1:].amax(dim=1) - levels[:, 0] + categories[:, :6].amax(dim=1) - categories[:, 6]
    torch.testing.assert_close(found.risk_margin, margin)
    torch.testing.assert_close(parts(found) + found.bias_contributions, margin, rtol=0, atol=1e-4)
    by_token = found.question_contributions.sum(dim=1)
    torch.testing.assert_close(by_token + found.bias_contributions, margin, rtol=0, atol=1e-4)


def test_shapes_and_sums(model):
    inputs = batch(prompt(5, 6, 7, 8), prompt(9, 10))
    found = model.explain(**inputs)
    length = inputs["input_ids"].shape[1]
    for name in ("map", "image_attention"):
        shares = getattr(found, name)
        assert shares.shape == (2, 4, 4) and shares.dtype == torch.float32 and (shares >= 0).all()
        torch.testing.assert_close(shares.sum(dim=(1, 2)), torch.ones(2))
    assert ((found.safety_token_attention > 0) & (found.safety_token_attention < 1)).all()
    question = (inputs["input_ids"] != PAD) & (inputs["input_ids"] != IMAGE)
    assert found.question_weights.shape == found.question_contributions.shape == (2, length)
    # Five tokens have two windows of four, three tokens are a short one.
    assert (found.question_weights > 0).sum(dim=1).tolist() == [4, 3] and not found.question_weights[~question].any()
    assert torch.equal(found.question_contributions != 0, found.question_weights > 0)
    torch.testing.assert_close(found.question_weights.sum(dim=1), torch.ones(2))


def test_the_words_that_decided_are_those_that_decide_alone(model):
    """The window that is shown, asked by itself, gives the same logits."""
    ids = torch.randint(5, 140, (1, 60))
    inputs = {**batch(prompt(*ids[0].tolist())), "question_mask": torch.tensor([[0] * (1 + BLOCK) + [1] * 60])}
    found = model.explain(**inputs)
    decided = inputs["input_ids"][found.question_weights > 0].tolist()
    alone = {**batch([IMAGE] * BLOCK + decided), "pixel_values": inputs["pixel_values"]}
    assert len(decided) in (4, 8, 16, 32)
    torch.testing.assert_close(model.assess(**alone).safety_level_logits, found.safety_level_logits)


def test_first_reads_one_token(model):
    model.model.safety_head.pooling = "first"
    inputs = batch(prompt(5, 6, 7, 8), prompt(9, 10))
    weights = model.explain(**inputs).question_weights
    assert torch.equal(weights, (inputs["input_ids"] == BOS).float())


def test_other_rows_and_padding_do_not_matter(model):
    together = batch(prompt(5, 6, 7, 8, 9, 11), prompt(9, 10))
    alone = {**batch(prompt(9, 10)), "pixel_values": together["pixel_values"][1:]}
    first, second = model.explain(**together), model.explain(**alone)
    for name in (name for name in FIELDS if name != "safety_image_rows"):
        expected, found = getattr(second, name)[0], getattr(first, name)[1]
        found = found[4:] if name.startswith("question") else found
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_each_image_of_a_sample_has_its_own(model):
    inputs = batch(prompt(5, 6, images=2), prompt(9, 10), images=3)
    found = model.explain(**inputs)
    assert found.safety_image_rows.tolist() == [0, 0, 1] and found.map.shape == (3, 4, 4)
    assert not torch.allclose(found.map[0], found.map[1])
    torch.testing.assert_close(parts(found) + found.bias_contributions, found.risk_margin, rtol=0, atol=1e-4)


def test_an_image_without_text(model):
    found = model.explain(input_ids=torch.tensor([[IMAGE] * BLOCK]), pixel_values=pictures())
    assert not found.question_weights.any() and not found.question_contributions.any()
    torch.testing.assert_close(found.map.sum(), torch.tensor(1.0))
    torch.testing.assert_close(parts(found) + found.bias_contributions, found.risk_margin, rtol=0, atol=1e-4)


def test_the_verdict_is_that_of_assess(model):
    model.generation_config.safety_policy = {"temperatures": {"level": 3.0}}
    inputs = batch(prompt(5, 6, 7), prompt(9, 10))
    policy = {"thresholds": {"*": 0.01}}
    found, assessed = (function(**inputs, safety_policy=policy) for function in (model.explain, model.assess))
    assert assessed.keys() - found.keys() == {"safety_window_logits", "safety_is_window"}
    for name in assessed.keys() & found.keys():
        value, expected = found[name], assessed[name]
        assert torch.equal(value, expected) if isinstance(expected, torch.Tensor) else value == expected


def test_verdicts_by_name(nano_model, nano_processor):
    text = nano_processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
        add_generation_prompt=True,
    )
    pixels = torch.zeros(3, 112, 112, dtype=torch.uint8)
    inputs = nano_processor(text=[text], images=[pixels], return_tensors="pt")
    explained, assessed = nano_model.explain(**inputs), nano_model.assess(**inputs)
    assert nano_processor.post_process_safety(explained) == nano_processor.post_process_safety(assessed)
    assert explained.map.shape == (1, 8, 8)


def test_it_runs_once_and_without_the_language_model(model):
    calls = []
    model.model.language_model.register_forward_hook(lambda *_: calls.append("language model"))
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append("tower"))
    found = model.explain(**batch(prompt(5, 6)))
    assert calls == ["tower"] and not found.map.requires_grad


def test_embeddings_in_place_of_ids(model):
    inputs = batch(prompt(5, 6, 7))
    expected = model.explain(**inputs)
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(model.explain(**inputs).map, expected.map)


def test_lower_precision(model):
    inputs = batch(prompt(5, 6, 7))
    expected = model.explain(**inputs).map
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    found = model.bfloat16().explain(**inputs)
    assert found.map.dtype == torch.float32
    torch.testing.assert_close(found.map, expected, rtol=0, atol=0.05)


def test_without_an_image(model):
    with pytest.raises(ValueError, match="need `pixel_values`"):
        model.explain(input_ids=torch.tensor([[BOS, 5, 6]]))
