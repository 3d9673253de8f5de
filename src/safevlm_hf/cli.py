"""The command line, `safevlm`: it parses, calls the library, and shows what came back."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


FLAGGED, ERROR = 1, 2  # exit codes, beside 0
ACTION_STYLES = {"answer": "green", "review": "yellow", "condition": "dark_orange", "refuse": "red"}

app = typer.Typer(
    help="SafeVLM: vision language models with a safety verdict of their own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
policy_app = typer.Typer(help="Look at safety policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")

Model = Annotated[str, typer.Option("--model", "-m", help="A SafeLlava checkpoint: folder or Hub id.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", "-p", help="JSON file, laid over the checkpoint's own policy.")
]
DEFAULT_MODEL = "runs/demo/stage2"


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False):
    pass  # `main` looks for it, outside of every command


def main():
    """Errors take one line; `--debug` shows where they came from."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        Console(stderr=True, soft_wrap=True).print(f"Error: {reason}", style="red", markup=False, highlight=False)
        sys.exit(ERROR)


# --------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------


@app.command()
def init(
    base: Annotated[str, typer.Argument(help="A LLaVA-style checkpoint: folder or Hub id.")],
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
    taxonomy: Annotated[
        Path | None, typer.Option(help="YAML or JSON with `categories` and `levels` of your own.")
    ] = None,
    num_safety_tokens: Annotated[int, typer.Option(help="Vectors in each of the two sets.")] = 64,
    num_condition_tokens: Annotated[int, typer.Option(help="Positions of the safety condition.")] = 16,
):
    """
    Make an untrained safe checkpoint from a base one.

    Example: `safevlm init llava-hf/llava-1.5-7b-hf runs/untrained --taxonomy taxonomy.yaml`
    """
    from . import SafeLlavaConfig, SafeLlavaForConditionalGeneration, SafeLlavaProcessor
    from .training.run import read_taxonomy

    _refuse_to_overwrite(output)
    config = SafeLlavaConfig.from_llava_config(
        SafeLlavaConfig.from_pretrained(base),
        num_safety_tokens=num_safety_tokens,
        num_condition_tokens=num_condition_tokens,
        **read_taxonomy(taxonomy),
    )
    model = SafeLlavaForConditionalGeneration.from_pretrained(base, config=config)
    processor = SafeLlavaProcessor.from_pretrained(base, safety_config=config.safety_config)
    model.initialize_from_embeddings(processor.tokenizer)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    print(f"{output}: an untrained safe checkpoint. Its verdicts mean nothing before `safevlm train`.")


def _refuse_to_overwrite(folder: Path):
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already: name a new or empty folder.")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    stage: Annotated[str, typer.Option(help="1, 2 or both.")] = "both",
    output_dir: Annotated[Path, typer.Option("--output-dir", "--output_dir", help="Holds stage1 and stage2.")] = Path(
        "runs"
    ),
):
    """
    Train stage 1, stage 2 or both; without more options the embedded default (RiskCards on the nano base).

    Every other option goes to the stages as it is: `--model_name_or_path`, `--train_file`, `--validation_file`, and
    all of `TrainingArguments` (`python examples/run_stage1.py --help` lists them).

    Example: `safevlm train --model_name_or_path llava-hf/llava-1.5-7b-hf --train_file records.jsonl --bf16 true`
    """
    from .training.arguments import nano_config
    from .training.run import run_stage1, run_stage2

    if stage not in ("1", "2", "both"):
        raise ValueError(f"`--stage` must be 1, 2 or both, got {stage!r}.")
    first, second = output_dir / "stage1", output_dir / "stage2"
    given = list(context.args)
    for number, run, folder in ((1, run_stage1, first), (2, run_stage2, second)):
        if stage not in (str(number), "both"):
            continue
        arguments = given + ["--output_dir", str(folder)]
        if number == 2 and stage == "both":
            arguments += ["--model_name_or_path", str(first)]
        if not given:
            arguments = [_embedded_default(nano_config(number), folder, first)]
        run(arguments)
    print(f"done: {second if stage != '1' else first}")


def _embedded_default(config: Path, folder: Path, first: Path) -> str:
    """The embedded default with these folders, written beside the result."""
    import yaml

    values = yaml.safe_load(config.read_text()) | {"output_dir": str(folder)}
    if "model_name_or_path" in values:
        values["model_name_or_path"] = str(first)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / config.name
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


# --------------------------------------------------------------------------------------------------
# Verdicts
# --------------------------------------------------------------------------------------------------


@app.command()
def assess(
    images: Annotated[list[Path], typer.Argument(help="Pictures, each judged by itself.")],
    model: Model = DEFAULT_MODEL,
    question: Annotated[str, typer.Option("--question", "-q", help="What is asked.")] = "What is in this picture?",
    policy: PolicyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a picture.")] = False,
):
    """
    Judge pictures, without answering. Exit code 0: all may be answered; 1: some are flagged; 2: an error.

    Example: `safevlm assess photo.jpg card.png --question "What is the address?" --json`
    """
    loaded, processor = _load(model)
    overriding = _read_policy(policy, loaded)
    verdicts = []
    for path in _progress(images, "assessing"):
        inputs = _prepare(processor, loaded, [_user(question, path)])
        (verdict,) = processor.post_process_safety(loaded.assess(**inputs, safety_policy=overriding))
        verdicts.append(verdict)
    if as_json:
        for path, verdict in zip(images, verdicts):
            print(json.dumps({"image": str(path), **asdict(verdict)}))
    else:
        Console().print(_verdict_table(images, verdicts))
    raise typer.Exit(FLAGGED if any(verdict.action != "answer" for verdict in verdicts) else 0)


