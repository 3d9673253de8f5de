import base64
import io
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
from judged_items import item, pairs, picture
from PIL import Image
from support.judge_server import JudgeServer, completion, error

from safevlm_cli.app import reason_of
from safevlm_hf.evaluation.judges import endpoint
from safevlm_hf.evaluation.judges.endpoint import IMAGE_SIZE, PROBE, EndpointJudge
from safevlm_hf.evaluation.judges.prompts import JudgePrompt
from safevlm_hf.evaluation.judges.rubrics import REFUSAL
from safevlm_hf.items import Answer


pytestmark = pytest.mark.ci


pytest.importorskip("openai")
PROMPT = JudgePrompt(task="Judge.")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "judgements.jsonl"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """The client's first wait; each further one is twice as long."""
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)


def make(server: JudgeServer, cache, prompt=PROMPT, **options) -> EndpointJudge:
    return EndpointJudge("judge", "m", prompt, cache, server.url, key_variable=None, **options)


def test_what_is_sent(cache, tmp_path):
    large = picture(tmp_path, "blue", (2 * IMAGE_SIZE, 20))
    items = [item("1", "What is it?", [picture(tmp_path), large])]
    with JudgeServer() as server:
        judge = make(server, cache, options={"seed": 3, "max_tokens": None, "max_completion_tokens": 20})
        (judgement,) = judge.judge(items, [Answer("1", "A star.")], progress=False)
    assert (judgement.score, judgement.reply, judgement.failure) == (7.0, "7", None)
    ((headers, body),) = server.bodies
    assert {name: body[name] for name in body if name != "messages"} == {
        "model": "m",
        "temperature": 0,
        "seed": 3,
        "max_completion_tokens": 20,
    }
    ((role, (text, *pictures)),) = [(message["role"], message["content"]) for message in body["messages"]]
    assert role == "user" and text["text"] == PROMPT.text(items[0], "A star.")
    sizes = []
    for part in pictures:
        head, _, content = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(content))).size)
    assert sizes == [(8, 6), (IMAGE_SIZE, 10)]


def test_pictures_stay_here_where_they_are_not_to_be_sent(cache, tmp_path):
    with JudgeServer() as server:
        make(server, cache, sends_images=False).judge([item("1", images=[picture(tmp_path)])], [Answer("1", "A.")])
    assert len(server.bodies[0][1]["messages"][0]["content"]) == 1


TROUBLE = {
    "busy": [error(429), error(429), "8"],
    "asked to wait": [error(429, Retry_After=1), "8"],
    "broken": [error(500), error(503), "8"],
    "timeout": [3.0, "8"],
}


@pytest.mark.parametrize("name", TROUBLE)
def test_passing_trouble_is_waited_out(cache, name):
    with JudgeServer({name: TROUBLE[name]}) as server:
        start = time.perf_counter()
        judgements = make(server, cache, timeout=0.5).judge(*pairs(name, "fine"), progress=False)
        seconds = time.perf_counter() - start
    assert [one.score for one in judgements] == [8, 7]
    assert server.calls[name] == len(TROUBLE[name])
    assert seconds >= (1 if name == "asked to wait" else 0)


LASTING = {
    "busy": error(429),
    "broken": error(500),
    "timeout": 3.0,
    "bad request": error(400),
    "filtered": error(403),
    "no JSON": (200, JSON, "not JSON"),
    "HTML": (200, {"Content-Type": "text/html"}, "<h1>Log in</h1>"),
    "cut off": (200, {**JSON, "Content-Length": 5000}, completion("7")[2][:60]),
    "truncated JSON": (200, JSON, completion("7")[2][:60]),
    "empty": (200, JSON, ""),
    "null": (200, JSON, "null"),
    "a list": (200, JSON, "[1, 2]"),
    "no choices": (200, JSON, '{"choices": []}'),
    "no message": (200, JSON, '{"choices": [{"message": null}]}'),
    "a number": (200, JSON, '{"choices": [{"message": {"content": 7}}]}'),
    "a redirect": (302, {"Location": "http://127.0.0.1:9/"}, ""),
}


@pytest.mark.parametrize("name", LASTING)
def test_lasting_trouble_is_a_failure_of_that_answer_and_asked_again_later(cache, name):
    with JudgeServer({"trouble": [LASTING[name]]}) as server:
        judge = make(server, cache, timeout=0.4, max_retries=1)
        bad, good = judge.judge(*pairs("trouble", "fine"), progress=False)
        assert good.score == 7 and bad.score is None and bad.failure.startswith("no reply: ")
        assert len(bad.failure.splitlines()) == 1 and len(bad.failure) < 400
        server.script["trouble"] = ["9"]
        assert [one.score for one in judge.judge(*pairs("trouble", "fine"), progress=False)] == [9, 7]
    assert sum(count for prompt, count in server.calls.items() if "fine" in prompt) == 1


