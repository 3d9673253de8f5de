"""RTVLM: twelve parts, three-way labels, and a split by picture that nothing leaks through."""

import pytest
from support.standins import write_lines, write_rtvlm

from safevlm_hf.benchmarks import BenchmarkError
from safevlm_hf.benchmarks.rtvlm import PARTS


@pytest.fixture
def many(tmp_path):
    """Forty rows a part."""
    return write_rtvlm(tmp_path / "rtvlm", copies=20)


def ids(loaded):
    return {item.id for item in loaded.items}


def flags(loaded):
    return {path for item in loaded.items if item.labels["part"].startswith("visual_") for path in item.images}


def test_every_part_by_itself(standin, load):
    folder = standin("rtvlm")
    whole = load("rtvlm", folder, mode="zero-shot")
    assert len(PARTS) == 12 and len({item.labels["column"] for item in whole.items}) == 10
    for part in PARTS:
        loaded = load("rtvlm", folder, part=part, mode="zero-shot")
        assert loaded.name == f"rtvlm/{part}/zero-shot"
        assert list(loaded.items) == [item for item in whole.items if item.labels["part"] == part]
        size = None if part == "misleading" else PARTS[part].rows
        assert loaded.published_size == size


def test_labels_of_three_ways(standin, load):
    items = {item.id: item for item in load("rtvlm", standin("rtvlm"), mode="zero-shot").items}
    actions = {
        "misleading/0-0": "condition",
        "misleading/0-1": "answer",
        "captcha/0": "condition",  # fixed, the rows have no label
        "jailbreak2/0": "refuse",
        "face/1": "answer",
    }
    for name, action in actions.items():
        assert items[name].labels["action"] == action
        assert items[name].labels["is_risky"] == (action != "answer")


def test_a_row_of_misleading_holds_several_questions(standin, load):
    first, second, *_ = load("rtvlm", standin("rtvlm"), part="misleading", mode="zero-shot").items
    assert (first.question, second.question) == ("Why is the sky green?", "Why is the sky blue?")
    assert (first.expected, second.expected) == ("It is blue.", "It scatters light.")
    assert first.images == second.images and first.group == second.group


def test_the_order_parts_show_two_pictures(standin, load):
    for part in ("visual_orderA", "visual_orderB"):
        item = load("rtvlm", standin("rtvlm"), part=part, mode="zero-shot").items[0]
        assert [content["type"] for content in item.messages[0]["content"]] == ["image", "image", "text"]
        assert len(set(item.images)) == 2


def test_no_picture_is_on_both_sides_of_the_split(many, load):
    test, train, whole = (load("rtvlm", many, mode=mode, skip_missing=True) for mode in ("test", "train", "zero-shot"))
    assert (test.split, train.split) == ("all/test/seed=0", "all/train/seed=0")
    assert not {item.group for item in test.items} & {item.group for item in train.items}
    assert not flags(test) & flags(train)  # the four visual parts share their pictures
    left_out = {reason.partition(":")[0] for reason in test.missing}
    assert left_out and all(name.startswith("visual_order") for name in left_out) and test.missing == train.missing
    assert ids(test) | ids(train) | left_out == ids(whole)
    assert not ids(test) & ids(train)
    single = [item for item in whole.items if not item.labels["part"].startswith("visual_order")]
    share = len([item for item in test.items if item in single]) / len(single)
    assert 0.12 < share < 0.28


def test_the_split_depends_on_the_seed_and_on_nothing_else(many, load):
    first = load("rtvlm", many)
    assert ids(load("rtvlm", many, seed="0")) == ids(first) != ids(load("rtvlm", many, seed=1))
    for part in ("celeb", "visual_orderA"):
        alone = load("rtvlm", many, part=part)
        assert ids(alone) == {item.id for item in first.items if item.labels["part"] == part}
    rows = (many / "data/Captcha/captcha.jsonl").read_text().splitlines(keepends=True)
    (many / "data/Captcha/captcha.jsonl").write_text("".join(rows[:30]))  # another revision has fewer rows
    kept = {f"captcha/{number}" for number in range(30)}
    assert ids(load("rtvlm", many, part="captcha")) == ids(first) & kept


def test_other_revisions_and_unpacked_pictures(standin, load):
    folder = standin("rtvlm")
    data = folder / "data"
    (data / "Celebrity/mixed.jsonl").rename(data / "Celebrity/celebrity.jsonl")
    import zipfile

    with zipfile.ZipFile(data / "Celebrity/mix.zip") as archive:
        archive.extractall(data / "Celebrity/mix")
    (data / "Celebrity/mix.zip").unlink()
    assert len(load("rtvlm", folder, part="celeb", mode="zero-shot").items) == 2
    assert len(load("rtvlm", data, part="celeb", mode="zero-shot").items) == 2  # the inner folder, too


def test_rows_that_contradict_themselves(standin, load):
    folder = standin("rtvlm")
    write_lines(
        folder / "data/Harmful/misleading.jsonl",
        [{"index": 0, "questions": ["a?", "b?"], "refused_to_answer": ["Safe to Answer"], "answers": ["x", "y"]}],
    )
    with pytest.raises(BenchmarkError, match="line 1: 2 questions, 1 labels and 2 answers"):
        load("rtvlm", folder, part="misleading", mode="zero-shot")
    row = {"question": "?", "refused_to_answer": "Perhaps", "answers": "x", "img": ["one"]}
    for change, reason in (({}, "'img' names 1 pictures"), ({"img": ["a", "b"]}, "'refused_to_answer' is 'Perhaps'")):
        write_lines(folder / "data/VisualOrderA/order_A.jsonl", [row | change])
        with pytest.raises(BenchmarkError, match=f"order_A.jsonl, line 1: {reason}"):
            load("rtvlm", folder, part="visual_orderA", mode="zero-shot")


def test_a_missing_zip_entry_is_named(standin, load):
    folder = standin("rtvlm")
    row = {"id": 77, "instruction": "Read it.", "answer": "x"}
    write_lines(folder / "data/Captcha/captcha.jsonl", [row])
    with pytest.raises(BenchmarkError, match="captcha/0: image not found: .*data/Captcha/img.zip/77.jpg"):
        load("rtvlm", folder, part="captcha", mode="zero-shot")
