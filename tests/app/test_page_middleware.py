"""What a browser may ask of the server: the page's own routes, a body up to a limit, and uploads alone."""

import asyncio

import pytest


pytest.importorskip("starlette")
from starlette.requests import Request  # noqa: E402
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402
from starlette.websockets import WebSocketDisconnect  # noqa: E402

from safevlm_hf.app import middleware  # noqa: E402
from safevlm_hf.app.middleware import API, EVENTS, FILE, PageFilter  # noqa: E402


@pytest.fixture
def client(tmp_path):
    """A server behind the filter that says how much it was sent."""

    async def inside(scope, receive, send):
        body = await Request(scope, receive).body()
        await PlainTextResponse(f"inside: {len(body)}")(scope, receive, send)

    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "card.png").write_bytes(b"")
    (uploads / "link.png").symlink_to("/etc/passwd")
    (tmp_path / "secret.txt").write_text("secret")
    client = TestClient(PageFilter(inside, str(uploads)))
    client.uploads = uploads
    return client


def event(path):
    return {
        "data": ["What?", {"path": path, "meta": {"_type": "gradio.FileData"}}],
        "fn_index": 0,
        "session_hash": "a",
    }


@pytest.mark.parametrize("path", ["/", "/assets/index.js", "/theme.css", f"{API}/queue/data?session_hash=a"])
def test_the_page_can_be_read(client, path):
    answer = client.get(path)
    assert answer.text == "inside: 0" and "default-src 'self'" in answer.headers["content-security-policy"]
    assert client.post(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/openapi.json",
        "/monitoring",
        "/login",
        f"{API}/proxy=https://example.org/",
        f"{API}/call/answer",
        f"{API}/run/answer",
        f"{API}/api/answer",
        f"{API}/component_server",
        f"{API}/deep_link",
        f"{API}/stream/a",
        f"{API}/vibe-edit",
        f"{API}/process_recording",
        "/file=/etc/passwd",
    ],
)
def test_gradios_other_routes_are_closed(client, path):
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, path).status_code == 404


def test_uploads_alone_can_be_read(client):
    uploads = client.uploads
    assert client.get(f"{FILE}{uploads}/card.png").status_code == 200
    for path in (
        "/etc/passwd",
        f"{uploads}/../secret.txt",
        f"{uploads}/%2e%2e/secret.txt",
        f"{uploads}/%252e%252e/secret.txt",
        f"{uploads}/link.png",
        f"{uploads}/a%00b",
        "card.png",
        "http://127.0.0.1/card.png",
        "https://example.org/card.png",
        "file:///etc/passwd",
        "a" * 5000,
    ):
        assert client.get(f"{FILE}{path}").status_code == 404, path


def test_an_event_names_uploads_alone(client):
    assert client.post(EVENTS, json=event(f"{client.uploads}/card.png")).status_code == 200
    assert client.post(EVENTS, json={"data": ["What?", None]}).status_code == 200
    for path in ("/etc/passwd", "http://169.254.169.254/", "https://example.org/a.png", f"{client.uploads}/link.png"):
        for body in (event(path), [[event(path)]], {"event_data": event(path)}):
            answer = client.post(EVENTS, json=body)
            assert answer.status_code == 400 and "uploaded" in answer.text
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"path": "/etc/passwd", "path'):
        assert client.post(EVENTS, content=body).status_code == 400


def test_a_body_has_a_limit(client, monkeypatch):
    monkeypatch.setattr(middleware, "MAX_BODY", 1000)
    assert client.post(f"{API}/upload", content=b"a" * 1000).text == "inside: 1000"
    for content in (b"a" * 1001, iter([b"a" * 600] * 3)):
        answer = client.post(f"{API}/upload", content=content)
        assert answer.status_code == 413 and "more than 1000 bytes" in answer.text


def test_a_body_that_does_not_come_in_time_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(middleware, "BODY_TIME", 0.2)
    parts, sent = [], []

    async def receive():
        await asyncio.sleep(0.01)
        parts.append({"type": "http.request", "body": b"a", "more_body": True})
        return parts[-1]

    async def send(message):
        sent.append(message)

    asyncio.run(client.app({"type": "http", "method": "POST", "path": f"{API}/upload", "headers": []}, receive, send))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
    assert b"not there after 0.2 seconds" in sent[1]["body"] and 2 < len(parts) < 30


def test_there_are_no_websockets(client):
    with pytest.raises(WebSocketDisconnect):
        with client.websocket_connect("/"):
            pass