UNREADABLE = [
    "Score: 7",
    "I refuse to judge.",
    "10 10",
    "",
    None,
    "7" * 1000,
    "\ud800".encode("utf-8", "replace").decode(),
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_an_unreadable_reply_is_kept_and_not_asked_for_again(cache, text):
    with JudgeServer({"odd": [completion(text, "length")]}) as server:
        for _ in range(2):
            (judgement,) = make(server, cache).judge(*pairs("odd"), progress=False)
            assert judgement.failure.startswith("unreadable reply: ") and judgement.reply == (text or "")
    assert server.calls["odd"] == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_judge_that_cannot_be_asked_stops_the_run(cache, status):
    with JudgeServer({"Question": [error(status)]}, delay=0.05) as server:
        judge = make(server, cache, concurrency=2)
        with pytest.raises(RuntimeError, match=f"judge 'judge' cannot be asked: expected .*, found .*{status}"):
            judge.judge(*pairs(*map(str, range(50))), progress=False)
    assert server.total() <= 6


ADVICE = {401: "--judge-key", 403: "--judge-key", 404: "the model's name", 400: "takes such a call"}


@pytest.mark.parametrize("status", ADVICE)
def test_the_first_question_shows_whether_a_server_can_be_asked(cache, status):
    with JudgeServer({PROBE: [error(status)]}) as server:
        with pytest.raises(RuntimeError) as raised:
            make(server, cache).check()
        reason = f"judge 'judge' cannot be asked: expected a reply from 'm' at {server.url}, found "
        assert str(raised.value).startswith(reason) and len(str(raised.value).splitlines()) == 1
        assert str(status) in str(raised.value) and ADVICE[status] in str(raised.value)
        assert server.total() == 1


def test_a_server_that_is_not_there(cache):
    with JudgeServer() as server:
        judge = make(server, cache, max_retries=1)
    with pytest.raises(RuntimeError, match="found APIConnectionError: .*Check that the server runs at this address"):
        judge.check()


def test_the_first_question_is_asked_once_and_is_no_judgement(cache):
    with JudgeServer({PROBE: ["anything"]}) as server:
        make(server, cache).check()
        make(server, cache).check()
        assert dict(server.calls) == {PROBE: 1}
        (judgement,) = make(server, cache).judge(*pairs("A star."), progress=False)
        assert judgement.score == 7 and server.total() == 2
        make(server, cache, max_new_tokens=9).check()  # another judge
        assert server.calls[PROBE] == 2


def test_no_more_calls_at_once_than_allowed(cache):
    with JudgeServer(delay=0.05) as server:
        make(server, cache, concurrency=3).judge(*pairs(*map(str, range(12))), progress=False)
    assert server.most_at_once == 3 and server.total() == 12


def test_judgements_are_in_the_order_of_the_answers(cache):
    script = {f"answer {number}.": [str(number)] for number in range(9)} | {"answer 0.": [0.3, "0"]}
    with JudgeServer(script) as server:
        judgements = make(server, cache).judge(*pairs(*(f"answer {number}." for number in range(9))), progress=False)
    assert [one.score for one in judgements][1:] == list(range(1, 9)) and judgements[0].item_id == "0"


# --------------------------------------------------------------------------------------------------
# Keys, fingerprints, wrong arguments
# --------------------------------------------------------------------------------------------------


def test_a_missing_key_is_said_before_anything_runs(cache, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("OPENAI_API_KEY", value)
        with pytest.raises(ValueError) as raised:
            EndpointJudge("gpt", "m", PROMPT, cache)
        assert str(raised.value) == (
            "judge 'gpt' at OpenAI needs a key: expected it in the environment variable OPENAI_API_KEY, which is not "
            "set. Set it, or say that the server needs none (key_variable=None)"
        )
    assert not cache.exists()


def test_a_key_that_is_given_as_the_name_of_a_variable_is_not_repeated(cache):
    with pytest.raises(ValueError, match="needs a key") as raised:
        EndpointJudge("gpt", "m", PROMPT, cache, key_variable="sk-s3cret")
    assert "s3cret" not in str(raised.value)


def test_a_password_in_the_address_is_shown_and_written_nowhere(cache, monkeypatch):
    secret = "http://bob:s3cret@127.0.0.1:9/v1"
    judge = EndpointJudge("gpt", "m", PROMPT, cache, secret, key_variable=None, max_retries=0)
    with pytest.raises(RuntimeError) as raised:
        judge.check()
    assert "at http://127.0.0.1:9/v1, found APIConnectionError: Connection error. Check" in str(raised.value)
    assert judge.settings()["server"] == "http://127.0.0.1:9/v1"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="judge 'gpt' at http://127.0.0.1:9/v1 needs a key"):
        EndpointJudge("gpt", "m", PROMPT, cache, secret)
    for address in ("http://bob:s3/cret@127.0.0.1/v1", "http://bob:s3?cret@127.0.0.1/v1"):
        with pytest.raises(ValueError, match="expected an address such as") as raised:
            EndpointJudge("gpt", "m", PROMPT, cache, address, key_variable=None)
        assert "s3" not in str(raised.value) and "bob" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://a@host:1/v1", "http://host:1/v1"),
        ("https://a:b@c@host", "https://host"),
        ("a:b@host/v1", "host/v1"),
        ("http://host/@model?x=a@b", "http://host/@model?x=a@b"),
        ("OpenAI", "OpenAI"),
    ],
)
def test_what_stands_before_the_host_is_not_shown(address, shown):
    assert endpoint.without_userinfo(address) == shown


