"""MMBench, SEED-Bench, MME and POPE: what is asked, how an answer is read, and the official figures."""

from dataclasses import replace

import numpy as np
import pytest
from support.standins import write, write_csv, write_mmbench

from safevlm_hf.benchmarks import BENCHMARKS, BenchmarkError
from safevlm_hf.benchmarks.answer_parsing import read_letter
from safevlm_hf.benchmarks.mme import COGNITION, PERCEPTION, TASKS, read_yes_no
from safevlm_hf.benchmarks.pope import read_first_sentence
from safevlm_hf.items import Answer, Item


REFUSAL = "I can't help with this image."


def answer_all(items, give):
    return [Answer(item.id, give(item)) for item in items]


def score(name, loaded, give):
    return BENCHMARKS[name].score(loaded.items, answer_all(loaded.items, give))(np.ones(len(loaded.items)))


def right(item):
    return item.expected


# --------------------------------------------------------------------------------------------------
# Letters
# --------------------------------------------------------------------------------------------------

CHOICES = {"choice A": "a cat", "choice B": "a dog", "choice C": "a black dog", "choice D": "Bob's cup"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (C) ", "C"),
        ("A.", "A"),
        ("**D**", "D"),
        ("B. a dog", "B"),
        ("(A) a cat", "A"),
        ("A, because it has whiskers", "A"),
        ("C: it is black", "C"),
        ("The answer is B.", "B"),
        ("Answer: (D)", "D"),
        ("First I thought of A. But the correct option is C", "C"),
        ("I choose B", "B"),
        ("I choose A", "A"),
        ("It's A.", "A"),
        ("a cat", "A"),
        ("It is a cat.", "A"),
        ("A cat.", "A"),
        ("A black dog", "C"),
        ("It shows Bob's cup", "D"),
        ("B or C", None),
        ("A dog is what I see, and a cat", None),
        ("It is a black dog", "C"),  # "a dog" is not in it
        ("", None),
        (None, None),
        ("E", None),
        (REFUSAL, None),
        ("I can't see A picture", None),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER B}", None),
    ],
)
def test_letters(text, letter):
    assert read_letter(Item("1", [], [], labels=CHOICES), text) == letter


def test_a_choices_text_is_no_letter():
    choices = {"choice A": "neither", "choice B": "Solution A", "choice C": "Solution B"}
    assert read_letter(Item("1", [], [], labels=choices), "Solution B.") == "C"


# --------------------------------------------------------------------------------------------------
# MMBench
# --------------------------------------------------------------------------------------------------


def test_mmbench_rotates_where_the_file_does_not(standin, load):
    items = {item.id: item for item in load("mmbench", standin("mmbench")).items}
    assert list(items) == ["3", "1000003", "2000003", "4", "1000004"]
    for name, expected in (("3", "B"), ("1000003", "A"), ("2000003", "C"), ("4", "A"), ("1000004", "B")):
        item = items[name]
        assert item.expected == expected
        assert item.labels[f"choice {expected}"] == {"3": "a dog", "4": "a cat"}[item.group]  # always the same text
        assert f"\n{expected}. {item.labels[f'choice {expected}']}\n" in item.question
    assert items["3"].question.startswith("Look at the colour.\nWhat is it?\nA. a cat\n")
    assert items["4"].question.startswith("What is it?\n")  # "nan" is no hint
    assert items["4"].images == items["3"].images  # its cell names the other row
    vanilla = load("mmbench", standin("mmbench"), mode="vanilla")
    assert [item.id for item in vanilla.items] == ["3", "4"] and vanilla.split == "dev/vanilla"


def test_mmbench_knows_its_size_where_an_item_is_a_question(load, tmp_path):
    folder = write_mmbench(tmp_path, rotations=True)
    sizes = [load("mmbench", folder, mode=mode).published_size for mode in ("vanilla", "circular")]
    assert sizes == [1164, None]  # how many rotations are published is not known


def test_mmbench_takes_the_rotations_of_the_file(load, tmp_path):
    folder = write_mmbench(tmp_path / "rotated", rotations=True)
    items = load("mmbench", folder).items
    assert [(item.id, item.group) for item in items] == [("3", "3"), ("4", "4"), ("1000004", "4")]
    assert len(load("mmbench", folder, mode="vanilla").items) == 2


