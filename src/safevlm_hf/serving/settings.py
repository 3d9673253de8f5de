"""Settings and limits that the operator decides for all clients. No request can change any of them."""

import os
from dataclasses import dataclass, field

from ..modeling.generation_safety import AUDIT_VARIABLE


@dataclass(frozen=True)
class Limits:
    """Limits of requests and answers.

    Args:
        body: bytes of a request.
        bodies: bytes of all requests that are not answered yet; in memory they take about twice as many.
        parts: texts and pictures in a request, empty ones included.
        images: pictures in a request.
        pixels: of all pictures in a request together.
        ratio: of a picture's longer side to its shorter one. Models scale pictures by the shorter side: a strip of few
            pixels becomes a very large picture.
        characters: of all texts in a request together.
        new_tokens: of an answer.
        connections: open ones; more are told 503.
        prepared: requests whose pictures are in memory, the one that the model works on included; more wait in line.
    """

    body: int = 16 * 2**20
    bodies: int = 512 * 2**20
    parts: int = 1024
    images: int = 16
    pixels: int = 2**25
    ratio: int = 20
    characters: int = 2**18
    new_tokens: int = 1024
    connections: int = 256
    prepared: int = 3


@dataclass(frozen=True)
class Settings:
    """Settings of what clients may do and learn, and of what is written down.

    Args:
        system_prompt: the operator's words. They stand in front of every conversation, and no verdict is about them.
        trust_client_roles: whether clients are believed about who said what. By default a client's system prompts and
            answers count as the question, because whoever writes a request can put anything into any role.
        audit: file of JSON lines, one per answer; if unset, what the environment variable `SAFEVLM_AUDIT` names.
        audit_windows: whether its lines hold all windows of the question, so that `safevlm policy replay` is exact.
        audit_moderations: whether moderations have lines, too.
        shadow: the policy decides and nothing follows from it: the audit says what would have been done.
        expose_verdict: whether an answer carries the verdict. Whoever can read verdicts can search for a way around
            them.
        moderations: whether there is `/v1/moderations`. Every client can read verdicts there, with all scores.
        api_keys: a request must bring one of them, except to `/health`; without any, everybody may send requests.
        access_log: whether each request has a line in the log.

    Raises:
        `ValueError`: for shadow mode, or a setting of the audit, without an audit; for an audit of moderations
            without moderations.
    """

    system_prompt: str | None = None
    trust_client_roles: bool = False
    audit: str | os.PathLike | None = None
    audit_windows: bool = False
    audit_moderations: bool = False
    shadow: bool = False
    expose_verdict: bool = False
    moderations: bool = False
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    access_log: bool = True

    def __post_init__(self):
        if self.shadow and not self.audit_path:
            raise ValueError(
                "Shadow mode writes down what the policy would do, and does nothing else: name the file of the audit "
                f"trail (`--audit`, or the variable {AUDIT_VARIABLE})."
            )
        for name in ("audit_windows", "audit_moderations"):
            if getattr(self, name) and not self.audit_path:
                raise ValueError(
                    f"`--{name.replace('_', '-')}` is about the audit trail, and there is none: name its file "
                    f"(`--audit`, or the variable {AUDIT_VARIABLE})."
                )
        if self.audit_moderations and not self.moderations:
            raise ValueError("`--audit-moderations` is about moderations, and there are none: add `--moderations`.")

    @property
    def audit_path(self) -> str | os.PathLike | None:
        return self.audit or os.environ.get(AUDIT_VARIABLE) or None
