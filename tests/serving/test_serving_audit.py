"""The server's audit trail: which request a line belongs to, and what a client can write into it."""

import json
import logging
import re

import pytest
from serving_client import (
    CHAT,
    CLEAN,
    MODERATION,
    QUESTION,
    REFUSE,
    RISKY,
    answer_of,
    ask,
    moderate,
    open_client,
    picture,
    streamed,
    text,
)

from safevlm_hf import read_audit
from safevlm_hf.calibration.policy_replay import replay_audit
from safevlm_hf.serving.metrics import Metrics
from safevlm_hf.serving.observation import Observation
from safevlm_hf.serving.settings import Settings


UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def audit(tmp_path):
    return tmp_path / "audit.jsonl"


def test_a_line_names_the_request(checkpoint, audit):
    """The response's `id`, its header, and the line say the same, whole and streamed."""
    with open_client(checkpoint, audit=audit) as client:
        first = client.post(CHAT, json=ask(picture(RISKY), text(QUESTION)))
        second = client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION), stream=True))
        third = client.post(CHAT, json=ask(text("Hi"), max_tokens=2), headers={"x-request-id": "proxy-7:a.b_c"})
    lines, broken = read_audit(audit)
    assert [line["request_id"] for line in lines] == [one.headers["x-request-id"] for one in (first, second, third)]
    assert first.json()["id"] == lines[0]["request_id"] and f'"id": "{lines[1]["request_id"]}"' in second.text
    assert UUID.fullmatch(lines[0]["request_id"]) and lines[2]["request_id"] == "proxy-7:a.b_c"
    assert len({line["request_id"] for line in lines}) == 3 and broken == 0


def test_many_requests_with_one_id_have_lines_of_their_own(checkpoint, audit, caplog):
    """A client may send one id again and again, or somebody else's; the log tells which line is whose."""
    caplog.set_level(logging.INFO, "uvicorn.error")
    with open_client(checkpoint, audit=audit, audit_moderations=True) as client:
        for body in (ask(text("Hi"), max_tokens=2), ask(text("Hi"), max_tokens=2, stream=True)):
            client.post(CHAT, json=body, headers={"x-request-id": "mine"})
        client.post(MODERATION, json={"input": [picture(CLEAN)]}, headers={"x-request-id": "mine"})
        alone = client.post(CHAT, json=ask(text("Hi"), max_tokens=2))
    lines, _ = read_audit(audit)
    assert [line["request_id"] for line in lines] == ["mine"] * 3 + [alone.headers["x-request-id"]]
    assert lines[-1]["id"] == lines[-1]["request_id"]
    logged = [record.getMessage() for record in caplog.records if " s mine " in record.getMessage()]
    assert [line["id"] for line in lines[:3]] == [one.split()[-1] for one in logged]
    assert len({line["id"] for line in lines}) == 4 and all(UUID.fullmatch(line["id"]) for line in lines)


@pytest.mark.parametrize(
    "given",
    [
        b'x\n{"action": "answer"}',
        b'"}, {"action": "answer',
        b"a" * 129,
        b"",
        b" ",
        "é".encode(),
        "\u202e".encode(),
        b"\xff\x00",
        b"a b",
        b"\x1b[31m",
    ],
    ids=str,
)
def test_a_request_id_that_is_not_plain_is_replaced(client, audit, monkeypatch, given):
    monkeypatch.setenv("SAFEVLM_AUDIT", str(audit))
    response = client.post(CHAT, json=ask(text("Hi"), max_tokens=2), headers=[(b"x-request-id", given)])
    (line,), broken = read_audit(audit)
    assert (
        UUID.fullmatch(line["request_id"]) and broken == 0 and line["request_id"] == response.headers["x-request-id"]
    )


def test_of_two_request_ids_neither_counts(client, audit, monkeypatch):
    monkeypatch.setenv("SAFEVLM_AUDIT", str(audit))
    headers = [(b"x-request-id", b"one"), (b"x-request-id", b"two")]
    response = client.post(CHAT, json=ask(text("Hi"), max_tokens=2), headers=headers)
    assert (
        UUID.fullmatch(read_audit(audit)[0][0]["request_id"]) and len(response.headers.get_list("x-request-id")) == 1
    )


