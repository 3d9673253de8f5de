"""The page's controls without a browser, and its server."""

import json
from dataclasses import replace

import pytest
from PIL import Image


gr = pytest.importorskip("gradio")
from starlette.testclient import TestClient  # noqa: E402

from safevlm_hf import SafeLlavaForConditionalGeneration  # noqa: E402
from safevlm_hf.app.base import choose_base  # noqa: E402
from safevlm_hf.app.conversation import Turn  # noqa: E402
from safevlm_hf.app.middleware import API, EVENTS, FILE  # noqa: E402
from safevlm_hf.app.page import Page  # noqa: E402
from safevlm_hf.app.server import create_app  # noqa: E402
from safevlm_hf.data import NANO_BASE  # noqa: E402
from safevlm_hf.modeling.refusal_texts import REFUSALS  # noqa: E402


NOTICE, ANSWERS, VERDICT, TURNS, QUESTION = range(5)


@pytest.fixture
def page(loaded):
    return Page(*loaded, "a checkpoint", max_new_tokens=40)


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "card.png"
    Image.new("RGB", (60, 40), "white").save(path)
    return {"path": str(path)}


def values(page, **moved):
    """The controls, with actions by level in place of those where they start."""
    return replace(page.panel.start, actions={**page.panel.start.actions, **moved}).values()


def is_skipped(value):
    return isinstance(value, dict) and set(value) == {"__type__"}


def test_a_question_is_judged_and_answered_twice(page, upload):
    first, judged, *rest = page.answer([], "What does the card say?", upload, *values(page))
    assert "Answering." in first[NOTICE] and "What does the card say?" in first[ANSWERS]
    assert "privacy, high" in judged[VERDICT] and "condition" in judged[VERDICT]
    assert len(rest) > 2 and all(is_skipped(step[VERDICT]) for step in rest)
    (turn,) = rest[-1][TURNS]
    assert turn.question == "What does the card say?" and all(turn.answers.values()) and not turn.is_stopped
    assert all(answer in rest[-2][ANSWERS] for answer in turn.answers.values()) and "Answered." in rest[-1][NOTICE]


def test_what_is_typed_during_an_answer_stays(page, upload):
    first, *rest = page.answer([], "What does the card say?", upload, *values(page))
    assert first[QUESTION] == "" and all(is_skipped(step[QUESTION]) for step in rest)
    again = page.answer_again(rest[-1][TURNS], *values(page))
    assert all(is_skipped(step[QUESTION]) for step in again)


def test_a_stopped_answer_stays_as_far_as_it_came(page, upload):
    answering = page.answer([], "What does the card say?", upload, *values(page))
    *_, kept = (next(answering) for _ in range(6))
    answering.close()
    (turn,) = kept[TURNS]
    assert turn.is_stopped and any(turn.answers.values())
    (shown,) = page.stop([turn])
    assert "Stopped." in shown[NOTICE] and "Stopped before" in shown[ANSWERS] and "<img" in shown[ANSWERS]
    assert all(answer in shown[ANSWERS] for answer in turn.answers.values())
    turns = list(page.answer([turn], "And now?", upload, *values(page)))[-1][TURNS]
    assert [turn.is_stopped for turn in turns] == [True, False]
    (shown,) = page.stop(turns)
    assert "Nothing is being answered." in shown[NOTICE] and is_skipped(shown[ANSWERS])


def test_another_policy_changes_the_answer_to_the_same_question(page, upload):
    (turn,) = list(page.answer([], "What does the card say?", upload, *values(page)))[-1][TURNS]
    steps = list(page.answer_again([turn], *values(page, high="refuse")))
    (again,) = steps[-1][TURNS]
    assert again.answers["safe"] == REFUSALS["en"]["privacy"] != turn.answers["safe"]
    assert again.answers["free"] == turn.answers["free"] and "refuse" in steps[1][VERDICT]
    assert (again.question, again.picture) == (turn.question, turn.picture)


def test_a_conversation_goes_on(page, upload):
    turns = list(page.answer([], "What does the card say?", upload, *values(page)))[-1][TURNS]
    turns = list(page.answer(turns, "And now?", upload, *values(page)))[-1][TURNS]
    assert [turn.picture is None for turn in turns] == [False, True]
    *_, shown, last = page.answer(turns, "Again?", None, *values(page))
    assert len(last[TURNS]) == 3 and shown[ANSWERS].count("<img") == 1


def test_text_alone_has_no_verdict(page):
    steps = list(page.answer([], "What is two plus two?", None, *values(page)))
    assert "has no verdict" in steps[1][VERDICT]
    assert len(set(steps[-1][TURNS][0].answers.values())) == 1


