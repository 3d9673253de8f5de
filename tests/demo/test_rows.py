"""Rows with surroundings and changed pictures: their records, rates, targets and the report."""

import json
import re
from dataclasses import replace

import pytest

from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.benchmarks.riskcards import BENCHMARK, HeldOut
from safevlm_hf.benchmarks.riskcards_questions import (
    NO_WORDS,
    SHORT_QUESTIONS,
    ask_after_refusal,
    put_words_inside,
    shorten_questions,
    split_requests,
)
from safevlm_hf.data.riskcards import CATEGORIES
from safevlm_hf.demo.report import DemoResults, format_table
from safevlm_hf.demo.robustness_parts import robustness_section
from safevlm_hf.demo.rows import (
    ALONE,
    BASE,
    BOTH_STAGES,
    CLEAN_FLAGGED,
    CLEAN_REFUSED,
    CLEAN_RIGHT,
    CLEAN_WARNED,
    FIRST,
    FULL_ROWS,
    LOOK_FLAGGED,
    MEAN,
    PAIRS,
    PAIRS_RIGHT,
    PICTURES_RIGHT,
    QUICK_ROWS,
    RISKY_ANSWERED,
    RISKY_FLAGGED,
    SMALL_PRINT_ROWS,
    Row,
    RowResult,
    figure_name,
    length_name,
    measure_rows,
    rates,
    row_figures,
    row_records,
)
from safevlm_hf.demo.targets import FULL_TARGETS, QUICK_TARGETS, Target
from safevlm_hf.demo.wordings import TYPING_ROWS, WORDING_ROWS
from safevlm_hf.evaluation.answering_records import give_answers, give_verdicts
from safevlm_hf.intervals.figure import share_of_counts
from safevlm_hf.items import Answer, Item
from safevlm_hf.reports.pages import render_section


pytestmark = pytest.mark.ci


LEVELS = ("safe", "low", "medium", "high")


def make_rows(*found):
    """Items and answers from (level, level seen, answer)."""
    items, answers = [], []
    for number, (level, seen, text) in enumerate(found):
        labels = {"is_risky": level > 0, "is_image_risky": level > 0, "level": LEVELS[level], "severity": level}
        labels["category"] = CATEGORIES[4 if level else 6]
        items.append(Item(str(number), (), user_turn("Which?"), "Blue.", labels))
        action = "condition" if seen else "answer"
        answers.append(Answer(str(number), text, action, LEVELS[seen], CATEGORIES[4 if seen else 6]))
    return items, answers


def text_of(message):
    return " ".join(part["text"] for part in message["content"] if part["type"] == "text")


# --------------------------------------------------------------------------------------------------
# Records
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


def test_parts_of_a_row_are_pooled(folder):
    row = Row("prompts", tuple(HeldOut(f"prompt-{amount}") for amount in (5, 20)))
    records = row_records(row, folder, 12, seed=0)
    assert len(records) == 12
    assert sum(record["safety_level"] > 0 for record in records) == 6
    assert all(record["messages"][0]["role"] == "system" for record in records)
    lengths = sorted(len(text_of(record["messages"][0]).split()) for record in records)
    assert lengths[0] < lengths[-1]


def test_every_row_is_made_of_options_of_the_benchmark():
    rows = (*FULL_ROWS, *QUICK_ROWS, *SMALL_PRINT_ROWS, *WORDING_ROWS, *TYPING_ROWS)
    for part in (part for row in rows for part in row.parts):
        chosen = vars(part) | {"strength": f"{part.strength:g}"}
        unknown = {name: value for name, value in chosen.items() if value not in BENCHMARK.options[name]}
        assert not unknown or unknown == {"asked": NO_WORDS}  # an empty question is no item


def test_a_look_is_asked_after_each_refusal(folder):
    records = row_records(Row(ALONE), folder, 20, seed=0)
    asked = ask_after_refusal(records)
    assert len(asked) == sum(record["safety_level"] > 0 for record in records) == 10
    for record in asked:
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"] * 2
        extra = json.loads(record["extra"])
        assert text_of(record["messages"][2]).startswith("What colour is the")
        assert extra["colour"] in text_of(record["messages"][3])
        assert (record["safety_level"], CATEGORIES[record["safety_category"]]) == (0, "safe")
    assert all(len(record["messages"]) == 2 for record in records)


def test_a_request_is_split_over_two_turns(folder):
    records = row_records(Row(ALONE), folder, 20, seed=0)
    for record, split in zip(records, split_requests(records), strict=True):
        first, _, second, answer = split["messages"]
        assert f"{text_of(first)} {text_of(second)}" == " ".join(text_of(record["messages"][0]).split())
        assert text_of(second) and answer == record["messages"][1]
        assert sum(part["type"] == "image" for part in first["content"]) == 1
        assert split["safety_level"] == record["safety_level"]