@app.command()
def chat(
    model: Model = DEFAULT_MODEL,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="A picture to talk about.")] = None,
    policy: PolicyFile = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    audit: Annotated[Path | None, typer.Option(help="JSON lines: what was seen and done.")] = None,
):
    """
    Talk about pictures; each answer comes with its verdict. `/image FILE` shows another, `/new` starts again,
    `/quit` ends.

    Example: `safevlm chat --model runs/demo/stage2 --image card.png`
    """
    from transformers import TextStreamer

    loaded, processor = _load(model)
    overriding, console = _read_policy(policy, loaded), Console()
    messages, pictures = [], [image] if image else []
    while (line := _read_line(console)) not in (None, "/quit"):
        if line == "/new":
            messages, pictures = [], []
        elif line.startswith("/image"):
            pictures.append(Path(line.removeprefix("/image").strip()))
        elif line:
            try:
                asked = [*messages, _user(line, *pictures)]
                inputs = _prepare(processor, loaded, asked)
            except (OSError, ValueError) as error:  # a picture that cannot be read ends the turn, not the talk
                console.print(f"Error: {error}", style="red", markup=False)
                pictures = []
                continue
            outputs = loaded.generate(
                **inputs,
                safety_policy=overriding,
                safety_audit=audit,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                streamer=TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True),
                tokenizer=processor.tokenizer,
                return_dict_in_generate=True,
            )
            for number, verdict in enumerate(processor.post_process_safety(outputs), start=1):
                console.print(_verdict_line(number, verdict))
            answer = processor.decode(outputs.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            messages, pictures = [*asked, {"role": "assistant", "content": _text(answer.strip())}], []


def _read_line(console: Console) -> str | None:
    try:
        return console.input("[bold]> [/bold]" if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


@app.command()
def calibrate(
    model: Model = DEFAULT_MODEL,
    data: Annotated[Path | None, typer.Option(help="Labelled JSON lines; RiskCards are drawn if unset.")] = None,
    target_false_positive_rate: Annotated[
        float | None, typer.Option("--target-false-positive-rate", help="Share of clean samples that may be flagged.")
    ] = None,
    target_miss_rate: Annotated[
        float | None, typer.Option("--target-miss-rate", help="Share of risky samples that may pass.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The policy.")] = Path("policy.json"),
    report: Annotated[Path, typer.Option(help="The report.")] = Path("calibration.html"),
    seed: Annotated[int, typer.Option(help="Of the split, half to choose and half to check.")] = 0,
    num_riskcards: Annotated[int, typer.Option(help="Size of the drawn set.")] = 1200,
):
    """
    Fit the temperatures and choose the thresholds for a target; writes a policy and a report.

    Example: `safevlm calibrate --data held_out.jsonl --target-false-positive-rate 0.01 -o policy.json`
    """
    import shlex

    from .data.records import load_records
    from .data.riskcards import write_riskcards
    from .evaluation.calibration import calibrate as calibrate_policy
    from .evaluation.calibration_report import write_calibration_report

    loaded, processor = _load(model)
    safety = loaded.config.safety_config
    file = data or write_riskcards(Path("runs/riskcards") / f"calibration{seed}", "test", num_riskcards, seed)
    records = load_records(file, safety.categories, safety.levels)
    result = calibrate_policy(
        loaded,
        processor,
        records,
        target_false_positive_rate=target_false_positive_rate,
        target_miss_rate=target_miss_rate,
        seed=seed,
    )
    _write_text(output, json.dumps(result.policy.to_dict(), indent=2) + "\n")
    command = shlex.join(["safevlm", *sys.argv[1:]])
    write_calibration_report(
        report, result, facts={"command": command, "model": model, "data": str(data or "RiskCards, test split")}
    )
    Console().print(_calibration_table(result))
    print(f"policy: {output}   report: {report}")


def _calibration_table(result) -> Table:
    rows = {
        "expected calibration error, risk": [f"{one.risk_error:.4f}" for one in (result.before, result.after)],
        "expected calibration error, category": [f"{one.category_error:.4f}" for one in (result.before, result.after)],
        "clean samples flagged": [_rate(one.false_positives) for one in (result.before, result.after)],
        "risky samples passed": [_rate(one.misses) for one in (result.before, result.after)],
    }
    title = f"{len(result.check)} held-out samples; target: {result.target_kind} of {result.target}"
    table = Table("", "before", "after", title=title, title_justify="left")
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _rate(rate) -> str:
    low, high = rate.interval
    return f"{rate.share:.3f} ({low:.3f} to {high:.3f})"


# --------------------------------------------------------------------------------------------------
# Policies
# --------------------------------------------------------------------------------------------------


@policy_app.command("show")
def show(model: Model = DEFAULT_MODEL, policy: PolicyFile = None):
    """
    What a checkpoint does with each category and level, with a policy file laid over it.

    Example: `safevlm policy show --model runs/demo/stage2 --policy policy.json`
    """
    safety, kept = _read_config(model)
    from . import SafetyPolicy

    applied = SafetyPolicy.create(kept, safety)
    if policy is not None:
        applied = applied.override(SafetyPolicy.from_file(policy, safety), safety)
    table = Table("category", "on", "review from", "flagged from", *map(escape, safety.levels[1:]))
    for name in safety.categories:
        if name == "safe":
            continue
        bounds = [applied.review_threshold(name), applied.threshold(name)]
        shown = ["-" if bounds[0] is None else f"{bounds[0]:.4g}"]
        shown += ["most probable" if bounds[1] is None else f"{bounds[1]:.4g}"]
        actions = [applied.action(name, level) if applied.is_on(name) else "answer" for level in safety.levels[1:]]
        is_on = applied.is_on(name) and applied.enabled is not False
        table.add_row(
            escape(name), "yes" if is_on else "no", *shown, *(f"[{ACTION_STYLES[one]}]{one}[/]" for one in actions)
        )
    console = Console()
    console.print(table)
    console.print(f"digest {applied.digest()}", highlight=False)


@policy_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A policy file.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Check the names against this checkpoint's.")
    ] = None,
):
    """
    Check a policy file; exit code 2 and the reason where it is wrong.

    Example: `safevlm policy check policy.json --model runs/demo/stage2`
    """
    from . import SafetyConfig, SafetyPolicy

    safety, kept = _read_config(model) if model else (SafetyConfig(), None)
    policy = SafetyPolicy.from_file(file, safety)
    SafetyPolicy.create(kept, safety).override(policy, safety)
    print(f"{file}: a sound policy for {model or 'the default categories'}, digest {policy.digest()}")


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of the data and both stages.")] = 0,
    output_dir: Annotated[Path, typer.Option(help="Checkpoints and data.")] = Path("runs/demo"),
    report: Annotated[Path, typer.Option(help="The report.")] = Path("report.html"),
):
    """
    Both stages on the embedded default, base and safe model compared.

    Example: `safevlm demo --seed 1`
    """
    from .demo import main as run_demo

    raise typer.Exit(run_demo(["--seed", str(seed), "--output_dir", str(output_dir), "--report", str(report)]))


