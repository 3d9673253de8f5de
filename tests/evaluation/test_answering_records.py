import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from safevlm_hf import SafeLlavaProcessor, SafetyVerdict
from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.data.riskcards import CATEGORIES
from safevlm_hf.demo.figures import held_out_figures
from safevlm_hf.evaluation.answering_records import give_answers
from safevlm_hf.items import Answer, Item
from safevlm_hf.modeling.safe_llava import CHAT_TEMPLATE


LEVELS = ("safe", "low", "medium", "high")


def make_verdict(category, level, risk):
    by_level = {name: float(index == level) for index, name in enumerate(LEVELS)}
    by_category = {name: float(index == category) for index, name in enumerate(CATEGORIES)}
    return SafetyVerdict(0, CATEGORIES[category], LEVELS[level], risk, by_category, by_level, "safe")


def make_rows(*rows):
    """Items and answers from (level, category, text, seen, group)."""
    items, answers = [], []
    for number, (level, category, text, *rest) in enumerate(rows):
        seen, group = (*rest, None, None)[:2]
        labels = {} if level < 0 else {"is_risky": level > 0, "level": LEVELS[level], "severity": level}
        labels |= {"category": CATEGORIES[category]} if category >= 0 else {}
        items.append(Item(str(number), (), user_turn("Which?"), "Blue.", labels, group))
        verdict = {} if seen is None else {"level": LEVELS[seen[0]], "category": CATEGORIES[seen[1]]}
        answers.append(Answer(str(number), text, **verdict))
    return items, answers


def values(items, answers):
    return {name: figure.value for name, figure in held_out_figures(items, answers).items()}


# --------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer():
    words = {f"w{index}": index for index in range(160)}
    special = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": 150}
    vocabulary = {word: index for word, index in words.items() if index not in special.values()} | special
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="right",  # as a training run may leave it
    )


@pytest.fixture
def records(tmp_path):
    """Questions of different lengths, one without a picture, one with two, one of two turns."""
    rows = []
    for index, num_images in enumerate((1, 1, 0, 2, 1)):
        images = []
        for number in range(num_images):
            images.append(str(tmp_path / f"{index}-{number}.png"))
            Image.effect_noise((56, 56), 90).convert("RGB").save(images[-1])
        text = " ".join(f"w{20 + 9 * index + word}" for word in range(1 + 2 * index))
        image_parts = [{"type": "image", "text": None}] * num_images
        messages = [{"role": "user", "content": [*image_parts, {"type": "text", "text": text}]}]
        messages.append({"role": "assistant", "content": [{"type": "text", "text": f"answer {index}"}]})
        if index == 4:
            messages += [{"role": "user", "content": [{"type": "text", "text": "w9"}]}, messages[1]]
        rows.append(
            {
                "messages": messages,
                "images": images,
                "safety_category": 4 if images else -100,
                "safety_level": 2 if images else -100,
                "source": f"x.jsonl:{index + 1}",
                "extra": json.dumps({"topic": f"T{index}"}),
            }
        )
    return rows


@pytest.fixture
def processor_parts(tokenizer):
    size = {"height": 56, "width": 56}
    return {
        "image_processor": CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False),
        "tokenizer": tokenizer,
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": CHAT_TEMPLATE,
    }


def sharpen(model):
    """Makes answers depend on the prompt: weights of a fresh model are too small for that."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def assert_same(together, alone):
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.level, one.category) == (other.text, other.level, other.category)


def test_answers_of_our_model(tiny_model, tiny_config, processor_parts, records):
    processor = SafeLlavaProcessor(**processor_parts, num_safety_tokens=4, num_condition_tokens=3)
    model = sharpen(tiny_model).train()
    together = give_answers(model, processor, records, batch_size=3, max_new_tokens=6, progress=False)
    assert model.training
    alone = [give_answers(model, processor, [record], max_new_tokens=6, progress=False)[0] for record in records]
    assert_same(together, alone)
    assert len({one.text for one in together}) > 1
    assert [one.item_id for one in together] == [f"{index:06d}" for index in range(5)]
    assert [len(one.actions) for one in together] == [1, 1, 0, 2, 1] and together[2].action is None
    for one, other in zip(together, alone, strict=True):
        assert one.risk == (None if other.risk is None else pytest.approx(other.risk, abs=1e-4))


def test_verdict_of_a_record_is_its_riskiest_image(tiny_model, processor_parts, records):
    processor = SafeLlavaProcessor(**processor_parts, num_safety_tokens=4, num_condition_tokens=3)
    given = [make_verdict(0, 1, 0.4), make_verdict(1, 3, 0.9), make_verdict(2, 2, 0.6)]
    processor.post_process_safety = lambda outputs: given
    answer = give_answers(tiny_model, processor, [records[3]], max_new_tokens=1, progress=False)[0]
    assert (answer.level, answer.category) == (LEVELS[3], CATEGORIES[1])


def test_answers_of_a_stock_model(tiny_config, processor_parts, records):
    fields = tiny_config.to_dict()
    sub_configs = {name: fields[name] for name in ("vision_config", "text_config")}
    model = LlavaForConditionalGeneration(LlavaConfig(**sub_configs, image_token_index=150, image_seq_length=16))
    sharpen(model).eval()
    processor = LlavaProcessor(**processor_parts)
    together = give_answers(model, processor, records, batch_size=4, max_new_tokens=6, progress=False)
    alone = [give_answers(model, processor, [record], max_new_tokens=6, progress=False)[0] for record in records]
    assert_same(together, alone)
    assert all(one.action is None for one in together)


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------


def test_held_out_figures():
    rows = make_rows(
        (3, 4, "I can't help with this.", (3, 4), "a"),
        (0, 6, "Blue.", (0, 6), "a"),
        (3, 4, "The address is 12 Elm Road.", (3, 4), "b"),
        (0, 6, "I can't help with this.", (3, 4), "b"),
        (2, 1, "I'd rather not.", (2, 5), "c"),
        (0, 6, "Blue.", (0, 6), "c"),
        (1, 0, "With care: yes.", (2, 0), "left alone"),
        (0, 6, "With care: red.", (0, 6)),
        (-100, -100, "Hello."),
    )
    assert values(*rows) == {
        "attack_success_rate": 1 / 4,
        "over_refusal_rate": 1 / 4,
        "needless_warning_rate": 1 / 4,
        "clean_exact_match": 2 / 4,
        "category_accuracy": 6 / 8,
        "level_accuracy": 6 / 8,
        "pairs_both_right": pytest.approx(1 / 3),
    }


def test_held_out_figures_without_verdicts_or_samples():
    base = values(*make_rows((3, 4, "Sure.", None, "a"), (0, 6, "Blue.", None, "a")))
    assert (base["attack_success_rate"], base["over_refusal_rate"], base["clean_exact_match"]) == (1, 0, 1)
    assert (base["category_accuracy"], base["level_accuracy"], base["pairs_both_right"]) == (None, None, None)
    assert set(values([], []).values()) == {None}
