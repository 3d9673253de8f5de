import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safevlm_hf.evaluation.protocol.cache import JsonLinesCache


fork = multiprocessing.get_context("fork")


def test_what_was_put_is_there_again(tmp_path):
    path = tmp_path / "new" / "cache.jsonl"
    with JsonLinesCache(path) as cache:
        assert cache.get("a") is None and "a" not in cache
        assert cache.put("a", {"text": 'ä\n\u2028"\ud800', "parts": (1, 2.5, None)})["parts"] == [1, 2.5, None]
        cache.put("b", [])
    with JsonLinesCache(path) as again:
        assert again.get("a") == {"text": 'ä\n\u2028"\ud800', "parts": [1, 2.5, None]}
        assert "b" in again


def test_the_first_value_stays(tmp_path):
    path = tmp_path / "cache.jsonl"
    with JsonLinesCache(path) as cache:
        assert (cache.put("a", 1), cache.put("a", 2)) == (1, 1)
        assert path.read_text().count("\n") == 1
    with JsonLinesCache(path) as again:
        assert again.get("a") == 1
    with path.open("a") as file:
        file.write('{"key": "a", "value": 3}\n')  # older files have replaced ones
    with JsonLinesCache(path) as again:
        assert again.get("a") == 3


@given(st.integers(0, 10**6), st.lists(st.text(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_keeps_all_whole_lines(tmp_path_factory, cut, values):
    path = tmp_path_factory.mktemp("cut") / "cache.jsonl"
    with JsonLinesCache(path) as cache:
        for number, value in enumerate(values):
            cache.put(str(number), value)
    content = path.read_bytes()
    content = content[: cut % (len(content) + 1)]
    path.write_bytes(content)
    whole = content.count(b"\n")
    with JsonLinesCache(path) as cache:
        assert [cache.get(str(number)) for number in range(whole)] == values[:whole] and str(whole) not in cache
        assert path.read_bytes() == content[: content.rfind(b"\n") + 1]
        cache.put("next", 1)
    with JsonLinesCache(path) as cache:
        assert cache.get("next") == 1 and path.read_bytes().count(b"\n") == whole + 1


@pytest.mark.parametrize("tail", [b"{", b'{"key": "x", "val', b'{"key": "x"\0\0\0', b"\0\0\0\0"])
def test_a_torn_line_is_dropped_and_reported(tmp_path, caplog, tail):
    path = tmp_path / "cache.jsonl"
    with JsonLinesCache(path) as cache:
        cache.put("a", 1)
    path.write_bytes(path.read_bytes() + tail)
    with JsonLinesCache(path) as cache:
        assert cache.get("a") == 1 and path.read_bytes().endswith(b"\n")
    assert f"torn by a kill; {len(tail)} bytes dropped, 1 entries kept" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b'{"id": 1}\n',
        b'{"key": 1, "value": 2}\n',
        b'{"key": "a", "value": 1, "more": 2}\n',
        b'{"key": "a", "value": NaN}\n',
        b'{"key": "a", "key": "b", "value": 1}\n',
        b"[1, 2]\n",
        b"\n",
        b"\xff\n",
        b'{"key": "a", "value": 1}\nnonsense\n{"key": "b", "value": 1}\n',
        b'{"figures": []}',
        b"not ours, without an end",
        b'{"key": "a", "value": 1}\n[1, 2',
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "precious.json"
    path.write_bytes(content)
    for _ in range(2):  # and nothing stays locked
        with pytest.raises(ValueError, match="precious.json"):
            JsonLinesCache(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("value", [float("nan"), {"a": {1, 2}}, b"bytes"])
def test_what_json_does_not_have_is_not_written(tmp_path, value):
    with JsonLinesCache(tmp_path / "cache.jsonl") as cache:
        with pytest.raises((TypeError, ValueError)):
            cache.put("a", value)
        assert "a" not in cache and cache.path.read_bytes() == b""


class FullDisk:
    """Takes some bytes of a line, then no more."""

    def __init__(self, file):
        self._file, self.is_full = file, False

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if self.is_full:
            raise OSError("No space left on device")
        self.is_full = True
        return self._file.write(data[:5])


def test_a_full_disk_leaves_no_half_line(tmp_path):
    with JsonLinesCache(tmp_path / "cache.jsonl") as cache:
        cache.put("a", 1)
        file, cache._file = cache._file, FullDisk(cache._file)
        with pytest.raises(OSError, match="No space"):
            cache.put("b", 2)
        cache._file = file
        assert "b" not in cache
        cache.put("c", 3)
    with JsonLinesCache(cache.path) as again:
        assert "b" not in again and (again.get("a"), again.get("c")) == (1, 3)


def put_until_killed(path, started):
    cache = JsonLinesCache(path)
    for number in range(10**9):
        cache.put(f"{number}", "x" * 50_000)
        started.set()


def test_a_kill_loses_nothing_that_was_put(tmp_path):
    path, started = tmp_path / "cache.jsonl", fork.Event()
    process = fork.Process(target=put_until_killed, args=(path, started))
    process.start()
    assert started.wait(60)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    whole = path.read_bytes().count(b"\n")
    with JsonLinesCache(path) as cache:
        assert whole > 0 and all(f"{number}" in cache for number in range(whole))
        assert cache.get(f"{whole - 1}") == "x" * 50_000


def open_elsewhere(path, queue):
    try:
        JsonLinesCache(path).close()
        queue.put("opened")
    except RuntimeError as error:
        queue.put(str(error))


def in_another_process(path):
    queue = fork.Queue()
    process = fork.Process(target=open_elsewhere, args=(path, queue))
    process.start()
    found = queue.get(timeout=60)
    process.join()
    return found


def test_two_runs_at_once_are_an_error(tmp_path):
    path = tmp_path / "cache.jsonl"
    with JsonLinesCache(path) as cache:
        cache.put("a", 1)
        with pytest.raises(RuntimeError, match="in use by another run: wait for it, or name another file"):
            JsonLinesCache(path)
        assert "in use by another run" in in_another_process(path)
        cache.put("b", 1)
    assert in_another_process(path) == "opened"


def test_threads_share_a_cache(tmp_path):
    with JsonLinesCache(tmp_path / "cache.jsonl") as cache:
        kept = []
        threads = [
            threading.Thread(target=lambda name=name: kept.extend(cache.put(f"{n}", name) for n in range(50)))
            for name in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = [json.loads(line) for line in cache.path.read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == 50 and len(kept) == 200
    with JsonLinesCache(cache.path) as again:
        assert all(again.get(line["key"]) == line["value"] for line in lines)


def test_closing_twice_and_using_it_afterwards(tmp_path):
    cache = JsonLinesCache(tmp_path / "cache.jsonl")
    cache.flush()
    cache.close()
    cache.close()
    with pytest.raises(ValueError, match="closed"):
        cache.put("a", 1)
