"""The page itself: which controls there are, and what they lead to."""

import json
import logging
import random
import textwrap
from collections.abc import Iterator

from ..extras import needs_extra
from ..modeling.safety_policy import SETTABLE_ACTIONS, SafetyPolicy
from ..modeling.safety_refusals import REFUSALS
from .answering import TwoAnswers
from .controls import MAX_TURNS, MODES, Controls
from .conversation import MAX_CHARACTERS, SIDES, Turn, ask, encode, shown_pictures
from .pictures import card_topics, draw_card, open_pictures
from .showing import make_panels, render, small_picture


with needs_extra("app"):
    import gradio as gr

logger = logging.getLogger("uvicorn.error")

TITLE = "SafeVLM: a verdict inside the model"
MAX_WAITING = 32  # visitors in line
LONGEST_ERROR = 300  # characters
# The model's own answers and the server's own texts: nothing here is for programs.
PRIVATE = {"api_visibility": "private"}
# Values as the browser sends them: gradio's own checks answer with its internals. Ours stand in `controls` and `door`.
RAW = {**PRIVATE, "preprocess": False}
ON_MODEL = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "minimal"}


class Page:
    """The page of one checkpoint.

    Args:
        model, processor: a trained checkpoint's. Visitors' policies override its own.
        name: of the checkpoint, as the page shows it.
        max_new_tokens: longest answer.
    """

    def __init__(self, model, processor, name: str, max_new_tokens: int = 256):
        self.model, self.processor, self.name, self.max_new_tokens = model, processor, name, max_new_tokens
        self.config = model.config.safety_config
        self.own_policy = SafetyPolicy.create(model.kept_policy(), self.config)
        self.answers = TwoAnswers(model, processor, max_new_tokens)

    def build(self) -> gr.Blocks:
        """The layout, and what each control does."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            gr.HTML(render("head.html", title=TITLE, name=self.name), apply_default_css=False)
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
                    controls, policy_json = self._build_policy()
            self._wire(asking, shown, turns, controls, policy_json)
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
            again = gr.Button("Ask again", min_width=80)
        new = gr.Button("New conversation")
        return {
            "picture": picture,
            "topic": topic,
            "draw": draw,
            "question": question,
            "send": send,
            "again": again,
            "new": new,
        }

    def _build_policy(self) -> tuple[list, gr.HTML]:
        """The controls in the order of `Controls.values`, and the JSON that they make."""
        start, share = Controls.of_policy(self.own_policy, self.config), {"minimum": 0, "maximum": 1, "step": 0.01}
        gr.HTML(render("policy.html"), apply_default_css=False)
        controls = [
            gr.Slider(**share, value=start.risk_threshold, label="Risk threshold: a higher risk is flagged"),
            gr.Slider(**share, value=start.review_threshold, label="Review from this probability (0: as it was)"),
            gr.Slider(
                minimum=1,
                maximum=MAX_TURNS,
                step=1,
                value=start.remembered_turns,
                label=f"Last turns that count ({MAX_TURNS}: all)",
            ),
            gr.Dropdown(list(REFUSALS), value=start.language, label="Language of fixed refusals"),
            *(
                gr.Dropdown(list(SETTABLE_ACTIONS), value=action, label=f"A flag at level {level} leads to")
                for level, action in start.actions.items()
            ),
        ]
        policy_json = gr.HTML(_render_policy({}), elem_id="policy-json", apply_default_css=False)
        with gr.Accordion("Each category", open=False):
            for name, mode in start.modes.items():
                controls.append(gr.Dropdown(list(MODES), value=mode, label=f"{name}: flagged"))
                controls.append(gr.Slider(**share, value=start.thresholds[name], label=f"{name}: its own threshold"))
        return controls, policy_json

    def _wire(self, asking: dict, shown: dict, turns: gr.State, controls: list, policy_json: gr.HTML):
        outputs = [*shown.values(), turns, asking["question"]]
        inputs = [turns, asking["question"], asking["picture"], *controls]
        asked = gr.on(
            [asking["send"].click, asking["question"].submit],
            self.answer,
            inputs,
            outputs,
            show_progress_on=shown["answers"],
            **RAW,
            **ON_MODEL,
        )
        asked_again = asking["again"].click(
            self.answer_again,
            [turns, *controls],
            outputs,
            show_progress_on=shown["answers"],
            **RAW,
            **ON_MODEL,
        )
        # One after the other: an answer that still comes would overwrite the new conversation.
        asking["new"].click(None, cancels=[asked, asked_again]).then(
            self.start_again, None, [*outputs, asking["picture"]], show_progress="hidden", **PRIVATE
        )
        asking["draw"].click(
            self.draw,
            [asking["topic"], asking["question"]],
            [shown["notice"], asking["picture"], asking["question"]],
            show_progress="hidden",
            **RAW,
        )
        gr.on(
            [control.change for control in controls],
            self.show_policy,
            controls,
            [shown["notice"], policy_json],
            show_progress="hidden",
            trigger_mode="always_last",
            **RAW,
        )

    # ----------------------------------------------------------------------------------------------
    # What the controls lead to: new values of the outputs, in the order that `_wire` names
    # ----------------------------------------------------------------------------------------------

    def answer(self, turns: list[Turn], question: str, upload: dict | None, *values) -> Iterator[tuple]:
        """Ask a question: verdict first, then both answers as they come."""
        path = upload.get("path") if isinstance(upload, dict) else None
        yield from self._or_say_why(lambda: self._answer(turns, ask(turns, question, path), values))

    def answer_again(self, turns: list[Turn], *values) -> Iterator[tuple]:
        """Ask the last question again, under the policy of now."""
        yield from self._or_say_why(lambda: self._answer(turns[:-1], _last(turns), values))

    def _answer(self, turns: list[Turn], turn: Turn, values) -> Iterator[tuple]:
        policy = self._policy(values)
        asked = [*turns, turn]
        images = open_pictures(shown_pictures(asked))
        inputs = {side: encode(self.model, self.processor, asked, images, side, self.max_new_tokens) for side in SIDES}
        panels = []
        if images:
            explanation = self.model.explain(**inputs[SIDES[0]], safety_policy=policy)
            panels = make_panels(explanation, inputs[SIDES[0]], self.processor, images)
        pictures = [small_picture(image, f"picture {number}") for number, image in enumerate(images, 1)]
        verdict, answers = render("verdict.html", panels=panels, is_asked=True), turn.answers
        yield _say("Answering."), _render_answers(asked, pictures), verdict, gr.skip(), gr.skip()
        for answers in self.answers.stream(inputs, policy):
            asked = [*turns, Turn(turn.question, turn.picture, answers)]
            yield gr.skip(), _render_answers(asked, pictures), gr.skip(), gr.skip(), gr.skip()
        finished = {side: answer.strip() for side, answer in answers.items()}
        asked = [*turns, Turn(turn.question, turn.picture, finished)]
        yield _say("Answered."), _render_answers(asked, pictures), gr.skip(), asked, ""

    def start_again(self) -> tuple:
        """A new conversation, without a picture."""
        return _say("A new conversation."), render("answers.html"), render("verdict.html"), [], "", None

    def draw(self, topic: str, question: str) -> tuple:
        """A card, and a question about it where none has been typed."""
        try:
            image, suggested = draw_card(topic, random.Random())
        except ValueError as error:
            return _say_error(error), gr.skip(), gr.skip()
        is_typed = isinstance(question, str) and question.strip()
        return _say("A card is drawn."), image, gr.skip() if is_typed else suggested

    def show_policy(self, *values) -> tuple:
        """The policy's JSON, or why the controls make none."""
        try:
            return render("notice.html"), _render_policy(self._policy(values))
        except (ValueError, TypeError) as error:
            return _say_error(error), gr.skip()

    def _policy(self, values) -> dict:
        return Controls.from_values(values, self.config).to_policy(self.own_policy, self.config)

    def _or_say_why(self, answer) -> Iterator[tuple]:
        """What `answer` yields; where it fails, one sentence and everything else as it was."""
        nothing = (gr.skip(),) * 4
        try:
            yield from answer()
        except ValueError as error:
            yield _say_error(error), *nothing
        except Exception:
            logger.exception("An answer failed.")
            yield _say_error("The answer could not be finished: the server's log says why."), *nothing


def _last(turns: list[Turn]) -> Turn:
    if not turns:
        raise ValueError("There is no question yet: ask one first.")
    return Turn(turns[-1].question, turns[-1].picture, dict.fromkeys(SIDES, ""))


def _render_answers(turns: list[Turn], pictures: list) -> str:
    """Turns with their pictures beside them."""
    left = iter(pictures)
    shown = [(turn, None if turn.picture is None else next(left)) for turn in turns]
    return render("answers.html", turns=shown)


def _render_policy(policy: dict) -> str:
    return render("json.html", policy=json.dumps(policy, indent=2, ensure_ascii=False))


def _say(text: str) -> str:
    return render("notice.html", text=text)


def _say_error(error: Exception | str) -> str:
    return render("notice.html", error=textwrap.shorten(str(error), LONGEST_ERROR, placeholder=" ..."))
