"""`safevlm chat` as a user types it: what is shown, where, and the exit code."""

import json
import signal
import sys

import pytest
from command_line import HOSTILE, REFUSE, SHOWN, UNKNOWN_SCOPE, start, write_json

from safevlm_cli.chat import CHAT_COMMANDS
from safevlm_hf import SafeLlavaForConditionalGeneration
from safevlm_hf.modeling.refusal_texts import REFUSALS


@pytest.fixture
def heeds_ctrl_c():
    """A shell starts what runs in the background with Ctrl-C ignored, and every process hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.ci
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_schedulers_stop_end_a_talk(checkpoint, picture, heeds_ctrl_c, stop):
    talk = start("chat", "--model", checkpoint, "--image", picture)
    talk.stdin.write("What is it?\n")
    talk.stdin.flush()
    while not talk.stdout.readline().startswith("image 1: "):
        assert talk.poll() is None, talk.stderr.read()
    talk.send_signal(stop)
    _, err = talk.communicate(timeout=60)
    assert talk.returncode == 130 and "Traceback" not in err


def test_chat(call, checkpoint, picture, tmp_path):
    policy, audit = write_json(tmp_path / "policy.json", REFUSE), tmp_path / "audit.jsonl"
    lines = ["Hello?", "/image [red]no.png", "/help", "", f"/image {picture}", "What is it?", "And now?", "/new", "Hi"]
    options = ["--model", checkpoint, "--policy", policy, "--audit", audit, "--max-new-tokens", 40]
    code, out, err = call("chat", *options, stdin="\n".join(lines))  # its end ends the talk
    assert (code, err) == (0, f"{UNKNOWN_SCOPE}Error: image not found: [red]no.png\n")
    verdict = "image 1: refuse (privacy, high, risk 1.00)"
    refused = [REFUSALS["en"]["privacy"], verdict]
    said = [line.strip() for line in out.splitlines()]
    assert said.count(verdict) == 2 and "\x1b" not in out
    at = said.index(CHAT_COMMANDS)
    assert at > 0 and said[at + 1 : at + 5] == refused * 2  # each answer, then its verdict
    assert len(said) > at + 5  # the last answer has no picture any more
    actions = [json.loads(line)["action"] for line in audit.read_text().splitlines()]
    assert actions == ["answer", "refuse", "refuse", "answer"]


def test_chat_quits(call, checkpoint, picture):
    code, out, err = call("chat", "--model", checkpoint, "--image", picture, stdin="/quit\nWhat is it?\n")
    assert (code, out, err) == (0, "", UNKNOWN_SCOPE)


def test_chat_streams(call, checkpoint, picture, tmp_path, monkeypatch):
    generate, shown = SafeLlavaForConditionalGeneration.generate, []

    def watched(self, *args, **kwargs):
        outputs = generate(self, *args, **kwargs)
        shown.append(sys.stdout.getvalue())
        return outputs

    monkeypatch.setattr(SafeLlavaForConditionalGeneration, "generate", watched)
    policy = write_json(tmp_path / "policy.json", REFUSE)
    assert call("chat", "-m", checkpoint, "-i", picture, "-p", policy, stdin="What?")[0] == 0
    assert [text.strip() for text in shown] == [REFUSALS["en"]["privacy"]]


def test_a_refusal_cannot_command_the_terminal(call, checkpoint, picture, tmp_path):
    """Whoever made the checkpoint wrote it. Its lines stay lines."""
    policy = write_json(tmp_path / "policy.json", {**REFUSE, "refusals": {"*": f"No.\n\t{HOSTILE}\u202e"}})
    code, out, err = call("chat", "-m", checkpoint, "-i", picture, "-p", policy, stdin="What?")
    assert (code, err) == (0, UNKNOWN_SCOPE) and f"No.\n\t{SHOWN}\\u202e\n" in out and "\x1b" not in out


def test_an_audit_that_cannot_be_written_ends_the_talk(call, checkpoint, picture, tmp_path):
    words = ["--model", checkpoint, "--image", picture, "--audit", tmp_path]
    code, out, err = call("chat", *words, stdin="What is it?\nAgain?")
    reason = err.removeprefix(UNKNOWN_SCOPE)
    assert (code, out.strip()) == (2, "") and reason.startswith("Error: ") and str(tmp_path) in reason