def test_mmbench_counts_a_question_where_all_rotations_are_right(standin, load):
    loaded = load("mmbench", standin("mmbench"))
    assert score("mmbench", loaded, right) == {"circular_accuracy": 1, "vanilla_accuracy": 1, "unreadable": 0}
    always_b = score("mmbench", loaded, lambda item: "B")
    assert always_b == {"circular_accuracy": 0, "vanilla_accuracy": 0.5, "unreadable": 0}
    one_wrong = score("mmbench", loaded, lambda item: "A" if item.id == "2000003" else item.expected)
    assert one_wrong == {"circular_accuracy": 0.5, "vanilla_accuracy": 1, "unreadable": 0}
    refused = score("mmbench", loaded, lambda item: REFUSAL if item.id == "3" else item.expected)
    assert refused == {"circular_accuracy": 0.5, "vanilla_accuracy": 0.5, "unreadable": 0.2}
    vanilla = load("mmbench", standin("mmbench"), mode="vanilla")
    assert set(score("mmbench", vanilla, right)) == {"vanilla_accuracy", "unreadable"}


def test_mmbench_hides_the_answers_of_its_test_part(load, tmp_path):
    write_mmbench(tmp_path)
    text = (tmp_path / "MMBench_DEV_EN.tsv").read_text().replace("\tanswer\t", "\tcomment\t")
    (tmp_path / "MMBench_TEST_EN.tsv").write_text(text)
    reason = "part=test: expected an 'answer' in every row, found none for 5 of 5 questions.*take one of dev, dev_v11"
    with pytest.raises(BenchmarkError, match=reason):
        load("mmbench", tmp_path, part="test")


def test_items_without_a_reference_answer_are_not_scored(standin, load):
    loaded = load("mmbench", standin("mmbench"))
    hidden = replace(loaded, items=[replace(item, expected=None) for item in loaded.items])
    with pytest.raises(ValueError, match="5 of 5 items have no reference answer"):
        score("mmbench", hidden, lambda item: "A")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "77"}, "the picture of row 4 is '77', expected base64 or the index of another row"),
        ({"image": "4"}, "the picture of row 4 is '4'"),  # of itself
        ({"image": ""}, "the picture of row 4 is ''"),
        ({"image": "!" * 100}, "line 3: 'image' is '!!!.*expected a picture as base64"),
        ({"answer": "C"}, "line 3: 'answer' is 'C', expected one of A, B"),
        ({"B": "nan"}, "line 3: 1 choices, expected two or more"),
        ({"index": "four"}, "line 3: 'index' is 'four', expected a whole number"),
        ({"index": "3"}, "two different items have the id '3'"),
    ],
)
def test_mmbench_rows_that_are_wrong(load, tmp_path, change, reason):
    import csv

    write_mmbench(tmp_path)
    with (tmp_path / "MMBench_DEV_EN.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    write_csv(tmp_path / "MMBench_DEV_EN.tsv", [rows[0], rows[1] | change], "\t")
    with pytest.raises(BenchmarkError, match=reason):
        load("mmbench", tmp_path)


# --------------------------------------------------------------------------------------------------
# SEED-Bench, SIUO
# --------------------------------------------------------------------------------------------------


def test_seed_bench_reads_pictures_alone(standin, load):
    loaded = load("seed_bench", standin("seed_bench"))
    assert [item.id for item in loaded.items] == ["101", "102", "103"]  # 104 is about a video
    assert loaded.items[0].question.endswith(
        "\nD. four\nAnswer with the option's letter from the given choices directly."
    )
    figures = score("seed_bench", loaded, lambda item: {"101": "A", "102": "The answer is C", "103": REFUSAL}[item.id])
    assert figures == pytest.approx(
        {
            "accuracy": 2 / 3,
            "accuracy/Instances Counting": 0.5,
            "accuracy/Scene Understanding": 1,
            "unreadable": 1 / 3,
        }
    )


def test_seed_bench_groups_the_questions_about_one_picture(standin, load):
    folder = standin("seed_bench")
    table = folder / "SEED-Bench.json"
    table.write_text(table.read_text().replace("102_7", "101_7"))
    assert [item.group for item in load("seed_bench", folder).items] == ["101_7", "101_7", "103_7"]


def test_siuo_scores_choices_alone(standin, load):
    folder = standin("siuo")
    assert score("siuo", load("siuo", folder, part="mcqa"), lambda item: "(B)") == {"accuracy": 1, "unreadable": 0}
    assert score("siuo", load("siuo", folder, part="mcqa"), lambda item: "No.") == {"accuracy": 0, "unreadable": 1}
    assert score("siuo", load("siuo", folder), lambda item: "B") == {}


# --------------------------------------------------------------------------------------------------
# MME
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", "yes"),
        ("yes, it is", "yes"),
        (" No.", "no"),
        ("NO", "no"),
        ("**Yes**", None),  # its first four characters are "**Ye"
        ("not", "no"),
        ("I know", None),
        ("The answer is yes", None),
        (REFUSAL, None),
        ("", None),
        (None, None),
    ],
)
def test_mme_reads_four_characters(text, reading):
    assert read_yes_no(text) == reading


