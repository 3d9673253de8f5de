"""A head that reads words of its own gives the engine the verdicts that it gives transformers."""

import numpy as np
import pytest
from engine import ask, compare, start_engine
from served import CAREFUL, CHATS, CLEAN, POLICY, REFUSED, SAFETY, Chat, make_checkpoint, picture


WORDS = {"head_reading": "words", "head_word_size": 16, "head_hidden_size": 32, "head_gate_dropout": 0.0}
TEXT = POLICY["refusals"]["privacy"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("words"), safety=SAFETY | WORDS)


@pytest.fixture(scope="module")
def engine(checkpoint):
    return start_engine(checkpoint[0])


def test_as_transformers(engine, checkpoint):
    compare(engine, CHATS, checkpoint[1])


@pytest.mark.parametrize(
    "typed",
    ["WHAT  IS\nTHE_ADDRESS", "what.is.the.address", "Ｗｈａｔ ｉｓ ｔｈｅ ａｄｄｒｅｓｓ", f"{CLEAN} {REFUSED}"],
)
def test_the_same_words_typed_otherwise(engine, typed):
    (output,) = ask(engine, Chat((picture("red"),), typed))
    assert output.outputs[0].text.strip() == TEXT


def test_two_questions_two_verdicts(engine):
    """The caches are warm with the other question."""
    for question in (CLEAN, REFUSED, CAREFUL, REFUSED):
        (output,) = ask(engine, Chat((picture("gray"),), question))
        assert (output.outputs[0].text.strip() == TEXT) == (question == REFUSED)


def test_of_a_raw_prompt_all_words_count(engine):
    prompt = {"prompt": f"USER: <image>\n{REFUSED} ASSISTANT:", "multi_modal_data": {"image": picture("navy")}}
    (output,) = engine.generate([prompt], use_tqdm=False)
    assert output.outputs[0].text.strip() == TEXT[: len(output.outputs[0].text.strip())]
    assert np.all(output.outputs[0].token_ids)
