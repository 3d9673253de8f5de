"""The model card (README.md) of a checkpoint, written from its configuration and the record of its training."""

import html
import json
import os
import re
import sys
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import logging


logger = logging.get_logger(__name__)

OURS = (None, "nano_base", "nano_idefics3")  # bases whose license is this package's
MARKER = "<!-- Written from config.training_record at each save. Remove this line to keep your own edits. -->"
TRAINER_COMMENT = "<!-- This model card has been generated automatically"
PLACEHOLDER = "[More Information Needed]"
MAX_SCOPE = 300  # characters
TEXTS = ("name", "base_model", "machine", "license", "eval_data")  # fields of a training record

USAGE = """\
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
content = [{{"type": "image", "path": "photo.jpg"}}, {{"type": "text", "text": "What does the picture say?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
outputs = model.generate(**inputs, max_new_tokens=100, return_dict_in_generate=True)

print(processor.decode(outputs.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(processor.post_process_safety(outputs))  # category, level, risk and condition of each image"""

CITATION = """\
```bibtex
@article{liu2024safety,
  title   = {Safety Alignment for Vision Language Models},
  author  = {Liu, Zhendong and Nie, Yuanbi and Tan, Yingshui and Yue, Xiangyu and Cui, Qiushi and Wang, Chongjun and
             Zhu, Xiaoyong and Zheng, Bo},
  journal = {arXiv preprint arXiv:2405.13581},
  year    = {2024}
}
```"""


def write_model_card(save_directory, config, repo_id: str | None = None):
    """
    Write the card of `config` as `README.md`, in one step. A card that somebody wrote by hand is left as it is.

    Args:
        save_directory (`str` or `os.PathLike`): the checkpoint's folder.
        config (a configuration with [`SafeConfigMixin`]): its `training_record` fills the card.
        repo_id (`str`, *optional*): where the checkpoint goes on the Hub.
    """
    path = Path(save_directory) / "README.md"
    tags: list[str] = []
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
        if not is_generated_card(text):
            return
        # `push_to_hub(tags=...)` has put them there, or peft, which also names the folder of the base.
        tags = ModelCard(text, ignore_metadata_errors=True).data.tags or []
        tags = [tag for tag in tags if isinstance(tag, str) and not tag.startswith("base_model:")]
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(str(create_model_card(config, repo_id, tags)), encoding="utf-8")
    os.replace(partial, path)


def is_generated_card(text: str) -> bool:
    """Tell whether a card is ours, the `Trainer`'s, or the empty template that `push_to_hub` of transformers fills
    in."""
    if MARKER in text or TRAINER_COMMENT in text:
        return True
    template = Path(ModelCard.default_template_path).read_text(encoding="utf-8")
    return text.count(PLACEHOLDER) == template.count(PLACEHOLDER)


def create_model_card(config, repo_id: str | None = None, tags=()) -> ModelCard:
    """Create the card of a checkpoint, with the Hub's metadata. Arguments as in [`write_model_card`]."""
    record = _well_formed(config.training_record or {})
    name = _one_line(repo_id or record.get("name") or config.class_prefix).split("/")[-1]
    sections = [
        MARKER,
        f"# {escape(name)}",
        _introduction(config, record),
        "## Use",
        _usage(config, repo_id),
        "## Categories and levels",
        _names(config.safety_config),
        "## Training",
        _training(config, record),
        "## Figures",
        _figures(record),
        "## Limits",
        _limits(config.safety_config, record),
        "## Citation",
        CITATION,
    ]
    metadata = _metadata(record, name, tags)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _well_formed(record: dict) -> dict:
    """Return the record, which may be a stranger's, without what has another form than training writes."""
    forms = {
        **dict.fromkeys(TEXTS, lambda value: isinstance(value, str)),
        "datasets": lambda value: isinstance(value, str) or _is_list_of(str, value),
        "stages": lambda value: (
            _is_list_of(dict, value) and all(isinstance(stage.get("metrics") or {}, dict) for stage in value)
        ),
        "figures": lambda value: isinstance(value, dict),
    }
    malformed = [key for key, fits in forms.items() if record.get(key) is not None and not fits(record[key])]
    if malformed:
        logger.warning(
            f"The model card leaves out {', '.join(malformed)} of the training record, which has another form than "
            "training writes: names are texts, `stages` a list of dicts with a dict of `metrics`, `figures` a dict."
        )
    return {key: value for key, value in record.items() if key not in malformed}