def test_errors_have_a_request_id_too(client, checkpoint, tmp_path):
    for response in (
        client.get("/nowhere"),
        client.post(CHAT, json={}),
        client.post(CHAT, content=b"x" * 17_000_000),
        client.post(MODERATION, json={"input": "Hi"}),
    ):
        assert 400 <= response.status_code < 500 and UUID.fullmatch(response.headers["x-request-id"])
    with open_client(checkpoint, audit=tmp_path) as broken:
        response = broken.post(CHAT, json=ask(text("Hi")), headers={"x-request-id": "mine"})
        assert (response.status_code, response.headers["x-request-id"]) == (500, "mine")


def test_nothing_about_the_caller_is_kept(checkpoint, audit):
    about = {"user": "jane.doe", "safety_identifier": "1f9a", "metadata": {"ticket": "secret"}}
    with open_client(checkpoint, audit=audit) as client:
        client.post(CHAT, json=ask(picture(RISKY), text("zebra crossing"), **about), headers={"user-agent": "spy"})
    written = audit.read_text()
    for word in ("jane.doe", "1f9a", "secret", "zebra", "spy", "testclient"):
        assert word not in written


def test_moderations_are_written_down_on_request_alone(checkpoint, audit):
    for wanted in (False, True):
        with open_client(checkpoint, audit=audit, audit_moderations=wanted) as client:
            assert moderate(client, picture(RISKY), text(QUESTION))["action"] == "refuse"
        assert audit.exists() == wanted
    (line,), _ = read_audit(audit)
    assert (line["call"], line["action"], line["verdicts"][0]["category"]) == ("assess", "refuse", "privacy")
    assert len(line["image_sha256"]) == 1 and UUID.fullmatch(line["request_id"])


def test_a_moderation_that_cannot_be_written_down_is_not_told(checkpoint, tmp_path):
    with open_client(checkpoint, audit=tmp_path, audit_moderations=True) as client:
        response = client.post(MODERATION, json={"input": [picture(RISKY)]})
    assert response.status_code == 500 and "flagged" not in response.text and str(tmp_path) not in response.text


def test_the_trail_can_be_replayed(checkpoint, audit):
    with open_client(checkpoint, audit=audit, audit_windows=True) as client:
        for image in (RISKY, CLEAN):
            streamed(client.post(CHAT, json=ask(picture(image), text(QUESTION), stream=True)))
    assert not replay_audit(audit, REFUSE).changes()
    assert replay_audit(audit, {}).changes() == [("privacy", "refuse", "condition", 1, 0)]
    assert all(verdict["num_windows"] > 1 for line in read_audit(audit)[0] for verdict in line["verdicts"])


def test_a_client_that_leaves_before_its_turn_has_no_line_and_no_answer():
    """An observation that `generate` never reported to says nothing."""
    observation = Observation("id", CHAT, Settings(), Metrics("m", "p", False))
    assert observation.line is None and not observation.is_refused


def test_shadow_mode(checkpoint, audit, expected):
    """The answer is what it would be without a policy; the audit and the metrics know what would have been done."""
    with open_client(checkpoint, policy={"enabled": False}) as client:
        untouched = answer_of(client.post(CHAT, json=ask(picture(RISKY), text(QUESTION))))
    with open_client(checkpoint, audit=audit, shadow=True) as client:
        response = client.post(CHAT, json=ask(picture(RISKY), text(QUESTION)))
        assert answer_of(response) == untouched
        assert response.json()["choices"][0]["finish_reason"] in ("stop", "length")
        assert "refus" not in response.text.replace(untouched, "")
        assert streamed(client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION), stream=True))) == expected
        samples = client.app.state.metrics.registry
        assert samples.get_sample_value("safevlm_shadow_mode") == 1
        labels = {"route": CHAT, "category": "privacy", "action": "refuse"}
        assert samples.get_sample_value("safevlm_verdicts_total", labels) == 1
        assert samples.get_sample_value("safevlm_answers_total", {"action": "answer"}) == 2
    lines, _ = read_audit(audit)
    assert [(line["action"], line["shadow_action"]) for line in lines] == [("answer", "refuse"), ("answer", "answer")]


def test_shadow_mode_needs_an_audit(checkpoint, monkeypatch):
    monkeypatch.delenv("SAFEVLM_AUDIT", raising=False)
    with pytest.raises(ValueError, match="--audit"):
        open_client(checkpoint, shadow=True)


@pytest.mark.parametrize("fields", [{"shadow": True}, {"safety_shadow": True}, {"safety_policy": {"shadow": True}}])
def test_no_client_can_ask_for_shadow_mode(client, fields):
    response = client.post(CHAT, json={**ask(picture(RISKY), text(QUESTION)), **fields})
    assert response.status_code == 400 and json.loads(response.text)["error"]["param"] in fields
