"""The bar and the lines that a terminal shows of a training, in place of the Trainer's dictionaries of logs."""

import sys

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..progress import Countdown
from .figures import FIGURES


STEP = {"loss": "loss", "level_accuracy": FIGURES["level_accuracy"]}
"""What is shown of a step; evaluations show `FIGURES`."""


class TerminalCallback(TrainerCallback):
    """A bar with the time left and the loss; where it is disabled, as in a log file, a line every few seconds, and
    one for the last step. Each evaluation is a line. All of it goes to stderr, from the main process alone."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.is_shown, self.evaluated = state.is_world_process_zero, {}
        self.countdown = Countdown(state.max_steps, state.global_step)
        self.bar = tqdm(
            desc="training",
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            dynamic_ncols=True,
            disable=args.disable_tqdm or not self.is_shown,
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if (
            getattr(self, "bar", None) is None or not self.is_shown
        ):  # the last log comes after the training, when the bar is closed
            return
        if "loss" in logs:
            figures = _listed(logs, STEP)
            self.bar.set_postfix_str(figures)
            line = self.countdown.line(state.global_step) if self.bar.disable else None
            is_last = self.bar.disable and state.global_step + state.logging_steps > state.max_steps
            if line is not None or is_last:  # without a bar, as in a log file
                self._write(f"step {line or f'{state.global_step} of {state.max_steps}'}: {figures}")
        elif "eval_loss" in logs:
            self.evaluated = logs  # the Trainer's part of an evaluation, the verdicts and answers follow
        elif self.evaluated:
            known = {name.removeprefix("eval_"): value for name, value in {**self.evaluated, **logs}.items()}
            self.evaluated = {}
            self._write(f"step {state.global_step} of {state.max_steps}, evaluated: {_listed(known, FIGURES)}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        self.bar = None

    def _write(self, line: str):
        self.bar.write(line, file=sys.stderr)
        sys.stderr.flush()


def replace_progress(trainer):
    """Show a training as [`TerminalCallback`] does; a notebook keeps its own way."""
    shown = (PrinterCallback, ProgressCallback)
    replaced = [one for one in trainer.callback_handler.callbacks if isinstance(one, shown)]
    for callback in replaced:
        trainer.remove_callback(callback)
    if replaced:
        trainer.add_callback(TerminalCallback)


def _listed(figures: dict, titles: dict[str, str]) -> str:
    """Return the figures that have a title, in one line."""
    known = {title: figures[name] for name, title in titles.items() if name in figures}
    return ", ".join(f"{title} {float(value):.3f}" for title, value in known.items())
