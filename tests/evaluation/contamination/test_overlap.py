"""Training data that hold a benchmark's pictures and questions are found, and unrelated ones are not."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from safevlm_hf import SafetyConfig
from safevlm_hf.benchmarks import Loaded
from safevlm_hf.benchmarks.benchmark import user_turn
from safevlm_hf.data.records import load_records
from safevlm_hf.evaluation.contamination.overlap import find_overlap, load_overlap, save_overlap
from safevlm_hf.evaluation.contamination.picture_hash import find_alike, hash_pictures
from safevlm_hf.evaluation.contamination.shared_text import runs
from safevlm_hf.items import Item


pytestmark = pytest.mark.ci


LONG = "Please describe in detail what the people in the foreground are doing with the red bucket, and why."


def scene(seed, size=(320, 240)):
    """A picture like a photograph to such a hash: soft shapes of all sizes."""
    random = np.random.default_rng(seed)
    layers = [Image.fromarray(random.integers(0, 256, (n, n, 3), dtype=np.uint8)) for n in (3, 6, 12, 24)]
    layers = [np.asarray(one.resize(size, Image.Resampling.BICUBIC), dtype=float) for one in layers]
    mixed = sum(layer * weight for layer, weight in zip(layers, (0.5, 0.25, 0.15, 0.1)))
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def jpeg(image):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=30)
    return Image.open(content)


CHANGES = {
    "same": lambda image: image,
    "smaller": lambda image: image.resize((image.width // 3, image.height // 3)),
    "squared": lambda image: image.resize((336, 336)),
    "jpeg": jpeg,
    "brighter": lambda image: image.point(lambda value: min(255, int(value * 1.1 + 10))),
    "cropped": lambda image: image.crop((4, 3, image.width - 4, image.height - 3)),
}


def save(image, path):
    image.save(path)
    return str(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change, tmp_path):
    originals = [save(scene(seed), tmp_path / f"{seed}.png") for seed in range(12)]
    copies = [save(CHANGES[change](scene(seed)), tmp_path / f"copy{seed}.png") for seed in range(12)]
    found = {one: [path for _, path in alike] for one, alike in find_alike(*map(hash_pictures, (copies, originals)))}
    assert found == {copy: [original] for copy, original in zip(copies, originals, strict=True)}


def test_unrelated_and_blank_pictures_are_not_alike(tmp_path):
    ones = hash_pictures(save(scene(seed), tmp_path / f"{seed}.png") for seed in range(40))
    others = hash_pictures(save(scene(seed), tmp_path / f"{seed}.png") for seed in range(40, 80))
    assert len(ones.paths) == 40 and not [*find_alike(ones, others)]
    blank = hash_pictures([save(Image.new("RGB", (30, 30), "navy"), tmp_path / "blank.png")])
    assert not blank.paths and len(blank.blank) == 1
    assert not [*find_alike(blank, ones)] and not [*find_alike(ones, blank)]


def test_pictures_of_one_colour_are_alike_where_all_pixels_are_equal(tmp_path):
    navy = Image.new("RGB", (400, 300), "navy")
    dotted = navy.copy()
    dotted.putpixel((7, 7), (255, 0, 0))
    ones = hash_pictures([save(navy, tmp_path / "navy.png"), save(Image.new("L", (9, 9)), tmp_path / "tiny.jpg")])
    pictures = {
        "other.bmp": navy,
        "dotted.png": dotted,
        "small.png": navy.resize((40, 30)),
        "black.png": Image.new("RGB", (400, 300)),
        "tiny.png": Image.new("RGB", (9, 9)),
        "scene.png": scene(0),
    }
    others = hash_pictures(save(picture, tmp_path / name) for name, picture in pictures.items())
    assert dict(find_alike(ones, others)) == {
        str(tmp_path / "navy.png"): [(0, str(tmp_path / "other.bmp"))],
        str(tmp_path / "tiny.jpg"): [(0, str(tmp_path / "tiny.png"))],
    }
    assert len(ones.blank) == 2 and others.paths == [str(tmp_path / "scene.png")]


def test_runs_of_thirteen_words_and_short_texts_whole():
    words = [f"w{number}" for number in range(15)]
    assert runs(" ".join(words)) == [tuple(words[start : start + 13]) for start in range(3)]
    assert runs("What's  THIS?") == runs("what s this") == [("what", "s", "this")]
    assert runs("…") == [] and len(runs("这张图片里有什么东西请详细描述一下")) == 5


def write_train(folder, records, name="train.jsonl"):
    path = folder / name
    lines = [
        {
            "images": images,
            "safety_category": "safe",
            "safety_level": 0,
            "messages": [
                {"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": text}]},
                {"role": "assistant", "content": "A bucket."},
            ],
        }
        for images, text in records
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def overlap_of(folder, records, items):
    return compare([write_train(folder, records)], items)


def compare(files, items):
    safety = SafetyConfig()
    loaded = Loaded(items, split="all", benchmark="pope")
    return find_overlap({file: load_records(file, safety.categories, safety.levels) for file in files}, loaded)


@pytest.fixture
def overlap(tmp_path):
    for seed in range(4):
        save(scene(seed), tmp_path / f"{seed}.png")
    save(jpeg(scene(0)), tmp_path / "copy.jpg")
    save(Image.new("RGB", (20, 20)), tmp_path / "blank.png")
    save(Image.new("RGB", (20, 20), "white"), tmp_path / "white.png")
    records = [
        (["copy.jpg"], "What is in the bucket?"),
        (["1.png<split>copy.jpg"], f"Hello. {LONG.upper()} Thanks"),
        (["blank.png"], "Is it dark?"),
    ]
    items = [
        Item("a", [str(tmp_path / "0.png")], user_turn("Where was this taken?")),
        Item("b", [str(tmp_path / "2.png")], user_turn(LONG)),
        Item("c", [str(tmp_path / "3.png")], user_turn("Is it DARK")),
        Item("d", [str(tmp_path / "blank.png")], user_turn("Is it dark outside?")),
        Item("e", [str(tmp_path / "white.png")], user_turn("Is it bright outside?")),
    ]
    return overlap_of(tmp_path, records, items)


def test_both_sides_are_named_and_counted(overlap):
    assert overlap.counts() == {"picture": 2, "words": 1, "short text": 1, "any": 4}
    blank, picture = overlap.pictures
    assert (blank["item"], blank["train"], blank["distance"]) == ("d", ["train.jsonl:3 (blank.png)"], 0)
    assert (picture["item"], picture["picture"], picture["files"]) == ("a", "0.png", {"train.jsonl": 2})
    assert picture["train"] == ["train.jsonl:1 (copy.jpg)", "train.jsonl:2 (copy.jpg)"]
    long, short = overlap.texts
    assert (long["item"], long["train"], long["is_whole"]) == ("b", ["train.jsonl:2"], False)
    assert long["num_runs"] == len(LONG.split()) - 12
    assert (short["item"], short["text"], short["train"]) == ("c", "is it dark", ["train.jsonl:3"])
    assert overlap.num_blank == {"train": 1, "benchmark": 2} and overlap.num_pictures == {"train": 2, "benchmark": 3}


def test_several_training_files_and_which_of_them_has_a_match(tmp_path):
    picture = save(scene(0), tmp_path / "0.png")
    other = " ".join(reversed(LONG.split()))
    stage1 = write_train(tmp_path, [([], "Hello.")] * 7 + [(["0.png"], LONG)], "stage1.jsonl")
    stage2 = write_train(tmp_path, [(["0.png"], other), (["0.png"], "Hello.")], "stage2.jsonl")
    items = [
        Item("a", [picture], user_turn("Where was this taken?")),
        Item("b", [], user_turn(f"{LONG} {other}")),
        Item("c", [], user_turn("hello")),
        Item("d", [], user_turn(LONG)),
    ]
    found = compare([stage1, stage2], items)
    assert [(one["file"], one["num_records"]) for one in found.train] == [("stage1.jsonl", 8), ("stage2.jsonl", 2)]
    assert len({one["hash"] for one in found.train}) == 2
    assert found.items_by_file() == {"stage1.jsonl": 4, "stage2.jsonl": 3}
    (match,) = found.pictures
    assert match["train"] == [f"stage{file} (0.png)" for file in ("1.jsonl:8", "2.jsonl:1", "2.jsonl:2")]
    assert {one["item"]: one["files"] for one in [match, *found.texts]} == {
        "a": {"stage1.jsonl": 1, "stage2.jsonl": 2},
        "b": {"stage1.jsonl": 1, "stage2.jsonl": 1},  # another part of it in each
        "c": {"stage1.jsonl": 7, "stage2.jsonl": 1},  # where more stand than are named
        "d": {"stage1.jsonl": 1},
    }
    assert load_overlap(save_overlap(found, tmp_path / "overlap.json")) == found


def test_files_of_one_name_are_told_apart_and_one_file_counts_once(tmp_path):
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files.append(write_train(tmp_path / name, [([], "Hello.")]))
    found = compare(files, [Item("a", [], user_turn("Hello."))])
    assert found.texts[0]["train"] == ["first/train.jsonl:1", "second/train.jsonl:1"]
    with pytest.raises(ValueError, match="first/../second/train.jsonl is named more than once"):
        compare([files[1], tmp_path / "first/../second/train.jsonl"], [])


def test_an_overlap_comes_back_from_its_file_and_a_changed_one_does_not(overlap, tmp_path):
    path = save_overlap(overlap, tmp_path / "overlap.json")
    assert str(tmp_path) not in path.read_text()  # folders are nobody's business
    assert load_overlap(path) == overlap
    content = json.loads(path.read_text())
    for key, value, reason in (
        ("counts", {"any": 0}, "as its matches have it"),
        ("items_hash", "x", "64 hex digits"),
        ("pictures", [{"item": 3, "files": {}}], "id of an item"),
        ("texts", None, "a list of matches"),
        ("pictures", [{"item": "a", "files": 1}], "a number for each file"),
        ("train", [{"file": "a", "hash": "x", "num_records": 1}], "files with name, hash and number"),
        ("train", [], "files with name, hash and number"),
        ("num_items", -1, "a whole number"),
    ):
        path.write_text(json.dumps({**content, key: value}))
        with pytest.raises(ValueError, match=reason):
            load_overlap(path)


def test_a_prompt_of_every_item_names_a_few_records_only(tmp_path):
    records = [([], LONG)] * 30
    items = [Item(str(number), [], user_turn(LONG)) for number in range(9)]
    found = overlap_of(tmp_path, records, items)
    assert found.counts()["words"] == 9
    assert all(len(one["train"]) == 5 and one["files"] == {"train.jsonl": 30} for one in found.texts)
