"""Put a LLaVA together from a language model and a tower: `safevlm init ... --language-model ... --vision-tower ...`.

Tower and language model keep every weight, the projector between them is new: train it, with the language model or
alone, before the safety modules.
"""

import json
import re
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING


IMAGE_TOKEN = "<image>"
TOWERS: dict[str, Literal["default", "full"]] = {"clip_vision_model": "default", "siglip_vision_model": "full"}
"""Type of a tower to which of its features are taken: "default" leaves out the class token."""
# Fields of a language model's config that describe its checkpoint, and would be wrong in that of the whole.
CHECKPOINT_FIELDS = (
    "quantization_config",
    "architectures",
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
)


def assemble_llava(
    language_model: str | Path,
    vision_tower: str | Path,
    gguf_file: str | None = None,
    chat_template: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """
    Put a stock LLaVA together, and return it with its processor.

    Args:
        language_model: folder or Hub id of a causal language model with a chat template.
        vision_tower: folder or Hub id of a CLIP or SigLIP model, or of a LLaVA, whose tower is taken.
        gguf_file: a GGUF file in `language_model`; its weights become plain ones.
        chat_template: in place of the language model's own, with `{% generation %}` around its answers.
        dtype: of all weights.

    Raises:
        ValueError: for a tower or language model that LLaVA's classes cannot hold as it is.
    """
    source = {} if gguf_file is None else {"gguf_file": gguf_file}
    tokenizer = AutoTokenizer.from_pretrained(language_model, **source)
    if chat_template is None and not tokenizer.chat_template:
        raise ValueError(f"{language_model} has no chat template: pass a `chat_template` of your own.")
    chat_template = chat_template or multimodal_chat_template(tokenizer)
    language = AutoModelForCausalLM.from_pretrained(language_model, dtype=dtype, **source).eval()
    tower = _load_tower(vision_tower, dtype)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if len(tokenizer) > language.config.vocab_size:
        language.resize_token_embeddings(len(tokenizer))

    model = LlavaForConditionalGeneration(_config(language.config, tower.config, tokenizer))
    model.to(dtype).eval()  # type: ignore[arg-type]  # transformers wraps `to`, which then seems to lack its `self`
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.base_model.state_dict())
    model.lm_head.load_state_dict(_plain_head(language, language_model))
    model.tie_weights()
    model.generation_config = language.generation_config
    _check_same_text(model, language, language_model)
    processor = LlavaProcessor(
        AutoImageProcessor.from_pretrained(vision_tower),
        tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        chat_template=chat_template,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=int(model.config.vision_feature_select_strategy == "default"),
    )
    return model, processor


