"""Fine-tuning alone, to compare with: the base's language model learns the safe answers, without safety modules.

It gets stage 2's records, as many of them, and LoRA of the same rank. The pairs about a picture are learned together.
"""

import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from safevlm_hf.training.arguments import parse_arguments
from safevlm_hf.training.cached_features import CachedFeatures
from safevlm_hf.training.data import load_data

from .learning import Encoder, learn_answers, with_lora
from .saving import save


MAX_TOKENS = 256  # of the pairs about a picture


def tune(base: Path, output_dir: Path, stage2: list[str]) -> dict:
    """Write the tuned base to `output_dir`; return steps, seconds and loss.

    Args:
        stage2: the command line of stage 2, whose checkpoint of stage 1 finds the pictures' features.
    """
    model_args, data_args, training_args, lora_args = parse_arguments(2, stage2)
    safe = AutoModelForImageTextToText.from_pretrained(model_args.model_name_or_path).eval().requires_grad_(False)
    safe_processor = AutoProcessor.from_pretrained(model_args.model_name_or_path)
    features = CachedFeatures(safe, safe_processor, training_args.feature_cache_dir)
    records, _ = load_data(2, data_args, safe.config.safety_config, training_args.seed)
    features.fill(image for images in records["images"] for image in images)
    del safe
    model, processor = AutoModelForImageTextToText.from_pretrained(base), AutoProcessor.from_pretrained(base)
    model.requires_grad_(False)
    encoder = Encoder(processor, model.config.image_token_id, model.config.image_seq_length)
    pictures = defaultdict(list)
    for record in records:
        pictures[features.keys[record["images"][0]]].append(texts_alone(record["messages"]))

    def draw(rng):
        drawn = (encoder.encode(key, pictures[key], MAX_TOKENS) for key in rng.sample([*pictures], len(pictures)))
        return [sequence for sequence in drawn if sequence is not None]

    per_step = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    pairs = training_args.num_train_epochs * len(records)
    if training_args.max_steps > 0:
        pairs = training_args.max_steps * per_step
    options = SimpleNamespace(
        learning_rate=training_args.learning_rate,
        projector_learning_rate=0.0,
        steps=math.ceil(pairs * len(pictures) / len(records) / per_step),
        batch_size=per_step,
        seed=training_args.seed,
    )
    # What is kept of a picture is what the projector makes of it.
    projector, model.model.multi_modal_projector = model.model.multi_modal_projector, nn.Identity()
    tuned = with_lora(model, lora_args.lora_r)
    figures = learn_answers(model, encoder, draw, features.store, options, deadline=math.inf)
    model.model.multi_modal_projector = projector
    save(tuned.merge_and_unload(), processor, output_dir)
    return figures


def texts_alone(messages: list[dict]) -> list[dict]:
    return [
        {**message, "content": [part for part in message["content"] if part["type"] == "text"]} for message in messages
    ]
