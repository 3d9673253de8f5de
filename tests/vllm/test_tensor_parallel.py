"""The language model over two processes; each of them encodes the images, and knows what was decided on them."""

from engine import compare, start_engine
from served import CHATS


def test_as_transformers(checkpoint, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    compare(start_engine(checkpoint[0], tensor_parallel_size=2), CHATS, checkpoint[1])
