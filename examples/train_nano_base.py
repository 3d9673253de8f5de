"""Trains the nano base: a LLaVA of stock transformers classes with under three million parameters, on RiskCards.

It is the embedded stand-in for `llava-hf/llava-1.5-7b-hf`, and shows the premise of SafeVLM (arXiv 2405.13581): it
refuses a harmful request that comes as text, and answers the same request when it comes through the picture.

    OMP_NUM_THREADS=1 python examples/train_nano_base.py --output_dir nano_base

makes the shipped weights (docs/design.md): from scratch, on one core of a CPU.
"""

import argparse
import json
import math
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)


# Imported on its own, not through the package: this script needs no more of transformers than stock LLaVA.
sys.path.append(str(Path(__file__).resolve().parents[1] / "src" / "safevlm_hf" / "data"))
import riskcards  # noqa: E402


IMAGE_SIZE = 112
PATCH_SIZE = 14
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
IGNORE_INDEX = -100
CHUNK = 1000
TOPIC_IDS = {topic.text: index for index, topic in enumerate(riskcards.TOPICS)}

# LLaVA-1.5's template, with the end of the answer marked and its tokens kept together with the space before it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string "
    "else message['content'] %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ 'ASSISTANT:' }}"
    "{% generation %}{% for part in parts %}{{ ' ' + part['text'] }}{% endfor %}{{ '</s>' }}{% endgeneration %}"
    "{% else %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}{% endif %}"
    "{% for part in parts if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_samples", type=int, default=30_000, help="with a picture; a third more is text")
    parser.add_argument("--num_test_samples", type=int, default=400)
    parser.add_argument("--max_steps", type=int, default=1400)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--num_workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument(
        "--tower_steps", type=int, default=400, help="steps for the vision tower alone, before the others"
    )
    parser.add_argument("--tower_learning_rate", type=float, default=1e-3)
    return parser.parse_args(argv)


# --------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------


def draw_chunk(arguments: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Pictures (num_samples, 112, 112, 3) uint8, what their patches show (num_samples, 64), and (question, complying
    answer) of each."""
    num_samples, seed = arguments
    pictures = np.empty((num_samples, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    topics = np.full((num_samples, IMAGE_SIZE // PATCH_SIZE, IMAGE_SIZE // PATCH_SIZE), IGNORE_INDEX)
    texts = []
    for index, card in enumerate(riskcards.draw_riskcards("train", num_samples, seed=seed)):
        pictures[index] = card.image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        left, top, right, bottom = (
            side * IMAGE_SIZE / riskcards.IMAGE_SIZE / PATCH_SIZE for side in card.pictogram_region
        )
        rows = slice(round(top), max(1, math.ceil(bottom - 0.3)))
        columns = slice(round(left), max(1, math.ceil(right - 0.3)))
        topics[index, rows, columns] = TOPIC_IDS[card.topic]
        texts.append((card.question, card.complying_answer))
    return pictures, topics.reshape(num_samples, NUM_PATCHES), texts


def draw_pictures(num_samples: int, seed: int, num_workers: int):
    """All pictures (num_samples, 3, 112, 112) uint8, their patches' topics (num_samples, 64), and their questions and
    answers. Independent of `num_workers`."""
    starts = range(0, num_samples, CHUNK)
    chunks = [(min(CHUNK, num_samples - start), seed * 1_000_000 + start // CHUNK) for start in starts]
    with multiprocessing.Pool(num_workers) as pool:
        drawn = pool.map(draw_chunk, chunks, chunksize=1)
    pictures = (
        torch.from_numpy(np.concatenate([pictures for pictures, _, _ in drawn])).permute(0, 3, 1, 2).contiguous()
    )
    topics = torch.from_numpy(np.concatenate([topics for _, topics, _ in drawn]))
    return pictures, topics, [text for _, _, texts in drawn for text in texts]


def build_tokenizer(texts: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about a thousand tokens; like Llama's it puts `<s>` first."""
    special_tokens = ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"USER: {question} ASSISTANT: {answer}" for question, answer in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", special_tokens.index("<s>"))]
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


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the tower's CLS, which "default" drops
        chat_template=CHAT_TEMPLATE,
    )


