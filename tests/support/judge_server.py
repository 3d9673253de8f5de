"""A server of chat completions that does what a test says, and counts."""

import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgeServer:
    """Answers "What is ...?" prompts by their answer's text.

    Attributes:
        script: a text that stands in the prompt to what is done with its calls in turn, the last of them again and
            again: a reply's text, `(status, headers, body)`, or a number of seconds to wait first.
        calls: text to the number of its calls.
        bodies: the requests as JSON, with their headers.
        most_at_once: how many calls were under way at the same time.
    """

    def __init__(self, script=None, reply="7", delay=0.0):
        self.script = script or {}
        self.reply = reply
        self.delay = delay
        self.calls = defaultdict(int)
        self.bodies = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def total(self) -> int:
        return sum(self.calls.values())

    def _next(self, prompt: str):
        name = next((name for name in self.script if name in prompt), prompt)
        steps = self.script.get(name, [self.reply])
        with self._lock:
            self.calls[name] += 1
            return steps[min(self.calls[name], len(steps)) - 1]

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                    server.bodies.append(({name.lower(): value for name, value in self.headers.items()}, body))
                try:
                    step = server._next(body["messages"][0]["content"][0]["text"])
                    time.sleep(step if isinstance(step, float) else server.delay)
                    self._send(
                        *completion("7")
                        if isinstance(step, float)
                        else step
                        if isinstance(step, tuple)
                        else completion(step)
                    )
                except (BrokenPipeError, ConnectionResetError):  # the client has gone
                    pass
                finally:
                    with server._lock:
                        server.at_once -= 1

            def _send(self, status, headers, body):
                content = body.encode()
                self.send_response(status)
                for name, value in {"Content-Length": len(content), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler


def completion(text, finish_reason="stop") -> tuple[int, dict, str]:
    message = {"role": "assistant", "content": text}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": finish_reason}]
    return 200, {"Content-Type": "application/json"}, json.dumps(body)


def error(status: int, **headers) -> tuple[int, dict, str]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return (
        status,
        {"Content-Type": "application/json", **headers},
        json.dumps({"error": {"message": f"status {status}"}}),
    )
