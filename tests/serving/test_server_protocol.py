"""Connections on which nothing is asked, or not to its end, or no answer is read."""

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import uvicorn

from safevlm_hf.serving import middleware, protocol
from safevlm_hf.serving.keys import ApiKeys
from safevlm_hf.serving.middleware import AskForKey, LetClientRead
from safevlm_hf.serving.protocol import PromptProtocol


pytestmark = pytest.mark.ci


HEAD = b"GET /health HTTP/1.1\r\nHost: h\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"


LARGE = b"GET /large HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer sk-0123456789abcdef\r\n"
SIZE = 2**20  # bytes of the large answer


async def healthy(scope, receive, send):
    while scope["path"] == "/read" and (await receive()).get("more_body"):
        pass
    size = SIZE if scope["path"] == "/large" else 2
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    for start in range(0, size, 2**16):
        await send({"type": "http.response.body", "body": bytes(min(2**16, size - start)), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def address(monkeypatch):
    """Of a server whose times are short, with three connections."""
    monkeypatch.setattr(protocol, "HEAD_TIME", 0.5)
    monkeypatch.setattr(protocol, "READ_TIME", 0.5)
    monkeypatch.setattr(middleware, "LINGER", 0.5)
    app = LetClientRead(AskForKey(healthy, ApiKeys(("sk-0123456789abcdef",))))
    config = uvicorn.Config(app, http=PromptProtocol, ws="none", limit_concurrency=4, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


@contextmanager
def connected(address):
    with socket.create_connection(address, timeout=20) as connection:
        yield connection


def answer_to(address, sent):
    with connected(address) as connection:
        connection.sendall(sent)
        return connection.recv(1000)


def seconds_open(connection, slowly=b""):
    """Until the server closes the connection, over which these bytes are sent without haste."""
    start, connection_end = time.monotonic(), time.monotonic() + 10
    connection.settimeout(0.05)
    for byte in slowly * 1000 or b" " * 1000:
        if time.monotonic() > connection_end:
            break
        try:
            if slowly:
                connection.sendall(bytes([byte]))
            if not connection.recv(1000):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - start


@pytest.mark.parametrize("begun, slowly", [(b"", b""), (HEAD, b""), (HEAD, b"x"), (b"", b"GET")])
def test_a_connection_without_a_request_is_closed(address, begun, slowly):
    with connected(address) as connection:
        connection.sendall(begun)
        assert seconds_open(connection, slowly) < 5


def test_so_is_one_whose_second_request_does_not_come(address):
    with connected(address) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(HEAD)
        assert seconds_open(connection, b"x") < 5


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/health"])
@pytest.mark.parametrize("length", [b"Content-Length: 99999", b"Transfer-Encoding: chunked"])
def test_a_stranger_is_answered_at_once_and_closed(address, path, length):
    with connected(address) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: h\r\n" + length + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")
        assert seconds_open(connection, b"1\r\na\r\n") < 5


def test_a_stranger_with_a_large_body_hears_the_answer(address):
    """No reset of the connection takes its place."""
    body = bytes(2**23)
    sent = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert answer_to(address, sent).startswith(b"HTTP/1.1 401")


def statuses_now_and_later(address):
    """Of a request while all connections are held, and of one when their time is over."""
    first = answer_to(address, HEAD + b"\r\n")
    time.sleep(1.5)
    return [answer.split()[1] for answer in (first, answer_to(address, HEAD + b"\r\n"))]


def test_idle_connections_do_not_keep_others_out_for_long(address):
    idle = [socket.create_connection(address) for _ in range(3)]
    assert statuses_now_and_later(address) == [b"503", b"200"]
    for connection in idle:
        connection.close()


def test_connections_for_websockets_are_none(address):
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n\r\n"
    )
    assert answer_to(address, HEAD + upgrade).startswith(b"HTTP/1.1 200")


def test_a_pipelined_request_is_answered(address):
    with connected(address) as connection:
        connection.sendall((HEAD + b"\r\n") * 2)
        end, found = time.monotonic() + 5, b""
        while found.count(b"200 OK") < 2 and time.monotonic() < end:
            found += connection.recv(1000)
    assert found.count(b"200 OK") == 2


# --------------------------------------------------------------------------------------------------
# Requests whose end a proxy may see at another place
# --------------------------------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"0\r\n\r\n" + HEAD + b"\r\n"
AMBIGUOUS = {
    "length and chunks": b"Content-Length: 5\r\n" + CHUNKED,
    "chunks and length": CHUNKED + b"content-length: 5\r\n",
    "length of nothing and chunks": b"Content-Length: 0\r\n" + CHUNKED,
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "a length twice": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "a list of lengths": b"Content-Length: 5, 5\r\n",
    "a length with a sign": b"Content-Length: +5\r\n",
    "a length in hexadecimal": b"Content-Length: 0x5\r\n",
    "an empty length": b"Content-Length:\r\n",
    "chunks twice": CHUNKED + CHUNKED,
    "chunks, identity": b"Transfer-Encoding: chunked, identity\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "gzip, chunks": b"Transfer-Encoding: gzip, chunked\r\n",
    "misspelt": b"Transfer-Encoding: xchunked\r\n",
    "quoted": b'Transfer-Encoding: "chunked"\r\n',
    "with a control character": b"Transfer-Encoding: \x0bchunked\r\n",
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n",
    "folded chunks": b"Transfer-Encoding:\r\n chunked\r\n",
    "a folded length": b"Content-Length:\r\n\t5\r\n",
    "another folded line": b"X-Note: a\r\n Content-Length: 5\r\n" + CHUNKED,
    "a line that ends with LF": b"X-Note: a\nContent-Length: 5\r\n",
    "a line that ends with CR": b"X-Note: a\rContent-Length: 5\r\n",
    "two hosts": b"Host: other\r\n",
}


def all_answers(address, sent):
    """Until the server closes the connection."""
    with connected(address) as connection:
        connection.sendall(sent)
        connection.settimeout(3)
        found = b""
        while part := connection.recv(1000):
            found += part
    return found


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"], ids=["first", "pipelined"])
def test_an_ambiguous_request_is_refused_and_closed(address, name, before):
    sent = before + b"POST /health HTTP/1.1\r\nHost: h\r\n" + AMBIGUOUS[name] + b"\r\n" + SMUGGLED
    answers = [part[:3] for part in all_answers(address, sent).split(b"HTTP/1.1 ")[1:]]
    assert answers == ([b"200"] if before else []) + [b"400"]


HIDDEN = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKS = {
    "a trailer that ends with LF": b"0\r\nX: y\n\n" + HIDDEN,
    "a trailer and a blank line": b"0\r\nX: y\n\r\n",
    "a trailer": b"0\r\nX: y\r\n\r\n",
    "a folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "a last line that ends with LF": b"0\r\n\n" + HIDDEN,
    "a last chunk that ends with LF": b"0\n\r\n" + HIDDEN,
    "an extension": b"2;a=b\r\n{}\r\n0\r\n\r\n",
    "an extension with CR": b"2;a\r35\r\n{}\r\n0\r\n\r\n",
    "an extension of the last chunk": b"2\r\n{}\r\n0;a\n\r\n" + HIDDEN,
    "a blank behind a size": b"2 \r\n{}\r\n0\r\n\r\n",
    "a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "no size": b"\r\n{}\r\n0\r\n\r\n",
    "a long size": b"0" * 20 + b"2\r\n{}\r\n0\r\n\r\n",
    "a chunk that ends with LF": b"2\r\n{}\n0\r\n\r\n" + HIDDEN,
    "a chunk longer than its size": b"2\r\n{}}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("before", [b"", LARGE.replace(b"/large", b"/health") + b"\r\n"], ids=["first", "pipelined"])
@pytest.mark.parametrize("is_slow", [False, True], ids=["at once", "byte by byte"])
def test_a_chunked_body_with_another_end_is_refused_and_closed(address, name, before, is_slow):
    head = LARGE.replace(b"GET /large", b"POST /read") + CHUNKED + b"\r\n"
    with connected(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(before + head + (b"" if is_slow else CHUNKS[name]))
        found = b""
        with suppress(ConnectionError):
            for byte in CHUNKS[name] if is_slow else b"":
                connection.sendall(bytes([byte]))
                time.sleep(0.001)
        connection.settimeout(3)
        with suppress(ConnectionError):
            while part := connection.recv(1000):
                found += part
    answers = [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]]
    assert answers == ([b"200"] if before else []) + [b"400"]


def test_chunks_in_http_1_0_are_refused(address):
    answer = all_answers(address, b"POST /health HTTP/1.0\r\nHost: h\r\n" + CHUNKED + b"\r\n" + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


def test_a_request_after_a_body_that_was_not_waited_for_is_looked_at(address):
    """The stranger is answered before the body's end."""
    with connected(address) as connection:
        connection.sendall(POST + b"Content-Length: 5\r\n\r\n")
        time.sleep(0.1)
        connection.sendall(b"12345" + POST + AMBIGUOUS["length and chunks"] + b"\r\n" + SMUGGLED)
        found = b""
        while part := connection.recv(1000):
            found += part
    assert b" 200 " not in found and found.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\n", CHUNKED + b"\r\na\r\n", CHUNKED.upper() + b"\r\na\r\n"]
)
def test_a_request_with_one_end_is_answered(address, framing):
    end = b"" if framing.startswith(b"Content") else b"\r\n0\r\n\r\n"
    sent = LARGE.replace(b"/large", b"/health") + framing + bytes(10) + end
    with connected(address) as connection:
        for _ in range(2):
            connection.sendall(sent)
            found = b""
            while not found.endswith(b"\0\0"):
                found += connection.recv(1000)
            assert found.startswith(b"HTTP/1.1 200")


# --------------------------------------------------------------------------------------------------
# Answers that nobody reads
# --------------------------------------------------------------------------------------------------


def connect_narrow(address):
    """A connection on which few bytes can wait to be read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    connection.connect(address)
    connection.settimeout(20)
    return connection


def is_reset(connection, request):
    """Whether the server ends the connection, on which requests are sent and no answer is read."""
    connection.settimeout(0.1)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            connection.sendall((request + b"\r\n") * 100)
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize("sent", [HEAD, LARGE], ids=["small answers", "large answers"])
def test_a_connection_on_which_no_answer_is_read_is_closed(address, sent):
    with connect_narrow(address) as connection:
        assert is_reset(connection, sent)


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["open", "to be closed"])
def test_a_large_answer_that_nobody_reads_holds_no_connection(address, close):
    unread = [connect_narrow(address) for _ in range(3)]
    for connection in unread:
        connection.sendall(LARGE + close + b"\r\n")
    time.sleep(0.2)
    assert statuses_now_and_later(address) == [b"503", b"200"]
    for connection in unread:
        connection.close()


def test_a_client_that_reads_slowly_gets_all_of_its_answer(address):
    """It needs more than the time that a client has which reads nothing."""
    with connect_narrow(address) as connection:
        connection.sendall(LARGE + b"Connection: close\r\n\r\n")
        start, found = time.monotonic(), 0
        while part := connection.recv(2**14):
            found += len(part)
            time.sleep(0.02)
    assert found > SIZE and time.monotonic() - start > 0.5
