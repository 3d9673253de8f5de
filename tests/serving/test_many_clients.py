"""Many clients at once, and a real server that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from listening import listening
from serving_client import (
    CHAT,
    CLEAN,
    NAME,
    QUESTION,
    REFUSAL,
    REFUSE,
    RISKY,
    answer_of,
    ask,
    image_url,
    load,
    moderate,
    picture,
    streamed,
    text,
)

from safevlm_hf import read_audit, serving


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


class Server:
    """`safevlm serve` in a process of its own."""

    def __init__(self, checkpoint, policy, audit, log):
        arguments = ["--model", checkpoint, "--served-model-name", NAME, "--port", "0", "--metrics-port", "0"]
        arguments += ["--policy", policy, "--audit", audit, "--host", "0.0.0.0", "--expose-verdict"]
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
                    assert api.models.list().data[0].id == name
                    assert time.monotonic() - before < 30
                    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
        finally:
            server.process.kill()
    lines, broken = read_audit(audit)
    assert broken == 1 and len({line["request_id"] for line in lines}) == len(lines)
    logged = log.read_text()
    assert logged.count("POST /v1/chat/completions 200 ") >= 4 and logged.count(" 401 ") == 2
    assert logged.count("WARNING") == logged.count("--expose-verdict") == 2 and "Open to everybody" not in logged
    assert KEY not in logged and REFUSAL not in logged and "privacy" not in logged
    assert [line["action"] for line in lines if line["action"] == "refuse"] == ["refuse"] * 2
    assert len(lines) >= 4
