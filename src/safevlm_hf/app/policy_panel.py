"""The policy's part of the page: its controls, and the JSON that they make."""

import json

from ..extras import needs_extra
from ..modeling.configuration_safety import SafetyConfig
from ..modeling.refusal_texts import REFUSALS
from ..modeling.safety_policy import SETTABLE_ACTIONS, SafetyPolicy
from .controls import MAX_TURNS, Controls
from .showing import render


with needs_extra("app"):
    import gradio as gr

# Options of gradio's events. The page's answers and texts are for visitors, not for programs.
PRIVATE = {"api_visibility": "private"}
# Values come as the browser sends them, because gradio's own checks answer with its internals. They are checked in
# `controls.py` and `middleware.py`.
RAW = {**PRIVATE, "preprocess": False}
SHARE = {"minimum": 0, "maximum": 1, "step": 0.01}
FOLLOW = """(...actions) => {
  const order = %s, rank = action => order.indexOf(action), place = %d, moved = actions[place];
  return actions.map((action, at) => (at - place) * (rank(moved) - rank(action)) > 0 ? moved : action);
}"""
"""Actions may not fall as the level rises: where one is moved, those on the wrong side of it come along."""
SAVE = """() => {
  const link = document.createElement("a"), text = document.querySelector("#policy-json pre").textContent;
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "policy.json";
  link.click();
}"""


class PolicyPanel:
    """Controls that start at the settings of a checkpoint's own policy.

    Args:
        own: that policy.
        config: the checkpoint's levels and categories.
    """

    def __init__(self, own: SafetyPolicy, config: SafetyConfig):
        self.own, self.config, self.start = own, config, Controls.from_policy(own, config)

    def read(self, values) -> dict:
        """Return the policy that values of the controls make; it overrides the checkpoint's own.

        Raises:
            ValueError: they contradict each other, or are none that the controls can have.
        """
        return Controls.from_values(values, self.config).to_policy(self.own, self.config)

    def show(self, *values) -> tuple:
        """Show the policy's JSON, which can be saved, or why the controls make none."""
        try:
            return _render(self.read(values)), gr.Button(interactive=True)
        except (ValueError, TypeError) as error:
            return render("json.html", error=error), gr.Button(interactive=False)

    def build(self) -> list:
        """Lay the controls out; returns them in the order of `Controls.values`."""
        gr.HTML(render("policy.html"), apply_default_css=False)
        general = self._build_general()
        actions = [
            gr.Radio(list(SETTABLE_ACTIONS), value=action, label=f"A flag at level {level} leads to")
            for level, action in self.start.actions.items()
        ]
        shown = gr.HTML(_render({}), elem_id="policy-json", apply_default_css=False)
        save = gr.Button("Save as policy.json")
        with gr.Accordion("Each category", open=False):
            categories = [control for name in self.start.switches for control in self._build_category(name)]
        save.click(None, js=SAVE, **PRIVATE)
        controls = [*general, *actions, *categories]
        showing = {
            "fn": self.show,
            "inputs": controls,
            "outputs": [shown, save],
            "show_progress": "hidden",
            "trigger_mode": "always_last",
            **RAW,
        }
        gr.on([control.change for control in [*general, *categories]], **showing)
        # An action that is moved first moves the others along, and only then the policy is shown.
        for place, control in enumerate(actions):
            follow = FOLLOW % (json.dumps(SETTABLE_ACTIONS), place)
            control.input(None, actions, actions, js=follow, show_progress="hidden", **PRIVATE).then(**showing)
        return controls

    def _build_general(self) -> list:
        start = self.start
        return [
            gr.Slider(**SHARE, value=start.risk_threshold, label="Risk threshold: a higher risk is flagged"),
            gr.Slider(**SHARE, value=start.review_threshold, label="Review from this probability (0: as it was)"),
            gr.Slider(
                minimum=1,
                maximum=MAX_TURNS,
                step=1,
                value=start.remembered_turns,
                label=f"Last turns that count ({MAX_TURNS}: all)",
            ),
            gr.Radio(list(REFUSALS), value=start.language, label="Language of fixed refusals"),
        ]

    def _build_category(self, name: str) -> list:
        is_on, has_threshold = self.start.switches[name], self.start.has_threshold[name]
        with gr.Group():
            switch = gr.Checkbox(is_on, label=f"{name}: on")
            own = gr.Checkbox(has_threshold, label=f"{name}: flagged by a threshold of its own", interactive=is_on)
            threshold = gr.Slider(
                **SHARE,
                value=self.start.thresholds[name],
                label=f"{name}: its own threshold",
                interactive=is_on and has_threshold,
            )

        def enable(is_on: bool, has_threshold: bool) -> tuple:
            # A control that would do nothing cannot be moved. Values are the browser's, of any type.
            return gr.Checkbox(interactive=is_on is True), gr.Slider(
                interactive=is_on is True and has_threshold is True
            )

        gr.on(
            [switch.change, own.change],
            enable,
            [switch, own],
            [own, threshold],
            show_progress="hidden",
            trigger_mode="always_last",
            **RAW,
        )
        return [switch, own, threshold]


def _render(policy: dict) -> str:
    return render("json.html", policy=json.dumps(policy, indent=2, ensure_ascii=False))
