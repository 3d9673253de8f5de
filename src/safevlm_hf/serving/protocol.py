"""Speak HTTP as uvicorn does, but only with clients that send an unambiguous request in time and read the answer."""

import re
import socket
import struct

import h11
from h11._readers import ChunkedReader
from uvicorn.protocols.http.h11_impl import H11Protocol


HEAD_TIME = 10  # seconds for a request's line and headers
HEAD_SIZE = 2**16  # bytes of them
READ_TIME = 30  # seconds for a client to take what the system can hold no more of
SEND_BUFFER = 2**17  # bytes that the system keeps of a connection's answers; by itself it takes megabytes
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no seconds


HEAD_END = re.compile(rb"\n\r?\n")
FOLDED = re.compile(rb"\n[ \t]")
BARE_LINE_END = re.compile(rb"(?<!\r)\n")
CHUNK_LINE = re.compile(rb"[0-9a-fA-F]{1,16}\r\n")
FRAMING = re.compile(rb"\n(content-length|transfer-encoding)[ \t]*:([^\n]*)", re.IGNORECASE)


class StrictConnection(h11.Connection):
    """Refuses a request whose end a proxy in front may see at another place: the rest would be another client's
    request. h11 alone lets `Transfer-Encoding` win over a `Content-Length` beside it, as over HTTP/1.0, takes a length
    that is said twice, joins folded lines, and takes any line end in the trailers of a chunked body."""

    def next_event(self):
        if self.their_state is h11.IDLE:
            received, _ = self.trailing_data
            if end := HEAD_END.search(received):
                head = received[: end.end()]
                framing = FRAMING.findall(head)
                is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in framing)
                is_old = not head.partition(b"\n")[0].rstrip().endswith(b"HTTP/1.1")
                says_twice = len(framing) > 1 or any(b"," in value for _, value in framing)
                if says_twice or (is_chunked and is_old) or FOLDED.search(head) or BARE_LINE_END.search(head):
                    raise h11.RemoteProtocolError("The request's end is ambiguous.")
        return super().next_event()

    def _get_io_object(self, *state):
        reader = super()._get_io_object(*state)
        return StrictChunks() if isinstance(reader, ChunkedReader) else reader


class StrictChunks(ChunkedReader):
    """Reads a chunked body whose lines are the chunks' sizes alone: without extensions and trailers, which nothing
    here needs."""

    def __call__(self, buffer):
        return super().__call__(buffer if isinstance(buffer, ChunkLines) else ChunkLines(buffer))  # type: ignore[arg-type]


class ChunkLines:
    """Pass on what the chunks' reader asks of a connection's buffer, and check its lines."""

    def __init__(self, buffer):
        self.maybe_extract_at_most, self.extract_line = buffer.maybe_extract_at_most, buffer.maybe_extract_next_line

    def maybe_extract_next_line(self):
        line = self.extract_line()
        if line is not None and not CHUNK_LINE.fullmatch(line):
            raise h11.RemoteProtocolError("A chunk must begin with its size in hexadecimal digits and CRLF.")
        return line

    def maybe_extract_lines(self):
        """Return no lines once the body has ended as it must, and `None` while its end has not come."""
        line = self.extract_line()
        if line is not None and line != b"\r\n":
            raise h11.RemoteProtocolError("After the last chunk must come an empty line.")
        return None if line is None else []


class PromptProtocol(H11Protocol):
    """Closes a connection on which no request has begun in time, or nobody reads. Uvicorn gives up one that is idle
    between requests, but waits without end for the first request, for headers that come byte by byte, and for a client
    to take its answers."""

    unread = None  # the timer that runs while something waits to be sent

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conn = StrictConnection(h11.SERVER, HEAD_SIZE)

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        # By default some kilobytes may wait without `pause_writing` being called, and would hold up a close for good.
        transport.set_write_buffer_limits(high=0)
        self._expect_request()

    def connection_lost(self, exc):
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self):
        self._expect_request()
        super().on_response_complete()

    def pause_writing(self):
        super().pause_writing()
        self._stop_timer()

        def drop():
            # A reset drops what is unsent. Without it the system would go on for minutes to offer what nobody reads.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()

        self.unread = self.loop.call_later(READ_TIME, drop)

    def resume_writing(self):
        self._stop_timer()
        super().resume_writing()

    def _stop_timer(self):
        if self.unread is not None:
            self.unread.cancel()
            self.unread = None

    def _expect_request(self):
        last = self.cycle

        def close_if_idle():
            if self.cycle is last:  # no request has come since
                self.timeout_keep_alive_handler()

        self.loop.call_later(HEAD_TIME, close_if_idle)
