"""Tower, projector and language model become one stock FastVLM with its processor."""

import io
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    LlavaProcessor,
    PretrainedConfig,
    TimmWrapperConfig,
)

from . import IMAGE_SIZE, NUM_POSITIONS
from .weights import LANGUAGE, TOWER, read_part


IMAGE_TOKEN = "<image>"
TOWER_WIDTH = 1280
GGUF_FILE = "language_model.gguf"

# SmolLM2's own form of a message, without the system prompt that its template adds, so that prompts are short.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string "
    "else message['content'] %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in parts if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def assemble(weights: Path) -> tuple[FastVlmForConditionalGeneration, LlavaProcessor]:
    """Return the model with both parts' weights and a new projector, and its processor; the model in evaluation."""
    language_model, tokenizer = load_language_model(weights)
    model, processor = build(language_model.config, tower_config(), tokenizer)
    model.model.vision_tower.timm_model.load_state_dict(load_tower(weights))
    copy_language_model(language_model.model, model)
    return model.eval(), processor


@torch.no_grad()
def copy_language_model(source, model):
    """Copy the weights of a language model into the one of `model`, whose vocabulary may be larger."""
    rows = len(source.embed_tokens.weight)
    for name, weight in source.state_dict().items():
        own = model.model.language_model.get_parameter(name)
        if name == "embed_tokens.weight":
            own[:rows] = weight
            own[rows:] = weight.mean(dim=0)  # the picture's placeholder, and rows that round the table up
        else:
            own.copy_(weight)


def tower_config() -> TimmWrapperConfig:
    config = TimmWrapperConfig(
        architecture="tf_efficientnet_lite0", do_pooling=False, model_args={"global_pool": ""}, num_labels=0
    )
    config.hidden_size = TOWER_WIDTH
    return config


def build(
    text_config: PretrainedConfig, vision_config: PretrainedConfig, tokenizer, num_positions: int = NUM_POSITIONS
) -> tuple[FastVlmForConditionalGeneration, LlavaProcessor]:
    """Build model and processor around two configurations and a tokenizer, with new weights. The tokenizer gets the
    picture's placeholder."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    tokenizer.padding_side = "left"
    tokenizer.chat_template = None  # the processor's is written beside it, and a file can hold one
    text_config.vocab_size = -(-len(tokenizer) // 64) * 64
    config = FastVlmConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=num_positions,
        tie_word_embeddings=True,
    )
    model = FastVlmForConditionalGeneration(config)
    token_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config.update(**token_ids, do_sample=False, max_new_tokens=64)
    return model, build_processor(tokenizer, num_positions)


def build_processor(tokenizer, num_positions: int = NUM_POSITIONS) -> LlavaProcessor:
    """Build the processor. Pictures are squeezed to a square and not cropped: what lies at an edge is seen, too."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer,
        patch_size=IMAGE_SIZE // round(num_positions**0.5),
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def load_language_model(weights: Path):
    """Return SmolLM2, whose 4-bit weights are unpacked to single precision, and its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / GGUF_FILE).write_bytes(read_part(LANGUAGE, weights))
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=torch.float32)
    del model.config.quantization_config  # it is unpacked, and what is quantised could not be trained
    return model, tokenizer


def load_tower(weights: Path) -> dict[str, torch.Tensor]:
    """Return Lite0's weights under timm's names, without the classifier: timm's order of keys is the same."""
    import timm

    stored = torch.load(io.BytesIO(read_part(TOWER, weights)), weights_only=True, map_location="cpu")
    names = timm.create_model("tf_efficientnet_lite0", num_classes=1000).state_dict()
    if len(names) != len(stored):
        raise ValueError(f"{TOWER.member} has {len(stored)} tensors, expected {len(names)}.")
    renamed = dict(zip(names, stored.values()))
    return {name: weight for name, weight in renamed.items() if not name.startswith("classifier.")}