def test_mme_scores_fourteen_tasks(standin, load):
    loaded = load("mme", standin("mme"))
    perfect = score("mme", loaded, right)
    assert perfect["perception"] == 2000 and perfect["cognition"] == 800 and perfect["total"] == 2800
    assert all(perfect[f"score/{task}"] == 200 for task in TASKS) and len(PERCEPTION) + len(COGNITION) == 14
    always = score("mme", loaded, lambda item: "Yes.")
    assert (always["accuracy/OCR"], always["accuracy_plus/OCR"], always["perception"]) == (0.5, 0, 500)
    refused = score("mme", loaded, lambda item: REFUSAL if item.labels["type"] == "celebrity" else item.expected)
    assert refused["score/celebrity"] == 0 and refused["perception"] == 1800 and refused["unreadable"] == 4 / 56


def test_mme_has_no_sums_without_all_tasks(standin, load):
    loaded = load("mme", standin("mme"), part="posters")
    assert loaded.name == "mme/posters"
    assert set(score("mme", loaded, right)) == {
        "accuracy/posters",
        "accuracy_plus/posters",
        "score/posters",
        "unreadable",
    }


def test_mme_in_both_layouts_and_below_its_published_folder(standin, load, tmp_path):
    items = load("mme", standin("mme")).items
    where = {item.labels["type"]: item.images[0].removeprefix(str(tmp_path)) for item in items}
    assert where["artwork"] == "/mme/artwork/images/0001.jpg" and where["OCR"] == "/mme/OCR/0001.jpg"
    (tmp_path / "top").mkdir()
    (tmp_path / "mme").rename(tmp_path / "top/MME_Benchmark_release_version")
    assert [item.id for item in load("mme", tmp_path / "top").items] == [item.id for item in items]


def test_mme_lines_that_name_their_picture(standin, load):
    folder = standin("mme")
    text = (
        "0000.jpg\tIs it blue?\tYes\n0000.jpg\tIs it red?\tNo\n0001.jpg\tIs it blue?\tNo\n0001.jpg\tIs it red?\tYes\n"
    )
    for path in (folder / "OCR").glob("*.txt"):
        path.unlink()
    write(folder / "OCR/OCR.txt", text)
    items = load("mme", folder, part="OCR").items
    assert [item.group for item in items] == ["OCR/0000"] * 2 + ["OCR/0001"] * 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is it?\tYes\n", "expected one question to be answered yes and one no about 0000, found yes"),
        ("Is it?\tYes\nIs it not?\tYes\n", "found yes, yes"),
        ("Is it? Yes\n", "0000.txt, line 1: expected question, tab, and Yes or No, found 'Is it. Yes'"),
        ("Is it?\tYes\nIs it?\tPerhaps\n", "line 2: expected question, tab, and Yes or No"),
        ("a\tb\tc\tYes\n", "line 1: expected question, tab, and Yes or No"),
        ("", "OCR/0000.txt: expected one question to be answered yes and one no, found no question"),
        ("\n \n", "found no question"),
    ],
)
def test_mme_lists_that_are_wrong(standin, load, text, reason):
    folder = standin("mme")
    write(folder / "OCR/0000.txt", text)
    with pytest.raises(BenchmarkError, match=reason):
        load("mme", folder)


def test_mme_names_the_tasks_that_are_not_there(standin, load):
    folder = standin("mme")
    (folder / "OCR").rename(folder / "ocr-old")
    with pytest.raises(BenchmarkError, match=r"a folder for each task \(OCR not there\).*found artwork/"):
        load("mme", folder)
    assert load("mme", folder, part="scene").items


# --------------------------------------------------------------------------------------------------
# POPE
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("No, there is none", "no"),
        ("There is not a cup", "no"),
        ("There is a cup. No plate", "yes"),  # the first sentence
        ("NO", "yes"),  # the official list of words has no such form
        (REFUSAL, "yes"),
        ("", "yes"),
        (None, "yes"),
    ],
)
def test_pope_reads_the_first_sentence(text, reading):
    assert read_first_sentence(text) == reading