def test_a_sentence_is_put_inside_the_question(folder):
    records = row_records(Row(ALONE), folder, 20, seed=0)
    asked = put_words_inside(records)
    for record, other in zip(records, asked, strict=True):
        words, others = text_of(record["messages"][0]).split(), text_of(other["messages"][0]).split()
        half = len(words) // 2
        assert others[:half] == words[:half] and others[half - len(words) :] == words[half:]
        assert len(others) > len(words) and other["messages"][1:] == record["messages"][1:]
    assert asked == put_words_inside(records)


def test_questions_are_shortened(folder):
    records = row_records(Row(ALONE), folder, 40, seed=0)
    kinds = {json.loads(record["extra"])["kind"] for record in records}
    assert kinds <= set(SHORT_QUESTIONS)
    for record, other in zip(records, shorten_questions(records), strict=True):
        assert text_of(other["messages"][0]) == SHORT_QUESTIONS[json.loads(record["extra"])["kind"]]
        assert len(text_of(other["messages"][0]).split()) <= 3
        assert other["safety_level"] == record["safety_level"]


# --------------------------------------------------------------------------------------------------
# Rates
# --------------------------------------------------------------------------------------------------


def test_rates_of_verdicts_and_answers():
    rows = make_rows(
        (3, 3, "I can't help with this."),
        (3, 0, "The address is 12 Elm Road."),
        (0, 0, "Blue."),
        (0, 0, "With care: red."),
        (0, 2, "I can't help with this."),
    )
    assert rates(*rows) == {
        RISKY_FLAGGED: share_of_counts(RISKY_FLAGGED, 1, 2),
        CLEAN_FLAGGED: share_of_counts(CLEAN_FLAGGED, 1, 3),
        RISKY_ANSWERED: share_of_counts(RISKY_ANSWERED, 1, 2),
        CLEAN_REFUSED: share_of_counts(CLEAN_REFUSED, 1, 3),
        CLEAN_WARNED: share_of_counts(CLEAN_WARNED, 1, 3),
        CLEAN_RIGHT: share_of_counts(CLEAN_RIGHT, 1, 3),
    }
    assert rates(*make_rows((3, 3, None), (0, 0, None))) == {
        RISKY_FLAGGED: share_of_counts(RISKY_FLAGGED, 1, 1),
        CLEAN_FLAGGED: share_of_counts(CLEAN_FLAGGED, 0, 1),
    }


def test_each_of_several_pictures_counts():
    items, answers = make_rows((3, 3, None), (3, 3, None))
    items = [
        replace(item, labels={**item.labels, "image_levels": levels})
        for item, levels in zip(items, ("safe high", "high safe"), strict=True)
    ]
    answers = [replace(answer, actions=["answer", "condition"]) for answer in answers]
    assert rates(items, answers)[PICTURES_RIGHT] == share_of_counts(PICTURES_RIGHT, 2, 4)


def test_rows_are_measured_on_the_models_of_their_columns(nano_model, nano_processor, folder):
    rows = (
        Row(ALONE, columns=(BOTH_STAGES, MEAN)),
        Row(length_name("words", 4), (HeldOut("words-4"),), curve="words", place=4),
        Row("pictures", (HeldOut(change="moved"),), answers=True),
    )
    results = measure_rows(rows, {BOTH_STAGES: (nano_model, nano_processor)}, folder, 6)
    assert [result.row.name for result in results] == [ALONE, length_name("words", 4), "pictures", PAIRS]
    assert all(set(result.rates) == {BOTH_STAGES} for result in results)
    alone = results[0].rates[BOTH_STAGES]
    assert set(alone) == {RISKY_FLAGGED, CLEAN_FLAGGED, LOOK_FLAGGED} and alone[RISKY_FLAGGED].total == 3
    assert alone[CLEAN_FLAGGED].total + alone[LOOK_FLAGGED].total == 3
    assert results[2].rates[BOTH_STAGES][RISKY_ANSWERED].total == 3
    assert set(results[3].rates[BOTH_STAGES]) == {PAIRS_RIGHT}


def test_verdicts_alone_are_those_of_answers(nano_model, nano_processor, riskcards):
    records = list(riskcards)
    judged = give_verdicts(nano_model.train(), nano_processor, records, batch_size=5, progress=False)
    assert nano_model.training and all(one.text is None for one in judged)
    answered = give_answers(nano_model, nano_processor, records, max_new_tokens=1, progress=False)
    for one, other in zip(judged, answered, strict=True):
        assert one.is_flagged == other.is_flagged and one.level == other.level
        assert one.risk == pytest.approx(other.risk, abs=1e-4)
    off = give_verdicts(nano_model, nano_processor, records, progress=False, safety_policy={"enabled": False})
    assert not any(one.is_flagged for one in off)


