"""Files that are whole or not there."""

import os
from pathlib import Path

import pytest

from safevlm_hf.files import check_apart, check_writable, refuse_to_overwrite, write_text


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "made" / "file.txt"
    assert write_text(str(path), "one\n") == path and path.read_text() == "one\n"
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    monkeypatch.setattr(os, "replace", _fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "two\n")
    assert path.read_text() == "one\n" and os.listdir(path.parent) == ["file.txt"]


def test_what_is_no_plain_file_is_not_replaced_by_one(tmp_path):
    (tmp_path / "policy.json").write_text("old")
    (tmp_path / "policy.json").chmod(0o600)
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "policy.json")
    assert write_text(link, "new") == link and link.is_symlink()
    assert (tmp_path / "policy.json").read_text() == "new"
    assert (tmp_path / "policy.json").stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "told")
    assert os.read(reader, 9) == b"told" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


@pytest.mark.parametrize(
    ("name", "is_folder", "reason"),
    [
        ("file", True, "is a file, expected a folder"),
        (".", False, "is a folder, expected a file"),
        ("file/policy.json", False, "cannot be written: .*file: not a directory"),
        ("/proc/none/policy.json", False, "cannot be written: /proc: "),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before(tmp_path, name, is_folder, reason):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=reason):
        check_writable(tmp_path / name, is_folder)


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for name, is_folder in (("file", False), ("new/policy.json", False), ("new", True), (".", True)):
        check_writable(tmp_path / name, is_folder)
    check_writable("/dev/null")
    assert os.listdir(tmp_path) == ["file"]


def test_files_of_one_command_are_apart(tmp_path):
    there, link = tmp_path / "a", tmp_path / "link"
    there.write_text("")
    link.symlink_to(there)
    for other in (there, link, tmp_path / "b" / ".." / "a", there / "inside.html", tmp_path):
        with pytest.raises(ValueError, match="`-o` .*a and `--report` .*: name another file"):
            check_apart({"-o": there, "--report": other})
    for read in (there, link):
        with pytest.raises(ValueError, match="`-o .*a` would replace `--data` .*, which is read"):
            check_apart({"-o": there, "--report": None}, {"--policy": None, "--data": read})
    check_apart({"-o": there, "--report": tmp_path / "ab"}, {"--data": tmp_path, "--prompt": Path("word " * 99)})
    check_apart({"-o": Path("/dev/null"), "--report": Path("/dev/null")})


def test_what_is_there_is_told_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(ValueError, match=f"{path} is there already: name another."):
            refuse_to_overwrite(path, "name another")
    for path in (tmp_path / "new", tmp_path / "empty", "/dev/null"):
        refuse_to_overwrite(path, "name another")


def _fail(*_):
    raise OSError("disk full")
