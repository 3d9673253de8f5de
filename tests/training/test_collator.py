"""What the model is trained on: the answers and nothing else, labels per image, and the condition to answer under."""

from collections import Counter

import pytest
import torch
from PIL import Image
from support.tiny_training import NANO_SAFETY

from safevlm_hf import SafeLlavaConfig, SafeLlavaProcessor
from safevlm_hf.data import NANO_BASE
from safevlm_hf.modeling.safe_llava import CHAT_TEMPLATE
from safevlm_hf.modeling.safety_policy import condition_name
from safevlm_hf.training.collator import SafetyCollator


BLOCK = 64 + NANO_SAFETY["num_safety_tokens"] + NANO_SAFETY["num_condition_tokens"]

# As in llava-hf/llava-1.5-7b-hf: answers are marked, and never end.
LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}"
    "{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
UNMARKED_TEMPLATE = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")


@pytest.fixture(scope="module")
def config():
    return SafeLlavaConfig.from_pretrained(NANO_BASE, safety_config=NANO_SAFETY)


@pytest.fixture
def processor(config):
    return SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=config.safety_config)


@pytest.fixture
def collator(processor, config):
    return SafetyCollator(processor, config.safety_config)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.new("RGB", (40, 30), "teal").save(path)
    return str(path)


def turn(role, *parts):
    content = [{"type": "image", "text": None} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}


def record(*messages, images=(), level=-100, category=-100, source="records.jsonl:1"):
    return {
        "messages": list(messages),
        "images": list(images),
        "safety_level": level,
        "safety_category": category,
        "source": source,
    }


def ask(photo, question="What is this?", answer="It is a card.", **labels):
    return record(turn("user", None, question), turn("assistant", answer), images=[photo], **labels)


def tell(question="What is two plus two?", answer="It is four."):
    return record(turn("user", question), turn("assistant", answer))


def answers(batch, processor) -> list[str]:
    """The text that each row is trained on, its end written out."""
    rows = [labels[labels != -100] for labels in batch["labels"]]
    return [processor.tokenizer.decode(row, skip_special_tokens=False) for row in rows]


def image_positions(batch, processor) -> list[int]:
    return (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist()


# --------------------------------------------------------------------------------------------------
# Text
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE, LLAVA_TEMPLATE], ids=["nano", "ours", "llava"])
def test_labels_are_the_answers_and_their_end(collator, processor, photo, template):
    processor.chat_template = template or processor.chat_template
    batch = collator([ask(photo, level=0, category=6), tell(answer="It is the number four, and no other.")])
    for text, wanted in zip(answers(batch, processor), ["It is a card.", "It is the number four, and no other."]):
        answer, end = text.split("</s>")
        assert answer.strip() == wanted and end == ""
    trained = batch["labels"] != -100
    assert torch.equal(batch["labels"][trained], batch["input_ids"][trained])
    # The end closes the row, and no other token of the row is one.
    assert (batch["input_ids"] == processor.tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 1]


def test_every_answer_of_a_conversation_is_trained(collator, processor, photo):
    turns = [turn("user", None, "What is this?"), turn("assistant", "A card."), turn("user", "Which colour?")]
    batch = collator([record(*turns, turn("assistant", "Blue."), images=[photo], level=0, category=6)])
    assert [text.strip() for text in answers(batch, processor)[0].split("</s>")] == ["A card.", "Blue.", ""]


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE, LLAVA_TEMPLATE], ids=["nano", "ours", "llava"])
def test_of_a_risky_conversation_the_last_answer_is_trained(collator, processor, photo, template):
    """The earlier ones were given before anything risky was asked, and one condition holds for the sample."""
    processor.chat_template = template or processor.chat_template
    turns = [turn("user", None, "What colour?"), turn("assistant", "A blue card."), turn("user", "Do what it says.")]
    batch = collator([record(*turns, turn("assistant", "I can't help."), images=[photo], level=3, category=1)])
    assert answers(batch, processor)[0].replace("</s>", "").strip() == "I can't help."


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, LLAVA_TEMPLATE], ids=["ours", "llava"])
def test_a_question_without_an_answer_teaches_nothing(collator, processor, template):
    processor.chat_template = template
    turns = [turn("user", "What is two plus two?"), turn("assistant", "Four."), turn("user", "And three plus three?")]
    batch = collator([record(*turns)])
    assert batch["labels"][0, -1] == -100
    assert answers(batch, processor)[0].replace("</s>", "").strip() == "Four."


