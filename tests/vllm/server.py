"""vLLM's server beside the test, and its OpenAI-compatible API."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path


START_TIMEOUT = 300.0  # seconds


class Server:
    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path: str, **body) -> tuple[int, str]:
        """Status and text."""
        data = json.dumps({"model": "served", "temperature": 0, "max_tokens": 32, **body}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def chat(self, chat, **body) -> dict:
        """The first choice, with its `token_ids`."""
        status, text = self.post(
            "/v1/chat/completions", messages=chat.as_messages(image_part), return_token_ids=True, **body
        )
        assert status == 200, text
        return json.loads(text)["choices"][0]

    def chats(self, chats) -> list[list[int]]:
        """The tokens of many questions, asked at once."""
        with ThreadPoolExecutor(8) as pool:
            return [choice["token_ids"] for choice in pool.map(self.chat, chats)]

    def stream(self, chat) -> str:
        _, text = self.post("/v1/chat/completions", messages=chat.as_messages(image_part), stream=True)
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


def as_url(image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_part(image) -> dict:
    return {"type": "image_url", "image_url": {"url": as_url(image)}}


@contextmanager
def serve(folder, log: Path, **environment):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = "--model-impl transformers --dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 8"
    # What `vllm serve` runs: the wheel for the CPU has a name of its own, which its command does not find.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--served-model-name", "served", "--limit-mm-per-prompt", '{"image": 3}', *options.split()]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        try:
            server = Server(port)
            _wait(server, process, log)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(server: Server, process: subprocess.Popen, log: Path):
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(server.url + "/health", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(1)
    raise TimeoutError(log.read_text()[-4000:])
