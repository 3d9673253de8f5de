"""HTTP as uvicorn speaks it, to clients that say what they want in time."""

from uvicorn.protocols.http.h11_impl import H11Protocol


HEAD_TIME = 10  # seconds for a request's line and headers


class PromptProtocol(H11Protocol):
    """Closes a connection on which no request has begun in time. Uvicorn gives up one that is idle between requests,
    but waits without end for the first request, and for headers that come byte by byte."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self):
        self._expect_request()
        super().on_response_complete()

    def _expect_request(self):
        self.loop.call_later(HEAD_TIME, self._close_without, self.cycle)

    def _close_without(self, last):
        if self.cycle is last:
            self.timeout_keep_alive_handler()