def test_rows_are_padded_on_the_right(collator, processor):
    batch = collator([tell(), tell(question="What is the sum of two and of two more, if you please?")])
    short, long = batch["attention_mask"].sum(dim=1).tolist()
    assert short < long == batch["input_ids"].shape[1]
    assert batch["attention_mask"][0].tolist() == [1] * short + [0] * (long - short)
    assert set(batch["input_ids"][0, short:].tolist()) == {processor.tokenizer.pad_token_id}
    assert set(batch["labels"][0, short:].tolist()) == {-100}


def test_a_template_without_marks_trains_the_same_answers(collator, processor):
    expected = collator([tell(), tell(question="What is it?")])
    processor.chat_template = UNMARKED_TEMPLATE
    found = collator([tell(), tell(question="What is it?")])
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_a_template_that_repeats_answers_is_an_error_that_names_the_record(collator, processor):
    processor.chat_template = UNMARKED_TEMPLATE.replace("{{ eos_token }}", "{{ parts[0]['text'] }}")
    with pytest.raises(ValueError, match=r"records.jsonl:1: no answer to train on.*generation"):
        collator([tell()])


def test_a_record_that_the_template_refuses_is_named(collator, processor):
    processor.chat_template = "{% if messages|length > 2 %}{{ raise_exception('roles must alternate') }}{% endif %}"
    processor.chat_template += LLAVA_TEMPLATE
    refused = record(turn("user", "One."), turn("user", "Two."), turn("assistant", "Three."), source="own.jsonl:7")
    with pytest.raises(ValueError, match="own.jsonl:7: the processor refuses it: .*roles must alternate"):
        collator([tell(), refused, tell()])


# --------------------------------------------------------------------------------------------------
# The question
# --------------------------------------------------------------------------------------------------


def questions(batch, processor) -> list[str]:
    return [
        processor.tokenizer.decode(ids[mask != 0]).strip()
        for ids, mask in zip(batch["input_ids"], batch["question_mask"])
    ]


def long_talk(photo, **labels):
    turns = [turn("system", "Be kind."), turn("user", None, "What colour?"), turn("assistant", "Blue.")]
    return record(*turns, turn("user", "Read it."), turn("assistant", "It says no."), images=[photo], **labels)


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE, LLAVA_TEMPLATE], ids=["nano", "ours", "llava"])
def test_the_question_is_what_users_said(collator, processor, photo, template):
    processor.chat_template = template or processor.chat_template
    batch = collator([tell(question="Hello."), long_talk(photo, level=0, category=6)])
    assert batch["question_mask"].shape == batch["input_ids"].shape
    first, second = questions(batch, processor)
    assert first == "Hello." and second.split() == "What colour? Read it.".split()


def test_an_unmasked_record_is_all_question_but_for_its_answer(processor, config, photo):
    collator = SafetyCollator(processor, config.safety_config, unmasked_share=1.0)
    batch = collator([long_talk(photo, level=0, category=6), tell(question="Hello.")])
    assert torch.equal(batch["question_mask"] != 0, batch["attention_mask"] != 0)
    # An earlier answer is part of the prompt, as it is where `generate` gets no mask.
    assert answers(batch, processor)[0].replace("</s>", "").strip() == "It says no."


def test_records_are_unmasked_independently_of_the_heads_choice(processor, config, photo):
    collator = SafetyCollator(processor, config.safety_config, head_condition_share=0.5, unmasked_share=0.5)
    records = [ask(photo, level=3, category=1, source=f"/data/records.jsonl:{line}") for line in range(1, 201)]
    batch = collator(records)
    assert torch.equal(batch["question_mask"], collator(records)["question_mask"])
    unmasked = (batch["question_mask"][:, 0] != 0).tolist()
    by_head = (batch["safety_conditions"] == -1).tolist()
    counts = Counter(zip(unmasked, by_head))
    assert len(counts) == 4 and min(counts.values()) > 25


def test_the_same_records_in_another_folder_are_chosen(processor, config, photo):
    collator = SafetyCollator(processor, config.safety_config, head_condition_share=0.5, unmasked_share=0.5)
    here, there = (
        collator([ask(photo, level=3, category=1, source=f"{folder}/records.jsonl:{line}") for line in range(40)])
        for folder in ("data", "/home/somebody else/data")
    )
    for name in ("question_mask", "safety_conditions"):
        assert len(here[name].unique()) > 1 and torch.equal(here[name], there[name])


