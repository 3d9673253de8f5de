"""The command line, `safevlm`: it parses, calls the library, and shows what came back."""

import contextlib
import io
import json
import os
import shlex
import sys
import textwrap
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from typer import rich_utils


FLAGGED, ERROR, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141  # exit codes, beside 0
LONGEST_ERROR = 1000  # characters
CHAT_COMMANDS = "/image FILE shows a picture, /new starts again without any, /quit ends."
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

Model = Annotated[str, typer.Option("--model", "-m", help="A safe checkpoint: folder or Hub id.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", "-p", help="JSON file, laid over the checkpoint's own policy.")
]
DEFAULT_MODEL = "runs/demo/stage2"


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Stands in front of the command.")
    ] = False,
):
    pass  # `main` looks for it, outside of every command


def main():
    """Run a command. Errors take one line on stderr; `safevlm --debug ...` shows where they came from."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # what the terminal cannot show is no error
    if _no_color():
        rich_utils.COLOR_SYSTEM = None  # of the help
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:  # typer and rich exit where nobody reads on
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = CLOSED_PIPE
    except Exception as error:
        if sys.argv[1:2] == ["--debug"]:
            traceback.print_exc()  # raised, it would give exit code 1
        else:
            _print_error(error)
        code = ERROR
    sys.exit(code)


def _print_error(error: Exception):
    reason = _reason(error)
    if reason:  # typer has shown the help where there is none
        _console(stderr=True).print(_plain(f"Error: {reason}", "red"), soft_wrap=True)


def _reason(error: Exception) -> str:
    """One line."""
    if hasattr(error, "format_message"):  # typer's: the command line is wrong
        context, reason = getattr(error, "ctx", None), error.format_message()
        return f"{reason.rstrip('.')}. See `{context.command_path} --help`." if reason and context else reason
    reason = str(error)
    if not isinstance(error, (ValueError, OSError)) or not reason:
        reason = f"{type(error).__name__}: {reason}"
    if isinstance(error, ModuleNotFoundError):
        reason += "; pip install 'safevlm_hf[train]' brings what is missing."
    return textwrap.shorten(reason, LONGEST_ERROR, placeholder=" ... (`safevlm --debug` shows all of it)")


# --------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------


@app.command()
def init(
    base: Annotated[
        str,
        typer.Argument(
            help="A stock checkpoint of a supported backbone: folder or Hub id. With --language-model a new folder, "
            "for the LLaVA that is put together."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
    taxonomy: Annotated[
        Path | None, typer.Option(help="YAML or JSON with `categories` and `levels` of your own.")
    ] = None,
    num_safety_tokens: Annotated[int, typer.Option(help="Vectors in each of the two sets.")] = 64,
    num_condition_tokens: Annotated[int, typer.Option(help="Positions of the safety condition.")] = 16,
    language_model: Annotated[
        str | None, typer.Option(help="A language model with a chat template: folder or Hub id.")
    ] = None,
    gguf_file: Annotated[str | None, typer.Option(help="Its GGUF file, where its weights are in one.")] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="A CLIP or SigLIP model, or a LLaVA, for its tower: folder or Hub id.")
    ] = None,
):
    """
    Make an untrained safe checkpoint from a base one, or from a language model and a vision tower.

    Example: `safevlm init llava-hf/llava-1.5-7b-hf runs/untrained --taxonomy taxonomy.yaml`

    Example: `safevlm init runs/base runs/untrained --language-model HuggingFaceTB/SmolLM2-135M-Instruct
    --vision-tower openai/clip-vit-base-patch16`
    """
    from .families import find_family
    from .training.run import read_taxonomy

    _refuse_to_overwrite(output)
    _quiet()
    if language_model or vision_tower or gguf_file:
        _assemble(Path(base), language_model, gguf_file, vision_tower)
    base_config = _config(base)
    if base_config.safety_config.is_trained:
        raise ValueError(f"{base} has trained safety modules already: `safevlm train` goes on from there.")
    family = find_family(base)
    config = family.config.from_base_config(
        base_config,
        num_safety_tokens=num_safety_tokens,
        num_condition_tokens=num_condition_tokens,
        **read_taxonomy(taxonomy),
    )
    model = family.model.from_pretrained(base, config=config)
    processor = family.processor.from_pretrained(base, safety_config=config.safety_config)
    model.initialize_from_embeddings(processor.tokenizer)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    print(f"{output}: an untrained safe checkpoint. Its verdicts mean nothing before `safevlm train`.")


def _assemble(base: Path, language_model: str | None, gguf_file: str | None, vision_tower: str | None):
    """A stock LLaVA, in a folder of its own."""
    from .assembly import assemble_llava

    if not language_model or not vision_tower:
        raise ValueError("A LLaVA is put together from two: give `--language-model` and `--vision-tower`.")
    _refuse_to_overwrite(base)
    for part in assemble_llava(language_model, vision_tower, gguf_file):
        part.save_pretrained(base)


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

    Every other option goes to the stages that have it: `--model_name_or_path`, `--train_file`, `--validation_file`,
    `--lora_r`, and all of `TrainingArguments` (`python examples/run_stage1.py --help` lists them). Stage 2 starts from
    stage 1's result, `OUTPUT_DIR/stage1`. In place of options one stage takes a YAML file, with its own `output_dir`.

    Example: `safevlm train --model_name_or_path llava-hf/llava-1.5-7b-hf --train_file records.jsonl --bf16 true`
    """
    from .training.run import run_stage1, run_stage2

    if stage not in ("1", "2", "both"):
        raise ValueError(f"`--stage` must be 1, 2 or both, got {stage!r}.")
    numbers = [1, 2] if stage == "both" else [int(stage)]
    planned = {number: _stage_arguments(number, stage == "both", context.args, output_dir) for number in numbers}
    _check_arguments(planned)
    for number, arguments in planned.items():
        trainer = (run_stage1, run_stage2)[number - 1](arguments)
        print(f"stage {number} is done: {trainer.args.output_dir}")


