"""Keys in blocks, with and without structure tokens between the image positions."""

import hashlib

import pytest

from safevlm_hf.vllm.keys import KEY_BITS, read_key, write_key
from safevlm_hf.vllm.refusals import Decision, Decisions


IMAGE, ZERO, ROW, END = 7, 1, 8, 9
PLAIN = [IMAGE] * 80
TILES = [IMAGE] * 10 + ([ROW] + [IMAGE] * 16) * 5 + [END] + [IMAGE] * 4
DIGESTS = [hashlib.sha256(bytes([number])).digest() for number in range(4)]


def keyed(block, number) -> list[int]:
    return write_key(block, DIGESTS[number], IMAGE, ZERO)


@pytest.mark.parametrize("block", [PLAIN, TILES, [END, ROW, *PLAIN]], ids=["plain", "tiles", "no safety tokens"])
def test_a_key_is_read_as_it_was_written(block):
    expected = {int.from_bytes(digest[:8], "big") for digest in DIGESTS}
    found = set()
    for number in range(4):
        written = keyed(block, number)
        assert [one in (IMAGE, ZERO) for one in written] == [one == IMAGE for one in block]
        start = written.index(IMAGE)
        found.add(int(f"{read_key([5, 5, *written], 2 + start, IMAGE, ZERO):064b}"[::-1], 2))
    assert found == expected


def test_blocks_that_hold_no_key():
    with pytest.raises(ValueError, match="image positions"):
        write_key([IMAGE] * KEY_BITS + [ROW] * 9, DIGESTS[0], IMAGE, ZERO)
    with pytest.raises(ValueError, match="0 in a key"):
        write_key([*PLAIN, ZERO], DIGESTS[0], IMAGE, ZERO)


def test_every_block_of_a_prompt_is_found():
    """Blocks of several lengths, next to each other and apart; one that nobody has decided on makes all unknown."""
    blocks = [keyed(PLAIN, 0), keyed(TILES, 1), keyed([END, ROW, *PLAIN, END], 2)]
    decisions, known = Decisions(), []
    for number, block in enumerate(blocks):
        start = block.index(IMAGE)
        known.append(Decision(len(block) - start, number / 10, None))
        decisions.add(read_key(block, start, IMAGE, ZERO), known[-1])
    prompt = [2, *blocks[2], *blocks[1], *blocks[1], 4, 5, *blocks[0], 6]
    assert decisions.find(prompt, IMAGE, ZERO) == [known[2], known[1], known[1], known[0]]
    assert decisions.find([2, *blocks[0], *keyed(TILES, 3)], IMAGE, ZERO) is None
