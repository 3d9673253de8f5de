"""A trained checkpoint on every held-out card: `runs/demo/stage2`, or the one that SAFEVLM_CHECKPOINT names."""

import os
from pathlib import Path

import pytest
from engine import compare, start_engine
from served import Chat, answer
from server import serve

from safevlm_hf import SafeLlavaForConditionalGeneration, SafeLlavaProcessor
from safevlm_hf.data.records import load_image, load_records
from safevlm_hf.data.riskcards import write_riskcards


TRAINED = Path(os.environ.get("SAFEVLM_CHECKPOINT", "runs/demo/stage2"))
pytestmark = pytest.mark.skipif(not (TRAINED / "config.json").exists(), reason=f"{TRAINED} is not there: `make demo`")


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """The questions, and what transformers answers."""
    model = SafeLlavaForConditionalGeneration.from_pretrained(TRAINED).eval()
    processor = SafeLlavaProcessor.from_pretrained(TRAINED)
    path = write_riskcards(tmp_path_factory.mktemp("cards"), "test", 400, 0)
    chats = []
    for record in load_records(path, processor.categories, processor.levels):
        parts = record["messages"][0]["content"]
        question = " ".join(part["text"] for part in parts if part["type"] == "text")
        chats.append(Chat((load_image(record["images"][0]),), question))
    return chats, [answer(model, processor, chat) for chat in chats]


def test_tokens_and_conditions(cards):
    compare(start_engine(TRAINED), *cards)


def test_over_http(cards, tmp_path):
    chats, answers = cards
    with serve(TRAINED, tmp_path / "log.txt") as server:
        assert server.chats(chats) == [answer.ids for answer in answers]
