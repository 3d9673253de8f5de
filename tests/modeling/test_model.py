"""The model's forward: losses, what the verdict reads, and what training reaches."""

import pytest
import torch
from support.tiny_backbones import head_config
from torch.nn import functional as F

from safevlm_hf import SafeLlavaConfig, SafeLlavaForConditionalGeneration
from safevlm_hf.modeling.safety_modules import SafetyHead
from safevlm_hf.modeling.safety_policy import condition_text


PAD, BOS, IMAGE = 0, 1, 150
BLOCK = 4 + 16 + 3


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # these models are too small to share


@pytest.fixture
def model(tiny_model):
    """Safety tokens and features on one scale, so that the verdict feels what the question says."""
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.normal_(std=1.0)
        tiny_model.model.safety_tokens.head.normal_(std=1.0)
        for head in (tiny_model.model.safety_head.level_head, tiny_model.model.safety_head.category_head):
            head.weight.normal_(std=1.0)
    return tiny_model


def pictures(count=1, seed=0):
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def prompt(*question, images=1):
    return [BOS, *[IMAGE] * BLOCK * images, *question]


def batch(*rows, side="right"):
    length = max(map(len, rows))
    padded = []
    for row in rows:
        padding = [PAD] * (length - len(row))
        padded.append(row + padding if side == "right" else padding + row)
    ids = torch.tensor(padded)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def verdict(model, **inputs):
    with torch.no_grad():
        outputs = model(**inputs)
    return torch.cat([outputs.safety_level_logits, outputs.safety_category_logits], dim=-1)


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


def training_batch(num_asked=1):
    inputs = {**batch(prompt(5, 6, 7, 8, 11, 12), prompt(9, 10)), "pixel_values": pictures(2)}
    labels = inputs["input_ids"].clone()
    labels[:, : BLOCK + 1 + num_asked] = -100
    labels[labels == PAD] = -100
    return {**inputs, "labels": labels}


def test_loss_is_the_weighted_sum(model):
    inputs = training_batch()
    outputs = model(**inputs, safety_levels=torch.tensor([3, 1]), safety_categories=torch.tensor([1, 2]))
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(outputs.safety_level_logits, torch.tensor([3, 1]))
    expected = expected + cross_entropy(outputs.safety_category_logits, torch.tensor([1, 2]))
    torch.testing.assert_close(outputs.safety_loss, expected)
    torch.testing.assert_close(outputs.loss, outputs.lm_loss + 10 * outputs.safety_loss)
    labels_alone = model(**inputs)
    torch.testing.assert_close(labels_alone.loss, outputs.lm_loss)
    assert outputs.safety_level_logits.dtype == torch.float32


def test_loss_weight(model):
    model.config.safety_config.loss_weight = 2.5
    outputs = model(**training_batch(), safety_levels=torch.tensor([3, 0]))
    torch.testing.assert_close(outputs.loss, outputs.lm_loss + 2.5 * outputs.safety_loss)


def test_safety_labels_without_text_labels(model):
    inputs = {**batch(prompt(5)), "pixel_values": pictures()}
    outputs = model(**inputs, safety_levels=torch.tensor([3]), safety_categories=torch.tensor([1]))
    assert outputs.lm_loss is None
    torch.testing.assert_close(outputs.loss, 10 * outputs.safety_loss)


def test_ignored_labels(model):
    inputs = training_batch()
    some = model(**inputs, safety_levels=torch.tensor([-100, 2]), safety_categories=torch.tensor([1, -100]))
    expected = torch.nn.functional.cross_entropy(some.safety_level_logits[1:], torch.tensor([2]))
    expected = expected + torch.nn.functional.cross_entropy(some.safety_category_logits[:1], torch.tensor([1]))
    torch.testing.assert_close(some.safety_loss, expected)
    none = torch.tensor([-100, -100])
    outputs = model(**inputs, safety_levels=none, safety_categories=none)
    assert outputs.safety_loss == 0 and torch.equal(outputs.loss, outputs.lm_loss)


