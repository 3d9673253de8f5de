"""Data sets in the layouts of the Hub, from folders: what is not on disk as a file of records becomes one."""

import io
import json
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture
from support.tiny_training import messages, published, read_records, write

from safevlm_hf.data.hub import find_records
from safevlm_hf.data.records import RecordError, load_image


TURN = {"role": Value("string"), "content": [{"type": Value("string"), "text": Value("string")}]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def cell(size=(16, 8)) -> dict:
    """A picture as Parquet files hold it."""
    content = io.BytesIO()
    Picture.new("RGB", size, "teal").save(content, "png")
    return {"bytes": content.getvalue(), "path": "a.png"}


def save(folder: Path, rows: list[dict], features: Features, split="train") -> Path:
    """As `push_to_hub` lays it out: Parquet with the pictures in it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def chat_rows(**others):
    content = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
    answer = [{"type": "text", "text": "A card."}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": [cell()], "safety_level": "high", "safety_category": "privacy"} | others


CHAT = Features(
    {"messages": [TURN], "images": [Image()], "safety_level": Value("string"), "safety_category": Value("string")}
)


def test_messages_with_pictures(tmp_path):
    folder = save(tmp_path / "set", [chat_rows(), chat_rows()], CHAT)
    file = find_records(folder)
    records = read_records(file)
    assert records["safety_level"] == [3, 3] and records["safety_category"] == [4, 4]
    assert [load_image(image).size for images in records["images"] for image in images] == [(16, 8)] * 2
    assert records[0]["messages"][0]["content"][1]["text"] == "What is it?"
    before = file.stat().st_mtime_ns
    assert find_records(str(folder)) == file and file.stat().st_mtime_ns == before  # written once
    assert [path.name for path in file.parent.parent.iterdir()] == [file.parent.name]


def test_folders_of_save_to_disk(tmp_path):
    saved = Dataset.from_list([chat_rows()], features=CHAT)
    saved.save_to_disk(tmp_path / "alone")
    datasets.DatasetDict(train=saved, other=saved.select([0, 0])).save_to_disk(tmp_path / "splits")
    for name, count in (("alone", 1), ("splits", 1), ("splits:other", 2)):
        records = read_records(find_records(tmp_path / name))
        assert records["safety_level"] == [3] * count and load_image(records[0]["images"][0]).size == (16, 8)
    with pytest.raises(ValueError, match="has no split 'validation', only 'train', 'other': name one, as"):
        find_records(tmp_path / "splits", "validation")


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    def unreached(*_, **__):
        raise ConnectionError("Couldn't reach 'some/cards' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", unreached)
    with pytest.raises(OSError, match="no file or folder some/cards here, and the Hub, .* cannot be reached"):
        find_records("some/cards")


def test_the_published_form_with_labels_of_its_own(tmp_path):
    """Ids of a `ClassLabel` are the data set's: its names count."""
    features = {
        "image": Image(),
        "safe_type": ClassLabel(names=["safe", "privacy"]),
        "safe_level": ClassLabel(names=["high", "safe"]),
        "conversations": [{"from": Value("string"), "value": Value("string")}],
        "added": Value("timestamp[s]"),
    }
    row = published(category=1, level=0, image=cell(), added=0)
    folder = save(tmp_path / "set", [row, {**row, "image": None}], Features(features))
    with pytest.raises(RecordError, match=r"set-train-\w+/records.jsonl:2: 1 <image> in 'conversations', but 0 image"):
        read_records(find_records(folder))
    folder = save(tmp_path / "other", [row], Features(features))
    (record,) = read_records(find_records(folder))
    assert (record["safety_category"], record["safety_level"]) == (4, 3)
    assert json.loads(record["extra"]) == {"added": "1970-01-01 00:00:00"}


def test_a_label_per_picture(tmp_path):
    levels = [ClassLabel(names=["high", "safe"])]
    row = chat_rows(safety_level=[1, 0], safety_category=["safe", "privacy"], images=[cell()] * 2)
    row["messages"][0]["content"].insert(0, {"type": "image", "text": None})
    features = Features(CHAT | {"safety_level": levels, "safety_category": [Value("string")]})
    (record,) = read_records(find_records(save(tmp_path / "set", [row], features)))
    assert (record["image_levels"], record["image_categories"]) == ([0, 3], [6, 4])


def test_splits(tmp_path):
    folder = tmp_path / "set"
    for split, level in (("train", "high"), ("validation", "low"), ("test", "medium")):
        save(folder, [chat_rows(safety_level=level)] * 4, CHAT, split)
    found = {name: read_records(find_records(f"{folder}{name}")) for name in ("", ":test", ":train[:50%]")}
    assert {name: records["safety_level"] for name, records in found.items()} == {
        "": [3] * 4,
        ":test": [2] * 4,
        ":train[:50%]": [3] * 2,
    }
    assert read_records(find_records(folder, split="validation"))["safety_level"] == [1] * 4
    with pytest.raises(ValueError, match="dev"):
        find_records(f"{folder}:dev")


@pytest.fixture
def hub(monkeypatch):
    """Puts rows in the place of the Hub, and lists what is asked of it."""

    def put(rows: list[dict], features: Features) -> list[tuple]:
        asked, dataset = [], Dataset.from_list(rows, features=features)
        monkeypatch.setattr(datasets, "load_dataset", lambda path, split: asked.append((path, split)) or dataset)
        return asked

    return put


@pytest.fixture
def cached(tmp_path) -> Path:
    """A picture as a data set of the Hub brings it beside its rows."""
    file = tmp_path / "cache" / "a.png"
    file.parent.mkdir()
    Picture.new("RGB", (16, 8)).save(file)
    return file


def test_a_name_on_the_hub_is_loaded_from_there(hub):
    asked = hub([chat_rows()], CHAT)
    assert len(read_records(find_records("org/name"))) == len(read_records(find_records("org/name:dev"))) == 1
    assert asked == [("org/name", "train"), ("org/name", "dev")]


def test_pictures_beside_the_rows(hub, cached):
    hub([chat_rows(images=[{"bytes": None, "path": str(cached)}])], CHAT)
    (record,) = read_records(find_records("org/name"))
    assert record["images"] == [str(cached)]


@pytest.mark.parametrize("name", ["{own}", "../own.png", "{cached}/../../own.png", "{cached}<split>{own}"])
@pytest.mark.parametrize("feature", [Image(), Value("string")], ids=["picture", "name"])
def test_rows_of_strangers_name_no_file_of_this_machine(hub, cached, tmp_path, name, feature):
    own = tmp_path / "own.png"
    Picture.new("RGB", (8, 8)).save(own)
    name = name.format(own=own, cached=cached)
    images = [name if feature == Value("string") else {"bytes": None, "path": name}]
    hub([chat_rows(images=images)], Features(CHAT | {"images": [feature]}))
    with pytest.raises(ValueError, match="org/name, row 0: the picture .* is not in the data set"):
        find_records("org/name")


def test_files_stay_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    file = write(Path("data/train.jsonl"), messages())
    assert find_records(str(file)) == file and find_records(file) == file
    odd = write(Path("data/a:b"), messages())
    assert find_records(str(odd)) == odd
    for missing in ("data/tran.jsonl", "gone.jsonl", "/no/such/file"):
        with pytest.raises(FileNotFoundError, match=f"there is no file {missing}: expected JSON lines, a folder"):
            find_records(missing)
