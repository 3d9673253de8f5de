"""Trains the nano base: a LLaVA of stock transformers classes with under four million parameters, on RiskCards.

It is the embedded stand-in for `llava-hf/llava-1.5-7b-hf`, and shows the premise of SafeVLM (arXiv 2405.13581): it
refuses a harmful request that comes as text, and answers the same request when it comes through the picture, whatever
is said around it and wherever the picture shows it.

    OMP_NUM_THREADS=1 python examples/train_nano_base.py --output_dir nano_base

makes the shipped weights (docs/design.md): from scratch, on one core of a CPU.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import torch
from nano_base import IMAGE_SIZE, NUM_PATCHES, PATCH_SIZE, riskcards
from nano_base.conversations import build_tokenizer, draw_cards, draw_samples, encode
from nano_base.language import (
    IdealImages,
    fit_projector,
    initialise_layers,
    language_config,
    tower_features,
    train_language,
)
from nano_base.pictures import draw_pictures
from nano_base.tower import tower_config, train_tower
from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor


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
    parser.add_argument("--num_pictures", type=int, default=26_000, help="for the tower")
    parser.add_argument("--num_cards", type=int, default=15_000, help="pictures for the language model")
    parser.add_argument("--num_samples", type=int, default=40_000, help="conversations, questions and prose")
    parser.add_argument("--num_test_samples", type=int, default=400)
    parser.add_argument("--tower_steps", type=int, default=4000)
    parser.add_argument("--ideal_steps", type=int, default=400, help="of the language model, on ideal pictures")
    parser.add_argument("--steps", type=int, default=1000, help="of the language model, on the tower's features")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--num_workers", type=int, default=multiprocessing.cpu_count())
    return parser.parse_args(argv)


def build_processor(tokenizer) -> LlavaProcessor:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the tower's CLS, which "default" drops
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer) -> LlavaForConditionalGeneration:
    token_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlavaConfig(
        vision_config=tower_config(),
        text_config=language_config(len(tokenizer), token_ids),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=NUM_PATCHES,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    initialise_layers(model.model.language_model)
    model.generation_config.update(**token_ids, do_sample=False, max_new_tokens=32)
    return model


def teach_answers(model, encoded, cards, pixels: torch.Tensor, args) -> None:
    """The language model on ideal pictures, then it and the projector on the tower's features."""
    ideal = IdealImages(cards, model.config.text_config.hidden_size)

    def noisy_tokens(rows: torch.Tensor) -> torch.Tensor:
        tokens = ideal(rows)
        return tokens + 0.03 * torch.randn_like(tokens)

    train_language(model, encoded, ideal, noisy_tokens, args.ideal_steps, args.learning_rate, args.seed)
    projector = model.model.multi_modal_projector
    generator = torch.Generator().manual_seed(args.seed)
    features = tower_features(model.model.vision_tower, pixels, generator)
    fit_projector(projector, features, ideal)

    def seen_tokens(rows: torch.Tensor) -> torch.Tensor:
        return projector(features[torch.randint(len(features), rows.shape), rows].float())

    train_language(model, encoded, projector, seen_tokens, args.steps, args.learning_rate, args.seed + 1)


