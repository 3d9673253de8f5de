"""An audit trail: one JSON line a sample, on disk before the first token of its answer leaves."""

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch


try:
    import fcntl
except ImportError:  # Windows; appending alone is safe for one process
    fcntl = None

from .safety_policy import SafetyPolicy, SafetyVerdict


@dataclass(frozen=True)
class SafetyAudit:
    """Where `generate` writes what it saw and did.

    Args:
        path: a file of JSON lines; it is appended to, by any number of processes.
        contents: also write the token ids of the prompt. Without it a line holds digests alone.

    A line has `time` (UTC), `model`, `revision`, `policy` (its digest), `action`, `verdicts`, `prompt_sha256` and
    `image_sha256` (one an image, of the processed pixels; `null` where they were encoded before the call).
    """

    path: str
    contents: bool = False

    def __post_init__(self):
        if not isinstance(self.path, (str, os.PathLike)) or not isinstance(self.contents, bool):
            raise ValueError(
                "A safety audit takes the `path` of a file and `contents` as true or false, got "
                f"path={self.path!r} and contents={self.contents!r}."
            )
        object.__setattr__(self, "path", str(self.path))

    @classmethod
    def create(cls, audit: "SafetyAudit | dict | str | os.PathLike | None") -> "SafetyAudit | None":
        """An audit from a path, a dict of its arguments, or nothing."""
        if audit is None:
            return None
        if isinstance(audit, (str, os.PathLike)):
            return cls(audit)
        values = asdict(audit) if type(audit).__name__ == cls.__name__ else audit
        if not isinstance(values, dict) or not {"path"} <= set(values) <= {"path", "contents"}:
            raise ValueError(f"`safety_audit` must be a path, or have `path` and `contents`, got {audit!r}.")
        return cls(**values)

    def append(self, lines: list[dict]):
        """Write whole lines, all or none of them. Raises `OSError` where that cannot be done."""
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        with _locked(self.path) as file:
            end = file.seek(0, os.SEEK_END)
            # A writer that was killed may have left half a line: end it, so that it spoils no other.
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                data = b"\n" + data
            try:
                written = os.write(file.fileno(), data)
            except OSError:
                written = -1
            if written != len(data):
                os.truncate(file.fileno(), end)
                raise OSError(f"The audit line could not be written to {self.path}, so nothing was answered.")
            os.fsync(file.fileno())


@contextmanager
def _locked(path: str):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, or its process dies
        yield file


def read_audit(path) -> tuple[list[dict], int]:
    """The lines of an audit trail, and how many were cut off by a crash and cannot be read."""
    lines, broken = [], 0
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            lines.append(json.loads(line))
        except ValueError:
            broken += bool(line.strip())
    return lines, broken


def audit_lines(
    audit: SafetyAudit,
    model: str,
    revision: str | None,
    policy: SafetyPolicy,
    actions: list[str],
    verdicts: list[SafetyVerdict],
    prompts: list[torch.Tensor],
    images: list[torch.Tensor] | None,
) -> list[dict]:
    """One line a sample.

    Args:
        actions: what each sample's strictest image led to; `"answer"` without an image.
        verdicts: of all images; each names its sample.
        prompts: ids (length,) or embeddings (length, hidden) of each sample, without padding.
        images: pixels of each image, in the order of the verdicts.
    """
    time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    image_digests = [None] * len(verdicts) if images is None else [_digest(pixels) for pixels in images]
    lines = []
    for sample, (action, prompt) in enumerate(zip(actions, prompts, strict=True)):
        own = [index for index, verdict in enumerate(verdicts) if verdict.sample == sample]
        line = {
            "time": time,
            "model": model,
            "revision": revision,
            "policy": policy.digest(),
            "action": action,
            "verdicts": [_as_line(verdicts[index]) for index in own],
            "prompt_sha256": _digest(prompt),
            "image_sha256": [image_digests[index] for index in own],
        }
        if audit.contents and not prompt.is_floating_point():
            line["prompt_ids"] = prompt.tolist()
        lines.append(line)
    return lines


def _as_line(verdict: SafetyVerdict) -> dict:
    def rounded(value):
        if isinstance(value, dict):
            return {name: rounded(item) for name, item in value.items()}
        return round(value, 6) if isinstance(value, float) else value

    return {name: rounded(value) for name, value in asdict(verdict).items() if name != "sample"}


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


__all__ = ["SafetyAudit", "audit_lines", "read_audit"]
