"""The judges of `safevlm evaluate`: our rules and the published lists, and the models that its user names."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


SERVER_FIELDS: dict[str, type | tuple[type, ...]] = {
    "options": Mapping,
    "prices": Mapping,
    "concurrency": int,
    "timeout": (int, float),
}
FIELDS: dict[str, type] = {
    "name": str,
    "url": str,
    "key": str,
    "prompt": str,
    "sends_images": bool,
    "max_new_tokens": int,
}
"""Fields of a model in a file of judges besides its name, and the type of each."""


def make_judges(file: Path | None, model: str | None, url: str | None, key: str | None, prompt: str, output: Path):
    """Make all judges of a run. Models that judge keep their replies in the output folder.

    Args:
        file: YAML or JSON, a list with a mapping per model.
        model, url, key, prompt: of one more.

    Raises:
        ValueError: something about them does not fit together.
    """
    from safevlm_hf.evaluation.judges.defaults import default_judges
    from safevlm_hf.evaluation.judges.rubrics import PROMPTS

    if prompt not in PROMPTS:
        raise ValueError(f"`--judge-prompt` is {prompt!r}, expected one of {', '.join(PROMPTS)}.")
    entries = [] if file is None else read_judges(file)
    if model is not None:
        given = {"model": model, "url": url, "key": key, "prompt": prompt}
        entries.append({name: value for name, value in given.items() if value is not None})
    elif url is not None or key is not None:
        raise ValueError("`--judge-url` and `--judge-key` are of a model: name it with `--judge-model`.")
    reading = [_reading_judge(entry, output / "judgements.jsonl") for entry in entries]
    judges = [*default_judges(), *reading]
    names = [judge.name for judge in judges]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two judges are called {twice!r}: give one of them another `name`.")
    return judges


def read_judges(file: Path) -> list[dict[str, Any]]:
    """Read the models that a file names.

    Raises:
        ValueError: it is no list of mappings with the fields of a judge.
    """
    from safevlm_hf.strict_data import parse_yaml

    entries = parse_yaml(file.read_bytes(), str(file))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{file}: expected a list with a mapping per judge, such as `- model: NAME`.")
    known: dict[str, type | tuple[type, ...]] = {"model": str, **FIELDS, **SERVER_FIELDS}
    for number, entry in enumerate(entries, 1):
        where = f"{file}, judge {number}"
        if "model" not in entry:
            raise ValueError(f"{where}: expected `model`, a name on a server, a folder or a Hub id.")
        for name, value in entry.items():
            if name not in known:
                raise ValueError(f"{where}: {name!r} is no field of a judge, expected some of {', '.join(known)}.")
            # In Python a bool is an int.
            if not isinstance(value, known[name]) or (isinstance(value, bool) and known[name] is not bool):
                raise ValueError(f"{where}: `{name}` is {value!r}, which is of another type than expected.")
    return entries


def _reading_judge(entry: Mapping[str, Any], cache: Path):
    from safevlm_hf.evaluation.judges.endpoint import EndpointJudge
    from safevlm_hf.evaluation.judges.local_model import LocalJudge
    from safevlm_hf.evaluation.judges.rubrics import PROMPTS

    model, url, key, prompt = entry["model"], entry.get("url"), entry.get("key"), entry.get("prompt") or "harm"
    if prompt not in PROMPTS:
        raise ValueError(f"the judge's prompt is {prompt!r}, expected one of {', '.join(PROMPTS)}.")
    name = entry.get("name") or f"{Path(model).name} ({prompt})"
    options = {field: entry[field] for field in ("sends_images", "max_new_tokens") if field in entry}
    server_options = {field: entry[field] for field in SERVER_FIELDS if field in entry}
    if url is None:
        if key is not None or server_options:
            extra = ", ".join(["key"] * (key is not None) + [*server_options])
            raise ValueError(f"judge {name!r}: {extra} is of a server, and there is no `--judge-url` (`url`).")
        return LocalJudge(name, model, PROMPTS[prompt], cache, **options)
    if key is None and not is_near(url):
        raise ValueError(
            f"the judge at {urlsplit(url).hostname} needs a key: expected `--judge-key` (`key`) with the name of the "
            "environment variable that holds it, found none. Servers on this machine or in its network go without; "
            "for another one that needs none, any value will do"
        )
    return EndpointJudge(name, model, PROMPTS[prompt], cache, url, key, **options, **server_options)


def is_near(url: str) -> bool:
    """Return `True` for a server on this machine or in its network: a private address, or a name without a dot."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host