def _stage_arguments(number: int, are_both: bool, given: list[str], output_dir: Path) -> list[str]:
    """A stage's arguments, as its example script takes them."""
    from .training.arguments import nano_config

    folder, first = output_dir / f"stage{number}", output_dir / "stage1"
    if not given:
        return [_embedded_default(nano_config(number), folder, first)]
    if any(word.endswith((".yaml", ".yml")) and not word.startswith("-") for word in given[:1]):
        if are_both or len(given) > 1:
            raise ValueError("A YAML file is for one stage, and stands alone: `safevlm train --stage 1 run.yaml`.")
        return given
    options = _options_of_stage(number, given) if are_both else given
    start = ["--model_name_or_path", str(first)] if number == 2 else []
    return [*start, *options, "--output_dir", str(folder)]


def _options_of_stage(number: int, given: list[str]) -> list[str]:
    """Without those of the other stage: stage 1 has no adapters, stage 2 takes the safety modules as they are."""
    from transformers import HfArgumentParser

    from .training.arguments import LoraArguments, ModelArguments

    others = LoraArguments if number == 1 else ModelArguments
    with _argparse_errors():
        found, options = HfArgumentParser(others, allow_abbrev=False).parse_known_args(given)
    return options if number == 1 else [*options, "--dtype", found.dtype]


def _check_arguments(planned: dict[int, list[str]]):
    """Those of stage 2 as well, before hours of stage 1."""
    from .training.arguments import parse_arguments

    for number, arguments in planned.items():
        with _argparse_errors():
            parse_arguments(number, arguments)


@contextlib.contextmanager
def _argparse_errors():
    """The reason alone, as an error; argparse would print all options and exit."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit:
        raise ValueError(said.getvalue().rpartition("error: ")[2]) from None


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
    Judge pictures, without answering. Exit code 0: all may be answered; 1: some are flagged; 2: an error, as a picture
    that cannot be read (the others are judged).

    Example: `safevlm assess photo.jpg card.png --question "What is the address?" --json`
    """
    from tqdm import tqdm

    loaded, processor = _load(model)
    overriding = _read_policy(policy, loaded)
    judged, errors = [], []
    for path in _progress(images, "assessing"):
        try:
            picture = _open(path)
        except (OSError, ValueError) as error:
            errors.append(error)
            continue
        inputs = _prepare(processor, loaded, [_user(question, picture)])
        (verdict,) = processor.post_process_safety(loaded.assess(**inputs, safety_policy=overriding))
        judged.append((path, verdict))
        if as_json:
            with tqdm.external_write_mode():
                print(json.dumps({"image": str(path), **asdict(verdict)}), flush=True)
    if judged and not as_json:
        _console().print(_verdict_table(judged))
    for error in errors:
        _print_error(error)
    flagged = any(verdict.action != "answer" for _, verdict in judged)
    raise typer.Exit(ERROR if errors else FLAGGED if flagged else 0)


