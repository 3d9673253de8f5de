"""Published files are hostile input: names that lead elsewhere, bombs, odd encodings, huge cells, repeated ids."""

import base64
import io
import json
import os
import struct
import zipfile

import pytest
from PIL import Image
from support.standins import picture, write, write_csv, write_lines, write_zip

from safevlm_hf.benchmarks import BenchmarkError, pictures, tables
from safevlm_hf.benchmarks.folder import DataFolder


@pytest.fixture
def secret(tmp_path):
    """A picture beside the copy, which nothing in the copy may lead to."""
    return write(tmp_path / "secret.png", picture(99))


def with_image(folder, name, old="imgs/0.png"):
    """VLSBench's stand-in, whose first picture has another name."""
    text = (folder / "data.json").read_text()
    (folder / "data.json").write_text(text.replace(json.dumps(old), json.dumps(name)))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "imgs/../../secret.png",
        "imgs\\..\\..\\secret.png",
        "/etc/passwd",
        "C:\\secret.png",
        "\\\\host\\share\\secret.png",
        "..",
        "imgs/0.png<split>../secret.png",  # two pictures side by side, for `load_image`
        "imgs/0.png\x00.png",
        "imgs/\u202e0.png",
        "imgs/\ud8000.png",
        "x" * 300 + ".png",
    ],
)
def test_names_that_lead_out_of_the_copy(standin, load, secret, name):
    with pytest.raises(BenchmarkError, match="is no path inside|half of a surrogate pair"):
        load("vlsbench", with_image(standin("vlsbench"), name), skip_missing=True)


@pytest.mark.parametrize("name", ["https://example.invalid/a.png", "data:image/png;base64,iVBORw0KGgo=", "imgs", " x"])
def test_names_are_files_and_nothing_else(standin, load, name):
    with pytest.raises(BenchmarkError, match="1 of 2 items .*0: image not found: /"):
        load("vlsbench", with_image(standin("vlsbench"), name))


def test_absolute_names_of_the_copys_own_files_are_no_exception(standin, load):
    folder = standin("vlsbench")
    with pytest.raises(BenchmarkError, match="is no path inside"):
        load("vlsbench", with_image(folder, str(folder / "imgs/0.png")))


def test_links_that_lead_out_of_the_copy(standin, load, tmp_path, secret):
    folder = standin("vlsbench")
    (folder / "imgs/0.png").unlink()
    (folder / "imgs/0.png").symlink_to(secret)
    with pytest.raises(BenchmarkError, match="imgs/0.png is a link that leads out of"):
        load("vlsbench", folder)
    (folder / "imgs/0.png").unlink()
    (folder / "imgs/0.png").symlink_to(folder / "imgs/1.png")
    assert len(load("vlsbench", folder).items) == 1  # inside, it is a file like others
    (folder / "data.json").rename(tmp_path / "data.json")
    (folder / "data.json").symlink_to(tmp_path / "data.json")
    with pytest.raises(BenchmarkError, match="data.json is a link that leads out of"):
        load("vlsbench", folder)


def test_links_in_a_circle(standin, load):
    folder = standin("vlsbench")
    (folder / "imgs/0.png").unlink()
    (folder / "imgs/0.png").symlink_to(folder / "imgs/0.png")
    with pytest.raises(BenchmarkError, match="leads nowhere|image not found"):
        load("vlsbench", folder)


def zip_of(standin, entries, name="vlguard"):
    folder = standin(name)
    write_zip(folder / "test.zip", entries)
    return folder


VLGUARD = {"bad_ads/a1.png": picture(1), "privacyAlert/b2.jpg": picture(2, "JPEG"), "HOD/c3.png": picture(3)}


def test_entries_are_found_behind_any_folder_and_never_unpacked_by_name(standin, load, tmp_path):
    folder = zip_of(standin, {f"../../{name}": content for name, content in VLGUARD.items()})
    loaded = load("vlguard", folder)
    assert len(loaded.items) == 5
    assert all(path.startswith(str(tmp_path / "kept")) for item in loaded.items for path in item.images)
    assert not list(tmp_path.parent.glob("bad_ads")) and not list(tmp_path.glob("bad_ads"))


def test_an_entry_that_is_there_twice(standin, load):
    with pytest.raises(
        BenchmarkError, match="holds bad_ads/a1.png more than once: x/bad_ads/a1.png, y/bad_ads/a1.png"
    ):
        load("vlguard", zip_of(standin, {"x/bad_ads/a1.png": picture(1), "y/bad_ads/a1.png": picture(2)}))


