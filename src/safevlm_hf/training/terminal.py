"""What a terminal shows of a training, in place of the Trainer's dictionaries of logs."""

import sys
import time

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from .figures import FIGURES


INTERVAL = 30.0  # seconds between the lines where there is no bar
STEP = {"loss": "loss", "level_accuracy": FIGURES["level_accuracy"]}
"""What is shown of a step; evaluations show `FIGURES`."""


class TerminalCallback(TrainerCallback):
    """A bar with the time left and the loss; where it is disabled, as in a log file, a line now and then. Each
    evaluation is a line. All of it goes to stderr, from the main process alone."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.is_shown, self.evaluated = state.is_world_process_zero, {}
        self.begin = self.last_line = time.monotonic()
        self.first_step = state.global_step
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
        if getattr(self, "bar", None) is None or not self.is_shown:  # after the training
            return
        if "loss" in logs:
            self._show_step(state, _listed(logs, STEP))
        elif "eval_loss" in logs:
            self.evaluated = logs  # the Trainer's part of an evaluation, the verdicts and answers follow
        elif self.evaluated:
            figures = {name.removeprefix("eval_"): value for name, value in {**self.evaluated, **logs}.items()}
            self.evaluated = {}
            self._write(f"step {state.global_step} of {state.max_steps}, evaluated: {_listed(figures, FIGURES)}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        self.bar = None

    def _show_step(self, state, figures: str):
        self.bar.set_postfix_str(figures)
        now = time.monotonic()
        if not self.bar.disable or now - self.last_line < INTERVAL:
            return
        self.last_line = now
        left = (now - self.begin) / (state.global_step - self.first_step) * (state.max_steps - state.global_step)
        self._write(f"step {state.global_step} of {state.max_steps}, {tqdm.format_interval(left)} left: {figures}")

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
    known = {title: figures[name] for name, title in titles.items() if name in figures}
    return ", ".join(f"{title} {float(value):.3f}" for title, value in known.items())
