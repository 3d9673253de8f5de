"""HTTP as uvicorn speaks it, to clients that say what they want in time, and read what they get."""

import socket
import struct

from uvicorn.protocols.http.h11_impl import H11Protocol


HEAD_TIME = 10  # seconds for a request's line and headers
READ_TIME = 30  # seconds for a client to take what the system has no more room for
SEND_BUFFER = 2**17  # bytes that the system keeps of a connection's answers; by itself it takes megabytes
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no seconds


class PromptProtocol(H11Protocol):
    """Closes a connection on which no request has begun in time, or nobody reads. Uvicorn gives up one that is idle
    between requests, but waits without end for the first request, for headers that come byte by byte, and for a client
    to take its answers."""

    unread = None  # the timer that runs while something waits to be sent

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        # By default some kilobytes may wait without a word to us, and would then also hold up a close for good.
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
        self.unread = self.loop.call_later(READ_TIME, self._drop)

    def resume_writing(self):
        self._stop_timer()
        super().resume_writing()

    def _stop_timer(self):
        if self.unread is not None:
            self.unread.cancel()
            self.unread = None

    def _drop(self):
        # With a reset, or the system would go on for minutes to offer what nobody reads.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    def _expect_request(self):
        self.loop.call_later(HEAD_TIME, self._close_without, self.cycle)

    def _close_without(self, last):
        if self.cycle is last:
            self.timeout_keep_alive_handler()