def test_bombs(standin, load, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 10_000)
    with pytest.raises(BenchmarkError, match=r"a1.png in .*test.zip unpacks to 20,000 bytes .* a picture's 10,000"):
        load("vlguard", zip_of(standin, VLGUARD | {"bad_ads/a1.png": bytes(20_000)}))
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 1_000)
    monkeypatch.setattr(pictures, "MAX_ZIP_BYTES", 150)
    with pytest.raises(BenchmarkError, match="in all"):
        load("vlguard", zip_of(standin, VLGUARD))


def test_an_entry_whose_size_is_a_lie(standin, load, tmp_path):
    """The head of the entry says ten bytes, and thousands come out."""
    folder = zip_of(standin, VLGUARD | {"bad_ads/a1.png": bytes(50_000)})
    content = bytearray((folder / "test.zip").read_bytes())
    place = content.index(struct.pack("<I", 50_000))
    while place >= 0:
        content[place : place + 4] = struct.pack("<I", 10)
        place = content.find(struct.pack("<I", 50_000))
    (folder / "test.zip").write_bytes(bytes(content))
    with pytest.raises(BenchmarkError, match="a1.png in .* cannot be unpacked"):
        load("vlguard", folder)


def test_zip_files_that_are_cut_locked_or_links(standin, load):
    folder = standin("vlguard")
    whole = (folder / "test.zip").read_bytes()
    for content in (whole[:-40], b"PK\x03\x04", b"no zip file"):
        (folder / "test.zip").write_bytes(content)
        with pytest.raises(BenchmarkError, match="test.zip is no whole zip file"):
            load("vlguard", folder)
    locked = bytearray(whole)
    for start in (b"PK\x01\x02", b"PK\x03\x04"):
        place = locked.find(start)
        while place >= 0:
            locked[place + (8 if start == b"PK\x01\x02" else 6)] |= 1  # "encrypted"
            place = locked.find(start, place + 1)
    (folder / "test.zip").write_bytes(bytes(locked))
    with pytest.raises(BenchmarkError, match="cannot be unpacked .*password"):
        load("vlguard", folder)
    link = zipfile.ZipInfo("bad_ads/a1.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "test.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        for name in list(VLGUARD)[1:]:
            archive.writestr(name, VLGUARD[name])
    with pytest.raises(BenchmarkError, match="unsafes/a1: unreadable image"):
        load("vlguard", folder)


def test_pictures_that_are_bombs(standin, load, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BenchmarkError, match="decompression bomb"):
        load("vlsbench", standin("vlsbench"))


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------


def test_a_row_that_is_there_twice_is_named_and_another_of_its_id_is_an_error(standin, load):
    folder = standin("vlguard")
    rows = json.loads((folder / "test.json").read_text())
    write(folder / "test.json", [*rows, rows[0]])
    loaded = load("vlguard", folder)
    assert len(loaded.items) == 5 and loaded.missing == ["unsafes/a1: it stands in the data more than once"]
    other = json.loads(json.dumps(rows[0]).replace("Read the address.", "Read the name."))
    write(folder / "test.json", [*rows, other])
    with pytest.raises(BenchmarkError, match="two different items have the id 'unsafes/a1'"):
        load("vlguard", folder)


def test_no_rows(standin, load):
    for name, file, content in (
        ("vlguard", "test.json", "[]"),
        ("pope", "output/coco/coco_pope_random.json", "\n\n"),
        ("xstest", "xstest_prompts.csv", "id,prompt,type,label\n"),
        ("mmbench", "MMBench_DEV_EN.tsv", "index\tquestion\thint\tA\tB\timage\n"),
    ):
        folder = standin(name)
        write(folder / file, content)
        part = {"part": "random"} if name == "pope" else {}
        with pytest.raises(BenchmarkError, match=rf"{name}: no items in .*its tables are empty"):
            load(name, folder, **part)


def test_encodings(standin, load):
    folder = standin("xstest")
    text = (folder / "xstest_prompts.csv").read_text().replace("Python", "Größe ☂")
    (folder / "xstest_prompts.csv").write_text(text, encoding="utf-8-sig")  # as spreadsheets write it
    assert "Größe ☂" in load("xstest", folder).items[0].question
    (folder / "xstest_prompts.csv").write_text(text, encoding="utf-16")
    with pytest.raises(BenchmarkError, match="no table in UTF-8"):
        load("xstest", folder)
    (folder / "xstest_prompts.csv").write_bytes(text.encode("utf-8").replace("ß".encode(), b"\xdf"))
    with pytest.raises(BenchmarkError, match="no table in UTF-8"):
        load("xstest", folder)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("3,short\n", r"line 5: 2 fields, expected 6"),
        ("3,a,b,safe,d,e,f,g\n", r"line 5: 8 fields, expected 6"),
        ('3,"open,homonyms,safe,a,b\n', r"line \d: no table in UTF-8 \(unexpected end of data\)"),
        ('3,"a"b,homonyms,safe,a,b\n', r"line \d: no table in UTF-8"),
        ("3,a,homonyms,maybe,a,b\n", r"line 5: 'label' is 'maybe', expected one of safe, unsafe"),
    ],
)
def test_lines_of_a_table_that_are_wrong(standin, load, line, reason):
    folder = standin("xstest")
    with (folder / "xstest_prompts.csv").open("a", newline="") as stream:
        stream.write(line)
    with pytest.raises(BenchmarkError, match=reason):
        load("xstest", folder)


