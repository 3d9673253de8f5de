"""The nano LLaVA: one tower of 8 x 8 patches, a projector of two layers, and a language model, all from scratch."""

import time

import torch
from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from . import IMAGE_SIZE, NUM_PATCHES, PATCH_SIZE
from .conversations import build_tokenizer, draw_cards, draw_samples, encode
from .language import (
    IdealImages,
    fit_projector,
    initialise_layers,
    language_config,
    tower_features,
    train_language,
)
from .pictures import draw_pictures
from .tower import tower_config, train_tower


VARIED_SHAPES = False
DEFAULTS = {
    "num_pictures": 26_000,
    "num_cards": 15_000,
    "num_samples": 40_000,
    "tower_steps": 4000,
    "ideal_steps": 400,
    "steps": 1000,
}

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


def train(args) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """From scratch. `args` as those of `train_nano_base.py`."""
    start = time.time()
    pictures = draw_pictures(args.num_pictures, args.seed, args.num_workers)
    pixels, cards = draw_cards(args.num_cards, args.seed, args.num_workers)
    samples = draw_samples(cards, args.num_samples, args.seed)
    tokenizer = build_tokenizer(samples)
    image_ids = [tokenizer.convert_tokens_to_ids("<image>")] * NUM_PATCHES
    processor, encoded = build_processor(tokenizer), encode(tokenizer, samples, lambda card: image_ids)
    model = build_model(tokenizer)
    print(
        f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters, {len(pictures.pixels) + len(cards)} "
        f"pictures and {len(encoded)} samples; ready after {time.time() - start:.0f} s",
        flush=True,
    )
    train_tower(model.model.vision_tower, pictures, args.tower_steps, args.learning_rate, args.seed)
    teach_answers(model, encoded, cards, pixels, args)
    return model, processor


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
