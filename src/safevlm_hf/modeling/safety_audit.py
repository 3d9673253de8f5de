"""An audit trail: one JSON line per sample, on disk before the first token of its answer leaves."""

import base64
import binascii
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

from .configuration_safety import SafetyConfig
from .safety_decision import decide, is_readable, verdicts_from_logits
from .safety_outputs import SafetyImageOutput
from .safety_policy import SafetyPolicy, condition_category


UNREADABLE = "unreadable picture"  # it takes a category's place where the pixels gave no verdict


@dataclass(frozen=True)
class SafetyAudit:
    """File to which `generate` writes what it saw and did, and `assess` what it saw.

    Args:
        path: a file of JSON lines; it is appended to, by any number of processes.
        contents: also write the token ids of the prompt. Without it a line holds digests alone.
        windows: write the logits of every window of the question, some 60 bytes each, so that `safevlm policy replay`
            is exact. Without it a line holds those of the window that decided.

    A line has `time` (UTC), `call` (`"generate"` or `"assess"`), `model`, `revision`, `policy` (its digest), `action`
    (what was done; in shadow mode also `shadow_action`, what the policy would have done), `verdicts`, `prompt_sha256`
    and `image_sha256` (one per image, of the processed pixels; `null` where they were encoded before the call).
    """

    path: str
    contents: bool = False
    windows: bool = False
    digests = True  # lines hold them of prompt and pixels; a sink that keeps no lines needs none

    def __post_init__(self):
        is_path = isinstance(self.path, (str, os.PathLike))
        if not is_path or not isinstance(self.contents, bool) or not isinstance(self.windows, bool):
            raise ValueError(
                "A safety audit takes the `path` of a file, and `contents` and `windows` as true or false, got "
                f"path={self.path!r}, contents={self.contents!r} and windows={self.windows!r}."
            )
        object.__setattr__(self, "path", str(self.path))

    @classmethod
    def create(cls, audit) -> "SafetyAudit | None":
        """Make an audit of a path, a dict of its arguments, or nothing. An object with `append`, `contents`, `windows`
        and `digests`, as this class has them, stays as it is."""
        if audit is None or all(hasattr(audit, name) for name in ("append", "contents", "windows", "digests")):
            return audit
        if isinstance(audit, (str, os.PathLike)):
            return cls(str(audit))
        if not isinstance(audit, dict) or not {"path"} <= set(audit) <= {"path", "contents", "windows"}:
            raise ValueError(
                f"`safety_audit` must be a path, or have `path`, `contents` and `windows`, got {audit!r}."
            )
        return cls(**audit)

    def append(self, lines: list[dict]):
        """Write whole lines, all or none of them. Raises `OSError` where that cannot be done."""
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        with _locked(self.path) as file:
            end = file.seek(0, os.SEEK_END)
            # A writer that was killed may have left half a line: end it, so that it spoils no other.
            if end:
                file.seek(end - 1)
                data = data if file.read(1) == b"\n" else b"\n" + data
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
    """Return the lines of an audit trail, and how many were cut off by a crash and cannot be read."""
    lines, cut_off = [], 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in filter(str.strip, file):
            try:
                lines.append(json.loads(line))
            except (ValueError, RecursionError):
                cut_off += 1
    return lines, cut_off


@dataclass(frozen=True)
class AuditedCall:
    """Facts that an audit trail tells of one call.

    Args:
        name: `"generate"` or `"assess"`.
        policy: in force in it.
        actions: what the policy decided on each sample; `"answer"` without an image.
        images: the judged images.
        prompts: ids (length,) or embeddings (length, hidden) of each sample, without padding.
        pixels: of each image, in the order of `images`; `None` where they were encoded before the call.
        is_shadow: whether every sample was answered, whatever the policy decided.
    """

    name: str
    policy: SafetyPolicy
    actions: list[str]
    images: list[SafetyImageOutput]
    prompts: list[torch.Tensor]
    pixels: list[torch.Tensor] | None
    is_shadow: bool = False


def audit_lines(audit: SafetyAudit, model, call: AuditedCall) -> list[dict]:
    """Return one line per sample; `model` is the one whose `config`, `name_or_path` and revision are written."""
    verdicts = _verdict_lines(call.images, model.config.safety_config, call.policy, audit.windows)
    pixels = call.pixels
    if pixels is None or len(pixels) != len(verdicts) or not audit.digests:
        pixels = [None] * len(verdicts)
    image_digests = [None if image is None else _digest(image) for image in pixels]
    shared = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "call": call.name,
        "model": model.name_or_path,
        "revision": getattr(model.config, "_commit_hash", None),
        "policy": call.policy.digest(),
    }
    lines = []
    for sample, (action, prompt) in enumerate(zip(call.actions, call.prompts, strict=True)):
        own = [index for index, (owner, _) in enumerate(verdicts) if owner == sample]
        done = {"action": "answer", "shadow_action": action} if call.is_shadow else {"action": action}
        line = {
            **shared,
            **done,
            "verdicts": [verdicts[index][1] for index in own],
            "prompt_sha256": _digest(prompt) if audit.digests else None,
            "image_sha256": [image_digests[index] for index in own],
        }
        if audit.contents and not prompt.is_floating_point():
            line["prompt_ids"] = prompt.tolist()
        lines.append(line)
    return lines


def _verdict_lines(
    images: list[SafetyImageOutput], config: SafetyConfig, policy: SafetyPolicy, all_windows: bool
) -> list[tuple[int, dict]]:
    """Return for each image the sample that it belongs to, and its verdict with the logits that it rests on."""
    found = []
    for encoded in images:
        level_logits, category_logits = encoded.safety_level_logits, encoded.safety_category_logits
        rows = encoded.safety_image_rows.tolist()
        conditions = encoded.safety_condition_ids.tolist()
        verdicts = verdicts_from_logits(level_logits, category_logits, rows, config, policy, conditions)
        decided = decide(policy, level_logits, category_logits, config).condition_ids.tolist()
        readable = is_readable(level_logits, category_logits).tolist()
        for image, verdict in enumerate(verdicts):
            is_window = encoded.safety_is_window[image]
            window_logits = encoded.safety_window_logits[image][is_window]
            deciding = torch.cat([level_logits[image], category_logits[image]])[None]
            line = _as_line(asdict(verdict))
            if decided[image]:
                line["decided"] = condition_category(decided[image], config) if readable[image] else UNREADABLE
            line["num_windows"] = len(window_logits)
            line["logits"] = encode_logits(window_logits if all_windows else deciding)
            found.append((line.pop("sample"), line))
    return found


def deciding_category(verdict: dict) -> str:
    """Return the category, by name, that a line's verdict was decided on; its most probable one where the picture is
    answered, and `UNREADABLE` where it cannot be read."""
    if verdict.get("decided"):
        return verdict["decided"]
    return [*verdict["flagged_categories"], *verdict["review_categories"], verdict["category"]][0]


def _as_line(value):
    if isinstance(value, dict):
        return {name: _as_line(item) for name, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def encode_logits(logits: torch.Tensor) -> str:
    """Encode logits (windows, levels + categories) as base64 of float32, bit for bit."""
    return base64.b64encode(logits.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes()).decode()


def decode_logits(encoded: str, columns: int) -> torch.Tensor:
    """Return what `encode_logits` was given. Raises `ValueError` where it is no table of so many columns."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"`logits` must be base64: {error}.") from None
    if not data or len(data) % (4 * columns):
        raise ValueError(f"`logits` must hold float32 numbers in {columns} columns, got {len(data)} bytes.")
    return torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, columns)


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
