"""`safevlm app` as a user types it: what is shown, where, and the exit code."""

import pytest


@pytest.fixture
def started(monkeypatch):
    """What the page's server is started with."""
    pytest.importorskip("gradio")
    from safevlm_hf.app import server

    started = []
    monkeypatch.setattr(server, "serve", lambda *arguments: started.append(arguments))
    return started


def test_the_page_is_for_this_machine_alone_unless_it_is_told_otherwise(call, checkpoint, started):
    assert call("app", "--model", checkpoint)[0] == 0
    assert call("app", "--model", checkpoint, "--host", "0.0.0.0", "--port", 80, "--max-new-tokens", 9)[0] == 0
    assert [arguments[2:] for arguments in started] == [
        (checkpoint, "127.0.0.1", 7860, 256),
        (checkpoint, "0.0.0.0", 80, 9),
    ]


def test_without_the_demos_checkpoint_it_says_how_to_make_it(fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = fails("app")
    assert "runs/demo/stage2" in line and "`safevlm demo`" in line