def _load_tower(source: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(source)
    vision_config = getattr(config, "vision_config", config)
    if vision_config.model_type not in TOWERS:
        raise ValueError(
            f"{source} has no vision tower that is known here: expected one of {', '.join(TOWERS)}, "
            f"got {vision_config.model_type}."
        )
    if config.model_type == "llava":
        return AutoModel.from_pretrained(source, dtype=dtype).vision_tower
    tower_class = MODEL_MAPPING[type(vision_config)]
    # The mapping's values are one class each, and their type says that they may be several.
    tower, info = tower_class.from_pretrained(  # type: ignore[attr-defined]
        source, dtype=dtype, output_loading_info=True
    )
    if info["missing_keys"]:
        raise ValueError(
            f"{source} lacks weights of a vision tower: {', '.join(sorted(info['missing_keys'])[:3])} ..."
        )
    return tower


def _config(text_config, vision_config, tokenizer) -> LlavaConfig:
    text = {name: value for name, value in text_config.to_dict().items() if name not in CHECKPOINT_FIELDS}
    return LlavaConfig(
        text_config=text,
        vision_config=vision_config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(vision_config.image_size // vision_config.patch_size) ** 2,
        vision_feature_select_strategy=TOWERS[vision_config.model_type],
        tie_word_embeddings=bool(text_config.tie_word_embeddings),
    )


def _plain_head(language: PreTrainedModel, source) -> dict[str, torch.Tensor]:
    head = language.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(f"{source} has an output layer that LLaVA's classes do not have: {head}.")
    return head.state_dict()


@torch.no_grad()
def _check_same_text(model: nn.Module, language: nn.Module, source):
    ids = torch.arange(3, 11)[None]  # any tokens will do; the first three are often special ones
    ours, theirs = model(input_ids=ids).logits, language(input_ids=ids).logits
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{source} does more with its text than LLaVA's classes do (scaled or capped logits, for example): "
            f"the same weights give other logits, by up to {(ours - theirs).abs().max():.3g}."
        )


# --------------------------------------------------------------------------------------------------
# Chat template
# --------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ START }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['content'] is string %}{% set parts = [{'type': 'text', 'text': message['content']}] %}"
    "{% else %}{% set parts = message['content'] %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ ASSISTANT_OPEN }}{% generation %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] if loop.first else ' ' + part['text'] }}"
    "{% endfor %}{{ ASSISTANT_END }}{% endgeneration %}{{ ASSISTANT_CLOSE }}"
    "{% else %}{{ SYSTEM_OPEN if message['role'] == 'system' else USER_OPEN }}"
    "{% for part in parts if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] if loop.first else ' ' + part['text'] }}"
    "{% endfor %}{{ SYSTEM_CLOSE if message['role'] == 'system' else USER_CLOSE }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ PROMPT }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('The chat template of this model takes no system message.') }}{% endif %}"
)
SYSTEM, *TALK = (
    {"role": role, "content": text}
    for role, text in (
        ("system", "Be brief."),
        ("user", "What is it?"),
        ("assistant", "A card."),
        ("user", "Which one?"),
        ("assistant", "The ace."),
    )
)


def multimodal_chat_template(tokenizer) -> str:
    """
    Return the tokenizer's chat template with a place for images, and with the answers marked for training. The texts
    around the messages are read off conversations that it renders.

    Raises:
        ValueError: for a template that does more than to frame each message.
    """

    def render(messages, template=None, **kwargs):
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **kwargs)

    def frame(messages) -> list[str]:
        return re.split("|".join(re.escape(message["content"]) for message in messages), render(messages))

    with_system = [SYSTEM, *TALK]
    try:
        has_system = SYSTEM["content"] in render(with_system)
    except Exception:  # the template's own `raise_exception`
        has_system = False
    start, _, answer_to_question, _, end = frame(TALK)
    _, user_close = frame(TALK[:1])
    user_open = answer_to_question.removeprefix(end)
    answer_end = end.partition(tokenizer.eos_token)[:2] if tokenizer.eos_token in end else ("", "")
    texts = {
        "START": start.removesuffix(user_open),
        "USER_OPEN": user_open,
        "USER_CLOSE": user_close,
        "ASSISTANT_OPEN": frame(TALK[:2])[1].removeprefix(user_close),
        "ASSISTANT_END": "".join(answer_end),
        "ASSISTANT_CLOSE": end.removeprefix("".join(answer_end)),
        "PROMPT": render(TALK[:1], add_generation_prompt=True).removeprefix(render(TALK[:1])),
        "SYSTEM_OPEN": frame(with_system)[0] if has_system else "",
        "SYSTEM_CLOSE": frame(with_system)[1].removesuffix(user_open) if has_system else "",
    }
    # Jinja reads strings as JSON writes them, so no quote in a template can end one.
    sets = "".join(f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}" for name, text in texts.items())
    template = sets + ("" if has_system else NO_SYSTEM) + TEMPLATE
    # The new template must write every beginning of a conversation as the tokenizer's own does.
    for talk in [TALK, with_system] if has_system else [TALK]:
        for length in range(talk.index(TALK[0]) + 1, len(talk) + 1):
            options = {"add_generation_prompt": talk[length - 1]["role"] == "user"}
            if render(talk[:length], template, **options) != render(talk[:length], **options):
                raise ValueError(
                    "The tokenizer's chat template does more than to frame each message, so no place for images can "
                    "be put into it: pass a `chat_template` of your own."
                )
    return template
