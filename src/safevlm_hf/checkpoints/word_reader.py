"""Start a head that reads words from word vectors and window states that know some language before stage 1; they are
made by `examples/train_word_reader.py`."""

from pathlib import Path

import torch
from safetensors.torch import load_file


WORD_READER = Path(__file__).parents[1] / "data" / "word_reader.safetensors"


def new_reading(sizes: dict) -> dict:
    """Return the sizes of new safety modules, whose head reads words unless they ask for the published reading, or for
    a pooling that has no windows."""
    has_windows = sizes.get("head_pooling", "windows") == "windows"
    return {"head_reading": "words" if has_windows else "embeddings", **sizes}


@torch.no_grad()
def start_word_reader(model):
    """Give a new head of words the vectors and states that this package brings, and let it begin
    with what they know of asking."""
    if not model.config.safety_config.reads_words:
        return
    head = model.model.safety_head
    tree = head.tree
    weights = {name: weight.float() for name, weight in load_file(WORD_READER).items()}
    other = {
        name: (tuple(weight.shape), tuple(weights[name].shape) if name in weights else None)
        for name, weight in tree.state_dict().items()
        if name not in weights or weights[name].shape != weight.shape
    }
    if other:
        raise ValueError(
            f"{WORD_READER.name} does not fit the sizes of this head (its, the file's): {other}. Leave "
            "`head_word_size`, `head_hidden_size` and `head_vocab_size` at their defaults, or make a reader of these "
            "sizes with examples/train_word_reader.py."
        )
    tree.load_state_dict({name: weights[name] for name in tree.state_dict()})
    # Stage 1 begins with this: what a window attends to counts as far as its words ask for it.
    head.scale.weight.copy_(weights["asks.weight"].expand_as(head.scale.weight))
    head.scale.bias.copy_(weights["asks.bias"].expand_as(head.scale.bias))
