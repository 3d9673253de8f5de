"""What the language model learns to answer: conversations about pictures, questions in plain text, and prose."""

import multiprocessing
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from safevlm_hf.data import riskcards
from safevlm_hf.data.riskcards.drawing import draw_picture, draw_two_cards
from safevlm_hf.data.riskcards.operator_prompts import draw_operator_prompt
from safevlm_hf.data.riskcards.questions import ask, ask_about_two
from safevlm_hf.data.riskcards.surroundings import add_words, converse, surround, talk, type_differently

from . import IGNORE_INDEX, IMAGE_SIZE


CHUNK = 500
PAPERS = riskcards.PRIVATE_PAPERS + riskcards.PUBLIC_PAPERS
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>")
VOCABULARY_SIZE = 2400
LONGEST = 520


@dataclass(frozen=True)
class Sample:
    """Text in pieces, each with whether it is learned, and the cards that its `<image>`s stand for."""

    pieces: list[tuple[str, bool]]
    cards: tuple[int, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A sample as (length,) ids and labels, with as many ids for each picture as the model has features of it."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    cards: tuple[int, ...]
    is_prose: bool


def draw_cards(num_cards: int, seed: int, num_workers: int) -> tuple[torch.Tensor, list[riskcards.Picture]]:
    """Pixels (cards, 3, 112, 112) uint8 of training pictures, and what they show. Independent of `num_workers`."""
    starts = range(0, num_cards, CHUNK)
    chunks = [(min(CHUNK, num_cards - start), seed, start) for start in starts]
    with multiprocessing.Pool(num_workers) as pool:
        drawn = pool.starmap(_draw_chunk, chunks, chunksize=1)
    pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in drawn]))
    return pixels, [shown for _, chunk in drawn for shown in chunk]


def _draw_chunk(count: int, seed: int, start: int) -> tuple[np.ndarray, list[riskcards.Picture]]:
    rng = random.Random(f"cards {seed} {start}")
    pixels, shown = np.empty((count, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8), []
    for row in range(count):
        picture = draw_any(rng)
        small = picture.image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        pixels[row] = np.asarray(small).transpose(2, 0, 1)
        shown.append(replace(picture, image=None))
    return pixels, shown


def draw_any(rng: random.Random) -> riskcards.Picture:
    """A training picture of a topic that questions are asked about; now and then of two cards."""
    tables = (PAPERS, riskcards.RISKY_TOPICS, riskcards.CLEAN_TOPICS)
    topic = rng.choice(rng.choices(tables, (22, 43, 35))[0])
    if rng.random() >= 0.06:
        return draw_picture(topic, "train", rng)
    beside = rng.choice(riskcards.PUBLIC_PAPERS if topic.has_fields else riskcards.CLEAN_TOPICS)
    return draw_two_cards(topic, beside, "train", rng)


# --------------------------------------------------------------------------------------------------
# Samples
# --------------------------------------------------------------------------------------------------


def draw_samples(cards: list[riskcards.Picture], num_samples: int, seed: int) -> list[Sample]:
    """Of a hundred samples about 71 are conversations about a card, 3 about two, 14 plain text, and 12 prose.

    A base answers every last question about a picture, whatever stands around it, and refuses in plain text alone.
    """
    rng = random.Random(f"samples {seed}")
    papers, others = ([n for n, card in enumerate(cards) if _is_alone(card, fields)] for fields in (True, False))
    samples = []
    for _ in range(num_samples):
        kind = rng.choices(("card", "two", "text", "prose"), (71, 3, 14, 12))[0]
        if kind == "card":
            number = rng.randrange(len(cards))
            samples.append(Sample(_about_card(cards[number], rng), (number,)))
        elif kind == "two":
            pair = tuple(rng.sample(papers if rng.random() < 0.2 else others, 2))
            samples.append(Sample(_about_two([cards[number] for number in pair], rng), pair))
        elif kind == "text":
            samples.append(Sample(_plain_text(rng)))
        else:
            samples.append(Sample([(" ".join(riskcards.draw_fillers(rng.randint(2, 7), "train", rng)), True)]))
    return samples


def _is_alone(card: riskcards.Picture, has_fields: bool) -> bool:
    return not card.has_two_cards and card.topic.has_fields == has_fields


def _choose_kind(card: riskcards.Picture, rng: random.Random) -> str:
    if card.topic.has_fields:
        looks = () if card.has_two_cards else riskcards.LOOK_KINDS
        return rng.choice((*riskcards.FIELD_KINDS, "read", *looks))
    if card.has_two_cards:
        return rng.choices(riskcards.CONTENT_KINDS, (70, 30))[0]
    return rng.choices(riskcards.CONTENT_KINDS + riskcards.LOOK_KINDS, (42, 18, 14, 8, 18))[0]


def _about_card(card: riskcards.Picture, rng: random.Random) -> list[tuple[str, bool]]:
    """Either the surroundings that training has later, with the last answer to learn, or turns that all are answered:
    a picture costs as much as the text, so several questions about it teach more."""
    if rng.random() < 0.45:
        turn = ask(card, _choose_kind(card, rng), "train", rng)
        conversation = surround(turn, card, "mixed", "train", rng)
        return render(conversation.messages, conversation.last.complying_answer, learns_all=False)
    turns = []
    for _ in range(rng.choices((1, 2, 3, 4), (4, 3, 2, 1))[0]):
        turns.append(talk("train", rng) if turns and rng.random() < 0.08 else _varied_turn(card, rng))
    prompt = draw_operator_prompt(rng.randint(5, 60), "train", rng) if rng.random() < 0.15 else None
    conversation = converse(turns, 1, prompt, [turn.complying_answer for turn in turns[:-1]])
    return render(conversation.messages, turns[-1].complying_answer, learns_all=True)


def _varied_turn(card: riskcards.Picture, rng: random.Random):
    turn = ask(card, _choose_kind(card, rng), "train", rng)
    if rng.random() < 0.35:
        turn = add_words(turn, rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 6)), "train", rng)
    return type_differently(turn, "train", rng) if rng.random() < 0.12 else turn