def _is_list_of(kind: type, value) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, kind) for one in value)


def _metadata(record: dict, name: str, tags) -> ModelCardData:
    base_model = record.get("base_model")
    looks_like_repo = isinstance(base_model, str) and bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base_model))
    data = _one_line(_figures_data(record))
    datasets = record.get("datasets")
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "held-out",
            dataset_name=data,
            metric_type=_one_line(figure),
            metric_name=_one_line(figure).replace("_", " "),
            metric_value=value,
        )
        for figure, value in (record.get("figures") or {}).items()
        # The Hub takes JSON: a figure that is not a number stays in the text.
        if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        # Weights derived from a base on the Hub come under its license, which is not ours to name.
        license=_one_line(record.get("license") or "") or ("apache-2.0" if base_model in OURS else None),
        # A local folder may look like a repository of the Hub, and is none.
        base_model=base_model if looks_like_repo and not Path(base_model).exists() else None,
        datasets=[*map(_one_line, datasets)]
        if isinstance(datasets, (list, tuple))
        else datasets and _one_line(datasets),
        tags=["safevlm", "safety", "vision-language-model", *tags],
        model_name=name,
        eval_results=results or None,
    )


def _introduction(config, record: dict) -> str:
    safety = config.safety_config
    base_model = code(_public(record["base_model"])) if record.get("base_model") else "a stock checkpoint"
    return (
        f"SafeVLM ([arXiv 2405.13581](https://arxiv.org/abs/2405.13581)) on {base_model}: a vision language model "
        "that gives each image a safety verdict, under the question it comes with, and answers under that verdict.\n\n"
        f"Each image becomes one block of positions for the language model: {safety.num_safety_tokens} safety tokens, "
        f"the image's own features, and {safety.num_condition_tokens} positions of the safety condition that the "
        "verdict chose. The prompt itself is not changed."
    )


def _usage(config, repo_id: str | None) -> str:
    risky = next(name for name in config.safety_config.categories if name != "safe")
    policy = f'{{"categories": {{{json.dumps(risky, ensure_ascii=False)}: False}}}}'
    return (
        f"{_block(USAGE.format(repo=repo_id or 'path/or/repository'), 'python')}\n\n"
        "The code of the model is in this repository, hence `trust_remote_code=True`; with `import safevlm_hf` it is "
        "not needed.\n\n"
        "**Verdict.** `model.assess(**inputs)` gives the verdict without running the language model, "
        "`processor.post_process_safety(outputs)` names it: category, level, their probabilities, and the risk, which "
        "is 1 - p(safe).\n\n"
        "**Policy.** What a verdict does is data, and needs no training. Pass it to one call, or keep it in "
        "`generation_config.json`:\n\n"
        f"{_block(f'model.generate(**inputs, safety_policy={policy})', 'python')}\n\n"
        "Without a policy every category is on, and an image is flagged where its risk is over 0.5. A text without an "
        "image has no verdict. Training may still have changed how the model answers it."
    )


def _names(safety) -> str:
    levels = {0: "no condition", len(safety.levels) - 1: "declines and says why"}
    return "\n\n".join(
        [
            table(("", "category"), enumerate(safety.categories)),
            table(
                ("", "level", "what it asks of the answer"),
                [(i, name, levels.get(i, "care, or declines")) for i, name in enumerate(safety.levels)],
            ),
        ]
    )


