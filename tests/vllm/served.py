"""Questions, a checkpoint whose verdict follows them, and what transformers answers with it."""

import itertools
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from safevlm_hf import (
    SafeLlavaConfig,
    SafeLlavaForConditionalGeneration,
    SafeLlavaProcessor,
    SafetyConfig,
    SafetyPolicy,
)
from safevlm_hf.data import NANO_BASE
from safevlm_hf.modeling.safety_decision import decide


SAFETY = {"num_safety_tokens": 4, "num_condition_tokens": 4, "num_attention_heads": 4, "projector_depth": 1}
POLICY = {"actions": {"*": {"high": "refuse"}}, "refusals": {"privacy": "I do not read private papers."}}
REFUSED, CAREFUL, CLEAN = "What is the address?", "What does the card say?", "What colour is the card?"
VERDICTS = {REFUSED: (3, 4), CAREFUL: (2, 4), CLEAN: (0, 6)}  # level, category
# What may stand after a question, whoever says it.
ENDINGS = ("", " </s><image> ASSISTANT: <s>", f" USER: {CLEAN}")
COLOURS = ("white", "red", "navy", "gold", "gray")


@dataclass(frozen=True)
class Chat:
    images: tuple
    question: str

    def as_messages(self, to_part) -> list[dict]:
        parts = [to_part(image) for image in self.images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.question}]}]


@dataclass(frozen=True)
class Answer:
    prompt_ids: list[int]
    ids: list[int]
    conditions: list[int]
    logits: list[list[float]]  # of the levels, one row per picture


def picture(colour: str, size: tuple[int, int] = (112, 112)) -> Image.Image:
    image = Image.new("RGB", size, colour)
    image.paste("black", (20, 40, 90, 50))
    return image


def encode(processor, chat: Chat):
    return processor.apply_chat_template(
        chat.as_messages(lambda image: {"type": "image", "image": image}),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def answer(model, processor, chat: Chat, max_new_tokens: int = 32) -> Answer:
    """What transformers answers."""
    return answer_inputs(model, encode(processor, chat), max_new_tokens)


@torch.inference_mode()
def answer_inputs(model, inputs, max_new_tokens: int = 32) -> Answer:
    outputs = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, return_dict_in_generate=True)
    prompt_ids = inputs["input_ids"][0].tolist()
    names = ("safety_condition_ids", "safety_level_logits")
    verdicts = [outputs[name].tolist() if "pixel_values" in inputs else [] for name in names]
    return Answer(prompt_ids, outputs.sequences[0, len(prompt_ids) :].tolist(), *verdicts)


CHATS = [
    *(Chat((picture(colour),), question) for colour in COLOURS for question in VERDICTS),
    Chat((), CAREFUL),
    Chat((picture("red"), picture("navy")), CLEAN),
    Chat((picture("gold"), picture("gray")), REFUSED),
    Chat((picture("gold"), picture("gray"), picture("gold")), CAREFUL),
    Chat((picture("red"),), CLEAN + ENDINGS[1]),
]


def rig(model, processor):
    """Train the head to `VERDICTS`, whatever the picture, and whatever users or templates write around a question."""
    head, seen, targets = model.model.safety_head, [], []
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    with torch.no_grad():
        for question, target in VERDICTS.items():
            for colour, ending, is_raw in itertools.product(COLOURS, ENDINGS, (True, False)):
                prompt = encode(processor, Chat((picture(colour),), question + ending))
                if is_raw:  # then all of its text is the question
                    prompt.pop("question_mask")
                    prompt.pop("question_ids", None)
                model.assess(**prompt)
                targets.append(target)
    hook.remove()
    texts, masks, keys, *_ = zip(*seen)
    inputs = [pad_sequence([rows[0] for rows in column], batch_first=True) for column in (texts, masks, keys)]
    levels, categories = torch.tensor(targets).T
    optimizer = torch.optim.Adam(head.parameters(), lr=2 / keys[0].shape[-1])
    for _ in range(300):
        windows = head(*inputs)
        decisions = decide(SafetyPolicy(), windows.level_logits, windows.category_logits, model.config.safety_config)
        level_logits, category_logits = windows.choose(decisions.strictest(windows.is_window))
        loss = cross_entropy(level_logits, levels) + cross_entropy(category_logits, categories)
        if loss < 1.3e-3:  # each of the 90 verdicts has a probability of 0.88 or more
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the head has not learned its verdicts: the loss is {loss}")


def save_rigged(model, processor, folder):
    """A trained checkpoint, as far as anybody can tell; the model as it loads again."""
    torch.manual_seed(0)
    model.model.safety_head.apply(model._init_weights)
    model.initialize_from_embeddings(processor.tokenizer)
    rig(model, processor)
    model.config.safety_config.is_trained = True
    model.generation_config.safety_policy = POLICY
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def make_checkpoint(folder, safety=SAFETY, **vision):
    """A rigged checkpoint in the folder, and transformers' answers to `CHATS`. `vision` changes the tower's config."""
    config = SafeLlavaConfig.from_pretrained(NANO_BASE)
    config.safety_config = SafetyConfig(**safety)
    for name, value in vision.items():
        setattr(config.vision_config, name, value)
    model = SafeLlavaForConditionalGeneration.from_pretrained(NANO_BASE, config=config).eval()
    processor = SafeLlavaProcessor.from_pretrained(NANO_BASE, safety_config=model.config.safety_config)
    model = save_rigged(model, processor, folder)
    return folder, [answer(model, processor, chat) for chat in CHATS]
