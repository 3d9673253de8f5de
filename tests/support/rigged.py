"""A rigged SafeLlava whose condition visibly changes the answer.

A bright picture is "illegal risk, high"; the word RISKY in the question makes any other "privacy, medium". The verdict
comes from the model's own image features and question embeddings, through a head that is set by hand.
"""

import torch
from torch import nn

from safevlm_hf import SafeLlavaForConditionalGeneration
from safevlm_hf.modeling.safety_modules import Windows
from safevlm_hf.modeling.safety_policy import condition_name


BOS, EOS, PAD, IMAGE, RISKY = 1, 2, 0, 150, 77
BLOCK = 4 + 16 + 3
NEW = 6
UNCONDITIONED = {"safety_policy": {"enabled": False}}
GREEDY = {"do_sample": False, "max_new_tokens": NEW}
SAFE, ILLEGAL_HIGH, PRIVACY_MEDIUM = "safe", "illegal risk, high", "privacy, medium"


class RiggedHead(nn.Module):
    """Level and category by rule: the picture's brightness, and one word of the question."""

    def __init__(self, middle, direction, word, num_safety_tokens):
        super().__init__()
        self.middle, self.direction, self.word = middle, direction, word
        self.num_safety_tokens = num_safety_tokens

    def forward(self, text_embeds, text_mask, keys, max_tokens=None, feature_mask=None, rows=None):
        features = keys[:, self.num_safety_tokens :].mean(dim=1)
        unreadable = 0 * features.sum(dim=-1, keepdim=True)  # NaN where the pixels are
        bright = (features - self.middle) @ self.direction > 0
        asked = ((text_embeds == self.word).all(dim=-1) & text_mask).any(dim=1)
        asked = asked if rows is None else asked[rows]
        level = torch.where(bright, 3, torch.where(asked, 2, 0))
        category = torch.where(bright, 1, torch.where(asked, 4, 6))
        one_hot, is_window = nn.functional.one_hot, torch.ones_like(bright)[:, None]
        logits = 9.0 * one_hot(level, 4) + unreadable, 9.0 * one_hot(category, 7) + unreadable
        return Windows(logits[0][:, None], logits[1][:, None], is_window)


class Texts(dict):
    """A tokenizer that knows a few texts by heart."""

    all_special_ids = [PAD, BOS, EOS, IMAGE]

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": self[text]}

    def convert_ids_to_tokens(self, ids):
        return [f"<{token}>" for token in ids]


def picture(brightness, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return brightness + 0.1 * torch.randn(1, 3, 56, 56, generator=generator)


def dark(seed=0):
    return picture(-1.5, seed)


def bright(seed=0):
    return picture(1.5, seed)


def rig(config) -> SafeLlavaForConditionalGeneration:
    config.text_config.initializer_range = 0.2  # a sharper random model: its answers follow its input
    config.safety_config.is_trained = True
    model = SafeLlavaForConditionalGeneration(config).eval()
    model.generation_config.update(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    with torch.no_grad():
        model.model.safety_conditions.weight.normal_(std=1.0)
        means = [model.model.get_image_features(image).safety_features.mean(dim=1)[0] for image in (dark(), bright())]
        word = model.get_input_embeddings()(torch.tensor(RISKY))
    model.model.safety_head = RiggedHead(sum(means) / 2, means[1] - means[0], word, 4)
    return model


def prompt(*question, images=1, turns=()):
    return [BOS, *[IMAGE] * BLOCK * images, *question, *turns]


def batch(*rows):
    """`input_ids` and `attention_mask`, padded on the left."""
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def request(image, *question):
    return {**batch(prompt(*question or (11, 12, 13))), "pixel_values": image}


def answers(sequences, length):
    return sequences[:, length:].tolist()


def conditions(model, outputs):
    return [condition_name(row, model.config.safety_config) for row in outputs.safety_condition_ids.tolist()]


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 0},
    "beams": {"num_beams": 3},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "several answers": {"do_sample": True, "num_return_sequences": 3},
    "several beams": {"num_beams": 3, "num_return_sequences": 2},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "no cache": {"use_cache": False},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}


def generate(model, seed=5, **kwargs):
    torch.manual_seed(seed)
    return model.generate(**{**GREEDY, **kwargs})