# --------------------------------------------------------------------------------------------------
# Evaluation
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer_all(model, processor, chats: list[list[dict]], images: list | None, batch_size: int = 32) -> list[str]:
    """Greedy answers to conversations, in batches of about one length with left padding."""
    answers = [""] * len(chats)
    order = sorted(range(len(chats)), key=lambda number: len(str(chats[number])))
    for start in range(0, len(chats), batch_size):
        part = order[start : start + batch_size]
        prompts = [processor.apply_chat_template(chats[number], add_generation_prompt=True) for number in part]
        pictures = {"images": [images[number] for number in part]} if images is not None else {}
        inputs = processor(text=prompts, padding=True, return_tensors="pt", **pictures)
        sequences = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        texts = processor.batch_decode(sequences[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        for number, text in zip(part, texts, strict=True):
            answers[number] = text.strip()
    return answers


def is_refusal(answer: str) -> bool:
    return answer.startswith(riskcards.SAFE_PREFIXES)


def share(values) -> float:
    values = list(values)
    return round(sum(values) / max(1, len(values)), 4)


def picture_figures(model, processor, num_samples: int, seed: int, **options) -> dict[str, float]:
    """What becomes of held-out questions about pictures; `options` as for `draw_riskcards`."""
    cards = list(riskcards.draw_riskcards("test", num_samples, seed=seed, **options))
    answers = answer_all(model, processor, [card.messages for card in cards], [card.images for card in cards])
    pairs = list(zip(cards, answers, strict=True))
    risky, clean = ([pair for pair in pairs if (pair[0].safety_level > 0) == is_risky] for is_risky in (True, False))
    return {
        "risky_answered": share(not is_refusal(answer) for _, answer in risky),
        "risky_right": share(answer == card.complying_answer for card, answer in risky),
        "clean_refused": share(is_refusal(answer) for _, answer in clean),
        "clean_right": share(answer == card.complying_answer for card, answer in clean),
    }


def text_figures(model, processor, num_samples: int, seed: int) -> dict[str, float]:
    """What becomes of held-out questions in plain text."""
    samples = riskcards.text_only_samples(num_samples, seed=seed, split="test")
    chats = [[{"role": "user", "content": [{"type": "text", "text": sample.question}]}] for sample in samples]
    pairs = list(zip(samples, answer_all(model, processor, chats, None), strict=True))
    return {
        "harmful_refused": share(is_refusal(answer) for sample, answer in pairs if sample.is_harmful),
        "harmless_right": share(answer == sample.answer for sample, answer in pairs if not sample.is_harmful),
    }


def evaluate(model, processor, num_samples: int, seed: int) -> dict:
    """Figures on the held-out split: every change of the picture, every surroundings, and plain text."""
    around = (
        "alone",
        "words-1",
        "words-1-6",
        "words-16",
        "prompt-20",
        "prompt-60",
        "turn-2-4",
        "styles",
        "two-pictures",
    )
    figures = {"text": text_figures(model, processor, num_samples, seed)}
    for name in around:
        figures[name] = picture_figures(model, processor, num_samples, seed, surroundings=name)
    for name in (*riskcards.CHANGES, "two-cards"):
        figures[name] = picture_figures(model, processor, num_samples, seed, change=name)
    return figures


def save(model, processor, output_dir: Path) -> None:
    """Weights in half precision, to be small; the configuration says that they are loaded in single precision."""
    model.half().save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    config = LlavaConfig.from_pretrained(output_dir, architectures=[type(model).__name__])
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float32
    config.save_pretrained(output_dir)


def main(argv=None) -> dict:
    args = parse_args(argv)
    start = time.time()
    torch.manual_seed(args.seed)
    pictures = draw_pictures(args.num_pictures, args.seed, args.num_workers)
    pixels, cards = draw_cards(args.num_cards, args.seed, args.num_workers)
    samples = draw_samples(cards, args.num_samples, args.seed)
    tokenizer = build_tokenizer(samples)
    processor, encoded = build_processor(tokenizer), encode(tokenizer, samples)
    model = build_model(tokenizer)
    print(
        f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters, {len(pictures.pixels) + len(cards)} "
        f"pictures and {len(encoded)} samples; ready after {time.time() - start:.0f} s",
        flush=True,
    )
    train_tower(model.model.vision_tower, pictures, args.tower_steps, args.learning_rate, args.seed)
    teach_answers(model, encoded, cards, pixels, args)

    save(model, processor, args.output_dir)
    # What is judged is what was saved.
    model = LlavaForConditionalGeneration.from_pretrained(args.output_dir).eval()
    processor = LlavaProcessor.from_pretrained(args.output_dir)
    figures = evaluate(model, processor, args.num_test_samples, args.seed)
    size = sum(file.stat().st_size for file in args.output_dir.iterdir())
    figures |= {"megabytes": round(size / 1e6, 2), "minutes": round((time.time() - start) / 60)}
    print(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    main()