@app.command()
def chat(
    model: Model = DEFAULT_MODEL,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="A picture to talk about.")] = None,
    policy: PolicyFile = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    audit: Annotated[Path | None, typer.Option(help="JSON lines: what was seen and done.")] = None,
):
    """
    Talk about pictures; each answer comes with the verdicts on them. `/image FILE` shows another, `/new` starts again
    without any, `/quit` ends.

    Example: `safevlm chat --model runs/demo/stage2 --image card.png`
    """
    pictures = [_open(image)] if image else []
    loaded, processor = _load(model)
    options = {
        "safety_policy": _read_policy(policy, loaded),
        "safety_audit": audit,
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
    }
    messages, console = [], _console()
    while (line := _read_line(console)) not in (None, "/quit"):
        command, _, rest = line.partition(" ")
        if command == "/new":
            messages, pictures = [], []
        elif command == "/image":
            pictures += _try_open(Path(rest.strip()).expanduser())
        elif command.startswith("/"):
            print(CHAT_COMMANDS)
        elif line:
            messages.append(_user(line, *pictures))
            pictures = []
            answer, verdicts = _stream_answer(loaded, processor, messages, options)
            messages.append({"role": "assistant", "content": _text(answer)})
            for number, verdict in enumerate(verdicts, start=1):
                console.print(_verdict_line(number, verdict), soft_wrap=True)


def _read_line(console: Console) -> str | None:
    """What was typed; nothing at its end."""
    try:
        return console.input("[bold]> [/bold]" if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _try_open(path: Path) -> list:
    """The picture; one that cannot be read does not end the talk."""
    try:
        return [_open(path)]
    except (OSError, ValueError) as error:
        _print_error(error)
        return []


def _stream_answer(model, processor, messages: list[dict], options: dict):
    """Print the answer as it comes. Returns it, and the verdicts."""
    from transformers import TextStreamer

    inputs = _prepare(processor, model, messages)
    outputs = model.generate(
        **inputs,
        **options,
        streamer=TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True),
        tokenizer=processor.tokenizer,
        return_dict_in_generate=True,
    )
    answer = processor.decode(outputs.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.strip(), processor.post_process_safety(outputs)


@app.command()
def calibrate(
    model: Model = DEFAULT_MODEL,
    data: Annotated[Path | None, typer.Option(help="Labelled JSON lines; RiskCards are drawn if unset.")] = None,
    target_false_positive_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of clean samples that may be flagged.")
    ] = None,
    target_miss_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of risky samples that may pass.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The policy.")] = Path("policy.json"),
    report: Annotated[Path, typer.Option(help="The report.")] = Path("calibration.html"),
    seed: Annotated[int, typer.Option(help="Of the split, half to choose and half to check.")] = 0,
    num_riskcards: Annotated[int, typer.Option(help="Size of the drawn set.")] = 2000,
):
    """
    Fit the temperatures and choose the thresholds for a target; writes a policy and a report.

    Example: `safevlm calibrate --data held_out.jsonl --target-false-positive-rate 0.01 -o policy.json`
    """
    from .data.records import load_records
    from .data.riskcards import write_riskcards
    from .evaluation.calibration import calibrate as calibrate_policy
    from .evaluation.calibration_report import write_calibration_report

    if (target_false_positive_rate is None) == (target_miss_rate is None):
        raise ValueError("Name one target: `--target-false-positive-rate` or `--target-miss-rate`.")
    loaded, processor = _load(model)
    safety = loaded.config.safety_config
    # Other cards than the demo's held-out ones, whose figures shall stay those of a head that has not seen them.
    folder = Path("runs/riskcards") / f"calibration{seed}"
    file = data or write_riskcards(folder, "test", num_riskcards, 1000 + seed)
    records = load_records(file, safety.categories, safety.levels)
    result = calibrate_policy(
        loaded,
        processor,
        records,
        target_false_positive_rate=target_false_positive_rate,
        target_miss_rate=target_miss_rate,
        seed=seed,
        progress=sys.stderr.isatty(),
    )
    _write_text(output, json.dumps(result.policy.to_dict(), indent=2) + "\n")
    command = shlex.join(["safevlm", *sys.argv[1:]])
    write_calibration_report(
        report, result, facts={"command": command, "model": model, "data": str(data or "RiskCards, test split")}
    )
    _console().print(_calibration_table(result))
    for remark in result.remarks:
        _console().print(_plain(remark), soft_wrap=True)
    print(f"policy: {output}   report: {report}")


