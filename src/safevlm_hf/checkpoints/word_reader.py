"""Start a head that reads words from word vectors and window states that know some language before stage 1; they are
made by `examples/train_word_reader.py`."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel


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
    own = {name: weight for name, weight in tree.state_dict().items() if not name.startswith("sentences.")}
    weights = {name: weight.float() for name, weight in load_file(WORD_READER).items()}
    other = {
        name: (tuple(weight.shape), tuple(weights[name].shape) if name in weights else None)
        for name, weight in own.items()
        if name not in weights or weights[name].shape != weight.shape
    }
    if other:
        raise ValueError(
            f"{WORD_READER.name} does not fit the sizes of this head (its, the file's): {other}. Leave "
            "`head_word_size`, `head_hidden_size` and `head_vocab_size` at their defaults, or make a reader of these "
            "sizes with examples/train_word_reader.py."
        )
    tree.load_state_dict({name: weights[name] for name in own}, strict=False)
    # Stage 1 begins with this: what a window attends to counts as far as its words ask for it.
    head.scale.weight.copy_(weights["asks.weight"].expand_as(head.scale.weight))
    head.scale.bias.copy_(weights["asks.bias"].expand_as(head.scale.bias))


def read_encoder_sizes(name: str | None) -> dict:
    """Return the sizes of a sentence encoder for new safety modules; none without a `name`, a folder or Hub id.

    Raises:
        ValueError: it is none that the head can read with.
    """
    if name is None:
        return {}
    config = AutoConfig.from_pretrained(name)
    size = getattr(config, "hidden_size", 0)
    expected = {
        "model_type": "bert",
        "vocab_size": 30522,
        "num_attention_heads": size // 32,
        "intermediate_size": 4 * size,
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
    }
    found = {field: getattr(config, field, None) for field in expected}
    if found != expected:
        raise ValueError(
            f"`sentence_encoder` {name}: expected a BERT with {expected}, got {found}. all-MiniLM-L6-v2, "
            "all-MiniLM-L12-v2, bge-small-en-v1.5 and e5-small-v2 fit."
        )
    return {"head_sentence_layers": config.num_hidden_layers, "head_sentence_size": size}


@torch.no_grad()
def start_sentence_reader(model, name: str | None):
    """Give a new head the weights of a sentence encoder."""
    if name is None:
        return
    found = AutoModel.from_pretrained(name, add_pooling_layer=False, dtype=torch.float32, use_safetensors=True)
    model.model.safety_head.tree.sentences.encoder.load_state_dict(found.state_dict())
