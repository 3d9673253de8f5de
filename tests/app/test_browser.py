"""The page in Chromium, from the keyboard: ask, see verdict and answers, change the policy, and ask again."""

import time

import pytest
from browser import check_readable, open_page
from html_page import hostile
from PIL import Image

from safevlm_hf.modeling.safety_refusals import REFUSALS


pytest.importorskip("gradio")
from listening import listening  # noqa: E402

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
            yield page
            page.close()  # or the server would wait for its streams
    assert wrong == []


def tab_to(page, text):
    """Move the focus with the tabulator until it is on the control that says this."""
    for _ in range(60):
        page.keyboard.press("Tab")
        name = "[one.ariaLabel, one.textContent, ...[...(one.labels || [])].map(label => label.textContent)]"
        if text in page.evaluate(f"(one => one === document.body ? '' : {name}.join())(document.activeElement)"):
            return
    raise AssertionError(f"no tab leads to {text!r}")


def answers(page):
    return page.locator("#answers .side p").all_inner_texts()


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

    tab_to(page, "A flag at level high leads to")
    page.keyboard.press("ArrowDown")  # from `condition` to `refuse`
    page.keyboard.press("Enter")
    page.get_by_text('"high": "refuse"').wait_for()
    page.get_by_role("button", name="Ask again").focus()
    page.keyboard.press("Enter")
    page.locator("#answers").get_by_text(REFUSALS["en"]["privacy"]).wait_for()
    page.get_by_text("Answered.").wait_for()
    assert answers(page) == [REFUSALS["en"]["privacy"], first[1]]
    page.get_by_role("button", name="Each category").press("Enter")
    page.get_by_label("privacy: flagged").wait_for()
    page.emulate_media(color_scheme="dark")
    page.locator("body.dark").wait_for()
    check_readable(page)


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
    model, _ = loaded
    steps, ends = [], model.generation_config.eos_token_id
    hook = model.model.language_model.register_forward_pre_hook(lambda *_: steps.append(time.sleep(0.02)))
    model.generation_config.eos_token_id = None  # it would go on for 1000 tokens
    try:
        page.get_by_label("Question").fill("What is two plus two?")
        page.keyboard.press("Enter")
        page.get_by_text("Answering.").wait_for()
        if leave == "closes the page":
            page.close()
        else:
            page.get_by_role("button", name="New conversation").click()
            page.get_by_text("Nothing has been asked yet.").wait_for()
        for _ in range(200):
            before = len(steps)
            time.sleep(0.3)
            if before == len(steps):
                break
        assert 0 < before == len(steps) < 900
    finally:
        model.generation_config.eos_token_id = ends
        hook.remove()
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
