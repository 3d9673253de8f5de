"""Training mixes: records that load, the paper's proportions, our mapping, and all that was left out by name."""

import json
from collections import Counter

import pytest
from support.standins import picture, write, write_rtvlm, write_vlguard

from safevlm_hf.benchmarks import BenchmarkError, load_benchmark
from safevlm_hf.benchmarks.rtvlm import PARTS
from safevlm_hf.data.records import load_records
from safevlm_hf.evaluation.judges.rubrics import COLUMNS
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from safevlm_hf.training import mixing
from safevlm_hf.training.mixing import RTVLM_CATEGORIES, VLGUARD_LABELS, mix_records


def write_coco(folder, number=40):
    images = [{"id": index, "file_name": f"{index:012}.jpg"} for index in range(number)]
    annotations = [
        {"id": index, "image_id": index // 2, "caption": f"A cup, number {index}."} for index in range(2 * number)
    ]
    write(folder / "annotations/captions_train2017.json", {"images": images, "annotations": annotations})
    for index in range(number):
        write(folder / f"train2017/{index:012}.jpg", picture(index, "JPEG"))
    return folder


def conversation(*turns):
    speakers = ("human", "gpt")
    return [{"from": speakers[number % 2], "value": turn} for number, turn in enumerate(turns)]


def write_llava(folder, number=40):
    rows = [
        {
            "id": f"{index:012}",
            "image": f"{index:012}.jpg",
            "conversations": conversation("What is it?\n<image>", "A cup.", "Which colour?", "Blue."),
        }
        for index in range(number)
    ]
    write(folder / "llava_instruct_150k.json", rows)
    return folder


@pytest.fixture
def copies(tmp_path):
    return {
        "vlguard_dir": write_vlguard(tmp_path / "vlguard", split="train"),
        "rtvlm_dir": write_rtvlm(tmp_path / "rtvlm", copies=5),
        "llava_dir": write_llava(tmp_path / "llava"),
        "coco_dir": write_coco(tmp_path / "coco"),
    }


def read(mix):
    return [json.loads(line) for line in mix.path.read_text().splitlines()]


def side(record):
    return "clean" if record["safety_level"] == "safe" else "risky"


def test_a_mix_loads_as_training_data(copies, tmp_path):
    mix = mix_records(tmp_path / "mix", 1, **copies, size=28)
    records = load_records(mix.path, DEFAULT_CATEGORIES, DEFAULT_LEVELS)
    assert len(records) == 28 and mix.wanted == {"risky": 22, "clean": 6}
    assert Counter(map(side, read(mix))) == {"risky": 22, "clean": 6}
    assert {record["id"].partition("/")[0] for record in read(mix)} >= {"rtvlm", "coco"}
    assert mix.written["risky"] == 22 and sum(mix.written[name] for name in ("risky", "clean")) == 28


@pytest.mark.parametrize(("stage", "share"), [(1, 11 / 14), (2, 0.11)])
def test_proportions_hold_where_risky_data_are_few(copies, tmp_path, stage, share):
    mix = mix_records(tmp_path / "mix", stage, **copies)
    assert sum(mix.wanted.values()) == {1: 14_000, 2: 100_000}[stage]
    counts = Counter(map(side, read(mix)))
    report = json.loads((tmp_path / f"mix/stage{stage}.json").read_text())
    assert report["wanted"] == mix.wanted and report["written"] == mix.written
    assert report["warning"] == mix.warning
    if stage == 1:  # all that there are; clean pictures are enough
        assert counts["risky"] / sum(counts.values()) == pytest.approx(share, abs=0.01)
        assert mix.warning is None
    else:  # here clean pictures are few, and the report says so
        clean = sum(report["found"][name] for name in ("llava", "coco"))
        assert counts["clean"] >= clean and counts["clean"] < mix.wanted["clean"]
        reached = round(100 * counts["risky"] / sum(counts.values()))
        assert f"to clean is {reached}:{100 - reached} ({counts['risky']} and {counts['clean']} rec" in mix.warning
        assert "wanted is 11:89 (11000 and 89000 records)" in mix.warning


def test_fewer_records_keep_the_proportion_where_clean_ones_are_few(copies, tmp_path):
    mix = mix_records(tmp_path / "mix", 2, **copies, size=50)
    assert mix.warning is None and mix.written["risky"] == 6 and mix.written["clean"] == 44


def test_a_picture_that_cannot_be_read_is_left_out_and_another_one_drawn(copies, tmp_path):
    whole = mix_records(tmp_path / "whole", 2, **copies, size=50)
    in_coco = [record for record in read(whole) if record["id"].startswith("coco/")]
    broken = sorted(record["id"].partition("/")[2] for record in in_coco[:2])
    for name in broken:
        write(copies["coco_dir"] / f"train2017/{int(name):012}.jpg", picture(1, "JPEG")[:200])
    copies["llava_dir"] = None  # its pictures are the same
    mix = mix_records(tmp_path / "mix", 2, **copies, size=50)
    assert mix.left_out["coco"] == {"its picture cannot be read": f"2: {', '.join(broken)}"}
    assert mix.written["risky"] == 6 and mix.warning is None
    assert len(load_records(mix.path, DEFAULT_CATEGORIES, DEFAULT_LEVELS)) == 50


def test_where_no_picture_can_be_read_the_records_are_named(copies, tmp_path):
    for file in (copies["coco_dir"] / "train2017").iterdir():
        file.write_bytes(b"no picture")
    risky = {"vlguard_dir": copies["vlguard_dir"]}
    data = json.loads((copies["vlguard_dir"] / "train.json").read_text())
    write(copies["vlguard_dir"] / "train.json", data[:1])  # the others are clean
    with pytest.raises(
        ValueError, match=r"no clean .*Pictures that cannot be read are those of 40: coco/.* and 30 more"
    ):
        mix_records(tmp_path / "mix", 2, **risky, coco_dir=copies["coco_dir"])


def test_only_drawn_records_have_their_pictures_decoded(copies, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(mixing, "find_picture_problems", lambda paths: decoded.extend(paths) or {})
    mix = mix_records(tmp_path / "mix", 2, **copies, size=20)
    assert 0 < len(decoded) <= len(read(mix))


def test_the_same_seed_gives_the_same_mix(copies, tmp_path):
    first, second, other = (
        mix_records(tmp_path / name, 1, **copies, size=20, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    names = [[record["id"] for record in read(mix)] for mix in (first, second, other)]
    assert names[0] == names[1] != names[2]
    assert first.path.read_bytes() == second.path.read_bytes()


def test_a_mix_can_be_moved_where_its_pictures_came_out_of_zip_files(copies, tmp_path):
    for name in ("llava_dir", "coco_dir"):
        copies[name] = None
    mix = mix_records(tmp_path / "mix", 1, **copies, size=10)
    assert all(path.startswith("pictures/") for record in read(mix) for path in record["images"])
    (tmp_path / "mix").rename(tmp_path / "moved")
    assert len(load_records(tmp_path / "moved" / mix.path.name, DEFAULT_CATEGORIES, DEFAULT_LEVELS)) >= 8


def test_no_record_is_of_rtvlms_test_side(copies, tmp_path):
    """The benchmark asks about none of the pictures, whatever the mix's seed."""
    for seed in (0, 3):
        mix = mix_records(tmp_path / f"mix{seed}", 1, rtvlm_dir=copies["rtvlm_dir"], seed=seed)
        held_out = load_benchmark("rtvlm", copies["rtvlm_dir"], cache_dir=tmp_path / "kept")
        trained = {record["id"].partition("/")[2] for record in read(mix)}
        assert trained and not trained & {item.id for item in held_out.items}


def test_labels_and_answers(copies, tmp_path):
    copies["coco_dir"] = copies["llava_dir"] = None
    mix = mix_records(tmp_path / "mix", 1, **copies)
    by_name = {record["id"]: record for record in read(mix)}
    unsafe = by_name["vlguard/unsafes/a1"]
    assert (unsafe["safety_category"], unsafe["safety_level"]) == ("privacy", "high")
    assert unsafe["messages"][-1]["content"][0]["text"] == "I can't read it to you."  # as published
    levels = {part: set() for part in PARTS}
    for name, record in by_name.items():
        source, part, _ = (name + "/").split("/")[:3]
        if source == "rtvlm":
            answer = record["messages"][-1]["content"][0]["text"]
            levels[part].add((record["safety_category"], record["safety_level"], answer.split(":")[0]))
    assert levels["captcha"] <= {("privacy", "low", "With care")}
    assert levels["jailbreak"] <= {("illegal risk", "high", "I can't help with this")}
    assert ("misleading", "low", "With care") in levels["misleading"]
    assert "a1b2" not in mix.path.read_text()  # what a captcha says is no answer to teach


def test_the_mapping_names_our_categories():
    for category, level in VLGUARD_LABELS.values():
        assert category in DEFAULT_CATEGORIES[:-1] and level in DEFAULT_LEVELS[1:]
    assert set(RTVLM_CATEGORIES) == set(PARTS) and set(RTVLM_CATEGORIES.values()) <= set(DEFAULT_CATEGORIES[:-1])


def test_rtvlm_is_judged_by_the_categories_that_it_is_trained_as():
    assert {part: COLUMNS[PARTS[part].column] for part in PARTS} == RTVLM_CATEGORIES


def test_what_is_left_out_is_counted_and_named(copies, tmp_path):
    rows = json.loads((copies["vlguard_dir"] / "train.json").read_text())
    odd = json.loads(json.dumps(rows[0]).replace('"a1"', '"d4"').replace("personal data", "weather"))
    write(copies["vlguard_dir"] / "train.json", [*rows, rows[0], odd])
    bad = [
        {"id": "1", "image": "000000000001.jpg", "conversations": conversation("<image>\nWhat?", "A cup.", "And?")},
        {"id": "2", "conversations": conversation("What?", "A cup.")},
        {"id": "3", "image": "000000000001.jpg", "conversations": conversation("What?", "A cup.")},
        {"id": "4", "image": "000000000001.jpg", "conversations": conversation("<image>\nWhat?", "<image>")},
        {"id": "5", "image": "000000000001.jpg", "conversations": conversation("<image>", "A cup.")},
        {"id": "6", "image": "nowhere.jpg", "conversations": conversation("<image>\nWhat?", "A cup.")},
        {"id": "7", "image": "000000000001.jpg", "conversations": conversation("<image>\nWhat?", "A cup.")},
    ]
    write(copies["llava_dir"] / "llava_instruct_150k.json", bad)
    mix = mix_records(tmp_path / "mix", 1, **copies)
    assert mix.left_out["vlguard"] == {
        "an unsafe text beside a safe picture has no published category": "2: safe_unsafes/b2, safe_unsafes/c3",
        "it stands in the data more than once": "1: unsafes/a1",
        "our mapping has no privacy/weather": "1: unsafes/d4",
    }
    assert mix.left_out["llava"] == {
        "its turns do not alternate": "1: llava_instruct_150k/0",
        "it has no picture": "1: llava_instruct_150k/1",
        "its first turn does not show the one picture": "2: llava_instruct_150k/2, llava_instruct_150k/3",
        "a turn is empty": "1: llava_instruct_150k/4",
        "its picture is missing": "1: llava_instruct_150k/5",
    }
    assert "face/0" not in mix.left_out["rtvlm"]
    assert any(reason.startswith("safe to answer") for reason in mix.left_out["rtvlm"])


def test_llavas_conversation_keeps_its_turns(copies, tmp_path):
    mix = mix_records(
        tmp_path / "mix", 2, rtvlm_dir=copies["rtvlm_dir"], llava_dir=copies["llava_dir"], coco_dir=copies["coco_dir"]
    )
    record = next(record for record in read(mix) if record["id"].startswith("llava/"))
    assert [message["role"] for message in record["messages"]] == ["user", "assistant"] * 2
    assert record["messages"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert [record["safety_category"], record["safety_level"]] == ["safe", "safe"]


def test_captions_follow_the_papers_weights(copies, tmp_path):
    mix = mix_records(
        tmp_path / "mix",
        2,
        rtvlm_dir=copies["rtvlm_dir"],
        llava_dir=copies["llava_dir"],
        coco_dir=copies["coco_dir"],
        size=40,
    )
    assert mix.written["coco"] > 3 * mix.written["llava"] > 0


def test_sources_that_are_missing_or_wrong(copies, tmp_path):
    out = tmp_path / "mix"
    with pytest.raises(ValueError, match="no risky records without a source: name a copy of VLGuard or RTVLM"):
        mix_records(out, 1)
    with pytest.raises(ValueError, match="no risky records in coco"):
        mix_records(out, 1, coco_dir=copies["coco_dir"])
    with pytest.raises(ValueError, match="stage is 3, expected 1 or 2"):
        mix_records(out, 3, **copies)
    with pytest.raises(ValueError, match="size is 1"):
        mix_records(out, 1, **copies, size=1)
    with pytest.raises(BenchmarkError, match="expected llava_instruct_150k.json or .*found annotations/, train2017/"):
        mix_records(out, 1, **copies | {"llava_dir": copies["coco_dir"]})
    with pytest.raises(BenchmarkError, match="expected annotations/captions_train2017.json or .*cocodataset.org"):
        mix_records(out, 1, coco_dir=copies["vlguard_dir"])
    with pytest.raises(BenchmarkError, match="expected train or data/train or train.zip"):
        mix_records(out, 1, **copies | {"vlguard_dir": copies["coco_dir"] / "annotations"})
    write(copies["coco_dir"] / "annotations/captions_train2017.json", {"images": [], "annotations": [{"id": 1}]})
    with pytest.raises(BenchmarkError, match=r"captions_train2017.json, 'annotations'\[0\]: 'image_id' is missing"):
        mix_records(out, 1, **copies)
    assert not list(out.glob("*.jsonl"))


def test_pictures_that_lead_elsewhere(copies, tmp_path):
    write(tmp_path / "secret.jpg", picture(1))
    row = {"id": "1", "image": "../../secret.jpg", "conversations": conversation("<image>\nWhat?", "A cup.")}
    write(copies["llava_dir"] / "llava_instruct_150k.json", [row])
    with pytest.raises(BenchmarkError, match="is no path inside"):
        mix_records(tmp_path / "mix", 1, **copies)
