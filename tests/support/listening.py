"""An app on a port of the loopback address, for as long as a test needs it."""

import socket
import threading
from contextlib import contextmanager

import uvicorn


@contextmanager
def listening(app, path: str = "/"):
    """The address of the app's `path`."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
        finally:
            server.should_exit = True
            thread.join()