def test_safety_only_is_the_heads_loss_without_the_language_model(model):
    labels = {"safety_levels": torch.tensor([3, 0]), "safety_categories": torch.tensor([1, 6])}
    whole = model(**training_batch(), **labels)
    (10 * whole.safety_loss).backward()
    expected = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    model.model.language_model.forward = None
    alone = model(**training_batch(), **labels, safety_only=True)
    torch.testing.assert_close(alone.loss, 10 * whole.safety_loss)
    assert torch.equal(alone.safety_category_logits, whole.safety_category_logits)
    alone.loss.backward()
    for name, weight in model.named_parameters():
        if "safety" in name:  # all take part, so that workers can share gradients
            grad = weight.grad if name in expected else weight.grad.abs().max()
            torch.testing.assert_close(grad, expected.get(name, torch.tensor(0.0)))
    with pytest.raises(ValueError, match="pixel_values"):
        model(**batch([BOS, 5, 6]), safety_only=True)


def test_text_alone_has_no_safety_loss(model):
    inputs = batch([BOS, 5, 6, 7], [BOS, 8, 9])
    outputs = model(**inputs, labels=inputs["input_ids"])
    assert outputs.safety_loss is None and outputs.safety_level_logits is None
    assert torch.equal(outputs.loss, outputs.lm_loss)


def test_every_safety_parameter_is_reached(model):
    model.train()
    with torch.no_grad():
        model.model.safety_conditions.weight.normal_()
    model(**training_batch()).loss.backward()
    missing = [name for name, weight in model.model.named_parameters() if "safety" in name and weight.grad is None]
    assert not missing
    model.zero_grad()
    verdicts = {"safety_levels": torch.tensor([3, 0]), "safety_categories": torch.tensor([1, 6])}
    model(**training_batch(num_asked=4), **verdicts).loss.backward()
    table = "safety_conditions.weight"
    idle = [
        name
        for name, weight in model.model.named_parameters()
        if "safety" in name and not name.startswith(table) and not weight.grad.abs().sum() > 0
    ]
    # A key's bias moves all scores of a query alike, which softmax does not see.
    assert set(idle) <= {"safety_head.k_proj.bias"}


def test_given_conditions_are_trained_under(model):
    inputs = training_batch()
    model(**inputs, safety_conditions=torch.tensor([5, 11])).loss.backward()
    grad = model.model.safety_conditions.weight.grad.abs().sum(dim=(1, 2))
    assert grad.nonzero().flatten().tolist() == [5, 11]
    model.zero_grad()
    model(**inputs, safety_conditions=torch.tensor([5, -1])).loss.backward()
    grad = model.model.safety_conditions.weight.grad.abs().sum(dim=(1, 2))
    with torch.no_grad():
        question = model.model.prepare_safety_inputs(
            inputs["input_ids"], None, inputs["attention_mask"], inputs["labels"]
        )
        own = model.model.get_image_features(inputs["pixel_values"], safety_inputs=question).safety_condition_ids
    assert grad.nonzero().flatten().tolist() == sorted({5, own[1].item()})


# --------------------------------------------------------------------------------------------------
# What the verdict reads
# --------------------------------------------------------------------------------------------------


def test_verdict_reads_question_and_picture(model):
    inputs = {**batch(prompt(5, 6)), "pixel_values": pictures()}
    first = verdict(model, **inputs)
    assert not torch.allclose(first, verdict(model, **batch(prompt(5, 9)), pixel_values=pictures()), atol=1e-3)
    assert not torch.allclose(first, verdict(model, **batch(prompt(5, 6)), pixel_values=pictures(seed=1)), atol=1e-3)


def test_answer_does_not_reach_the_verdict(model):
    def under(*answer):
        inputs = batch(prompt(5, 6, *answer))
        labels = inputs["input_ids"].clone()
        labels[:, : len(prompt(5, 6))] = -100
        return verdict(model, **inputs, labels=labels, pixel_values=pictures())

    assert torch.equal(under(11, 12), under(21, 22))
    torch.testing.assert_close(under(11, 12), verdict(model, **batch(prompt(5, 6)), pixel_values=pictures()))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_reach_the_verdict(model, side):
    rows = [prompt(5, 6), prompt(7, 8, 9, 10, 11), [BOS, 20, 21], prompt(12, images=2)]
    images = pictures(4)
    together = verdict(model, **batch(*rows, side=side), pixel_values=images)
    alone = [
        verdict(model, **batch(rows[row]), pixel_values=images[start:stop])
        for row, start, stop in ((0, 0, 1), (1, 1, 2), (3, 2, 4))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_images_of_a_batch_do_not_mix(model):
    rows = [prompt(5), prompt(6)]
    first = verdict(model, **batch(*rows), pixel_values=pictures(2))
    other = pictures(2)
    other[1] = pictures(seed=7)[0]
    second = verdict(model, **batch(*rows), pixel_values=other)
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=1e-5)
    assert not torch.allclose(first[1], second[1], atol=1e-3)


