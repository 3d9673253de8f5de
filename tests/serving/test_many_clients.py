"""Many clients at once, and a real server that is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from fastapi.testclient import TestClient
from serving_client import (
    CHAT,
    CLEAN,
    MODERATION,
    NAME,
    QUESTION,
    REFUSAL,
    REFUSE,
    RISKY,
    answer_of,
    ask,
    events,
    image_url,
    load,
    moderate,
    picture,
    streamed,
    text,
)
from support.listening import listening
from transformers import BatchFeature

from safevlm_hf import read_audit, serving
from safevlm_hf.serving import served_model


pytestmark = pytest.mark.ci


def test_many_clients(client, expected):
    """Nobody gets what was meant for another."""

    def send(number):
        image = RISKY if number % 2 else CLEAN
        kind = number // 2 % 4
        if kind == 0:
            return streamed(client.post(CHAT, json=ask(picture(image), text(QUESTION), stream=True))), number
        if kind == 1:
            return answer_of(client.post(CHAT, json=ask(picture(image), text(QUESTION)))), number
        if kind == 2:
            return moderate(client, picture(image), text(QUESTION))["flagged"], number
        return client.post(CHAT, json=ask(image_url("nothing"), text(QUESTION))).status_code, number

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(32)))
    for answer, number in answers:
        said = REFUSAL if number % 2 else expected
        assert answer == [said, said, bool(number % 2), 400][number // 2 % 4]


KEY = "sk-0123456789abcdef"


def open_api(url, key="none"):
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)


def test_a_client_that_leaves_stops_the_model(checkpoint):
    model, processor = load(checkpoint)
    model.generation_config.suppress_tokens = [2]  # no end
    steps = []

    def step(*args):
        steps.append(time.sleep(0.01))

    model.model.language_model.register_forward_pre_hook(step)
    app = serving.create_app(model, processor, NAME)
    with listening(app, "/v1") as url, open_api(url) as api:
        messages = [{"role": "user", "content": "Hello"}]
        with api.chat.completions.create(model=NAME, messages=messages, stream=True, max_tokens=1000) as stream:
            next(iter(stream))
        answer = api.chat.completions.create(model=NAME, messages=messages, max_tokens=3)
    assert answer.usage.completion_tokens == 3
    assert 0 < len(steps) < 500
    count = app.state.metrics.registry.get_sample_value
    assert count("safevlm_requests_total", {"route": CHAT, "status": "499"}) == 1
    assert count("safevlm_requests_total", {"route": CHAT, "status": "200"}) == 1
    assert count("safevlm_requests_in_flight") == 0


class Line:
    """An app whose model waits for `go`; `prepared` has the thread of each request whose pictures were opened."""

    def __init__(self, checkpoint, monkeypatch, places):
        self.go, self.prepared, self.moved = threading.Event(), [], []
        model, processor = load(checkpoint)
        for name in ("generate", "assess"):
            monkeypatch.setattr(model, name, self._behind_go(getattr(model, name)))
        self._watch(monkeypatch, served_model, "open_pictures", self.prepared)
        self._watch(monkeypatch, BatchFeature, "to", self.moved)
        limits = serving.Limits(prepared=places)
        self.app = serving.create_app(model, processor, NAME, REFUSE, limits, moderations=True)

    def _behind_go(self, run):
        def wait(*args, **kwargs):
            assert self.go.wait(60)
            return run(*args, **kwargs)

        return wait

    def _watch(self, monkeypatch, owner, name, threads):
        inner = getattr(owner, name)

        def watched(*args, **kwargs):
            threads.append(threading.current_thread().name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    def start_after(self, number):
        """Let the model run once so many requests are prepared; more must not come before."""
        end = time.monotonic() + 30
        while len(self.prepared) < number and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.3)
        prepared = len(self.prepared)
        self.go.set()
        assert prepared == number


def test_few_requests_have_their_pictures_in_memory(checkpoint, monkeypatch, expected):
    """The others wait as texts, and nothing is on the device before the model is free for it."""
    line = Line(checkpoint, monkeypatch, places=2)

    def send(number):
        if number % 3 == 0:
            return streamed(client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION), stream=True)))
        if number % 3 == 1:
            return answer_of(client.post(CHAT, json=ask(picture(CLEAN), text(QUESTION))))
        return moderate(client, picture(CLEAN))["flagged"]

    with TestClient(line.app) as client, ThreadPoolExecutor(9) as pool:
        answers = pool.map(send, range(9))
        line.start_after(2)
        assert list(answers) == [expected, expected, False] * 3
    assert len(line.prepared) == len(line.moved) == 9 and not set(line.moved) & set(line.prepared)


def test_what_goes_wrong_gives_its_place_back(checkpoint, monkeypatch, expected):
    """Broken pictures, requests that ask for too much, failures of the model."""
    line = Line(checkpoint, monkeypatch, places=1)
    line.go.set()
    shown = [picture(CLEAN), text(QUESTION)]
    with TestClient(line.app, raise_server_exceptions=False) as client:
        for body in (ask(image_url("nothing")), ask(*shown, max_tokens=10**6), ask(text("zq " * 3000))):
            for stream in (False, True):
                assert client.post(CHAT, json={**body, "stream": stream}).status_code == 400
        assert client.post(MODERATION, json={"input": [image_url("nothing")]}).status_code == 400
        with monkeypatch.context() as broken:
            broken.setattr(line.app.state.metrics, "count_line", None)  # which is called as an answer begins
            assert client.post(CHAT, json=ask(*shown)).status_code == 500
            assert "error" in events(client.post(CHAT, json=ask(*shown, stream=True)))[-1]
            assert client.post(MODERATION, json={"input": shown}).status_code == 500
        assert answer_of(client.post(CHAT, json=ask(*shown))) == expected


def test_a_client_that_leaves_keeps_its_place_until_its_turn(checkpoint, monkeypatch, expected):
    """Otherwise clients that come and leave would fill the memory; and after its turn the place is free."""
    line, messages = Line(checkpoint, monkeypatch, places=2), ask(picture(CLEAN), text(QUESTION))["messages"]
    with listening(line.app, "/v1") as url, open_api(url) as api:
        for _ in range(5):
            try:
                with api.with_options(timeout=0.5).chat.completions.create(
                    model=NAME, messages=messages, stream=True
                ) as stream:
                    next(iter(stream))
            except openai.APITimeoutError:
                pass
        line.start_after(2)
        answer = api.chat.completions.create(model=NAME, messages=messages)
        assert answer.choices[0].message.content.strip() == expected


class Server:
    """`safevlm serve` in a process of its own."""

    def __init__(self, checkpoint, policy, audit, log):
        arguments = ["--model", checkpoint, "--served-model-name", NAME, "--port", "0", "--metrics-port", "0"]
        arguments += ["--policy", policy, "--audit", audit, "--host", "0.0.0.0", "--expose-verdict", "--moderations"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with open(log, "a") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "safevlm_hf", "serve", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**environment, "SAFEVLM_API_KEY": KEY},
            )
        lines = [self.process.stdout.readline() for _ in range(2)]
        assert lines[0].startswith(f"{NAME} on http://") and lines[1].startswith("metrics on http://127.0.0.1:"), lines
        self.url, self.metrics_url = (line.split()[-1].replace("0.0.0.0", "127.0.0.1") for line in lines)

    def stop(self, number):
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        return code


def test_a_killed_server_starts_again(checkpoint, tmp_path, expected):
    """OpenAI's own client talks to it; SIGKILL in the middle of a stream leaves nothing behind."""
    policy, audit = tmp_path / "policy.json", tmp_path / "audit.jsonl"
    policy.write_text(json.dumps(REFUSE))
    name, log = NAME, tmp_path / "server.log"

    def messages(image):
        return [{"role": "user", "content": [picture(image), text(QUESTION)]}]

    for start in range(2):
        server = Server(checkpoint, policy, audit, log)
        try:
            with open_api(f"{server.url}/v1") as stranger, pytest.raises(openai.AuthenticationError):
                stranger.models.list()
            with open_api(f"{server.url}/v1", KEY) as api:
                answer = api.chat.completions.create(model=name, messages=messages(RISKY))
                assert answer.choices[0].message.content.strip() == REFUSAL
                stream = api.chat.completions.create(model=name, messages=messages(CLEAN), stream=True)
                said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
                assert said.strip() == expected
                with urllib.request.urlopen(server.metrics_url) as response:
                    assert b'safevlm_answers_total{action="refuse"} 1.0' in response.read()
                (result,) = api.moderations.create(model=name, input=messages(RISKY)[0]["content"]).results
                assert result.flagged
                with pytest.raises(openai.NotFoundError):
                    api.moderations.create(model="omni-moderation-latest", input=messages(RISKY)[0]["content"])
                with pytest.raises(openai.BadRequestError):
                    api.chat.completions.create(
                        model=name, messages=messages(RISKY), extra_body={"safety_policy": {"enabled": False}}
                    )
                if start == 0:
                    stream = api.chat.completions.create(model=name, messages=messages(CLEAN), stream=True)
                    next(iter(stream))
                    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
                    with open(audit, "a") as file:
                        file.write('{"time": "half a li')
                else:
                    with api.chat.completions.create(model=name, messages=messages(CLEAN), stream=True) as stream:
                        next(iter(stream))  # and goes away
                    before = time.monotonic()
                    assert api.models.list().data[0] == api.models.retrieve(name)
                    assert time.monotonic() - before < 30
                    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
        finally:
            server.process.kill()
    lines, broken = read_audit(audit)
    assert broken == 1 and len({line["request_id"] for line in lines}) == len(lines)
    logged = log.read_text()
    assert logged.count("Nothing is known of what it was trained on") == 2
    assert logged.count("POST /v1/chat/completions 200 ") >= 4 and logged.count(" 401 ") == 2
    assert logged.count("WARNING") == 6 and "Open to everybody" not in logged
    assert [logged.count(f"--{option}") for option in ("expose-verdict", "moderations", "audit-moderations")] == [
        2
    ] * 3
    assert KEY not in logged and REFUSAL not in logged and "privacy" not in logged
    assert [line["action"] for line in lines if line["action"] == "refuse"] == ["refuse"] * 2
    assert len(lines) >= 4