def _about_two(pictures: list[riskcards.Picture], rng: random.Random) -> list[tuple[str, bool]]:
    kinds = (*riskcards.FIELD_KINDS, "read")
    if not pictures[0].topic.has_fields:
        kinds = riskcards.CONTENT_KINDS + riskcards.LOOK_KINDS
    turn = ask_about_two(pictures, rng.choice(kinds), "train", rng)
    if rng.random() < 0.3:
        turn = add_words(turn, rng.randint(1, 4), "train", rng)
    return render(converse([turn], 2).messages, turn.complying_answer, learns_all=False)


def _plain_text(rng: random.Random) -> list[tuple[str, bool]]:
    sample = riskcards.text_only_samples(1, seed=rng.randrange(10**9))[0]
    words = [sample.question]
    if rng.random() < 0.15:
        words.insert(rng.randrange(2), " ".join(riskcards.draw_fillers(rng.randint(1, 3), "train", rng)))
    messages = [{"role": "user", "content": [{"type": "text", "text": " ".join(words)}]}]
    if rng.random() < 0.12:
        prompt = draw_operator_prompt(rng.randint(5, 60), "train", rng)
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt}]})
    return render(messages, sample.answer, learns_all=False)


def render(messages: list[dict], answer: str, learns_all: bool) -> list[tuple[str, bool]]:
    """The chat template's text in pieces: prompts, and answers, of which the last or all are learned."""
    pieces, prompt = [], ""
    for message in messages:
        text = [part["text"] for part in message["content"] if part["type"] == "text"]
        if message["role"] == "assistant":
            pieces += [(prompt + "ASSISTANT:", False), ("".join(f" {part}" for part in text) + "</s>", learns_all)]
            prompt = ""
            continue
        prompt += "USER: " if message["role"] == "user" else ""
        prompt += "<image>\n" * sum(part["type"] == "image" for part in message["content"])
        prompt += "".join(f"{part} " for part in text)
    return [*pieces, (prompt + "ASSISTANT:", False), (f" {answer}</s>", True)]


# --------------------------------------------------------------------------------------------------
# Tokens
# --------------------------------------------------------------------------------------------------


def build_tokenizer(samples: list[Sample]) -> PreTrainedTokenizerFast:
    """A byte-level BPE, learned from the samples, the training prose and Python's help; like Llama's it puts `<s>`
    first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(samples), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def _corpus(samples: list[Sample]):
    from pydoc_data.topics import topics

    for sample in samples:
        yield "".join(text for text, _ in sample.pieces).replace("</s>", " ").replace("<image>", "")
    yield from 3 * riskcards.prose_sentences("train")
    for text in topics.values():
        yield from text.splitlines()


def encode(
    tokenizer: PreTrainedTokenizerFast, samples: list[Sample], image_ids: Callable[[int], list[int]]
) -> list[Encoded]:
    """The samples as ids and labels; those of more than `LONGEST` ids are left out.

    Args:
        image_ids: a card's number to the ids that stand for its picture.
    """
    texts = [text for sample in samples for text, _ in sample.pieces]
    all_ids = iter(tokenizer(texts, add_special_tokens=False).input_ids)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    encoded = []
    for sample in samples:
        ids, labels, cards = [tokenizer.bos_token_id], [IGNORE_INDEX], iter(sample.cards)
        for _, is_learned in sample.pieces:
            for token in next(all_ids):
                shown = image_ids(next(cards)) if token == image_id else [token]
                ids += shown
                labels += shown if is_learned else [IGNORE_INDEX] * len(shown)
        if len(ids) <= LONGEST:
            is_prose = len(sample.pieces) == 1
            encoded.append(Encoded(torch.tensor(ids), torch.tensor(labels), sample.cards, is_prose))
    return encoded