def test_pope_scores_each_list(standin, load):
    loaded = load("pope", standin("pope"))
    perfect = score("pope", loaded, right)
    assert perfect["accuracy"] == perfect["f1/random"] == 1 and perfect["yes_ratio/popular"] == 0.5
    always = score("pope", loaded, lambda item: "Yes")
    assert (always["accuracy"], always["precision"], always["recall"], always["yes_ratio"]) == (0.5, 0.5, 1, 1)
    never = score("pope", loaded, lambda item: "No")
    assert (never["precision"], never["recall"], never["f1"], never["yes_ratio"]) == (0, 0, 0, 0)
    alone = score("pope", load("pope", standin("pope"), part="popular"), right)
    assert alone["accuracy"] == alone["accuracy/popular"] == 1 and "accuracy/random" not in alone


def test_pope_tells_a_refusal_from_a_yes(standin, load):
    """The official script takes it for a yes, so a system that refuses everything has an accuracy of one half."""
    figures = score("pope", load("pope", standin("pope")), lambda item: REFUSAL)
    assert (figures["accuracy"], figures["recall"]) == (0.5, 1)
    assert (figures["strict_accuracy"], figures["unreadable"]) == (0, 1)


# --------------------------------------------------------------------------------------------------
# Answers that do not fit
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mmbench", "seed_bench", "mme", "pope"])
def test_every_item_needs_one_answer(standin, load, name):
    items = load(name, standin(name)).items
    answers = answer_all(items, right)
    for wrong in (answers[1:], [*answers, answers[0]], [*answers[1:], Answer("other", "A")], []):
        with pytest.raises(ValueError, match=f"{len(items)} items need one answer each, got {len(wrong)}"):
            BENCHMARKS[name].score(items, wrong)
    with pytest.raises(ValueError, match="0 items"):
        BENCHMARKS[name].score([], [])
    failed = [Answer(item.id, None, failure="timeout") for item in items]
    assert BENCHMARKS[name].score(items, failed)(np.ones(len(items)))["unreadable"] == 1


@pytest.mark.parametrize("name", ["mmbench", "seed_bench", "mme", "pope"])
def test_weights_count_as_if_items_were_there_so_often(standin, load, name):
    """What a draw of the intervals counts: a group as often as it was drawn, whole."""
    items = load(name, standin(name)).items
    texts = ["Yes", "No", "A", "B. two", REFUSAL]
    answers = [Answer(item.id, texts[number % 5]) for number, item in enumerate(items)]
    groups = sorted({item.group for item in items})
    times = [groups.index(item.group) % 3 for item in items]
    copies = [
        (
            replace(item, id=f"{copy}{item.id}", group=f"{copy}{item.group}"),
            replace(answer, item_id=f"{copy}{item.id}"),
        )
        for item, answer, number in zip(items, answers, times)
        for copy in range(1, number + 1)
    ]
    weighted = BENCHMARKS[name].score(items, answers)(np.array(times, dtype=float))
    repeated = BENCHMARKS[name].score(*zip(*copies))(np.ones(len(copies)))
    # Of what was not drawn there is no figure, and no sum of it.
    assert {key: value for key, value in weighted.items() if key in repeated} == pytest.approx(repeated)
    left = {key: value for key, value in weighted.items() if key not in repeated}
    assert repeated and (name == "pope" or np.isnan(list(left.values())).all())


@pytest.mark.parametrize("name", ["mmbench", "seed_bench", "mme", "pope"])
def test_questions_of_general_ability_are_harmless(standin, load, name):
    assert not any(item.labels["is_risky"] for item in load(name, standin(name)).items)


@pytest.mark.parametrize(
    ("name", "figure"),
    [("mmbench", None), ("seed_bench", "accuracy"), ("mme", "accuracy/OCR"), ("pope", "accuracy")],
)
def test_single_answers_are_right_as_the_score_counts_them(standin, load, name, figure):
    loaded = load(name, standin(name))
    texts = ["Yes", "No", "A", "B. two", REFUSAL, "", None]
    answers = {item.id: texts[number % len(texts)] for number, item in enumerate(loaded.items)}
    is_right = BENCHMARKS[name].is_right
    figures = score(name, loaded, lambda item: answers[item.id])
    counted = [
        is_right(item, answers[item.id]) for item in loaded.items if name != "mme" or item.labels["type"] == "OCR"
    ]
    if figure is not None:
        assert figures[figure] == pytest.approx(sum(counted) / len(counted))
    assert all(is_right(item, item.expected) for item in loaded.items)
    assert name == "pope" or not any(is_right(item, REFUSAL) or is_right(item, None) for item in loaded.items)
