"""`safevlm assess` as a user types it: what is shown, where, and the exit code."""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from command_line import HOSTILE, SHOWN, UNKNOWN_SCOPE, rows, start, write_json

from safevlm_cli import addresses
from safevlm_cli.pictures import open_named


CARDS = Path(__file__).parents[2] / "docs/images"


def test_assess_shows_a_table(call, checkpoint, picture, monkeypatch):
    monkeypatch.chdir(picture.parent)
    other = Path(f"{HOSTILE}.png")
    other.parent.mkdir()  # it has a slash
    picture.rename(other)
    code, out, err = call("assess", other, "--model", checkpoint)
    assert (code, err) == (1, UNKNOWN_SCOPE)
    (row,) = [line for line in out.splitlines() if "condition" in line]
    assert rows(row)[f"{SHOWN}.png"][:3] == ["condition", "privacy", "high"]


def test_without_a_model_the_packages_own_judges_and_is_named(call):
    code, out, err = call("assess", CARDS / "card.jpg", "--json")
    assert code == 1 and "comes with this package" in err and "drawn cards" in err
    assert json.loads(out)["category"] == "politics"
    code, out, _ = call("assess", CARDS / "card.jpg", "--json", "--question", "Which colour is the card?")
    assert (code, json.loads(out)["level"]) == (0, "safe")