def pooled(model, pooling):
    model.config.safety_config.head_pooling = model.model.safety_head.pooling = pooling
    return model


def test_first_pooling_reads_the_first_text_token_alone(model):
    model = pooled(model, "first")
    given = {"pixel_values": pictures()}
    first = verdict(model, **batch(prompt(5, 6)), **given)
    torch.testing.assert_close(verdict(model, **batch(prompt(8, 9, 10)), **given), first)
    other = batch([7, *prompt(5, 6)[1:]])
    assert not torch.allclose(verdict(model, **other, **given), first, atol=1e-3)
    left = batch(prompt(5, 6), prompt(5, 6, 7, 8), side="left")
    both = verdict(model, **left, pixel_values=pictures().repeat(2, 1, 1, 1))
    torch.testing.assert_close(both, first.repeat(2, 1), rtol=0, atol=1e-4)


def test_many_pictures_hold_their_question_once_at_a_time(model):
    """Or a long question under sixteen small pictures would take gigabytes."""
    held = []
    model.model.safety_head.q_proj.register_forward_pre_hook(lambda _, args: held.append(len(args[0])))
    given = {**batch(prompt(5, 6, 7, 8, 9, images=3)), "pixel_values": pictures(3)}
    apart = verdict(model, **given)
    assert held == [1, 1, 1]
    outputs = model(**given)
    together = torch.cat([outputs.safety_level_logits, outputs.safety_category_logits], dim=-1)
    assert held[3:] == [3]
    torch.testing.assert_close(apart, together.detach(), rtol=0, atol=1e-4)


def test_mean_pooling_reads_all_text_in_any_order(model):
    given, model = {"pixel_values": pictures()}, pooled(model, "mean")
    torch.testing.assert_close(
        verdict(model, **batch(prompt(5, 6, 7)), **given), verdict(model, **batch(prompt(7, 5, 6)), **given)
    )


@pytest.mark.parametrize("pooling", ["first", "mean", "windows"])
def test_image_without_text_gets_a_verdict(model, pooling):
    logits = verdict(pooled(model, pooling), input_ids=torch.tensor([[IMAGE] * BLOCK]), pixel_values=pictures())
    assert torch.isfinite(logits).all()
    features = model.model.get_image_features(pictures())
    expected = torch.cat([features.safety_level_logits, features.safety_category_logits], dim=-1)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("pooling", ["mean", "windows"])
def test_head_equals_attention_written_out(pooling):
    of_head = {"head_pooling": pooling, "head_window_sizes": [4, 8], "head_gate_size": 0}
    head = SafetyHead(head_config(16, **of_head)).double()
    text, keys = torch.randn(1, 3, 16).double(), torch.randn(1, 5, 16).double()
    level, _, _ = head(text, torch.tensor([[True, False, True]]), keys)
    query, key, value = head.q_proj(text), head.k_proj(keys), head.v_proj(keys)
    attended = torch.zeros(1, 3, 16).double()
    for part in range(4):
        cut = slice(4 * part, 4 * part + 4)
        weights = (query[..., cut] @ key[..., cut].mT / 2).softmax(-1)
        attended[..., cut] = weights @ value[..., cut]
    expected = head.level_head(head.out_proj(attended[:, [0, 2]].mean(dim=1)))
    torch.testing.assert_close(level[:, 0], expected.float())


def test_a_clean_image_is_held_to_safe_in_its_worst_windows(model):
    """And a risky one in its strictest alone."""
    inputs = {**batch(prompt(*range(5, 40))), "pixel_values": pictures()}
    of_windows = []
    model.model.safety_head.register_forward_hook(lambda head, args, output: of_windows.append(output))
    features = model.model.get_image_features(
        pictures(), safety_inputs=model.model.prepare_safety_inputs(inputs["input_ids"])
    )
    level, category = features.safety_level_logits, features.safety_category_logits
    clean = {"safety_levels": torch.tensor([0]), "safety_categories": torch.tensor([6])}
    strictest = F.cross_entropy(level, clean["safety_levels"]) + F.cross_entropy(category, clean["safety_categories"])
    found = model(**inputs, **clean, safety_only=True).safety_loss
    torch.testing.assert_close(found, (strictest + features.safety_clean_losses.sum()) / 2)
    *logits, is_window = of_windows[0]
    for part, safe, loss in zip(logits, (0, 6), features.safety_clean_losses[0]):
        losses = -part[is_window].log_softmax(dim=-1)[:, safe]
        assert len(losses) > 60
        torch.testing.assert_close(loss, losses.sort().values[-16:].mean())
    risky = {"safety_levels": torch.tensor([3]), "safety_categories": torch.tensor([1])}
    strictest = F.cross_entropy(level, risky["safety_levels"]) + F.cross_entropy(category, risky["safety_categories"])
    torch.testing.assert_close(model(**inputs, **risky, safety_only=True).safety_loss, strictest)