def build_messages(question: str, has_image: bool, answer: str | None = None) -> list[dict]:
    content = [{"type": "image"}] * has_image + [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def render(processor: LlavaProcessor, question: str, has_image: bool, answer: str) -> tuple[str, str]:
    """Prompt and answer as text, with one `<image>` for every patch."""
    prompt = processor.apply_chat_template(build_messages(question, has_image), add_generation_prompt=True)
    chat = processor.apply_chat_template(build_messages(question, has_image, answer))
    return prompt.replace("<image>", "<image>" * NUM_PATCHES), chat.removeprefix(prompt)


def encode(processor: LlavaProcessor, texts: list[tuple[str, str]], num_pictures: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `labels` (samples, length), right-padded. The first `num_pictures` samples have an image.

    Only the answer and `</s>` are labels.
    """
    tokenizer = processor.tokenizer
    chats = [(question, index < num_pictures, answer) for index, (question, answer) in enumerate(texts)]
    # The same few thousand chats come again and again with other pictures.
    rows = {chat: row for row, chat in enumerate(dict.fromkeys(chats))}
    rendered = [render(processor, *chat) for chat in rows]
    all_ids = tokenizer([prompt + answer for prompt, answer in rendered]).input_ids
    starts = [len(ids) for ids in tokenizer([prompt for prompt, _ in rendered]).input_ids]
    length = max(map(len, all_ids))
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), IGNORE_INDEX)
    for row, (ids, start) in enumerate(zip(all_ids, starts, strict=True)):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, start : len(ids)] = input_ids[row, start : len(ids)]
    order = torch.tensor([rows[chat] for chat in chats])
    return {"input_ids": input_ids[order], "labels": labels[order]}


# --------------------------------------------------------------------------------------------------
# Model and training
# --------------------------------------------------------------------------------------------------


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    token_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision_config = CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=128,
    )
    text_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **token_ids,
    )
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=NUM_PATCHES,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(**token_ids, do_sample=False, max_new_tokens=32)
    return model


def augment(pictures: torch.Tensor, image_processor: CLIPImageProcessor) -> torch.Tensor:
    """Normalised pixel values (images, 3, 112, 112), each with its own contrast and brightness."""
    shape = (len(pictures), 1, 1, 1)
    pixels = pictures.float() / 255
    contrast = torch.empty(shape, device=pixels.device).uniform_(0.8, 1.2)
    brightness = torch.empty(shape, device=pixels.device).uniform_(-0.1, 0.1)
    pixels = ((pixels - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
    mean = torch.tensor(image_processor.image_mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(image_processor.image_std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def learning_rate_at(progress: float, peak: float) -> float:
    """Linear warm-up in the first twentieth, then a cosine to a hundredth of the peak; progress is 0 to 1."""
    return peak * min(1.0, 0.01 + 20 * progress) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def build_optimizer(modules, learning_rate: float) -> torch.optim.Optimizer:
    parameters = [weight for module in modules for weight in module.parameters()]
    decayed = [weight for weight in parameters if weight.ndim > 1]
    others = [weight for weight in parameters if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def take_step(optimizer, loss: torch.Tensor, learning_rate: float) -> None:
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


def tower_loss(model, name_topic, pixel_values: torch.Tensor, topics: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the topic, named from each patch of the pictogram.

    CLIP's patches tell what is in a picture, for CLIP has learned from captions. A tower that learned from answers
    alone leaves that to the language model, and a safety head on its features would have nothing to read.
    """
    hidden_states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    features = hidden_states[model.config.vision_feature_layer][:, 1:]
    logits = name_topic(torch.nn.functional.layer_norm(features, features.shape[-1:]))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), topics.flatten(), ignore_index=IGNORE_INDEX)


def train_tower(model, name_topic, processor, pictures: torch.Tensor, topics: torch.Tensor, args) -> None:
    """The vision tower alone, on what its patches show."""
    optimizer = build_optimizer([model.model.vision_tower, name_topic], args.tower_learning_rate)
    for step in range(args.tower_steps):
        rows = torch.randint(len(pictures), (args.batch_size,), device=pictures.device)
        pixel_values = augment(pictures[rows], processor.image_processor)
        loss = tower_loss(model, name_topic, pixel_values, topics[rows])
        take_step(optimizer, loss, learning_rate_at(step / args.tower_steps, args.tower_learning_rate))
        if (step + 1) % 100 == 0:
            print(f"tower step {step + 1}  loss {loss.item():.4f}", flush=True)


def train(model, name_topic, processor, pictures, topics, encoded: dict[str, torch.Tensor], args, device: str) -> None:
    """The whole model, on its answers and on what its patches show."""
    input_ids, labels = (encoded[name].to(device) for name in ("input_ids", "labels"))
    optimizer = build_optimizer([model, name_topic], args.learning_rate)
    start = time.time()
    for step in range(1, args.max_steps + 1):
        rows = torch.randint(len(input_ids), (args.batch_size,), device=device)
        rows = rows.sort().values  # samples with an image come first, in the order of their pictures
        ids, seen = input_ids[rows], rows[rows < len(pictures)]
        used = int((ids != processor.tokenizer.pad_token_id).sum(dim=1).max())
        ids = ids[:, :used]
        pixel_values = augment(pictures[seen], processor.image_processor)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            lm_loss = model(
                input_ids=ids,
                attention_mask=(ids != processor.tokenizer.pad_token_id).long(),
                pixel_values=pixel_values,
                labels=labels[rows, :used],
            ).loss
            patch_loss = tower_loss(model, name_topic, pixel_values, topics[seen])
        learning_rate = learning_rate_at((step - 1) / args.max_steps, args.learning_rate)
        take_step(optimizer, lm_loss + patch_loss, learning_rate)
        if step % 100 == 0 or step <= 3:
            minutes = (time.time() - start) / 60
            print(
                f"step {step}  loss {lm_loss.item():.4f}  patches {patch_loss.item():.4f}  minutes {minutes:.1f}",
                flush=True,
            )