def test_what_cannot_be_answered_gets_one_sentence(page, upload, tmp_path):
    (tmp_path / "card.png.txt").write_text("no picture")
    text = {"path": str(tmp_path / "card.png.txt")}
    falling = values(page, low="refuse")
    turns = [Turn("What?", None, {"safe": "A card.", "free": "A card."})]
    for found, said in (
        (page.answer([], "", upload, *values(page)), "Type a question first."),
        (page.answer([], "What?", text, *values(page)), "or it is broken"),
        (page.answer([], "What?", upload, *falling), "fall as the level rises"),
        (page.answer([], "x1y " * 2000, upload, *values(page)), "does not fit"),
        (page.answer_again([], *values(page)), "ask one first"),
        (page.answer(turns, "What?", upload, *values(page)[:-1]), "load it again"),
    ):
        (only,) = found
        assert 'role="alert"' in only[NOTICE] and said in only[NOTICE] and all(map(is_skipped, only[1:]))


def test_a_failure_is_no_secret_and_says_nothing_of_the_server(page, upload, monkeypatch, caplog):
    def fail(self, **kwargs):
        raise RuntimeError("/home/operator/secret")

    monkeypatch.setattr(SafeLlavaForConditionalGeneration, "explain", fail)
    asked, failed = page.answer([], "What?", upload, *values(page))
    assert "could not be finished" in failed[NOTICE] and "secret" not in failed[NOTICE]
    assert "secret" in caplog.text
    assert [turn.question for turn in asked[TURNS]] == ["What?"]  # "Ask again" can try it once more


def test_the_json_is_what_was_moved(page):
    shown, save = page.panel.show(*values(page, high="refuse"))
    policy = json.loads(shown.split('JSON">')[1].split("</pre>")[0].replace("&#34;", '"'))
    assert policy == {"actions": {"*": {"low": "condition", "medium": "condition", "high": "refuse"}}}
    assert "alert" not in shown and save.interactive


def test_a_contradiction_stands_in_place_of_the_json(page):
    shown, save = page.panel.show(*values(page, low="refuse"))
    assert 'role="alert"' in shown and "fall as the level rises" in shown
    assert "<pre" not in shown and not save.interactive


def test_a_card_is_drawn_with_a_question(page):
    notice, image, question, suggested = page.draw("PIN CODE", "", "")
    assert image.size == (336, 336) and "drawn" in notice and question.startswith("Do what the ")
    assert question == suggested


def test_the_question_of_another_card_is_replaced_and_a_typed_one_is_not(page):
    _, _, first, suggested = page.draw("PIN CODE", "", "")
    assert page.draw("ID CARD", first, suggested)[2:] == ("What is the address?",) * 2
    assert all(map(is_skipped, page.draw("ID CARD", "My own question?", suggested)[2:]))
    notice, *rest = page.draw("no topic", "", "")
    assert "no such topic" in notice and all(map(is_skipped, rest))


# --------------------------------------------------------------------------------------------------
# The server
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def client(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with TestClient(create_app(*loaded, "a checkpoint")) as client:
        yield client


def test_the_page_is_served_and_says_what_it_is(client):
    page = client.get("/").text
    assert "This page is a playground" in page and "a checkpoint" in page
    assert "Nothing is known of what it was trained on" in page
    assert client.get(f"{FILE}/etc/passwd").status_code == 404
    assert client.get("/gradio_api/openapi.json").status_code == 404


def test_the_page_says_whose_the_other_answer_is(loaded, client, tmp_path, monkeypatch):
    assert "with the policy off" in client.get("/").text and "base model" not in client.get("/").text
    app = create_app(*loaded, "a checkpoint", max_new_tokens=9, base=str(NANO_BASE))
    assert f"its base model, \\u003ccode\\u003e{NANO_BASE}" in TestClient(app).get("/").text


def test_the_base_stands_under_its_own_name(loaded, upload):
    page = Page(*loaded, "a checkpoint", max_new_tokens=9, base=choose_base(loaded[0], str(NANO_BASE)))
    *_, shown, _ = page.answer([], "What does the card say?", upload, *values(page))
    assert f"The base model, {NANO_BASE}" in shown[ANSWERS] and "policy off" not in shown[ANSWERS].lower()


def test_a_visitor_names_no_file_and_no_address(client):
    for path in ("/etc/passwd", "https://example.org/a.png"):
        body = {"data": [None, "What?", {"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}
        assert client.post(EVENTS, json={**body, "session_hash": "a"}).status_code == 400


def test_an_upload_lies_in_the_servers_folder_and_can_be_shown(client, tmp_path):
    buffer = tmp_path / "sent.png"
    Image.new("RGB", (9, 9)).save(buffer)
    (path,) = client.post(f"{API}/upload", files={"files": ("../../a.png", buffer.read_bytes())}).json()
    assert path.startswith(str(tmp_path)) and ".." not in path
    assert client.get(f"{FILE}{path}").headers["content-type"] == "image/png"


def test_an_untrained_head_has_no_page(nano_model, nano_processor):
    with pytest.raises(ValueError, match="untrained"):
        create_app(nano_model, nano_processor, "nano")