def test_a_narrow_table_cuts_nothing(call, checkpoint, picture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = call("assess", picture, "--model", checkpoint)
    first = [line[: line.index("  ")].strip() for line in out.partition("─\n")[2].splitlines()]
    assert "".join(first) == str(picture) and "…" not in out


def test_a_table_in_a_pipe_has_a_line_per_row(call, checkpoint, picture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    folder = picture.parent / ("a long name of a folder " * 9).strip()
    folder.mkdir()
    picture = picture.rename(folder / picture.name)
    head, _, row = call("assess", picture, "--model", checkpoint)[1].splitlines()
    assert rows(row)[str(picture)][:3] == ["condition", "privacy", "high"] and head.split()[-1] == "review"


def test_assess_in_json(call, checkpoint, picture, tmp_path):
    code, out, err = call("assess", picture, picture, "--model", checkpoint, "--json", "--question", "Whose is it?")
    assert (code, err) == (1, UNKNOWN_SCOPE)
    first, second = lines(out)
    assert first == second and first["image"] == str(picture)
    assert (first["category"], first["level"], first["action"]) == ("privacy", "high", "condition")
    assert first["flagged_categories"] == ["privacy"] and first["risk"] > 0.99
    policy = write_json(tmp_path / "policy.json", {"categories": {"privacy": False}})
    code, out, err = call("assess", picture, "--model", checkpoint, "--json", "--policy", policy)
    assert (code, err, json.loads(out)["action"]) == (0, UNKNOWN_SCOPE, "answer")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_a_checkpoint_knows_is_said_once_and_commands_no_terminal(call, checkpoint, picture, tmp_path, options):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["training_record"] = {"scope": f"drawn cards\r\n{HOSTILE}\u202e, no photographs. " + 999 * "x"}
    (folder / "config.json").write_text(json.dumps(config))
    code, out, err = call("assess", picture, picture, "--model", folder, *options)
    assert code == 1 and "drawn cards" not in out and "\x1b" not in err and "\u202e" not in err
    said = r"By its own record, it was trained on drawn cards [red]a[/] :smile: [31m\ , no photographs. x"
    (line,) = err.splitlines()
    assert line.startswith(said) and line.endswith("x. Verdicts on anything else mean little.") and len(line) < 400


def lines(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_pictures_that_cannot_be_read(call, checkpoint, picture, tmp_path):
    broken, missing, empty = tmp_path / "[red]broken.png", tmp_path / "missing.png", tmp_path / "empty"
    broken.write_bytes(picture.read_bytes()[:60])
    empty.mkdir()
    words = ["assess", picture, broken, missing, picture, empty, "--model", checkpoint]
    code, out, err = call(*words, "--json")
    assert (code, err) == (3, UNKNOWN_SCOPE)
    found = lines(out)
    assert [line["image"] for line in found] == list(map(str, [picture, broken, missing, picture, empty]))
    assert [list(line) == ["image", "error"] for line in found] == [False, True, True, False, True]
    assert f"unreadable image: {broken}" in found[1]["error"] and found[2]["error"] == f"image not found: {missing}"
    assert found[4]["error"] == f"no pictures in the folder: {empty}"
    code, out, err = call(*words)
    assert code == 3 and out.count("privacy") == 4  # category and flagged
    scope, *reasons = err.splitlines()
    assert f"{scope}\n" == UNKNOWN_SCOPE
    assert len(reasons) == 3 and all(line.startswith("Error: ") for line in reasons)
    assert call("assess", missing, "--model", checkpoint)[:2] == (3, "")


# --------------------------------------------------------------------------------------------------
# Folders, patterns, standard input
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(picture, tmp_path, monkeypatch):
    """A working directory with pictures in and below a folder, and a name that looks like a pattern."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.PNG", "photos/deep/a.png", "photos/notes.txt", "[ab].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(picture.read_bytes())
    return tmp_path


BELOW = ["photos/b.PNG", "photos/deep/a.png"]


@pytest.mark.parametrize(
    "words, stdin, expected",
    [
        (["photos"], "", BELOW),
        (["photos/*/*.png"], "", ["photos/deep/a.png"]),
        (["ph*s"], "", BELOW),
        (["[ab].png"], "", ["[ab].png"]),
        (["-"], "card.png\r\n\nphotos\n[ab].png", ["card.png", *BELOW, "[ab].png"]),
        (["photos/b.PNG", "-"], "card.png\n", ["photos/b.PNG", "card.png"]),
    ],
)
def test_assess_takes_folders_patterns_and_standard_input(call, checkpoint, photos, words, stdin, expected):
    code, out, err = call("assess", *words, "--model", checkpoint, "--json", stdin=stdin)
    assert code == 1
    assert [line["image"] for line in lines(out)] == expected and "error" not in out
    assert ("photos/notes.txt" in err) == (BELOW[0] in expected and BELOW[1] in expected)


def test_what_a_folder_leaves_out_is_counted_and_named(call, checkpoint, photos):
    Path("elsewhere").mkdir()
    Path("photos/more").symlink_to(Path("elsewhere").absolute())
    code, _, err = call("assess", "photos", "--model", checkpoint, "--json")
    assert code == 1 and err.removeprefix(UNKNOWN_SCOPE).splitlines() == [
        "Left out, without a picture's ending or as links to folders: 2 below photos: photos/more, photos/notes.txt"
    ]


@pytest.mark.parametrize("words, stdin", [(["*.gif"], ""), (["-"], "*.png\n-\n"), (["file:///card.png"], "")])
def test_what_stands_for_no_picture(call, checkpoint, photos, words, stdin):
    """Lines of standard input are no patterns: who wrote them may not be who reads the verdicts."""
    code, out, _ = call("assess", *words, "--model", checkpoint, "--json", stdin=stdin)
    assert code == 3 and {line["error"].partition(":")[0] for line in lines(out)} == {"image not found"}


def test_judging_nothing_is_no_all_clear(call, checkpoint):
    code, out, err = call("assess", "-", "--model", checkpoint, stdin="\n")
    assert (code, out) == (2, "") and "There is no picture to judge" in err


@pytest.mark.ci
def test_a_file_whose_name_is_no_text(checkpoint, picture):
    odd = os.fsencode(picture.parent) + b"/\xff.png"
    Path(os.fsdecode(odd)).write_bytes(picture.read_bytes())
    process = start("assess", "-", "--model", checkpoint, "--json", errors="surrogateescape")
    out, err = process.communicate(os.fsdecode(odd))
    assert (process.returncode, err) == (1, UNKNOWN_SCOPE)  # no library has noted anything
    assert os.fsencode(lines(out)[0]["image"]) == odd


# --------------------------------------------------------------------------------------------------
# Addresses
# --------------------------------------------------------------------------------------------------


class Site(BaseHTTPRequestHandler):
    """/card.png is a picture, /moved redirects to `target`; what was asked for is in `asked`."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(302 if self.path == "/moved" else 200)
        if self.path == "/moved":
            self.send_header("Location", self.server.target)
        self.end_headers()
        if self.path == "/card.png":
            self.wfile.write(self.server.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(picture, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    server = HTTPServer(("127.0.0.1", 0), Site)
    server.content, server.asked, server.target = picture.read_bytes(), [], "/card.png"
    server.root = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_assess_takes_addresses(call, checkpoint, site, monkeypatch):
    monkeypatch.setattr(addresses, "is_public", lambda host, port: True)  # the test's own site is not
    names = [f"{site.root}/{name}" for name in ("card.png", "moved", "page.html")]
    code, out, _ = call("assess", *names[:2], "-", "--model", checkpoint, "--json", stdin=names[2])
    assert code == 3
    first, moved, page = lines(out)
    assert (first["image"], first["category"]) == (names[0], "privacy") and moved == first | {"image": names[1]}
    assert page["error"].startswith(f"unreadable image: {names[2]} (")


def test_nothing_in_the_local_network_is_asked(site):
    with pytest.raises(ValueError, match="127.0.0.1 is in the network of this machine"):
        open_named(f"{site.root}/card.png")
    with pytest.raises(ValueError, match="is in the network of this machine"):
        open_named(f"http://localhost:{site.server_port}/card.png")
    assert site.asked == []


def test_a_closed_port_of_the_local_network_looks_like_an_open_one():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        with pytest.raises(ValueError, match="is in the network of this machine"):
            open_named(f"http://localhost:{closed.getsockname()[1]}/card.png")


def test_no_redirect_leads_into_the_local_network(site, monkeypatch):
    inner = HTTPServer(("127.0.0.1", 0), Site)
    monkeypatch.setattr(addresses, "is_public", lambda host, port: port == site.server_port)
    try:
        for target, problem in ((f"http://127.0.0.1:{inner.server_port}/card.png", "network"), ("ftp://a/b", "ftp")):
            site.target = target
            with pytest.raises(ValueError, match=f"unreadable image: {site.root}/moved .*{problem}"):
                open_named(f"{site.root}/moved")
    finally:
        inner.server_close()


def test_an_answer_that_drips_is_not_waited_for(site, monkeypatch):
    """The head, too: each of its bytes comes in time."""

    class Drips(BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b"a")
                    time.sleep(0.05)

        def log_message(self, *args):
            pass

    monkeypatch.setattr(addresses, "is_public", lambda host, port: True)
    monkeypatch.setattr(addresses, "MAX_TIME", 0.5)
    slow = HTTPServer(("127.0.0.1", 0), Drips)
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    start = time.monotonic()
    try:
        with pytest.raises(ValueError, match="not there after"):
            open_named(f"http://127.0.0.1:{slow.server_port}/card.png")
        assert time.monotonic() - start < 5
    finally:
        slow.shutdown()
        slow.server_close()


def test_a_proxy_decides_by_its_own_rules(site, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", site.root)
    with pytest.raises(ValueError, match="cannot identify"):
        open_named("http://a.example/b.png")
    assert site.asked == ["http://a.example/b.png"]


@pytest.mark.parametrize(
    "host, expected",
    [("93.184.215.14", True), ("2606:2800:21f::1", True)]
    + [(host, False) for host in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1")]
    + [(host, False) for host in ("::1", "fe80::1%eth0", "fd00::1", "fec0::1", "224.0.0.1", "ff0e::1", "240.0.0.1")]
    + [(host, False) for host in ("::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1")]
    + [(host, False) for host in ("64:ff9b:1::8.8.8.8", "::ffff:224.0.0.1", "2001:0:808:808::1", "4000::1")]
    + [(host, True) for host in ("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1")],
)
def test_public_addresses(host, expected):
    assert addresses.is_public(host, 80) is expected
