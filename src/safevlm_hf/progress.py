"""Progress of long work: a bar on a terminal, and lines with the time left in a log file."""

import sys
import time

from tqdm.auto import tqdm


INTERVAL = 10.0  # seconds between two lines


class Countdown:
    """Say when a log gets its next line, and what it says of the time left."""

    def __init__(self, total: int, done: int = 0):
        self.total, self.first = total, done
        self.begin = time.monotonic()
        self.last_line: float | None = None

    def line(self, done: int) -> str | None:
        """Return "3 of 8, 00:25 left" where a line is due: once there is an estimate, if the work takes longer than
        `INTERVAL`, and then each time that this has passed. Else `None`."""
        now = time.monotonic()
        left = (now - self.begin) / max(done - self.first, 1) * (self.total - done)
        waited = left if self.last_line is None else now - self.last_line
        if waited < INTERVAL:
            return None
        self.last_line = now
        return f"{done} of {self.total}, {tqdm.format_interval(left)} left"


class Progress(tqdm):
    """tqdm's bar on a terminal; anywhere else lines of a log, on stderr. `total` is needed. Below another bar it goes
    again."""

    def __init__(self, total: int, title: str, unit: str, is_shown: bool = True):
        self.countdown = Countdown(total) if is_shown else None
        super().__init__(total=total, desc=title, unit=unit, disable=None if is_shown else True, leave=None)
        self.done, self.title = 0, title

    def update(self, n=1):
        if not self.disable or self.countdown is None:
            return super().update(n)
        self.done += n
        line = self.countdown.line(self.done)
        if line is not None:
            print(f"{self.title}: {line}", file=sys.stderr, flush=True)
