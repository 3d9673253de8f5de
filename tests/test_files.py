"""Files that are whole or not there."""

import os

import pytest

from safevlm_hf.files import write_text


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


def _fail(*_):
    raise OSError("disk full")
