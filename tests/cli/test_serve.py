"""`safevlm serve` as a user types it: what is shown, where, and the exit code."""

import inspect

import pytest


@pytest.fixture
def started(monkeypatch):
    """What the server is started with."""
    serving, started = pytest.importorskip("safevlm_hf.serving"), {}

    signature = inspect.signature(serving.serve)
    monkeypatch.setattr(
        serving, "serve", lambda *args, **kwargs: started.update(signature.bind(*args, **kwargs).arguments)
    )
    return started


def test_serve_takes_the_operators_prompt(call, checkpoint, tmp_path, started):
    file = tmp_path / "prompt.txt"
    file.write_text("Be kind – and brief.\n", encoding="utf-8")
    for given, expected in ((file, "Be kind – and brief.\n"), ("Be kind.", "Be kind."), ("Be kind. " * 900,) * 2):
        assert call("serve", "--model", checkpoint, "--system-prompt", given)[0] == 0
        assert started["system_prompt"] == expected and not started["trust_client_roles"]
    assert call("serve", "--model", checkpoint, "--trust-client-roles")[0] == 0
    assert started["system_prompt"] is None and started["trust_client_roles"]


@pytest.mark.parametrize("given", ["prompt.txt", "", "   "])
def test_serve_takes_no_mistyped_file_for_a_prompt(call, checkpoint, started, given):
    code, _, err = call("serve", "--model", checkpoint, "--system-prompt", given)
    assert code == 2 and "existing file" in err and not started
