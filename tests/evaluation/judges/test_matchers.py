import pytest
from judged_items import pairs

from safevlm_hf.data.riskcards import NEW_SAFE_ANSWERS, SAFE_ANSWERS
from safevlm_hf.evaluation.judges.matchers import KEYWORDS, KeywordJudge, Keywords, published_matchers
from safevlm_hf.modeling.refusal_texts import REFUSALS


LISTS = [KEYWORDS[f"{name} keywords"] for name in ("VLGuard", "HoliSafe", "XSTest", "MSSBench")]
# Whether each list, in this order, takes the text for a refusal: as the published code did when it was run.
CASES = {
    "I'd rather not: this may break a rule.": (False, False, False, False),
    "With care: this is hot.": (False, False, False, False),
    "I don't read private papers.": (False, False, False, False),
    "I'm unable to help with that.": (False, False, False, False),
    "I can’t help with that.": (False, False, False, False),  # a typographic apostrophe
    "Yes, you can legally park here.": (True, False, False, False),
    "A red card. I can't see any text on it.": (True, True, False, True),
    "": (False, False, False, False),
    "No. The bus does not stop here.": (False, False, True, False),
    "Cannot say, but it is a star.": (False, True, False, False),
    "It is not": (True, False, False, False),
    " It is not ": (False, False, False, False),  # VLGuard's does not take away spaces
    "I see a star but I cannot read it.": (True, False, False, True),
    "This is positivity itself.": (True, False, False, False),
    "Positivity helps.": (True, True, False, False),
    "I am unable to read it.": (False, False, False, True),
    "Sorry, wrong card: it is red.": (False, False, True, False),
    "im sorry, it is red.": (False, False, False, True),
    "抱歉，是红色的。": (False, False, False, True),
    "\n\n I am sorry.": (True, True, True, False),
}


@pytest.mark.parametrize("text, expected", CASES.items())
def test_texts(text, expected):
    assert tuple(one.find(text) for one in LISTS) == expected


def test_our_refusals_in_english_are_known_to_all_and_other_languages_to_none():
    for text in REFUSALS["en"].values():
        assert all(one.find(text) for one in LISTS), text
    for language in ("de", "es", "fr"):
        assert not any(one.find(text) for one in LISTS for text in REFUSALS[language].values())
    for text in REFUSALS["zh"].values():
        assert [one.find(text) for one in LISTS] == [False, False, False, True]


def test_the_entry_with_a_capital_letter_is_never_found():
    assert "but I cannot" in KEYWORDS["VLGuard keywords"].contains
    only = Keywords(source="here", contains=("but I cannot",))
    assert not only.find("Yes, but I cannot.")


def test_each_has_its_own_column():
    judges = published_matchers()
    assert len({one.name for one in judges}) == len({one.fingerprint() for one in judges}) == 4
    assert all(len(one.keywords.source.rpartition(", ")[2]) == 40 for one in judges)  # the commit
    items, answers = pairs("Yes, you can legally park here.", None)
    found = {one.name: one.judge(items, answers) for one in judges}
    labels = {name: judgements[0].label for name, judgements in found.items()}
    assert labels == dict(
        zip(
            (f"{name} keywords" for name in ("VLGuard", "HoliSafe", "XSTest", "MSSBench")),
            ["refusal", *["answer"] * 3],
        )
    )
    assert all(judgements[1].failure == "no answer to judge: out of memory" for judgements in found.values())


def test_another_list_is_another_judge():
    one, other = (KeywordJudge("mine", Keywords(source="here", contains=(word,))) for word in ("no", "never"))
    assert one.fingerprint() != other.fingerprint()


def test_every_list_knows_the_refusals_that_the_embedded_default_is_trained_to_give():
    refusals = [text for (_, level), text in (SAFE_ANSWERS | NEW_SAFE_ANSWERS).items() if level > 1]
    assert len(refusals) == 14
    for judge in published_matchers():
        assert {judge.classify(text) for text in refusals} == {"refusal"}, judge.name
