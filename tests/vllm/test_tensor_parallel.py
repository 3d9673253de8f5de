"""The language model over two processes; each of them encodes the images, and knows what was decided on them."""

from engine import compare, start_engine
from served import CHATS, make_checkpoint


def test_as_transformers(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # vLLM deals out the heads of the tower, too, and the nano base has nine.
    folder, answers = make_checkpoint(tmp_path, num_attention_heads=6)
    compare(start_engine(folder, tensor_parallel_size=2), CHATS, answers)