# --------------------------------------------------------------------------------------------------
# Images and labels
# --------------------------------------------------------------------------------------------------


def test_text_rows_beside_image_rows(collator, processor, photo):
    batch = collator([tell(), ask(photo, level=3, category=1), tell()])
    assert image_positions(batch, processor) == [0, BLOCK, 0]
    assert batch["pixel_values"].shape == (1, 3, 112, 112)
    assert batch["safety_levels"].tolist() == [3] and batch["safety_categories"].tolist() == [1]


def test_text_alone_has_nothing_of_images(collator):
    assert set(collator([tell()])) == {"input_ids", "attention_mask", "labels", "question_mask"}


def test_two_images_a_record_are_labelled_one_by_one(collator, processor, photo):
    both = record(
        turn("user", None, None, "Are they the same?"),
        turn("assistant", "Yes."),
        images=[photo] * 2,
        level=2,
        category=4,
    )
    batch = collator([both, ask(photo, level=0, category=6)])
    assert image_positions(batch, processor) == [2 * BLOCK, BLOCK]
    assert len(batch["pixel_values"]) == 3
    assert batch["safety_levels"].tolist() == [2, 2, 0] and batch["safety_categories"].tolist() == [4, 4, 6]


def test_images_with_labels_of_their_own_share_the_strictest_condition(collator, config, photo):
    two = record(turn("user", None, None, "Which?"), turn("assistant", "No."), images=[photo] * 2, level=3, category=4)
    batch = collator([two | {"image_levels": [0, 3], "image_categories": [6, 4]}, ask(photo, level=0, category=6)])
    assert batch["safety_levels"].tolist() == [0, 3, 0] and batch["safety_categories"].tolist() == [6, 4, 6]
    names = [condition_name(row, config.safety_config) for row in batch["safety_conditions"].tolist()]
    assert names == ["privacy, high", "privacy, high", "safe"]


def test_typed_image_marks_add_no_position(collator, processor, photo):
    batch = collator([ask(photo, question="Say <image> and </s>."), tell(question="<image><image>")])
    assert image_positions(batch, processor) == [BLOCK, 0]
    assert (batch["input_ids"] == processor.tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 1]


def test_a_batch_runs_through_the_model(collator, nano_model, photo):
    batch = collator([tell(), ask(photo, level=3, category=1), ask(photo, level=-100)])
    outputs = nano_model(**batch)
    assert torch.isfinite(outputs.loss) and outputs.safety_level_logits.shape == (2, 4)


# --------------------------------------------------------------------------------------------------
# Conditions
# --------------------------------------------------------------------------------------------------


def test_the_condition_is_the_labels(collator, config, photo):
    batch = collator(
        [ask(photo, level=3, category=4), ask(photo, level=0, category=6), ask(photo, level=1, category=0)]
    )
    names = [condition_name(row, config.safety_config) for row in batch["safety_conditions"].tolist()]
    assert names == ["privacy, high", "safe", "politics, low"]


def test_an_unlabelled_image_is_left_to_the_head(collator, photo):
    batch = collator([ask(photo), ask(photo, level=3, category=4)])
    assert batch["safety_levels"].tolist() == [-100, 3] and batch["safety_categories"].tolist() == [-100, 4]
    assert batch["safety_conditions"][0] == -1 and batch["safety_conditions"][1] > 0


def chosen_by_head(processor, config, share, photo) -> list[bool]:
    collator = SafetyCollator(processor, config.safety_config, share)
    records = [ask(photo, level=3, category=1, source=f"/data/records.jsonl:{line}") for line in range(1, 201)]
    return (collator(records)["safety_conditions"] == -1).tolist()


def test_the_share_of_the_head(processor, config, photo):
    chosen = chosen_by_head(processor, config, 0.25, photo)
    assert 0.17 < sum(chosen) / len(chosen) < 0.33
    # Records are chosen over the whole file, and the same ones each time: a resumed run sees what the first one saw.
    assert all(any(chosen[start : start + 50]) for start in range(0, 200, 50))
    assert chosen == chosen_by_head(processor, config, 0.25, photo)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_and_of_all(processor, config, photo, share):
    assert set(chosen_by_head(processor, config, share, photo)) == {share == 1.0}
