"""`safevlm serve` as a user types it: what is shown, where, and the exit code."""

import inspect
import re

import pytest


@pytest.fixture
def started(monkeypatch):
    """What the server is started with."""
    serving, started = pytest.importorskip("safevlm_hf.serving", exc_type=ImportError), {}

    signature = inspect.signature(serving.serve)

    def serve(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        started.update(given, **given.pop("settings"))

    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.delenv("SAFEVLM_API_KEY", raising=False)
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


def test_what_is_off_unless_the_operator_says_so(call, checkpoint, started):
    code, _, err = call("serve", "--model", checkpoint)
    assert (code, err) == (0, "")
    assert started["name"] == str(checkpoint) and started["host"] == started["metrics_host"] == "127.0.0.1"
    assert started["metrics_port"] is None and started["audit"] is None and started["api_keys"] == ()
    switches = ("trust_client_roles", "expose_verdict", "moderations", "audit_windows", "audit_moderations", "shadow")
    assert not any(started[name] for name in switches) and started["access_log"]


@pytest.mark.parametrize("word, is_on", [("--moderations", True), ("--no-moderations", False)])
def test_moderations_are_switched_by_a_word(call, checkpoint, started, word, is_on):
    assert call("serve", "--model", checkpoint, word)[0] == 0
    assert started["moderations"] == is_on


def test_every_option_reaches_the_server(call, checkpoint, tmp_path, started, monkeypatch):
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789abcdef")
    words = ["--served-model-name", "cards", "--api-key-file", keys, "--audit", tmp_path / "a.jsonl", "--shadow"]
    words += ["--audit-windows", "--audit-moderations", "--expose-verdict", "--moderations", "--no-access-log"]
    words += ["--metrics-port", "9464", "--metrics-host", "::1", "--max-new-tokens", "7"]
    assert call("serve", "--model", checkpoint, *words)[0] == 0
    expected = {
        "name": "cards",
        "api_keys": ("sk-0123456789abcdef",),
        "audit": tmp_path / "a.jsonl",
        "metrics_port": 9464,
        "metrics_host": "::1",
        **dict.fromkeys(("shadow", "audit_windows", "audit_moderations", "expose_verdict", "moderations"), True),
        "access_log": False,
    }
    assert {name: started[name] for name in expected} == expected and started["limits"].new_tokens == 7


def test_a_key_is_no_word_of_the_command_line(call, fails, checkpoint, started, monkeypatch):
    assert "--api-key" in fails("serve", "--model", checkpoint, "--api-key", "sk-0123456789abcdef")
    monkeypatch.setenv("SAFEVLM_API_KEY", "short-secret")
    reason = fails("serve", "--model", checkpoint)
    assert "SAFEVLM_API_KEY" in reason and "short-secret" not in reason and not started


@pytest.mark.parametrize("option", ["--audit-windows", "--audit-moderations"])
def test_a_setting_of_the_audit_without_an_audit_does_not_start(call, checkpoint, option):
    pytest.importorskip("safevlm_hf.serving", exc_type=ImportError)
    code, _, err = call("serve", "--model", checkpoint, option, "--port", 0)
    assert code == 2 and option in err and "`--audit`" in err


def test_an_audit_of_moderations_without_moderations_does_not_start(call, checkpoint, tmp_path):
    pytest.importorskip("safevlm_hf.serving", exc_type=ImportError)
    words = ("--audit", tmp_path / "audit.jsonl", "--audit-moderations", "--port", 0)
    code, _, err = call("serve", "--model", checkpoint, *words)
    assert code == 2 and "add `--moderations`" in err


def test_shadow_mode_without_an_audit_does_not_start(call, checkpoint):
    pytest.importorskip("safevlm_hf.serving", exc_type=ImportError)
    code, _, err = call("serve", "--model", checkpoint, "--shadow", "--port", 0)
    assert code == 2 and "--audit" in err


@pytest.mark.parametrize("columns", [80, 100])
def test_help_is_readable_where_it_is_narrow(call, monkeypatch, columns):
    """No name is cut, and what an option does has room for several words per line."""
    monkeypatch.setenv("COLUMNS", str(columns))
    out = call("serve", "--help")[1]
    rows = [re.match(r"│ --.*?(<.+?>|PORT|N)( \[.*?\])? +(?=\S)", line) for line in out.splitlines()]
    widths = [columns - 2 - row.end() for row in rows if row]
    assert len(widths) == 20 and min(widths) >= 28, out
    assert "…" not in out


def test_the_packages_own_checkpoint_is_served_only_where_it_is_asked_for(call, fails, checkpoint, started):
    code, _, err = call("serve", "--demo")
    assert code == 0 and "comes with this package" in err
    assert started["model"].config.safety_config.is_trained and started["name"] == "safevlm-demo"
    assert "names another" in fails("serve", "--demo", "--model", checkpoint)
