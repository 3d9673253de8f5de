"""The page: its layout and the actions of its controls."""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace

from ..extras import needs_extra
from ..modeling.model_card import describe_scope
from ..modeling.safety_policy import SafetyPolicy
from .answering import TwoAnswers
from .base import Base
from .conversation import MAX_CHARACTERS, SAFE_SIDE, SIDES, Turn, ask, shown_pictures
from .pictures import card_topics, draw_card, open_pictures
from .policy_panel import PRIVATE, RAW, PolicyPanel
from .showing import make_panels, render, small_picture


with needs_extra("app"):
    import gradio as gr

logger = logging.getLogger("uvicorn.error")

TITLE = "SafeVLM: a verdict inside the model"
MAX_WAITING = 32  # visitors in line
ON_MODEL = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "minimal"}
SCROLL = """() => {
  const answers = document.getElementById("answers"), {top} = answers.getBoundingClientRect();
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top < 0 || top > innerHeight / 2) answers.scrollIntoView({behavior: isCalm ? "instant" : "smooth"});
}"""
"""On a narrow page the answers come below the question."""
FOR_THE_KEYBOARD = """() => {
  for (const group of document.querySelectorAll("fieldset"))
    group.ariaLabel = group.querySelector("[data-testid=block-info]").textContent;
  document.addEventListener("keydown", ({key}) => {
    if (key === "Tab") for (const list of document.querySelectorAll(".options, [role=listbox]")) list.tabIndex = -1;
  }, true);
}"""
"""Gradio does not tell a screen reader the label of a group of choices. It leaves a list open when
its box has lost the focus, which the style hides, and the list would take the focus, for it scrolls."""


