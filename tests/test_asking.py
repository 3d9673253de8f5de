"""What all callers share when they ask a model: pictures in their places, inputs, batches, halves, verdicts."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from safevlm_hf.asking import (
    PromptTooLong,
    ask_or_halve,
    ask_records,
    assess_records,
    check_room,
    encode,
    encode_prompts,
    generate,
    in_batches,
    place_images,
)
from safevlm_hf.data import NANO_BASE


COLOURS = ("red", "lime", "blue")


def says(role, *parts):
    texts = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": texts}


@pytest.fixture
def pictures(tmp_path):
    for colour in COLOURS:
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    return [str(tmp_path / f"{colour}.png") for colour in COLOURS]


# --------------------------------------------------------------------------------------------------
# Inputs
# --------------------------------------------------------------------------------------------------


def test_each_picture_is_in_its_place(pictures):
    messages = [says("user", None, "One?", None), says("assistant", "Two."), says("user", "And?", None)]
    placed = place_images(messages, pictures)
    assert [message["role"] for message in placed] == ["user", "assistant", "user"]
    seen = [
        part["image"].getpixel((4, 4)) if part["type"] == "image" else part["text"]
        for message in placed
        for part in message["content"]
    ]
    assert seen == [(255, 0, 0), "One?", (0, 255, 0), "Two.", "And?", (0, 0, 255)]
    assert "image" not in messages[0]["content"][0]  # the caller's own are left as they were


@pytest.mark.parametrize("kind", [AutoProcessor, AutoTokenizer])
def test_prompts_are_padded_on_the_left_whatever_is_set(kind):
    processor = kind.from_pretrained(NANO_BASE)
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.padding_side = "right"  # as a training run may leave it
    tokenizer.chat_template = "{% for message in messages %}{{ 'USER: ' + message['content'] }}{% endfor %}ASSISTANT:"
    texts = ("What is it?", "What is it, and what does it say?")
    contents = [[{"type": "text", "text": text}] if kind is AutoProcessor else text for text in texts]
    chats = [[{"role": "user", "content": content}] for content in contents]
    inputs = encode(processor, chats)
    assert inputs["attention_mask"].tolist()[0][0] == 0 and inputs["attention_mask"][:, -1].tolist() == [1, 1]
    assert all("ASSISTANT:" in prompt[-15:] for prompt in tokenizer.batch_decode(inputs["input_ids"]))


def test_one_prompt_needs_no_token_to_pad_with():
    """The base beside the page may have none."""
    processor = AutoProcessor.from_pretrained(NANO_BASE)
    processor.tokenizer.pad_token = None
    assert encode(processor, [[says("user", "What is it?")]])["attention_mask"].all()


def test_a_prompt_ends_before_the_records_last_answer(nano_processor, riskcards):
    record = list(riskcards)[0]
    later = [*record["messages"], says("user", "And the colour?"), says("assistant", "It is blue.")]
    (said,) = nano_processor.batch_decode(encode_prompts(nano_processor, [{**record, "messages": later}])["input_ids"])
    assert "And the colour?" in said and "It is blue." not in said
    assert record["messages"][1]["content"][0]["text"] in said


def test_the_mask_of_the_users_words_can_be_left_out(nano_processor, riskcards):
    records = list(riskcards)[:2]
    with_mask = encode_prompts(nano_processor, records)
    without = encode_prompts(nano_processor, records, question_mask=False)
    assert "question_mask" in with_mask and {*with_mask} - {*without} <= {"question_mask", "question_ids"}
    assert "question_mask" not in without and without["input_ids"].equal(with_mask["input_ids"])


def test_what_the_context_does_not_hold_says_how_long_it_is(nano_model, nano_processor):
    inputs = encode(nano_processor, [[says("user", text)] for text in ("Hi.", "What is it? " * 20)])
    longest = int(inputs["attention_mask"].sum(dim=1).max())
    most = nano_model.config.get_text_config().max_position_embeddings
    check_room(nano_model, inputs, most - longest)
    with pytest.raises(PromptTooLong, match=f"has {longest} tokens.*of {most} has room for {longest - 1} before"):
        check_room(nano_model, inputs, most - longest + 1)


# --------------------------------------------------------------------------------------------------
# Answers and verdicts
# --------------------------------------------------------------------------------------------------


def test_answers_come_with_the_verdicts_of_their_own_pictures(nano_model, nano_processor, pictures):
    chats = [place_images([says("user", *[None] * number, "What is it?")], pictures[:number]) for number in (1, 0, 3)]
    inputs = encode(nano_processor, chats)
    model = nano_model.to(torch.bfloat16)
    texts, verdicts = generate(model, nano_processor, inputs, max_new_tokens=3, do_sample=False)
    assert len(texts) == 3 and [len(row) for row in verdicts] == [1, 0, 3]
    assert [[verdict.sample for verdict in row] for row in verdicts] == [[0], [], [2, 2, 2]]
    assert inputs["pixel_values"].dtype == torch.float32  # what the caller holds is not rounded


def test_a_stock_model_answers_without_verdicts(pictures):
    model, processor = AutoModelForImageTextToText.from_pretrained(NANO_BASE), AutoProcessor.from_pretrained(NANO_BASE)
    inputs = encode(processor, [place_images([says("user", None, "What is it?")], pictures)])
    texts, verdicts = generate(model, processor, inputs, max_new_tokens=8, do_sample=False)
    assert texts[0].strip() and "What is it?" not in texts[0] and verdicts == [[]]


# --------------------------------------------------------------------------------------------------
# Batches
# --------------------------------------------------------------------------------------------------


def test_batches_are_of_like_length_and_the_longest_come_first():
    words = ["bb", "a", "dddd", "ee", "ffffff"]
    found = list(in_batches(lambda batch: [word.upper() for word in batch], words, 2, len))
    assert found == [([4, 2], ["FFFFFF", "DDDD"]), ([0, 3], ["BB", "EE"]), ([1], ["A"])]


def bounded(most, sizes):
    """Asks, and runs out of memory above so many samples."""

    def ask(batch):
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * sample for sample in batch]

    return ask


def test_what_does_not_fit_is_asked_in_halves():
    sizes = []
    assert ask_or_halve(bounded(2, sizes), [1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    assert sizes == [5, 2, 3, 1, 2]


def test_what_does_not_fit_alone_is_left_to_the_caller_or_an_error():
    def ask(batch):
        if 3 in batch:
            raise PromptTooLong("it is too long")
        return batch

    assert ask_or_halve(ask, [1, 2, 3, 4], lambda sample, error: f"{sample}: {error}") == [
        1,
        2,
        "3: it is too long",
        4,
    ]
    with pytest.raises(PromptTooLong, match="it is too long"):
        ask_or_halve(ask, [1, 2, 3, 4])
    with pytest.raises(torch.OutOfMemoryError):
        ask_or_halve(bounded(0, []), [1])


def test_one_of_several_processes_does_not_halve(monkeypatch):
    """The others would wait for ever."""
    sizes = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(torch.OutOfMemoryError):
        ask_or_halve(bounded(1, sizes), [1, 2])
    assert sizes == [2]


def test_other_errors_are_not_asked_again():
    def ask(batch):
        raise ValueError(f"{len(batch)} samples")

    with pytest.raises(ValueError, match="4 samples"):
        ask_or_halve(ask, [1, 2, 3, 4])


def record(name, num_images, *texts):
    return {"name": name, "images": ["a.png"] * num_images, "messages": [says("user", *[None] * num_images, *texts)]}


@pytest.mark.parametrize("is_training", [True, False])
def test_records_are_asked_longest_first_and_come_back_in_their_order(is_training):
    model = torch.nn.Dropout().train(is_training)
    records = [record("a", 1, "x"), record("b", 0, "x" * 99), record("c", 2, "x"), record("d", 1, "xxx")]
    asked = []

    def ask(batch):
        assert not model.training
        asked.append("".join(one["name"] for one in batch))
        return [one["name"].upper() for one in batch]

    assert ask_records(ask, model, iter(records), 3, "asking", progress=False) == ["A", "B", "C", "D"]
    assert asked == ["cda", "b"] and model.training is is_training  # pictures count first

    def fail(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_records(fail, model, records, 3, "asking", progress=False)
    assert model.training is is_training


def test_halves_give_the_same_verdicts(nano_model, nano_processor, riskcards):
    records = list(riskcards)[:4]

    def assess(batch):
        outputs = assess_records(nano_model, nano_processor, batch)
        return [verdict.risk for verdict in nano_processor.post_process_safety(outputs)]

    def assess_two(batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return assess(batch)

    whole, halved = (ask_records(ask, nano_model, records, 4, "", progress=False) for ask in (assess, assess_two))
    assert halved == pytest.approx(whole, abs=1e-5)