# --------------------------------------------------------------------------------------------------
# Loading and showing
# --------------------------------------------------------------------------------------------------


def _load(model: str):
    """Model and processor, checked: an untrained head judges nothing."""
    import transformers

    from . import SafeLlavaForConditionalGeneration, SafeLlavaProcessor

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    safety, _ = _read_config(model)
    if not safety.is_trained:
        raise ValueError(f"{model} has an untrained safety head, its verdicts mean nothing: `safevlm train` first.")
    loaded = SafeLlavaForConditionalGeneration.from_pretrained(model, dtype="auto", device_map=_device())
    return loaded.eval(), SafeLlavaProcessor.from_pretrained(model)


def _device():
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _read_config(model: str):
    """Safety config and the policy of a checkpoint, without its weights."""
    from transformers import GenerationConfig

    from . import SafeLlavaConfig

    config = SafeLlavaConfig.from_pretrained(model)
    try:
        kept = getattr(GenerationConfig.from_pretrained(model), "safety_policy", None)
    except OSError:  # a checkpoint without one
        kept = None
    return config.safety_config, kept


def _read_policy(path: Path | None, model):
    from . import SafetyPolicy

    return None if path is None else SafetyPolicy.from_file(path, model.config.safety_config)


def _user(text: str, *images: Path) -> dict:
    parts = [{"type": "image", "image": _open(path)} for path in images]
    return {"role": "user", "content": parts + _text(text)}


def _text(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


def _open(path: Path):
    from .data.records import load_image

    return load_image(str(path))


def _prepare(processor, model, messages: list[dict]):
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs.to(model.device, model.dtype)


def _progress(items, description: str):
    from tqdm import tqdm

    return tqdm(items, desc=description, unit="image", disable=len(items) < 4)


def _verdict_table(images: list[Path], verdicts) -> Table:
    table = Table("image", "action", "category", "level", "risk", "flagged", "review")
    for path, verdict in zip(images, verdicts):
        table.add_row(
            escape(str(path)),
            f"[{ACTION_STYLES[verdict.action]}]{verdict.action}[/]",
            escape(verdict.category),
            escape(verdict.level),
            f"{verdict.risk:.3f}",
            escape(", ".join(verdict.flagged_categories)),
            escape(", ".join(verdict.review_categories)),
        )
    return table


def _verdict_line(number: int, verdict) -> str:
    return (
        f"[{ACTION_STYLES[verdict.action]}]image {number}: {verdict.action}[/] "
        f"({escape(verdict.category)}, {escape(verdict.level)}, risk {verdict.risk:.2f})"
    )


def _write_text(path: Path, text: str):
    """The file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