def test_a_margin_makes_clean_samples_cost_more_and_leaves_verdicts(model):
    inputs = {**batch(prompt(*range(5, 40))), "pixel_values": pictures()}
    clean = {"safety_levels": torch.tensor([0]), "safety_categories": torch.tensor([6])}
    risky = {"safety_levels": torch.tensor([3]), "safety_categories": torch.tensor([1])}
    before = [model(**inputs, **labels, safety_only=True) for labels in (clean, risky)]
    model.config.safety_config.safe_margin = 2.0
    after = [model(**inputs, **labels, safety_only=True) for labels in (clean, risky)]
    assert after[0].safety_loss > before[0].safety_loss and after[1].safety_loss < before[1].safety_loss
    torch.testing.assert_close(after[0].safety_level_logits, before[0].safety_level_logits)
    level = before[1].safety_level_logits - torch.tensor([2.0, 0, 0, 0])
    category = before[1].safety_category_logits - 2 * F.one_hot(torch.tensor(6), 7)
    expected = F.cross_entropy(level, risky["safety_levels"]) + F.cross_entropy(category, risky["safety_categories"])
    torch.testing.assert_close(after[1].safety_loss, expected)


# --------------------------------------------------------------------------------------------------
# The block
# --------------------------------------------------------------------------------------------------


def test_block_is_tokens_patches_condition(model):
    features = model.model.get_image_features(pictures(2))
    for image, block in enumerate(features.pooler_output):
        condition = model.model.safety_conditions.weight[features.safety_condition_ids[image]]
        expected = torch.cat([model.model.safety_tokens.block, features.image_features[image], condition])
        assert torch.equal(block, expected)


def test_condition_reaches_the_logits(model):
    inputs = {**batch(prompt(5, 6)), "pixel_values": pictures()}
    logits = [model(**inputs, safety_conditions=torch.tensor([row])).logits for row in (0, 4)]
    assert torch.equal(logits[0][:, 1 : BLOCK - 2], logits[1][:, 1 : BLOCK - 2])  # the block's end comes later
    assert not torch.allclose(logits[0][:, -1], logits[1][:, -1], atol=1e-5)


def test_block_of_the_paper(tiny_config):
    values = tiny_config.to_dict()
    values["safety_config"]["num_condition_tokens"] = 0
    model = SafeLlavaForConditionalGeneration(SafeLlavaConfig(**values)).eval()
    assert model.model.safety_conditions is None
    assert not any("safety_conditions" in name for name in model.state_dict())
    (block,) = model.model.get_image_features(pictures()).pooler_output
    assert len(block) == 4 + 16
    inputs = {"input_ids": torch.tensor([[BOS, *[IMAGE] * 20, 5]]), "pixel_values": pictures()}
    outputs = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    assert outputs.safety_level_logits.shape == (1, 4)
    model.initialize_from_embeddings(None)  # nothing to start


def test_forward_in_two_steps_equals_one(model):
    inputs = {**batch(prompt(5, 6, 7)), "pixel_values": pictures()}
    first, last = inputs["input_ids"].split([BLOCK + 2, 2], dim=1)
    with torch.no_grad():
        conditions = model.assess(**inputs).safety_condition_ids
        whole = model(**inputs).logits[:, -1]
        cache = model(input_ids=first, pixel_values=pictures(), safety_conditions=conditions).past_key_values
        steps = model(input_ids=last, past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-4)


def test_image_sizes_are_refused(model):
    with pytest.raises(ValueError, match="image_sizes"):
        model.model.get_image_features(pictures(), image_sizes=torch.tensor([[56, 56]]))


class Words:
    """A tokenizer that gives each character an id."""

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": [3 + ord(letter) % 100 for letter in text]}