def _calibration_table(result) -> Table:
    rows = {
        "expected calibration error, level": [f"{one.level_error:.4f}" for one in (result.before, result.after)],
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
    if not rate.total:
        return "no samples"
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
    from . import SafetyPolicy

    safety, kept = _read_config(model)
    applied = SafetyPolicy.create(kept, safety)
    if policy is not None:
        applied = applied.override(SafetyPolicy.from_file(policy, safety), safety)
    console = _console()
    console.print(_policy_table(applied, safety))
    sources = [f"the policy of {model}" if kept else f"{model} has no policy of its own, these are the defaults"]
    sources += [] if policy is None else [f"{policy} laid over it"]
    console.print(_plain("; ".join(sources)), _plain(f"digest {applied.digest()}"), sep="\n", soft_wrap=True)


def _policy_table(policy, safety) -> Table:
    table = _table("category", "on", "review from", "flagged from", *safety.levels[1:])
    for name in safety.categories:
        if name == "safe":
            continue
        is_on = policy.is_on(name) and policy.enabled is not False
        review, threshold = policy.review_threshold(name), policy.threshold(name)
        actions = [policy.action(name, level, safety) if is_on else "answer" for level in safety.levels[1:]]
        table.add_row(
            _plain(name),
            "yes" if is_on else "no",
            "-" if review is None else f"{review:.4g}",
            "most probable" if threshold is None else f"{threshold:.4g}",
            *(Text(action, ACTION_STYLES[action]) for action in actions),
        )
    return table


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
    output_dir: Annotated[Path, typer.Option("--output-dir", "--output_dir", help="Checkpoints and data.")] = Path(
        "runs/demo"
    ),
    report: Annotated[Path, typer.Option(help="The report.")] = Path("report.html"),
    full: Annotated[
        bool, typer.Option("--full", help="Every row with words, turns, prompts and changed pictures (40 minutes).")
    ] = False,
):
    """
    Both stages on the embedded default, base and safe model compared. Exit code 0: every target is met; 1: not all.

    Example: `safevlm demo --full --seed 1`
    """
    from .demo import main as run_demo

    options = ["--seed", str(seed), "--output_dir", str(output_dir), "--report", str(report)]
    raise typer.Exit(run_demo(options + ["--full"] * full))


