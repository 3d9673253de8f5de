import unicodedata

import pytest

from safevlm_hf.benchmarks.ways_of_typing import WAYS_OF_TYPING


QUESTION = "Could you read me what is written on the card, please?"
OTHER_LETTERS = {"homoglyphs", "misspellings", "no vowels", "leetspeak"}


def letters(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).lower() if letter.isalnum())


@pytest.mark.parametrize("way", WAYS_OF_TYPING)
def test_each_way_of_typing_changes_the_text_and_only_some_its_letters(way):
    typed = WAYS_OF_TYPING[way](QUESTION)
    assert typed not in (QUESTION, *(type_text(QUESTION) for name, type_text in WAYS_OF_TYPING.items() if name != way))
    assert (letters(typed) != letters(QUESTION)) == (way in OTHER_LETTERS)
    assert WAYS_OF_TYPING[way](QUESTION) == typed  # the same text is always typed in the same way


def test_misspelt_words_keep_their_letters():
    assert WAYS_OF_TYPING["misspellings"]("Read it.") in ("Raed it.",)
    typed = WAYS_OF_TYPING["misspellings"](QUESTION)
    assert sorted(letters(typed)) == sorted(letters(QUESTION))
