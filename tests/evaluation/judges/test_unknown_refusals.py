import pytest

from safevlm_hf import SafetyConfig, SafetyPolicy
from safevlm_hf.evaluation.judges.unknown_refusals import unknown_refusals


REFUSE = {"*": {"high": "refuse"}}


@pytest.mark.parametrize("policy", [None, {}, {"actions": REFUSE}, {"language": "de"}, {"enabled": False}])
def test_nothing_to_warn_of(policy):
    assert unknown_refusals(policy) == []


def test_own_texts_are_looked_at_whatever_the_actions_are():
    refusals = {"privacy": "I don't read private papers.", "politics": "I'm sorry, but no.", "*": "I'd rather not."}
    assert unknown_refusals({"refusals": refusals}) == [
        ("privacy", "I don't read private papers."),
        ("*", "I'd rather not."),
    ]


def test_our_texts_in_other_languages_are_unknown_where_they_can_be_said():
    found = dict(unknown_refusals({"language": "de", "actions": {"privacy": {"high": "refuse"}}}))
    assert [*found] == ["*", "privacy"]  # "*": an image that cannot be read is refused, too
    assert found["privacy"] == "Dabei kann ich nicht helfen: Es würde private Daten preisgeben."
    assert unknown_refusals({"language": "zh", "actions": REFUSE}) == []  # MSSBench's list knows them


def test_a_text_for_all_is_named_once():
    found = unknown_refusals({"refusals": {"*": "Nope."}, "actions": REFUSE})
    assert found == [("*", "Nope.")]


def test_categories_that_are_off_are_not_refused():
    policy = SafetyPolicy(language="fr", actions={"privacy": {"high": "refuse"}}, categories={"politics": False})
    assert [name for name, _ in unknown_refusals(policy)] == ["*", "privacy"]


def test_own_categories():
    config = SafetyConfig(categories=["gambling", "safe"])
    policy = {"refusals": {"gambling": "Keine Wetten."}}
    assert unknown_refusals(policy, config) == [("gambling", "Keine Wetten.")]
    with pytest.raises(ValueError, match="gambling"):
        unknown_refusals(policy)