def test_without_a_mask_all_text_is_the_question(nano_model, nano_processor, riskcards):
    """An operator's prompt counts as the user's words where the mask is left out."""
    seen = []
    inner = nano_model.assess

    def assess(**inputs):
        seen.append(inputs)
        return inner(**inputs)

    nano_model.assess = assess
    record = {**riskcards[0], "messages": [_system("Be brief."), *riskcards[0]["messages"]]}
    for question_mask in (True, False):
        give_verdicts(nano_model, nano_processor, [record], progress=False, question_mask=question_mask)
    masked, unmasked = seen
    assert "question_mask" not in unmasked
    assert 0 < int((masked["question_mask"] != 0).sum()) < masked["input_ids"].numel()


def _system(text):
    return {"role": "system", "content": [{"type": "text", "text": text}]}


# --------------------------------------------------------------------------------------------------
# Targets and report
# --------------------------------------------------------------------------------------------------


def make_results(risky=0.97):
    def found(share, total=200):
        return {
            RISKY_FLAGGED: share_of_counts(RISKY_FLAGGED, round(share * total), total),
            CLEAN_FLAGGED: share_of_counts(CLEAN_FLAGGED, 2, total),
        }

    rows = [RowResult(Row(ALONE), {BOTH_STAGES: found(0.99), MEAN: found(0.99), FIRST: found(0.4)})]
    for kind, amounts in {"words": (1, 4, 16, 40), "prompt": (5, 20, 60), "turn": (2, 4, 8)}.items():
        rows += [
            RowResult(
                Row(length_name(kind, amount), (HeldOut(f"{kind}-{amount}"),), curve=kind, place=amount),
                {BOTH_STAGES: found(risky), MEAN: found(0.3), FIRST: found(0.4)},
            )
            for amount in amounts
        ]
    for strength in (0.5, 1.0):
        row = Row(f"picture <turned>, strength {strength:g}", curve="<turned>", place=strength)
        rows.append(RowResult(row, {BOTH_STAGES: found(0.9)}))
    answers = {
        RISKY_ANSWERED: share_of_counts(RISKY_ANSWERED, 190, 200),
        CLEAN_REFUSED: share_of_counts(CLEAN_REFUSED, 1, 200),
    }
    rows.append(RowResult(Row("pictures <b>", answers=True), {BASE: answers}))
    return rows


def test_bounds_hold_row_by_row():
    words = [target for target in FULL_TARGETS if target.figure.startswith(length_name("words", 4) + ";")]
    assert len(words) == 2
    for risky, is_met in ((0.95, True), (0.94, False)):
        figures = row_figures(make_results(risky))
        assert [target.is_met(figures) for target in words] == [is_met, True]
    assert row_figures(make_results())[MEAN][figure_name(length_name("turn", 8), RISKY_FLAGGED)] == 0.3


def test_every_target_is_of_a_row():
    rows = (*FULL_ROWS, *WORDING_ROWS, *TYPING_ROWS)
    names = {row.name for row in rows} | {PAIRS}
    for target in (target for target in FULL_TARGETS if "; " in target.figure):
        row = target.figure.rsplit("; ", 1)[0]
        assert row in names
        columns = next((one.columns for one in rows if one.name == row), (BOTH_STAGES,))
        assert {target.column, target.relative_to or target.column} <= set(columns)
    assert len(FULL_TARGETS) > len(QUICK_TARGETS)


def test_the_part_of_the_report():
    bound = Target(figure_name(length_name("words", 4), RISKY_FLAGGED), BOTH_STAGES, at_least=0.98)
    page = render_section(robustness_section(make_results(), [bound]))
    assert page.count("<svg") == 5 and page.count('"mark bad"') == 1
    assert "(200; 0.94 to 0.99)" in page and str(bound) in page
    assert "pictures &lt;b&gt;" in page and "pictures <b>" not in page and "<turned>" not in page
    assert "strength 0.5" not in page.split("<svg")[0]  # points of a curve have no line in the table
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,12})""", page)
    assert all(link.startswith("#") for link in links)
    assert robustness_section([], [bound]) is None


def split(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def test_the_table_of_the_terminal():
    bound = Target(figure_name(length_name("words", 4), RISKY_FLAGGED), BOTH_STAGES, at_least=0.98)
    text = format_table(DemoResults([], {}, CATEGORIES, LEVELS, targets=[bound], robustness=make_results()))
    _, (header, _, *lines), answers = ([split(line) for line in part.splitlines()] for part in text.split("\n\n"))
    assert header == ["held-out figure", BOTH_STAGES, MEAN, FIRST, "target"]
    assert answers[0] == ["held-out figure", BASE, "target"] and len(answers) == 4
    line = next(line for line in lines if line[0] == bound.figure)
    assert line == [bound.figure, "0.970 (0.94-0.99) MISSED", *line[2:4], str(bound).replace("≥", ">=")]
    assert not any("strength" in line[0] for line in lines)
