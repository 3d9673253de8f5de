"""A key in a picture's block: by it, the sampler, which sees no pictures, finds what was decided on one.

Embeddings take the place of the token ids at a block's image positions, so nobody reads these ids. There the bits of
the key stand: the image token is a 1, and another token that every prompt has anyway is a 0.
"""

from itertools import islice

import numpy as np


KEY_BITS = 64


def zero_token_id(tokenizer) -> int:
    """Return the token of a 0. BOS begins every prompt, so that a penalty on repetition counts it anyway."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    found = next((token_id for token_id in ids if token_id is not None), None)
    if found is None:
        raise ValueError("A safe model needs a tokenizer with a BOS, EOS or padding token.")
    return found


def write_key(block: list[int], digest: bytes, image_token_id: int, zero_id: int) -> list[int]:
    """
    Return the token ids of a block with a key after its first image position. Structure tokens stay as they are.

    Raises `ValueError` where the block has too few image positions, or where a 0 could be taken for a structure token.
    """
    places = [place for place, token_id in enumerate(block) if token_id == image_token_id][1 : 1 + KEY_BITS]
    if len(places) < KEY_BITS:
        raise ValueError(
            f"A key takes {KEY_BITS} image positions after the first, and this picture's block has "
            f"{max(block.count(image_token_id) - 1, 0)}: send a larger picture, or serve a model with more safety "
            "tokens."
        )
    if zero_id in block:
        raise ValueError(f"Token {zero_id} stands for a 0 in a key, and the processor writes it into blocks.")
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))[:KEY_BITS]
    with_key = list(block)
    for place, bit in zip(places, bits):
        with_key[place] = image_token_id if bit else zero_id
    return with_key


def read_key(ids: list[int], start: int, image_token_id: int, zero_id: int) -> int:
    """Return the key of the block whose first image position is `start`."""
    image_ids = (token_id for token_id in islice(ids, start + 1, None) if token_id in (image_token_id, zero_id))
    return sum((token_id == image_token_id) << bit for bit, token_id in enumerate(islice(image_ids, KEY_BITS)))