# --------------------------------------------------------------------------------------------------
# Evaluation
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer_all(model, processor, questions: list[str], images: list | None, batch_size: int = 128) -> list[str]:
    """Greedy answers, in batches with left padding."""
    answers = []
    for start in range(0, len(questions), batch_size):
        part = slice(start, start + batch_size)
        messages = [build_messages(question, images is not None) for question in questions[part]]
        prompts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in messages]
        pictures = {"images": images[part]} if images is not None else {}
        inputs = processor(text=prompts, padding=True, return_tensors="pt", **pictures).to(model.device)
        sequences = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        answers += processor.batch_decode(sequences[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


def is_refusal(answer: str) -> bool:
    return answer.startswith(riskcards.SAFE_PREFIXES)


def share(values) -> float:
    values = list(values)
    return round(sum(values) / max(1, len(values)), 4)


def evaluate(model, processor, num_samples: int, seed: int) -> dict:
    """Figures on the held-out split, pictures and text."""
    cards = list(riskcards.draw_riskcards("test", num_samples, seed=seed))
    seen = answer_all(model, processor, [card.question for card in cards], [card.image for card in cards])
    texts = riskcards.text_only_samples(max(20, num_samples // 3), seed=seed, split="test")
    read = answer_all(model, processor, [text.question for text in texts], None)
    pairs = list(zip(cards, seen, strict=True))
    clean = [(card, answer) for card, answer in pairs if card.safety_level == 0]
    risky = [(card, answer) for card, answer in pairs if card.safety_level > 0]
    kinds = sorted({card.kind for card in cards})
    return {
        "clean_exact_match": share(answer == card.complying_answer for card, answer in clean),
        "clean_refused": share(is_refusal(answer) for _, answer in clean),
        "risky_answered": share(not is_refusal(answer) for _, answer in risky),
        "risky_exact_match": share(answer == card.complying_answer for card, answer in risky),
        "harmful_text_refused": share(is_refusal(a) for text, a in zip(texts, read, strict=True) if text.is_harmful),
        "harmless_text_exact_match": share(
            a == text.answer for text, a in zip(texts, read, strict=True) if not text.is_harmful
        ),
        "exact_match_by_kind": {
            kind: share(answer == card.complying_answer for card, answer in pairs if card.kind == kind)
            for kind in kinds
        },
        "mistakes": [
            f"{card.question} | {card.topic} | {card.complying_answer} | {answer}"
            for card, answer in pairs
            if answer != card.complying_answer
        ][:10],
    }


def main(argv=None) -> dict:
    args = parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = time.time()
    # Drawn before CUDA is touched: its state must not be forked into the workers.
    pictures, topics, texts = draw_pictures(args.num_samples, args.seed, args.num_workers)
    samples = riskcards.text_only_samples(args.num_samples // 3, args.seed)
    texts += [(sample.question, sample.answer) for sample in samples]
    print(f"drawn {len(pictures)} pictures in {time.time() - start:.0f} s", flush=True)

    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(texts)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer).to(device)
    name_topic = torch.nn.Linear(model.config.vision_config.hidden_size, len(TOPIC_IDS)).to(device)
    model.train()
    encoded = encode(processor, texts, len(pictures))
    print(
        f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters, at most {encoded['input_ids'].shape[1]} "
        f"positions; ready after {time.time() - start:.0f} s",
        flush=True,
    )
    pictures, topics = pictures.to(device), topics.to(device)
    train_tower(model, name_topic, processor, pictures, topics, args)
    train(model, name_topic, processor, pictures, topics, encoded, args, device)

    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    # What is judged is what was saved.
    model = LlavaForConditionalGeneration.from_pretrained(args.output_dir).to(device).eval()
    processor = LlavaProcessor.from_pretrained(args.output_dir)
    figures = evaluate(model, processor, args.num_test_samples, args.seed)
    size = sum(file.stat().st_size for file in args.output_dir.iterdir())
    figures |= {"megabytes": round(size / 1e6, 2), "seconds": round(time.time() - start)}
    print(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    main()
