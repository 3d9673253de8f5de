import re
import shutil

import pytest

from safevlm_hf.evaluation.judges import rules
from safevlm_hf.evaluation.judges.grammar import FOLDER, GRAMMARS, LISTS, load_grammar
from safevlm_hf.evaluation.judges.rules import classify_answer
from safevlm_hf.modeling.refusal_texts import REFUSALS


WHOLE_TEXT = ("care", "drafts")  # at its start
CLASSES = {"refusals": "refusal", "negations": "refusal", "deflections": "refusal", "care": "care"}
"""List to the class of an answer in which a pattern of it is found."""
PATTERNS = [
    pytest.param(name, pattern, id=f"{language}-{name}-{number}")
    for language, grammar in GRAMMARS.items()
    for name in LISTS
    for number, pattern in enumerate(grammar[name], 1)
]


def finds(regex: str, name: str, sentence: str) -> bool:
    """Whether the rules find a pattern of the list in the sentence."""
    plain = rules._plain(sentence)
    spoken = rules._spoken(plain)
    if name in WHOLE_TEXT:
        return re.match(regex, spoken) is not None
    texts = {"reported": [plain], "complies": [spoken]}.get(name) or filter(None, rules._clauses(spoken))
    return any(re.search(regex, text) for text in texts)


@pytest.mark.parametrize("name, pattern", PATTERNS)
def test_each_pattern_matches_one_sentence_and_not_the_other(name, pattern):
    assert finds(pattern.regex, name, pattern.match) and not finds(pattern.regex, name, pattern.no_match)
    if name in CLASSES:
        assert classify_answer(pattern.match) == CLASSES[name]
        assert classify_answer(pattern.no_match) != CLASSES[name]


def test_there_is_a_file_for_each_language_of_the_fixed_refusals():
    assert set(GRAMMARS) == set(REFUSALS) == {file.stem for file in FOLDER.iterdir()}
    assert all(grammar[name] for grammar in GRAMMARS.values() for name in LISTS)


@pytest.mark.parametrize("language", GRAMMARS)
def test_every_part_is_used_and_no_pattern_is_there_twice(language):
    text = (FOLDER / f"{language}.yaml").read_text(encoding="utf-8")
    parts = re.findall(r"^  (\w+):", text, re.MULTILINE)
    assert parts and all(f"{{{part}}}" in text for part in parts)
    for name in LISTS:
        patterns = [pattern.regex for pattern in GRAMMARS[language][name]]
        assert len(set(patterns)) == len(patterns)


# --------------------------------------------------------------------------------------------------
# The files
# --------------------------------------------------------------------------------------------------


def changed(folder, old: str, new: str):
    """A copy of the Chinese file with another text in it."""
    file = folder / "zh.yaml"
    shutil.copy(FOLDER / "zh.yaml", file)
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return file


def test_lines_of_a_pattern_are_joined_and_parts_put_in(tmp_path):
    parts = "parts:\n  i: (?:i|we)\n  say: |\n    {i} (?:say|\n    tell)\n"
    entry = "- pattern: |\n      {say} .{0,4}no\n    match: a\n    no_match: b\n"
    (tmp_path / "xx.yaml").write_text(parts + "".join(f"{name}:\n  {entry}" for name in LISTS))
    grammar = load_grammar(tmp_path / "xx.yaml")
    assert {grammar[name][0].regex for name in LISTS} == {"(?:i|we) (?:say|tell) .{0,4}no"}


SECOND = "zh.yaml, refusals, entry 2: "


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("care:", "cares:", "zh.yaml: expected a mapping with parts, refusals, negations"),
        ("care:\n", "care: []\nmore:\n", "zh.yaml: expected a mapping with parts"),
        ("parts:", "parts: 1\n#", "zh.yaml: expected YAML"),
        ("  act: |\n", "  act: |\n    {rules}\n", "zh.yaml, part 'act': no part {rules} stands above it"),
        ("  rules: ", "  rules: 1\n  more: ", "zh.yaml, part 'rules': expected a str, found 1"),
        ("pattern: 无可奉告", "pattern: (无可奉告", f"{SECOND}'(无可奉告' is no regular expression"),
        ("pattern: 无可奉告", "pattern: '{nobody}'", f"{SECOND}no part {{nobody}} stands above it"),
        ("    match: 对此我无可奉告。\n", "", f"{SECOND}expected the texts pattern, match and no_match"),
        ("match: 对此我无可奉告。", "match: 1", f"{SECOND}expected the texts pattern, match and no_match"),
    ],
)
def test_errors_name_the_entry(old, new, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_grammar(changed(tmp_path, old, new))