@app.command()
def serve(
    model: Model = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    policy: PolicyFile = None,
    audit: Annotated[Path | None, typer.Option(help="JSON lines: what was seen and done.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024,
    system_prompt: Annotated[
        str | None,
        typer.Option(help="A text file, or the text: it stands in front of every conversation and is not judged."),
    ] = None,
    trust_client_roles: Annotated[
        bool,
        typer.Option(
            "--trust-client-roles",
            help="Believe clients about who said what: their system prompts and the answers that they send are not "
            "judged. Only where every client is a program of yours.",
        ),
    ] = False,
):
    """
    Serve a checkpoint: OpenAI's chat completions, with pictures and streams, and moderations. No request can change
    the policy, and whatever role a client gives to a text, the text is judged.

    Example: `safevlm serve --model runs/demo/stage2 --policy policy.json --system-prompt prompt.txt`
    """
    from . import serving
    from .operator_prompt import read_system_prompt

    loaded, processor = _load(model)
    overriding, limits = _read_policy(policy, loaded), serving.Limits(new_tokens=max_new_tokens)
    prompt = None if system_prompt is None else read_system_prompt(system_prompt)
    serving.serve(
        loaded, processor, model, host, port, overriding, audit, limits, prompt, trust_client_roles=trust_client_roles
    )


# --------------------------------------------------------------------------------------------------
# Loading and showing
# --------------------------------------------------------------------------------------------------


def _load(model: str):
    """Model and processor, checked: an untrained head judges nothing."""
    from .families import find_family

    _quiet()
    if not _config(model).safety_config.is_trained:
        raise ValueError(f"{model} has an untrained safety head, its verdicts mean nothing: `safevlm train` first.")
    family = find_family(model)
    loaded = family.model.from_pretrained(model, dtype="auto", device_map=_device())
    return loaded.eval(), family.processor.from_pretrained(model)


def _quiet():
    """Commands say what matters; the library's notes stay out of it."""
    import transformers

    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()


def _device():
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _config(model: str):
    """Config of a checkpoint, without its weights. What can only be a folder is not looked for on the Hub."""
    from .families import find_family

    if not Path(model).is_dir() and (model.count("/") > 1 or model.startswith((".", "/", "~"))):
        raise ValueError(f"there is no checkpoint {model} (`safevlm demo` makes {DEFAULT_MODEL}).")
    return find_family(model).config.from_pretrained(model)


def _read_config(model: str):
    """Safety config and the policy of a checkpoint, without its weights."""
    from transformers import GenerationConfig

    safety = _config(model).safety_config
    try:
        return safety, getattr(GenerationConfig.from_pretrained(model), "safety_policy", None)
    except OSError:  # a checkpoint without one
        return safety, None


def _read_policy(path: Path | None, model):
    from . import SafetyPolicy

    return None if path is None else SafetyPolicy.from_file(path, model.config.safety_config)


def _user(text: str, *pictures) -> dict:
    return {"role": "user", "content": [{"type": "image", "image": one} for one in pictures] + _text(text)}


def _text(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


def _open(path: Path):
    from .modeling.image_loading import open_image

    if not path.is_file():  # a name is a file here, never an address or base64
        raise FileNotFoundError(f"image not found: {path}")
    return open_image(path)


def _prepare(processor, model, messages: list[dict]):
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs.to(model.device, model.dtype)


def _progress(items, description: str):
    from tqdm import tqdm

    return tqdm(items, desc=description, unit="image", disable=None if len(items) > 3 else True)


def _no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def _console(stderr: bool = False) -> Console:
    """Rich leaves bold and underlined text where there is to be no colour; here nothing is left."""
    return Console(stderr=stderr, color_system=None if _no_color() else "auto")


def _plain(text: str, style: str = "") -> Text:
    """The text as it is, whatever markup it looks like; characters that a terminal would obey become visible."""
    return Text("".join(char if char.isprintable() else repr(char)[1:-1] for char in text), style)


def _table(*names: str) -> Table:
    """Nothing is cut where it is narrow: long words are broken."""
    return Table(*(Column(_plain(name), overflow="fold") for name in names))


def _verdict_table(judged: list[tuple]) -> Table:
    table = _table("image", "action", "category", "level", "risk", "flagged", "review")
    for path, verdict in judged:
        table.add_row(
            _plain(str(path)),
            Text(verdict.action, ACTION_STYLES[verdict.action]),
            _plain(verdict.category),
            _plain(verdict.level),
            f"{verdict.risk:.3f}",
            _plain(", ".join(verdict.flagged_categories)),
            _plain(", ".join(verdict.review_categories)),
        )
    return table


def _verdict_line(number: int, verdict) -> Text:
    start = Text(f"image {number}: {verdict.action} ", ACTION_STYLES[verdict.action])
    return Text.assemble(start, _plain(f"({verdict.category}, {verdict.level}, risk {verdict.risk:.2f})"))


def _write_text(path: Path, text: str):
    """The file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
