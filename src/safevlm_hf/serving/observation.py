"""The decision on one request, made before its first token: for the audit trail, the metrics and the answer."""

from ..modeling.safety_audit import SafetyAudit
from .metrics import Metrics
from .routes import MODERATIONS, OWN_ID
from .settings import Settings


class Observation:
    """Takes the place of the audit in one call of `generate` or `assess`.

    Args:
        request_id: the one that the response carries.
        route: the request's route.
        settings: whether and where lines are written.
        metrics: those that count them.

    `line` is the line of the request's sample, once its pictures have been judged.
    """

    contents = False

    def __init__(self, request_id: str, route: str, settings: Settings, metrics: Metrics):
        self.ids = {"id": OWN_ID.get(request_id), "request_id": request_id}
        self.route, self.metrics = route, metrics
        path = settings.audit_path if route != MODERATIONS or settings.audit_moderations else None
        self.file = SafetyAudit(str(path), windows=settings.audit_windows) if path else None
        self.line: dict | None = None

    @property
    def windows(self) -> bool:
        return self.file is not None and self.file.windows

    @property
    def digests(self) -> bool:
        return self.file is not None

    def append(self, lines: list[dict]):
        """Write and count the one line of the call. Raises `OSError`, so that what is not written is not answered."""
        (line,) = lines
        if self.file is not None:
            try:
                self.file.append([{**line, **self.ids}])
            except OSError:
                self.metrics.audit_failures.inc()
                raise
        self.metrics.count_line(line, self.route)
        self.line = line

    @property
    def is_refused(self) -> bool:
        """`True` where the answer is the policy's fixed text."""
        return self.line is not None and self.line["action"] == "refuse"

    def verdict(self) -> dict | None:
        """Return the decision as clients may see it where the operator exposes verdicts; `None` before it is made."""
        if self.line is None:
            return None
        told = {name: self.line[name] for name in ("action", "shadow_action") if name in self.line}
        hidden = ("logits", "num_windows")  # they are there for the operator's replays
        verdicts = [{name: one[name] for name in one if name not in hidden} for one in self.line["verdicts"]]
        return {**told, "verdicts": verdicts}
