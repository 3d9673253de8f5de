"""The page in Chromium, from the keyboard: ask, see verdict and answers, change the policy, and ask again."""

import json
import time
from contextlib import contextmanager

import pytest
from PIL import Image
from support.browser import check_readable, open_page
from support.html_page import hostile

from safevlm_hf.modeling.refusal_texts import REFUSALS


pytest.importorskip("gradio")
from support.listening import listening  # noqa: E402

from safevlm_hf.app.server import create_app  # noqa: E402


TIMEOUT = 60_000  # milliseconds: this machine may be doing other work


@pytest.fixture
def page(loaded, tmp_path, monkeypatch):
    """The page, loaded; what its console says and what it asks of others is an error."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    wrong = []
    with open_page() as page:
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        with listening(create_app(*loaded, "a checkpoint", max_new_tokens=1000)) as address:
            page.on("request", lambda sent: sent.url.startswith((address, "data:", "blob:")) or wrong.append(sent.url))
            page.goto(address)
            page.get_by_text("Nothing has been asked yet.").wait_for()
            page.get_by_role("button", name="Each category").wait_for()  # the last control
            yield page
            page.close()  # or the server would wait for its streams
    assert wrong == []


@contextmanager
def endless(model):
    """Answers that would go on for 1000 tokens, one each 0.02 seconds; gives the list of steps made."""
    steps, ends = [], model.generation_config.eos_token_id
    hook = model.model.language_model.register_forward_pre_hook(lambda *_: steps.append(time.sleep(0.02)))
    model.generation_config.eos_token_id = None
    try:
        yield steps
    finally:
        model.generation_config.eos_token_id = ends
        hook.remove()


def has_ended(steps):
    for _ in range(200):
        before = len(steps)
        time.sleep(0.3)
        if before == len(steps):
            return 0 < before < 900
    return False


def tab_to(page, text):
    """Move the focus with the tabulator until it is on the control that says this."""
    for _ in range(60):
        page.keyboard.press("Tab")
        label = "[...(one.labels || [])].map(label => label.textContent.trim())"
        name = f"[one.ariaLabel, one.textContent, `${{one.closest('fieldset')?.ariaLabel}}: ${{{label}}}`]"
        if text in page.evaluate(f"(one => one === document.body ? '' : {name}.join())(document.activeElement)"):
            return
    raise AssertionError(f"no tab leads to {text!r}")


def answers(page):
    return page.locator("#answers .side p").all_inner_texts()


def shown_policy(page):
    return json.loads(page.get_by_label("The policy as JSON").inner_text())


def choose(page, level, action):
    page.get_by_role("group", name=f"A flag at level {level} leads to").get_by_label(action).check()


def test_everything_works_from_the_keyboard(page):
    tab_to(page, "Draw the card")
    page.keyboard.press("Enter")
    page.get_by_text("A card is drawn.").wait_for()
    tab_to(page, "Question")
    page.keyboard.press("Enter")  # the question that came with the card
    page.get_by_text("Answered.").wait_for()
    assert "privacy, high" in page.locator("#verdict").inner_text() and page.locator("#verdict img").count() == 1
    first = answers(page)
    assert len(first) == 2 and all(first)
    check_readable(page)

    tab_to(page, "A flag at level high leads to: refuse")
    page.keyboard.press("Space")
    page.get_by_text('"high": "refuse"').wait_for()
    page.get_by_role("button", name="Ask again").focus()
    page.keyboard.press("Enter")
    page.locator("#answers").get_by_text(REFUSALS["en"]["privacy"]).wait_for()
    page.get_by_text("Answered.").wait_for()
    assert answers(page) == [REFUSALS["en"]["privacy"], first[1]]
    page.get_by_role("button", name="Each category").press("Enter")
    page.get_by_label("privacy: on").wait_for()
    page.emulate_media(color_scheme="dark")
    page.locator("body.dark").wait_for()
    check_readable(page)


def test_the_focus_is_seen_and_leaves_nothing_open(page):
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        said = "(one => [one.tagName, one.type, one.textContent, getComputedStyle(one).outlineStyle])"
        reached.append(page.evaluate(f"{said}(document.activeElement)"))
        if reached[-1][0] == "BODY":
            break
    *controls, _ = reached
    assert {"range", "radio", "textarea"} <= {kind for _, kind, _, _ in controls}
    assert "Each category" in controls[-1][2] and {ring for *_, ring in controls} == {"solid"}
    page.wait_for_timeout(500)
    assert [one for one in page.locator("[role=listbox]").all() if one.is_visible()] == []


def test_what_is_typed_during_an_answer_is_the_next_question(loaded, page):
    question = page.get_by_label("Question")
    with endless(loaded[0]):
        question.fill("What is two plus two?")
        question.press("Enter")
        page.get_by_text("Answering.").wait_for()
        assert question.input_value() == ""
        question.fill("And three?")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        assert question.input_value() == "And three?"
    question.press("Enter")
    page.get_by_text("Answered.").wait_for()
    assert page.locator("#answers .turn").count() == 2


def test_a_stopped_answer_is_kept_as_far_as_it_came(loaded, page):
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Nothing is being answered.").wait_for()
    with endless(loaded[0]) as steps:
        page.get_by_label("Question").fill("What is two plus two?")
        page.keyboard.press("Enter")
        page.get_by_text("Answering.").wait_for()
        page.locator("#answers .side.safe p").filter(has_not_text="…").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped before both answers were finished.").wait_for()
        assert has_ended(steps)
    assert all(answers(page)) and page.locator("#answers .turn").count() == 1
    page.get_by_role("button", name="Ask again").click()
    page.get_by_text("Answered.").wait_for()
    assert page.locator("#answers .turn").count() == 1 and page.get_by_text("Stopped before").count() == 0


def test_actions_rise_and_fall_together(page):
    page.set_viewport_size({"width": 390, "height": 844})
    choose(page, "low", "refuse")
    page.get_by_text('"low": "refuse"').wait_for()
    assert shown_policy(page) == {"actions": {"*": dict.fromkeys(("low", "medium", "high"), "refuse")}}
    choose(page, "medium", "answer")
    page.get_by_text('"low": "answer"').wait_for()
    assert shown_policy(page) == {"actions": {"*": {"low": "answer", "medium": "answer", "high": "refuse"}}}
    assert page.get_by_role("alert").count() == 0


def test_a_contradiction_takes_the_place_of_the_json_until_it_is_mended(page):
    page.get_by_role("button", name="Each category").click()
    page.get_by_label("privacy: flagged by a threshold of its own").check()
    band = page.get_by_label("number input for Review from this probability")
    band.fill("0.9")
    band.press("Enter")
    page.locator("#policy-json").get_by_role("alert").get_by_text("review band").wait_for()
    page.get_by_role("button", name="Draw the card").click()
    page.get_by_text("A card is drawn.").wait_for()
    assert (
        page.locator("#policy-json").get_by_role("alert").count() == 1
        and page.locator("#policy-json pre").count() == 0
    )
    assert page.get_by_role("button", name="Save as policy.json").is_disabled()
    band.fill("0.2")
    band.press("Enter")
    page.get_by_text('"*": 0.2').wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as policy.json").click()
    assert saved.value.suggested_filename == "policy.json"
    with open(saved.value.path(), encoding="utf-8") as file:
        assert json.load(file) == {"review_thresholds": {"*": 0.2}, "thresholds": {"privacy": 0.5}}


def test_a_control_that_would_do_nothing_cannot_be_moved(page):
    page.get_by_role("button", name="Each category").click()
    own = page.get_by_label("privacy: flagged by a threshold of its own")
    threshold = page.get_by_label("range slider for privacy: its own threshold")
    page.wait_for_function("one => one.disabled", arg=threshold.element_handle())
    own.check()
    page.wait_for_function("one => !one.disabled", arg=threshold.element_handle())
    page.get_by_label("privacy: on").uncheck()
    page.get_by_text('"privacy": false').wait_for()
    page.wait_for_function("one => one.disabled", arg=threshold.element_handle())
    assert own.is_disabled()


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_on_a_narrow_page_the_answers_come_into_sight(page, motion):
    page.emulate_media(reduced_motion=motion)
    page.set_viewport_size({"width": 390, "height": 844})
    question = page.get_by_label("Question")
    question.fill("What is two plus two?")
    question.press("Enter")
    page.get_by_text("Answered.").wait_for()
    page.wait_for_function("document.getElementById('answers').getBoundingClientRect().top < innerHeight / 4")
    assert page.get_by_text("Answered.").evaluate("one => one.getBoundingClientRect().top") >= 0


def test_hostile_text_and_files_stay_what_they_are(page, tmp_path):
    typed = hostile("typed") + " ${document.title = 'taken'} <img src=x onerror=\"document.title='taken'\">"
    question = page.get_by_label("Question")
    question.fill(typed)
    question.press("Enter")
    page.get_by_text("Answered.").wait_for()
    assert page.locator("#answers .asked p").inner_text() == f"Question\n{typed}"
    assert page.title() != "taken" and page.locator("#answers script, #answers img").count() == 0

    (tmp_path / "a.png").write_text("<script>document.title = 'taken'</script>")
    with page.expect_file_chooser() as chooser:  # by keyboard, too
        page.get_by_role("button", name="Drop an image file here to upload").focus()
        page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "a.png")
    question.fill("What is it?")
    page.wait_for_timeout(500)
    question.press("Enter")
    page.get_by_role("alert").get_by_text("or it is broken").wait_for()
    assert page.title() != "taken"


@pytest.mark.parametrize("leave", ["closes the page", "begins a new conversation"])
def test_an_answer_stops_when_its_visitor(leave, loaded, page):
    with endless(loaded[0]) as steps:
        page.get_by_label("Question").fill("What is two plus two?")
        page.keyboard.press("Enter")
        page.get_by_text("Answering.").wait_for()
        if leave == "closes the page":
            page.close()
        else:
            page.get_by_role("button", name="New conversation").click()
            page.get_by_text("Nothing has been asked yet.").wait_for()
        assert has_ended(steps)
    if leave != "closes the page":
        page.get_by_text("Nothing has been asked yet.").wait_for()


def test_a_picture_of_ones_own_is_asked_about_in_several_turns(page, tmp_path):
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "a.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "a.png")
    page.get_by_alt_text("The picture that you ask about").wait_for()
    question = page.get_by_label("Question")
    for number, typed in enumerate(("What is it?", "And what colour?"), 1):
        question.fill(typed)
        question.press("Enter")
        page.locator("#answers .turn").nth(number - 1).wait_for()
        page.get_by_text("Answered.").wait_for()
    assert page.locator("#answers .asked img").count() == 1 and len(answers(page)) == 4
    page.get_by_role("button", name="New conversation").click()
    page.get_by_text("Nothing has been asked yet.").wait_for()