def test_conditions_start_as_embeddings_of_their_texts(model):
    model.initialize_from_embeddings(Words())
    embeddings, table = model.get_input_embeddings().weight, model.model.safety_conditions.weight
    for row in range(model.config.safety_config.num_conditions):
        text = condition_text(row, model.config.safety_config)
        ids = Words()(text, add_special_tokens=False)["input_ids"][:3]
        assert torch.equal(table[row], embeddings[ids])
    assert table.requires_grad


def test_short_condition_texts_are_repeated(tiny_config):
    values = tiny_config.to_dict()
    values["safety_config"]["num_condition_tokens"] = 80
    model = SafeLlavaForConditionalGeneration(SafeLlavaConfig(**values))
    model.initialize_from_embeddings(Words())
    safe = condition_text(0, model.config.safety_config)
    table = model.model.safety_conditions.weight
    assert torch.equal(table[0, len(safe) :][:5], table[0, :5])


# --------------------------------------------------------------------------------------------------
# Graphs
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_forward_compiles_to_one_graph(model):
    inputs = {**batch(prompt(5, 6), prompt(7, 8, 9)), "pixel_values": pictures(2)}
    with torch.no_grad():
        expected = model(**inputs)
        compiled = torch.compile(model, fullgraph=True, backend="eager")(**inputs)
    torch.testing.assert_close(compiled.logits, expected.logits)
    torch.testing.assert_close(compiled.safety_level_logits, expected.safety_level_logits)


@pytest.mark.ci
def test_forward_exports(model):
    inputs = {**batch(prompt(5, 6)), "pixel_values": pictures(), "use_cache": False, "return_dict": True}
    with torch.no_grad():
        exported = torch.export.export(model, (), kwargs=inputs, strict=False).module()
        torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits)


# --------------------------------------------------------------------------------------------------
# New categories
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("names", [["gambling"], ["a", "b", "c"]], ids=len)
def test_new_categories_keep_every_old_logit(model, dtype, images, names):
    model = model.to(dtype)
    inputs = {**batch(*[prompt(5, 6)] * images), "pixel_values": pictures(images).to(dtype)}
    before = model(**inputs)
    table, policy = model.model.safety_conditions.weight.clone(), {"thresholds": {"privacy": 0.5}}
    model.generation_config.safety_policy = policy
    model.extend_categories(names)
    after = model(**inputs)
    assert model.config.safety_config.categories[-len(names) :] == names
    assert torch.equal(after.safety_category_logits[:, :7], before.safety_category_logits)
    assert torch.equal(after.safety_level_logits, before.safety_level_logits)
    assert (after.safety_category_logits[:, 7:] == -10).all()
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(model.model.safety_conditions.weight[: len(table)], table)
    for level in range(3):  # a new condition starts as the others at its level
        new = model.model.safety_conditions.weight[len(table) + level]
        assert torch.allclose(new.float(), table[1 + level :: 3].float().mean(dim=0), atol=1e-2)


def test_extended_model_survives_saving(model, tmp_path):
    model.extend_categories(["gambling"])
    with torch.no_grad():
        model.model.safety_head.category_head.bias[7] = 50.0
        model.model.safety_head.level_head.bias[3] = 50.0
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    inputs = {**batch(prompt(5, 6)), "pixel_values": pictures()}
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.assess(**inputs).safety_condition_ids.tolist() == [loaded.config.safety_config.num_conditions - 1]


BAD_NAMES = {
    "a list of new names": [],
    "new names, got 'gambling'": "gambling",
    r"\['privacy'\] are categories of this model already": ["fraud", "privacy"],
    r"\['a'\] would be there twice": ["a", "a"],
    "non-empty": [" "],
}


@pytest.mark.parametrize("said", BAD_NAMES)
def test_bad_names_change_nothing(model, said):
    names = BAD_NAMES[said]
    head = model.model.safety_head.category_head.weight
    with pytest.raises(ValueError, match=said):
        model.extend_categories(names)
    assert model.model.safety_head.category_head.weight is head
    assert len(model.config.safety_config.categories) == 7


def test_extension_of_the_papers_block(tiny_config):
    tiny_config.safety_config.num_condition_tokens = 0
    model = SafeLlavaForConditionalGeneration(tiny_config)
    model.extend_categories(["gambling"])
    assert model.model.safety_head.category_head.weight.shape[0] == 8