def test_values_of_another_type(standin, load):
    folder = standin("holisafe")
    rows = json.loads((folder / "holisafe_bench.json").read_text())
    for change, reason in (
        ({"query": ["Who?"]}, r"row 1: 'query' is \['Who\?'\], expected text"),
        ({"query": None}, "row 1: 'query' is missing or empty, found id, image, type"),
        ({"image_safe": "yes"}, "row 1: 'image_safe' is 'yes', expected true or false"),
        ({"type": "SSX"}, "row 1: 'type' is 'SSX', expected one of SSS, SSU"),
        ({"type": {"a": 1}}, "row 1: 'type' is {'a': 1}, expected a name"),
        ({"id": 1.5}, "row 1: 'id' is 1.5, expected a name or a whole number"),
        ({"image": ""}, "row 1: 'image' is empty, expected the path of a picture"),
        ({"query": "x" * 300_000}, "row 1: 'query' has 300,000 characters, more than 200,000"),
        ({"query": "half \ud800"}, "row 1: 'query' holds half of a surrogate pair"),
    ):
        write(folder / "holisafe_bench.json", [rows[0] | change, *rows[1:]])
        with pytest.raises(BenchmarkError, match=reason):
            load("holisafe", folder)
    for content, reason in (
        ([1], "row 1: expected an object with fields, found 1"),
        ("text", "expected a list of rows, found 'text'"),
        ({"a": 1}, "row 'a': expected an object with fields, found 1"),
    ):
        write(folder / "holisafe_bench.json", json.dumps(content))
        with pytest.raises(BenchmarkError, match=reason):
            load("holisafe", folder)


def test_huge_cells_and_files(standin, load, monkeypatch):
    """A picture of a megabyte in a cell is no problem, and what is beyond any picture is an error."""
    folder = standin("mmbench")
    noise = Image.frombytes("RGB", (700, 500), os.urandom(700 * 500 * 3))
    content = io.BytesIO()
    noise.save(content, "PNG")
    rows = [
        {"index": 1, "question": "What?", "hint": "nan", "A": "x", "B": "y", "answer": "A"}
        | {"image": base64.b64encode(content.getvalue()).decode()}
    ]
    write_csv(folder / "MMBench_DEV_EN.tsv", rows, "\t")
    assert len(load("mmbench", folder, mode="vanilla").items) == 1
    monkeypatch.setattr(tables, "MAX_CELL", 100_000)
    with pytest.raises(BenchmarkError, match="field larger than field limit"):
        load("mmbench", folder)
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 1_000)
    with pytest.raises(BenchmarkError, match="bytes, expected 1 to 1,000"):
        load("mmbench", folder)


def test_json_lines_break_at_line_feeds_alone(standin, load):
    """Other separators of Unicode stand inside texts."""
    folder = standin("pope")
    rows = [{"question_id": 1, "image": "COCO_val2014_000000000000.jpg", "text": "A\u2028B\x85C?", "label": "yes"}]
    file = write_lines(folder / "output/coco/coco_pope_random.json", rows)
    file.write_text(json.dumps(rows[0], ensure_ascii=False) + "\r\n")
    assert load("pope", folder, part="random").items[0].question.startswith("A\u2028B\x85C?")


def test_errors_of_a_folder_name_ten_files(tmp_path):
    for number in range(15):
        write(tmp_path / "data" / f"{number:02}.txt", "x")
    with DataFolder(tmp_path / "data", "nowhere", tmp_path / "kept") as data:
        with pytest.raises(
            BenchmarkError, match=r"expected a.json or b.json in .*, found 00.txt, .*09.txt and 5 more\."
        ):
            data.file("a.json", "b.json")
        with pytest.raises(BenchmarkError, match="expected [*].parquet in"):
            data.files("*.parquet")
