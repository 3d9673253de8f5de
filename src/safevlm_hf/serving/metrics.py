"""Metrics for the operator's Prometheus. No label has a value that a client can choose."""

import itertools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from ..modeling.safety_audit import UNREADABLE, deciding_category
from ..modeling.safety_policy import ACTIONS
from ..version import __version__
from .routes import CHAT, MODERATIONS, OTHER, ROUTES


ALARMING = (401, 500, 503)  # statuses that an operator's alerts look for
BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds


class Metrics:
    """The metrics of one app, in a registry of its own.

    Args:
        model: the name that is served.
        policy: digest of the policy in force.
        is_shadow: whether the policy decides and nothing follows.
    """

    def __init__(self, model: str, policy: str, is_shadow: bool):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("safevlm_server", "What is served", registry=registry).info(
            {"version": __version__, "model": model, "policy": policy}
        )
        Gauge("safevlm_shadow_mode", "1 where the policy decides and nothing follows", registry=registry).set(
            is_shadow
        )
        self.in_flight = Gauge("safevlm_requests_in_flight", "Requests that are not answered yet", registry=registry)
        self.requests = Counter(
            "safevlm_requests", "Requests; 499: the client left before the end", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "safevlm_request_seconds",
            "From a request to the end of its answer",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.answers = Counter("safevlm_answers", "Answers, by what was done", ["action"], registry=registry)
        self.verdicts = Counter(
            "safevlm_verdicts",
            "Verdicts on pictures, by what the policy decided",
            ["route", "category", "action"],
            registry=registry,
        )
        self.broken_streams = Counter("safevlm_broken_streams", "Streams that ended with an error", registry=registry)
        self.audit_failures = Counter("safevlm_audit_failures", "Lines that could not be written", registry=registry)

    def count_from_zero(self, categories: list[str], has_moderations: bool):
        """Make the series that alerts look for. Prometheus computes nothing from a series that is not there, and takes
        the first value of a new one for no increase: a policy that refuses nothing after a restart would go unseen."""
        for action in ACTIONS:
            self.answers.labels(action)
        routes = (CHAT, MODERATIONS) if has_moderations else (CHAT,)
        for labels in itertools.product(routes, (*categories, UNREADABLE), ACTIONS):
            self.verdicts.labels(*labels)
        for route, status in itertools.product((*ROUTES, OTHER), ALARMING):
            self.requests.labels(route, status)

    def count_line(self, line: dict, route: str):
        """Count the verdicts of an audit line, and its answer."""
        for verdict in line["verdicts"]:
            self.verdicts.labels(route, deciding_category(verdict), verdict["action"]).inc()
        if line["call"] == "generate":
            self.answers.labels(line["action"]).inc()
