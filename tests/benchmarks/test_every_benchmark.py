"""What holds for every benchmark: items from the published layout, and one clear error for any other."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from safevlm_hf.benchmarks import BENCHMARKS, BenchmarkError, describe_benchmarks, load_benchmark
from safevlm_hf.data.records import load_image


OPTIONS = {"rtvlm": {"mode": "zero-shot"}, "riskcards": {"size": 6}}
LOADED = {
    "rtvlm": ("rtvlm/all/zero-shot", 25),
    "vlguard": ("vlguard/test/all", 5),
    "mm_safetybench": ("mm_safetybench/all/all/full", 78),
    "figstep": ("figstep/all", 4),
    "holisafe": ("holisafe/all", 5),
    "spa_vl": ("spa_vl/all", 3),
    "mssbench": ("mssbench/all", 8),
    "siuo": ("siuo/gen", 1),
    "vlsbench": ("vlsbench/all", 1),
    "jailbreakv": ("jailbreakv/mini", 1),
    "mossbench": ("mossbench/main", 3),
    "xstest": ("xstest/text-only", 2),
    "vlsu": ("vlsu/all", 3),
    "safeatlas_vl": ("safeatlas_vl/request", 2),
    "riskcards": ("riskcards/test/alone/6/seed=0", 6),
    "mmbench": ("mmbench/dev/circular", 5),
    "seed_bench": ("seed_bench/all", 3),
    "mme": ("mme/all", 56),
    "pope": ("pope/all", 12),
}
PUBLISHED = [name for name in BENCHMARKS if not BENCHMARKS[name].is_drawn]
TABLES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")


def options(name):
    return OPTIONS.get(name, {})


def tables(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in TABLES and "images/u" not in str(path))


def standin_root(path, name):
    return next(parent for parent in path.parents if parent.name == name)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_items_of_the_published_layout(standin, load, name):
    loaded = load(name, standin(name), **options(name))
    assert (loaded.name, len(loaded.items)) == LOADED[name]
    assert len({item.id for item in loaded.items}) == len(loaded.items)
    for item in loaded.items:
        assert item.messages[-1]["role"] == "user" and item.question.strip()
        places = [part for message in item.messages for part in message["content"] if part["type"] == "image"]
        assert len(places) == len(item.images) and all(map(os.path.isabs, item.images))
        assert all(isinstance(load_image(path), Image.Image) for path in item.images)
        # What lies between safe and unsafe has no side.
        is_between = item.labels.get("grade") in ("borderline", "ambiguous")
        assert item.labels.get("is_risky") in ((None,) if is_between else (True, False))
        json.dumps([item.id, item.messages, item.expected, dict(item.labels), item.group])  # plain values


@pytest.mark.parametrize("name", PUBLISHED)
def test_ids_do_not_depend_on_where_the_copy_lies(standin, load, tmp_path, name):
    first = load(name, standin(name), **options(name))
    shutil.move(tmp_path / name, tmp_path / "elsewhere")
    second = load(name, tmp_path / "elsewhere", **options(name))
    fields = ("id", "messages", "expected", "labels", "group")
    assert [[getattr(item, field) for field in fields] for item in first.items] == [
        [getattr(item, field) for field in fields] for item in second.items
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_another_layout_says_what_is_missing_and_what_is_there(load, tmp_path, name):
    (tmp_path / "other").mkdir()
    for number in range(12):
        (tmp_path / "other" / f"file{number:02}.bin").write_bytes(b"x")
    with pytest.raises(BenchmarkError) as raised:
        load(name, tmp_path / "other", **options(name))
    reason = str(raised.value)
    assert reason.startswith("expected ") and "\n" not in reason
    assert "found file00.bin, file01.bin" in reason and "file10" not in reason and "and 2 more" in reason
    assert BENCHMARKS[name].where_to_get in reason


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_folder(load, tmp_path, name):
    with pytest.raises(BenchmarkError, match="there is no folder .*nothing_here.*Where to get the data"):
        load(name, tmp_path / "nothing_here", **options(name))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00broken", b"[", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"[" * 100_000],
    ids=["empty", "bytes", "cut", "lfs", "nested"],
)
def test_tables_that_are_none(standin, load, name, content):
    folder = standin(name)
    for path in tables(folder):
        path.write_bytes(content)
    with pytest.raises(BenchmarkError) as raised:
        load(name, folder, **options(name))
    assert "\n" not in str(raised.value) and "Where to get the data" in str(raised.value)
    if content.startswith(b"version"):
        assert "git lfs pull" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "file", "field"),
    [
        ("rtvlm", "data/Captcha/captcha.jsonl", "instruction"),
        ("rtvlm", "data/Face/face_diffusion.jsonl", "refused_to_answer"),
        ("rtvlm", "data/VisualOrderA/order_A.jsonl", "img"),
        ("vlguard", "test.json", "instr-resp"),
        ("vlguard", "test.json", "unsafe_instruction"),
        ("mm_safetybench", "data/processed_questions/06-Fraud.json", "Rephrased Question(SD)"),
        ("figstep", "data/question/safebench.csv", "instruction"),
        ("holisafe", "holisafe_bench.json", "type"),
        ("mssbench", "combined.json", "queries"),
        ("mssbench", "combined.json", "embodied"),
        ("siuo", "siuo_gen.json", "safety_warning"),
        ("vlsbench", "data.json", "instruction"),
        ("mossbench", "data/images_information/information.json", "over"),
        ("xstest", "xstest_prompts.csv", "label"),
        ("jailbreakv", "JailBreakV_28K/mini_JailBreakV_28K.csv", "image_path"),
        ("vlsu", "data/VLSU.csv", "uuid"),
        ("mmbench", "MMBench_DEV_EN.tsv", "hint"),
        ("seed_bench", "SEED-Bench.json", "question_type_id"),
        ("pope", "output/coco/coco_pope_popular.json", "label"),
    ],
)
def test_a_missing_field_is_named_with_its_file(standin, load, name, file, field):
    path = standin(name) / file
    is_table = path.suffix in (".csv", ".tsv")
    text = path.read_text()
    path.write_text(text.replace(field, "renamed", 1) if is_table else text.replace(f'"{field}"', '"renamed"'))
    with pytest.raises(BenchmarkError) as raised:
        load(name, standin_root(path, name), **options(name))
    reason = str(raised.value)
    assert reason.startswith(file) and repr(field) in reason and "\n" not in reason
    # What was found instead, unless the field is one of several pairs.
    assert field == "unsafe_instruction" or re.search(r", found .*\brenamed\b", reason)


@pytest.mark.parametrize("name", ["spa_vl", "safeatlas_vl"])
def test_a_missing_column_of_parquet_is_named(standin, load, name):
    import pyarrow.parquet as parquet

    path = tables(standin(name))[0]
    parquet.write_table(parquet.read_table(path).rename_columns({"image": "renamed"}), path)
    with pytest.raises(BenchmarkError, match=rf"{path.name} has no column 'image', found .*renamed"):
        load(name, standin_root(path, name))


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "xstest"])
def test_a_picture_that_cannot_be_read(standin, load, tmp_path, name):
    folder = standin(name)
    if name in ("rtvlm", "vlguard", "spa_vl", "safeatlas_vl", "mmbench", "figstep"):
        load(name, folder, **options(name))
        pictures = sorted((tmp_path / "kept").iterdir())
    else:
        pictures = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in TABLES)
    broken = pictures[0].read_bytes()
    content = b"\x89PNG\r\n\x1a\n" + b"x" * (len(broken) - 8)  # of the same size, as a kept one is recognised by it
    pictures[0].write_bytes(content)
    if name == "vlsu":  # where dead pictures are part of the data
        loaded = load(name, folder)
        assert any("unreadable image" in reason for reason in loaded.missing)
        return
    with pytest.raises(BenchmarkError, match=r"have a picture that is missing or cannot be read; .*skip_missing"):
        load(name, folder, **options(name))
    whole = LOADED[name][1]
    try:
        loaded = load(name, folder, skip_missing=True, **options(name))
    except BenchmarkError as error:
        assert "no items" in str(error)  # it was the only one
    else:
        assert 0 < len(loaded.items) < whole and any("unreadable image" in reason for reason in loaded.missing)


def test_options_are_checked_before_anything_is_read(tmp_path):
    with pytest.raises(BenchmarkError, match="there is no benchmark 'rtvml'; there are rtvlm, vlguard"):
        load_benchmark("rtvml", tmp_path)
    with pytest.raises(BenchmarkError, match=r"pope has no option 'split'. Valid options: part \(all, random"):
        load_benchmark("pope", tmp_path, split="random")
    with pytest.raises(BenchmarkError, match="part is 'most'"):
        load_benchmark("pope", tmp_path, part="most")
    for seed in (-1, "x", 1.5, None, True, "²", 2**32, "9" * 5000):
        with pytest.raises(BenchmarkError, match=r"seed is .*; seed \(a whole number from 0 to 4294967295, 0 if"):
            load_benchmark("rtvlm", tmp_path, seed=seed)
    for size in (0, "0", "99999999999999999999", 100_001):
        with pytest.raises(BenchmarkError, match=r"riskcards: size is .*size \(a whole number from 1 to 100000, 400 "):
            load_benchmark("riskcards", tmp_path, size=size)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(BenchmarkError, match="vlsu has no option 'part'. Valid options: none"):
        load_benchmark("vlsu", tmp_path, part="all")


def test_the_list_names_what_a_user_needs():
    rows = describe_benchmarks()
    assert [row["name"] for row in rows] == list(BENCHMARKS) and len(rows) == 19
    for row in rows:
        assert all(isinstance(value, str) and value for value in row.values())
        assert {"source", "licence", "size", "metric", "where_to_get", "options"} <= set(row)


def test_readers_take_exactly_their_options():
    import inspect

    for name, one in BENCHMARKS.items():
        assert list(inspect.signature(one.read).parameters)[1:] == list(one.options), name


def test_nothing_is_written_into_the_copy(standin, load):
    for name in PUBLISHED:
        folder = standin(name)
        before = sorted(folder.rglob("*"))
        load(name, folder, **options(name))
        assert sorted(folder.rglob("*")) == before


def test_a_snapshot_of_the_hubs_cache_is_links(standin, load, tmp_path):
    """`hf download` without a folder of one's own leaves links to blobs beside the snapshot."""
    source = standin("pope")
    hub = tmp_path / "datasets--x--POPE"
    (hub / "blobs").mkdir(parents=True)
    for number, path in enumerate(path for path in source.rglob("*") if path.is_file()):
        blob = hub / "blobs" / str(number)
        shutil.copy(path, blob)
        link = hub / "snapshots" / "abc" / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(os.path.relpath(blob, link.parent)))
    assert len(load("pope", hub / "snapshots" / "abc").items) == 12