def _training(config, record: dict) -> str:
    if not record:
        return "No training is on record for this checkpoint."
    base_model = _public(record.get("base_model") or "not on record")
    lines = [f"Base model: {code(base_model)}. Machine: {escape(record.get('machine') or 'not on record')}."]
    for index, stage in enumerate(record.get("stages") or []):
        values = {key: value for key, value in stage.items() if key not in ("stage", "metrics", "command")}
        values |= {f"{name} at the end": value for name, value in (stage.get("metrics") or {}).items()}
        lines.append(f"### Stage {escape(stage.get('stage', index + 1))}")
        lines.append(
            table(("", ""), [(_one_line(key).replace("_", " "), _public(value)) for key, value in values.items()])
        )
        if stage.get("command"):
            lines.append(_block(_one_line(stage["command"]), "bash"))
    return "\n\n".join(lines)


def _figures(record: dict) -> str:
    if not record.get("figures"):
        return "None was measured on this checkpoint."
    rows = [(_one_line(name).replace("_", " "), value) for name, value in record["figures"].items()]
    machine = f", on {escape(record['machine'])}" if record.get("machine") else ""
    return f"Measured on {escape(_figures_data(record))}{machine}.\n\n" + table(("figure", "value"), rows)


def _figures_data(record: dict) -> str:
    if record.get("eval_data"):
        return str(_public(record["eval_data"]))
    trained_on = [str(_public(stage["train_data"])) for stage in record.get("stages") or [] if stage.get("train_data")]
    return f"data held out from {' and '.join(dict.fromkeys(trained_on))}" if trained_on else "held-out data"


def _limits(safety, record: dict) -> str:
    limits = [
        escape(describe_scope(record)),
        "It refuses harmless images too: the paper names celebrities, posters, code and translations of MME. "
        "A policy can switch a category off.",
        "It misses risks that its training data does not show. A verdict is an estimate, not a guarantee: keep a "
        "person in the loop where an error does harm.",
        "Other languages, new kinds of risk and images made to deceive it were not evaluated in the paper.",
        "Text without an image is not judged.",
    ]
    if not safety.is_trained:
        limits.insert(
            0,
            "**The safety head of this checkpoint is untrained: its verdicts mean nothing. Train it before any use "
            "(stage 1).**",
        )
    if not safety.num_condition_tokens:
        limits.insert(0, "This checkpoint has no condition positions: verdicts are given, answers do not follow them.")
    return "\n".join(f"- {limit}" for limit in limits)


def table(head, rows) -> str:
    """Return a table in Markdown, whose cells may hold text of unknown origin."""

    def line(cells):
        shown = (f"{cell:.4g}" if isinstance(cell, float) else escape(cell) for cell in cells)
        return "| " + " | ".join(shown) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def describe_scope(record: dict | None) -> str:
    """Return in one line what a checkpoint was trained on, as its `training_record` says. It may be a stranger's text:
    what does not print is left out."""
    scope = (record or {}).get("scope")
    scope = _printable(scope)[:MAX_SCOPE].rstrip(". ") if isinstance(scope, str) else ""
    if not scope:
        return "Nothing is known of what it was trained on: try it on pictures like yours before you rely on it."
    return f"By its own record, it was trained on {scope}. Verdicts on anything else mean little."


def escape(value) -> str:
    """Return text of unknown origin as Markdown shows it: one line, no markup, no cell of its own, no link. Addresses
    are broken by a blank, because readers make links of them even where their characters are escaped."""
    text = re.sub(r"(?i)(?<=:)(?=//)|(?<=www\.)|(?<=\S)(?=@)", " ", _printable(value))
    return re.sub(r"([\\`*_\[\]|~$!#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(value) -> str:
    """Return text of unknown origin between backticks, which nothing in it closes."""
    return f"`{_one_line(value).replace('`', chr(39))}`"


def _one_line(value) -> str:
    # Commands look for our marks, which are comments, in the text of a card.
    return _printable(value).replace("<!--", "<! --")


def _printable(value) -> str:
    """Return a value as one line of text, without marks that turn its direction, have no width or steer a terminal."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # thousands of digits, or of lists in lists
        text = "not shown"
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _block(text: str, language: str) -> str:
    """Return a code block. Its fence is longer than any in the text, so nothing in it ends the block."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _public(name):
    # The folders of whoever trained it are nobody's business.
    return Path(name).name if isinstance(name, str) and Path(name).is_absolute() else name