class Page:
    """The page of one checkpoint.

    Args:
        model, processor: a trained checkpoint's. Visitors' policies override its own.
        name: of the checkpoint, as the page shows it.
        max_new_tokens: longest answer.
        base: the model that answers beside it; `None` for the same one with its policy off.
    """

    def __init__(self, model, processor, name: str, max_new_tokens: int = 256, base: Base | None = None):
        self.model, self.processor, self.name = model, processor, name
        self.base_name = None if base is None else base.name
        config = model.config.safety_config
        self.panel = PolicyPanel(SafetyPolicy.create(model.kept_policy(), config), config)
        self.answers = TwoAnswers(model, processor, max_new_tokens, base)

    def build(self) -> gr.Blocks:
        """Lay the page out, and connect each control to what it does."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            scope = describe_scope(self.model.config.training_record)
            head = render("head.html", title=TITLE, name=self.name, base=self.base_name, scope=scope)
            gr.HTML(head, apply_default_css=False)
            turns = gr.State([])
            with gr.Row():
                with gr.Column(scale=4, min_width=320):
                    asking = self._build_asking()
                with gr.Column(scale=7, min_width=320):
                    shown = {
                        part: gr.HTML(render(f"{part}.html"), elem_id=part, apply_default_css=False)
                        for part in ("notice", "answers", "verdict")
                    }
                with gr.Column(scale=4, min_width=320):
                    controls = self.panel.build()
            self._wire_answers(asking, shown, turns, controls)
            suggested = gr.State("")
            asking["draw"].click(
                self.draw,
                [asking["topic"], asking["question"], suggested],
                [shown["notice"], asking["picture"], asking["question"], suggested],
                show_progress="hidden",
                **RAW,
            )
            blocks.load(None, js=FOR_THE_KEYBOARD, **PRIVATE)
        return blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=4, api_open=False)

    def _build_asking(self) -> dict:
        picture = gr.Image(
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            label="Picture",
            height=300,
            buttons=[],
            alt_text="The picture that you ask about",
        )
        topic = gr.Dropdown(card_topics(), value="PIN CODE", label="Or draw a card that shows")
        draw = gr.Button("Draw the card")
        question = gr.Textbox(
            label="Question (Enter asks)",
            lines=1,
            max_lines=6,
            max_length=MAX_CHARACTERS,
            placeholder="What does the card say?",
        )
        with gr.Row():
            send = gr.Button("Ask", variant="primary", min_width=80)
            stop = gr.Button("Stop", min_width=80)
        again = gr.Button("Ask again")
        new = gr.Button("New conversation")
        return {
            "picture": picture,
            "topic": topic,
            "draw": draw,
            "question": question,
            "send": send,
            "stop": stop,
            "again": again,
            "new": new,
        }

    def _wire_answers(self, asking: dict, shown: dict, turns: gr.State, controls: list):
        outputs = [*shown.values(), turns, asking["question"]]
        answering = {"outputs": outputs, "show_progress_on": shown["answers"], **RAW, **ON_MODEL}
        ask_first = [asking["send"].click, asking["question"].submit]
        asked = gr.on(ask_first, self.answer, [turns, asking["question"], asking["picture"], *controls], **answering)
        asked_again = asking["again"].click(self.answer_again, [turns, *controls], **answering)
        gr.on([*ask_first, asking["again"].click], None, js=SCROLL, **PRIVATE)
        # The answers are cancelled before anything is shown, or their next words would overwrite it.
        cancelling = {"fn": None, "cancels": [asked, asked_again]}
        asking["stop"].click(**cancelling).then(self.stop, turns, outputs, show_progress="hidden", **RAW)
        asking["new"].click(**cancelling).then(
            self.start_again, None, [*outputs, asking["picture"]], show_progress="hidden", **PRIVATE
        )

    # ----------------------------------------------------------------------------------------------
    # Actions of the controls: they return new values of the outputs, in the order that the wiring names
    # ----------------------------------------------------------------------------------------------

    def answer(self, turns: list[Turn], question: str, upload: dict | None, *values) -> Iterator[tuple]:
        """Ask a question: verdict first, then both answers as they come."""
        path = upload.get("path") if isinstance(upload, dict) else None
        yield from _or_say_why(lambda: self._answer(turns, ask(turns, question, path), values, left_to_ask=""))

    def answer_again(self, turns: list[Turn], *values) -> Iterator[tuple]:
        """Ask the last question again, under the policy of now."""

        def answer() -> Iterator[tuple]:
            if not turns:
                raise ValueError("There is no question yet: ask one first.")
            last = Turn(turns[-1].question, turns[-1].picture, dict.fromkeys(SIDES, ""))
            yield from self._answer(turns[:-1], last, values, left_to_ask=gr.skip())

        yield from _or_say_why(answer)

    def stop(self, turns: list[Turn]) -> Iterator[tuple]:
        """Show what a stopped answer has left."""

        def show() -> Iterator[tuple]:
            nothing = (gr.skip(),) * 3
            if turns and turns[-1].is_stopped:
                pictures = _small(open_pictures(shown_pictures(turns)))
                yield _say("Stopped."), self._render_answers(turns, pictures), *nothing
            else:
                yield _say("Nothing is being answered."), gr.skip(), *nothing

        yield from _or_say_why(show)

    def start_again(self) -> tuple:
        """Begin a new conversation, without a picture."""
        return _say("A new conversation."), render("answers.html"), render("verdict.html"), [], "", None

    def draw(self, topic: str, question: str, suggested: str) -> tuple:
        """Draw a card, with a question about it in place of the last card's. A question that was typed stays."""
        try:
            image, suggestion = draw_card(topic, random.Random())
        except ValueError as error:
            return _say_error(error), gr.skip(), gr.skip(), gr.skip()
        is_typed = isinstance(question, str) and question.strip() not in ("", suggested)
        return _say("A card is drawn."), image, *((gr.skip(),) * 2 if is_typed else (suggestion,) * 2)

    def _answer(self, turns: list[Turn], turn: Turn, values, left_to_ask) -> Iterator[tuple]:
        """Show the verdict on a turn, then its answers as they come."""
        policy = self.panel.read(values)
        images = open_pictures(shown_pictures([*turns, turn]))
        inputs = self.answers.encode([*turns, turn], images)
        pictures = _small(images)
        started = self._render_answers([*turns, turn], pictures)
        # The conversation keeps the turn as a stopped one until both answers are there: `stop` shows what there is.
        # The box of the question is set once, here: what a visitor types meanwhile is the next question.
        yield _say("Answering."), started, gr.skip(), [*turns, replace(turn, is_stopped=True)], left_to_ask
        panels = []
        if images:
            explanation = self.model.explain(**inputs[SAFE_SIDE], safety_policy=policy)
            panels = make_panels(explanation, inputs[SAFE_SIDE], self.processor, images)
        yield gr.skip(), gr.skip(), render("verdict.html", panels=panels), gr.skip(), gr.skip()
        for answers in self.answers.stream(inputs, policy):
            turn = replace(turn, answers={side: answer.strip() for side, answer in answers.items()})
            answered = self._render_answers([*turns, turn], pictures)
            yield gr.skip(), answered, gr.skip(), [*turns, replace(turn, is_stopped=True)], gr.skip()
        yield _say("Answered."), gr.skip(), gr.skip(), [*turns, turn], gr.skip()

    def _render_answers(self, turns: list[Turn], pictures: list) -> str:
        """Render the turns with their pictures beside them."""
        left = iter(pictures)
        shown = [(turn, None if turn.picture is None else next(left)) for turn in turns]
        return render("answers.html", turns=shown, base=self.base_name)


def _or_say_why(answer) -> Iterator[tuple]:
    """Yield what `answer` yields. Where it fails, say why in one sentence and leave everything else as it was."""
    nothing = (gr.skip(),) * 4
    try:
        yield from answer()
    except ValueError as error:
        yield _say_error(error), *nothing
    except Exception:
        logger.exception("An answer failed.")
        yield _say_error("The answer could not be finished: the server's log says why."), *nothing


def _small(images: list) -> list:
    return [small_picture(image, f"picture {number}") for number, image in enumerate(images, 1)]


def _say(text: str) -> str:
    return render("notice.html", text=text)


def _say_error(error: Exception | str) -> str:
    return render("notice.html", error=error)