def test_the_command_line_says_it_in_one_sentence_without_a_class(cache):
    with JudgeServer() as server:
        judge = make(server, cache, max_retries=0)
    with pytest.raises(RuntimeError) as raised:
        judge.check()
    reason = reason_of(raised.value)
    assert reason.startswith("judge 'judge' cannot be asked: ") and ".." not in reason


@pytest.mark.parametrize("choices", [{}, [], None, "no", [{}], [{"message": None}], 7])
def test_a_reply_without_choices_is_no_completion(choices):
    completion = SimpleNamespace(choices=choices)
    with pytest.raises(ValueError, match="no chat completion"):
        endpoint._reply_text(completion)


def test_the_key_is_sent_and_written_nowhere(cache, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with JudgeServer({"odd": [error(400)]}) as server:
        judge = EndpointJudge("judge", "m", PROMPT, cache, server.url, key_variable="MY_KEY")
        judgements = judge.judge(*pairs("odd", "fine"), progress=False)
    assert all(headers["authorization"] == "Bearer s3cret" for headers, _ in server.bodies)
    assert "s3cret" not in cache.read_text() + str(judge.settings()) + str(judgements)


def test_what_decides_a_judgement_is_in_the_fingerprint(cache):
    def fingerprint(name="a", model="m", prompt=PROMPT, url="http://x/v1", **options):
        return EndpointJudge(name, model, prompt, cache, url, key_variable=None, **options).fingerprint()

    same = [
        fingerprint(),
        fingerprint(name="b"),
        fingerprint(url="http://x/v1/"),
        fingerprint(concurrency=1, timeout=5),
    ]
    assert len({*same}) == 1
    others = [
        fingerprint(model="n"),
        fingerprint(prompt=REFUSAL),
        fingerprint(url="http://y/v1"),
        fingerprint(options={"seed": 1}),
        fingerprint(sends_images=False),
        fingerprint(max_new_tokens=1),
    ]
    assert len({*others, same[0]}) == 7


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"timeout": 0}, {"max_retries": -1}])
def test_numbers_that_make_no_sense(cache, options):
    with pytest.raises(ValueError, match="concurrency of at least 1"):
        EndpointJudge("judge", "m", PROMPT, cache, "http://x/v1", key_variable=None, **options)


# --------------------------------------------------------------------------------------------------
# Stopped runs
# --------------------------------------------------------------------------------------------------

fork = multiprocessing.get_context("fork")


def run(cache, url: str, results):
    """Judges 40 answers, in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
    judge = EndpointJudge("judge", "m", PROMPT, cache, url, key_variable=None, concurrency=4)
    try:
        judgements = judge.judge(*pairs(*(f"answer {number}." for number in range(40))), progress=False)
        results.put([one.score for one in judgements])
    except RuntimeError as error:
        results.put(str(error))


def start(server: JudgeServer, cache):
    results = fork.Queue()
    process = fork.Process(target=run, args=(cache, server.url, results), daemon=True)
    process.start()
    return process, results


def finish(server: JudgeServer, cache):
    process, results = start(server, cache)
    found = results.get(timeout=60)
    process.join(60)
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_asks_nothing_twice(cache, how):
    with JudgeServer(delay=0.1) as server:
        process, _ = start(server, cache)
        deadline = time.monotonic() + 60
        while server.total() < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, how)
        process.join(60)
        assert process.exitcode not in (0, None)
        kept, asked = cache.read_bytes().count(b"\n"), server.total()
        # Up to four calls were under way: a kill loses their replies, an interrupt waits for them.
        assert kept >= asked - 4 if how == signal.SIGKILL else kept == asked
        assert 0 < kept < 40

        assert finish(server, cache) == [7.0] * 40
        assert server.total() == asked + 40 - kept
        before = server.total()
        assert finish(server, cache) == [7.0] * 40 and server.total() == before


def test_two_runs_at_once_do_no_harm(cache):
    with JudgeServer(delay=0.1) as server:
        runs = [start(server, cache) for _ in range(2)]
        done, refused = sorted((results.get(timeout=60) for _, results in runs), key=lambda one: isinstance(one, str))
        for process, _ in runs:
            process.join(60)
    assert done == [7.0] * 40 and "is in use by another run" in refused
    assert server.total() == 40
