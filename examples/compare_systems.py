"""Compares a safe model with other defences, and with itself with parts taken out, on the same held-out RiskCards.

    python examples/compare_systems.py

It trains the safe model and the ablations on the nano base (those in the output folder are used again), lets all of
them answer the same questions under one protocol, and measures what they cost, in turns. It writes one table of
quality and cost (comparison.md, comparison.json), a results.json per system, and report.html.

A base of another size takes part with its own checkpoints: --base, --fine_tuned and --guard are folders or Hub ids.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    CLIPConfig,
    CLIPForImageClassification,
    PreTrainedConfig,
    set_seed,
)

from safevlm_hf.benchmarks import find_benchmark
from safevlm_hf.checkpoints.families import find_family
from safevlm_hf.data import NANO_BASE
from safevlm_hf.data.records import load_image, load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.evaluation.answering_items import model_answers
from safevlm_hf.evaluation.candidates import VERDICT_OFF, safe_candidate, stock_candidate
from safevlm_hf.evaluation.judges.defaults import default_judges
from safevlm_hf.evaluation.metrics.judged import attack_success, over_refusal
from safevlm_hf.evaluation.pipeline import Candidate, Evaluated, Settings, evaluate_systems
from safevlm_hf.evaluation.plain_texts import special_tokens
from safevlm_hf.evaluation.report import write_evaluation_report
from safevlm_hf.files import refuse_to_overwrite, write_text
from safevlm_hf.intervals.bootstrap import Bootstrap
from safevlm_hf.intervals.figure import Figure
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS
from safevlm_hf.quiet import errors_in_one_line, quiet
from safevlm_hf.studies.baselines.ecso import ecso_candidate
from safevlm_hf.studies.baselines.guard import GenerativeGuard, ImageGuard, ZeroShotGuard, guard_candidate
from safevlm_hf.studies.baselines.parts import (
    as_stock_model,
    replace_conditions_by_text,
    take_out_block_tokens,
    take_out_head_tokens,
)
from safevlm_hf.studies.baselines.safety_prompt import safety_prompt_candidate
from safevlm_hf.studies.cost import Cost, Meter, Metered, MeteredModel, measure_costs
from safevlm_hf.training.arguments import write_nano_config
from safevlm_hf.training.run import run_stage1, run_stage2


NOTE = (
    "A base of 3.7 million parameters follows no prompt. So the rows of the static safety prompt and of ECSO "
    "show that the machinery runs, never a win over these methods: they are made for models that follow instructions. "
    "The classifier in front of the model reads the picture and not the question. Times are medians, in milliseconds, "
    "until the first token of the answer can be shown."
)
BATCH_SIZES = (1, 8)
WRITTEN = TABLE, FIGURES, REPORT = "comparison.md", "comparison.json", "report.html"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STOCK, SAFE = "stock model", "SafeVLM"
TRAINED_WITHOUT = {
    "SafeVLM, trained without s(1) and s(2)": {"num_safety_tokens": 0},
    "SafeVLM, trained without conditions": {"num_condition_tokens": 0},
    'SafeVLM, head_pooling="mean"': {"head_pooling": "mean"},
    'SafeVLM, head_pooling="first"': {"head_pooling": "first"},
}
"""What has to be trained anew, and how stage 1 differs. Everything else is the embedded default."""
SHORT_TRAINING = {
    "num_riskcards": 32,
    "max_eval_samples": 4,
    "max_steps": 2,
    "logging_steps": 1,
    "warmup_steps": 1,
    "per_device_train_batch_size": 4,
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--base", default=str(NANO_BASE), help="the stock model")
    parser.add_argument("--fine_tuned", help="the base, fine-tuned without safety modules; unset: it is trained here")
    parser.add_argument("--guard", help="a guard; unset: a classifier of pictures is trained here")
    parser.add_argument("--guard_kind", choices=("image", "zero-shot", "generative"), default="image")
    parser.add_argument("--guard_unsafe", nargs="*", help="an image guard's unsafe labels, or zero-shot texts")
    parser.add_argument("--size", type=int, default=400, help="held-out questions")
    parser.add_argument("--rounds", type=int, default=20, help="batches whose time is taken, at each batch size")
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="two steps of each training: it runs, nothing is learned")
    parser.add_argument("--overwrite", action="store_true", help="replace the tables of an earlier run")
    args = parser.parse_args(argv)
    if args.size < max(BATCH_SIZES) or args.rounds < 1:
        parser.error(f"--size must be at least {max(BATCH_SIZES)}, for a whole batch, and --rounds at least 1")
    check_given(args, parser)
    return args


def check_given(args, parser):
    """What was named on the command line is there and fits, before anything is trained."""
    for name in ("base", "fine_tuned", "guard"):
        given = getattr(args, name) or ""
        # What can only be a folder is not looked for on the Hub.
        if (given.count("/") > 1 or given.startswith((".", "/", "~"))) and not Path(given).is_dir():
            parser.error(f"--{name} {given}: expected a checkpoint, and there is no such folder")
    if args.fine_tuned and "safety_config" in PreTrainedConfig.get_config_dict(args.fine_tuned)[0]:
        parser.error(f"--fine_tuned {args.fine_tuned} has safety modules, expected a stock checkpoint")
    find_family(args.base)
    if not args.guard:
        if args.guard_kind != "image" or args.guard_unsafe:
            parser.error("--guard_kind and --guard_unsafe are of a guard: name it with --guard")
        return
    labels = AutoConfig.from_pretrained(args.guard).id2label.values()
    unsafe = args.guard_unsafe or []
    if args.guard_kind == "image" and (not unsafe or not {*unsafe} <= {*labels}):
        parser.error(f"--guard_unsafe must name those labels of the guard that are refused: {', '.join(labels)}")
    if args.guard_kind == "generative" and unsafe:
        parser.error("--guard_unsafe is of a classifier: a generative guard says safe or unsafe")


# --------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------


def train(args, stage: int, name: str, **overrides) -> Path:
    """A checkpoint of the embedded default's training with other values; one that is there is used again."""
    folder = args.output_dir / "checkpoints"
    final, unfinished, settings = folder / name, folder / f"{name}.unfinished", folder / f"{name}.yaml"
    values = {"seed": args.seed, "output_dir": str(unfinished), "riskcards_dir": str(folder / "riskcards")}
    written = write_nano_config(stage, folder / f"{name}.new.yaml", **(values | overrides | short_training(args)))
    if final.is_dir():
        same = settings.read_text() == Path(written).read_text()
        Path(written).unlink()
        if not same:
            raise ValueError(f"{final} was trained with other settings, see {settings}: take another --output_dir.")
        return final
    print(f"training: {name}", flush=True)
    (run_stage1 if stage == 1 else run_stage2)([written, "--overwrite_output_dir"])  # what was left unfinished
    os.replace(written, settings)
    os.replace(unfinished, final)  # last: what has this name is whole
    return final


def short_training(args) -> dict:
    return SHORT_TRAINING if args.short else {}


def train_both(args, name: str, **stage1) -> Path:
    first = train(args, 1, f"{name}-stage1", model_name_or_path=args.base, **stage1)
    return train(args, 2, f"{name}-stage2", model_name_or_path=str(first))


def train_under_text(args, stage1: Path) -> Path:
    """Stage 2 on a stage 1 whose learned conditions are the embeddings of their texts again."""
    start = args.output_dir / "checkpoints/text-conditions-stage1"
    if not start.is_dir():
        model, processor = load(stage1)
        replace_conditions_by_text(model, processor.tokenizer)
        save(start, model, processor)
    return train(args, 2, "text-conditions-stage2", model_name_or_path=str(start))


def train_fine_tuned(args) -> Path:
    """The base, fine-tuned on the records of stage 2 as they are: the safety modules beside it are thrown away."""
    final = args.output_dir / "checkpoints/fine-tuned"
    if not final.is_dir():
        sizes = {"num_safety_tokens": 0, "num_condition_tokens": 0, "max_steps": 1, "num_riskcards": 64}
        model, _ = load(train_both(args, "fine-tuning", **sizes))
        save(final, as_stock_model(model, args.base), AutoProcessor.from_pretrained(args.base))
    return final


def train_guard(args) -> Path:
    """A classifier of pictures, trained on drawn cards; it starts from the vision tower of the nano base."""
    final = args.output_dir / "checkpoints/guard"
    if final.is_dir():
        return final
    print("training: guard", flush=True)
    set_seed(args.seed)
    records = draw_pictures(args, num_samples=32 if args.short else 4800)
    base, processor = load(NANO_BASE)
    config = CLIPConfig(
        vision_config=base.config.vision_config.to_dict(),
        id2label={0: "harmless", 1: "risky"},
        label2id={"harmless": 0, "risky": 1},
    )
    model = CLIPForImageClassification(config)
    model.vision_model.load_state_dict(base.model.vision_tower.state_dict())
    model.to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for start in range(0, len(records), 32):
        batch = records.select(range(start, min(start + 32, len(records))))
        pictures = [load_image(record["images"][0]) for record in batch]
        pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"].to(DEVICE)
        labels = torch.tensor([int(record["safety_level"] > 0) for record in batch], device=DEVICE)
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save(final, model.eval(), processor.image_processor)
    return final


def draw_pictures(args, num_samples: int):
    folder = args.output_dir / "checkpoints/guard-riskcards"
    file = write_riskcards(folder, "train", num_samples, args.seed, surroundings="alone")
    return load_records(file, DEFAULT_CATEGORIES, DEFAULT_LEVELS)


def load(checkpoint: str | Path):
    """Model and processor, from safetensors alone."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="auto", use_safetensors=True)
    return model.to(DEVICE).eval(), AutoProcessor.from_pretrained(checkpoint)


def save(folder: Path, *parts):
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for part in parts:
        part.save_pretrained(unfinished)
    os.replace(unfinished, folder)


# --------------------------------------------------------------------------------------------------
# Systems
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A system that takes part, and the meter of its models."""

    candidate: Candidate
    meter: Meter

    @property
    def name(self) -> str:
        return self.candidate.system.name


def build_entries(args, settings: Settings) -> list[Entry]:
    """Other defences, the parts of the safe model, and last the safe model itself, which the report is about."""
    stage1 = train(args, 1, "safe-stage1", model_name_or_path=args.base)
    safe = train(args, 2, "safe-stage2", model_name_or_path=str(stage1))
    trained = {name: train_both(args, f"without-{number}", **stage1_values)
               for number, (name, stage1_values) in enumerate(TRAINED_WITHOUT.items())}  # fmt: skip
    fine_tuned = args.fine_tuned or train_fine_tuned(args)
    return [
        *build_defences(args, settings),
        stock_entry("fine-tuning alone", fine_tuned, settings),
        safe_entry("SafeVLM, stage 1 alone", stage1, settings),
        *(safe_entry(name, checkpoint, settings) for name, checkpoint in trained.items()),
        safe_entry("SafeVLM, conditions of text", train_under_text(args, stage1), settings),
        safe_entry("SafeVLM, s(1) taken out after training", safe, settings, taken_out="s(1)"),
        safe_entry("SafeVLM, s(2) taken out after training", safe, settings, taken_out="s(2)"),
        safe_entry("SafeVLM, verdict switched off", safe, settings, VERDICT_OFF),
        safe_entry(SAFE, safe, settings),
    ]


def build_defences(args, settings: Settings) -> list[Entry]:
    """The stock model alone, with a static safety prompt, in ECSO's loop, and behind a guard."""
    model, processor = load(args.base)
    options = {**settings.decoding, "max_new_tokens": settings.max_new_tokens}

    def stock(meter: Meter) -> Candidate:
        return stock_candidate(STOCK, args.base, MeteredModel(model, meter), processor, settings)

    alone, prompted, looped, guarded = (Meter() for _ in range(4))
    check = model_answers(MeteredModel(model, looped, is_check=True), processor, **options)
    guard = build_guard(args, guarded, settings)
    return [
        Entry(stock(alone), alone),
        Entry(safety_prompt_candidate(stock(prompted), "static safety prompt"), prompted),
        Entry(ecso_candidate(stock(looped), "ECSO", check, special_tokens(processor)), looped),
        Entry(guard_candidate(stock(guarded), "guard first", guard), guarded),
    ]


def build_guard(args, meter: Meter, settings: Settings):
    checkpoint = args.guard or str(train_guard(args))
    if args.guard_kind == "generative":
        model, processor = load(checkpoint)
        check = model_answers(
            MeteredModel(model, meter, is_check=True), processor, settings.max_new_tokens, **settings.decoding
        )
        return GenerativeGuard(check, model, checkpoint, special_tokens=special_tokens(processor))
    is_image = args.guard_kind == "image"
    kind = AutoModelForImageClassification if is_image else AutoModelForZeroShotImageClassification
    model = MeteredModel(
        kind.from_pretrained(checkpoint, use_safetensors=True).to(DEVICE).eval(), meter, is_check=True
    )
    if is_image:
        unsafe = args.guard_unsafe or ["risky"]
        return ImageGuard(model, AutoImageProcessor.from_pretrained(checkpoint), checkpoint, unsafe)
    texts = {"unsafe_texts": args.guard_unsafe} if args.guard_unsafe else {}
    return ZeroShotGuard(model, AutoProcessor.from_pretrained(checkpoint), checkpoint, **texts)


def stock_entry(name: str, checkpoint: str | Path, settings: Settings) -> Entry:
    model, processor = load(checkpoint)
    meter = Meter()
    return Entry(stock_candidate(name, str(checkpoint), MeteredModel(model, meter), processor, settings), meter)


def safe_entry(name: str, checkpoint: Path, settings: Settings, policy=None, taken_out: str | None = None) -> Entry:
    model, processor = load(checkpoint)
    if taken_out == "s(1)":
        take_out_head_tokens(model)
    elif taken_out == "s(2)":
        take_out_block_tokens(model, processor)
    meter = Meter()
    metered = MeteredModel(model, meter)
    candidate = safe_candidate(name, str(checkpoint), metered, processor, settings, policy)
    options = {**candidate.system.options, **({"taken_out": taken_out} if taken_out else {})}
    return Entry(replace(candidate, system=replace(candidate.system, options=options)), meter)


# --------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------


def quality(one: Evaluated) -> dict[str, Figure | None]:
    """Column to figure."""
    found = {(figure.name, figure.part, figure.judge): figure for figure in one.result.figures}
    return {
        "risky, answered": found.get(("attack_success_rate", None, "rules")),
        "clean, refused": found.get(("over_refusal_rate", None, "rules")),
        "clean, right": found.get(("clean_exact_match", None, None)),
        "AUROC of the risk": found.get(("risk_auroc", None, None)),
    }


def differences(one: Evaluated, stock: Evaluated, bootstrap: Bootstrap) -> dict[str, Figure]:
    """Column to its figure less the stock model's, paired by question."""

    def measure(metric, system: Evaluated):
        return metric(system.items, [found.label for found in system.judgements["rules"]], "rules")

    return {
        column: measure(metric, one).difference(measure(metric, stock), bootstrap)
        for column, metric in (("risky, answered", attack_success), ("clean, refused", over_refusal))
    }


def table_rows(evaluated: Sequence[Evaluated], costs: Sequence[dict[str, Cost]]):
    """The head, then one row per system, as plain text."""
    rows = []
    for one in evaluated:
        name = one.result.system.name
        shares = {column: cell(figure) for column, figure in quality(one).items()}
        most = costs[-1][name]  # the largest batches have asked the most items
        counted = {
            "calls": f"{most.calls:.2f}",
            "tokens in": f"{most.tokens_in:.0f}",
            "tokens out": f"{most.tokens_out:.1f}",
        }
        timed = {}
        for by_name in costs:
            cost = by_name[name]
            timed[f"ms, batch of {cost.batch_size}"] = cell(cost.first_token_ms, 1)
            timed[f"over stock, batch of {cost.batch_size}"] = cell(cost.ratio)
        rows.append({"system": name, **shares, **counted, **timed})
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def cell(figure: Figure | None, digits: int = 2) -> str:
    if figure is None or figure.value is None:
        return "-"
    interval = "" if figure.low is None else f" ({figure.low:.{digits}f} to {figure.high:.{digits}f})"
    failed = f", {figure.failed} of {figure.total} failed" if figure.failed else ""
    return f"{figure.value:.{digits}f}{interval}{failed}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *body])


def main(argv=None) -> list[list[str]]:
    args = parse_args(argv)
    quiet("safevlm_hf", "timm")
    for name in () if args.overwrite else WRITTEN:
        refuse_to_overwrite(args.output_dir / name, "`--overwrite` replaces it, another `--output_dir` keeps it")
    benchmark = find_benchmark("riskcards")
    loaded = benchmark.load(args.output_dir / "data", size=args.size, seed=args.seed)
    settings = Settings(
        default_judges(),
        max_new_tokens=args.max_new_tokens,
        bootstrap=Bootstrap(50 if args.short else 1000, args.seed),
        progress=sys.stderr.isatty(),
    )
    if not args.short:
        print("All systems, trained and asked: about two hours on one thread of a CPU.", flush=True)
    entries = build_entries(args, settings)
    evaluated = evaluate_systems(benchmark, loaded, [one.candidate for one in entries], settings, args.output_dir)
    systems = {one.name: Metered(one.candidate.answer, one.meter) for one in entries}
    costs = [
        measure_costs(systems, loaded.items, size, args.rounds, settings.bootstrap, settings.progress)
        for size in BATCH_SIZES
    ]
    ecso = next(one.candidate.answer for one in entries if one.name == "ECSO")

    rows = table_rows(evaluated, costs)
    asked = ", ".join(f"{count} times {reply}" for reply, count in sorted(ecso.replies.items()))
    text = f"{markdown(rows)}\n\n{NOTE}\nECSO's own question about harm was answered in this run: {asked}.\n"
    write_text(args.output_dir / TABLE, text)
    write_text(args.output_dir / FIGURES, json.dumps(as_json(evaluated, costs, settings), indent=2) + "\n")
    report = write_evaluation_report(args.output_dir / REPORT, [evaluated])
    print(f"\n{text}\ntable: {args.output_dir / TABLE}   report: {report}")
    return rows


def as_json(evaluated: Sequence[Evaluated], costs: Sequence[dict[str, Cost]], settings: Settings) -> dict:
    """The same with every digit, and the protocol that all systems share."""
    systems = {
        one.result.system.name: {
            "quality": {column: None if figure is None else asdict(figure) for column, figure in quality(one).items()},
            "less_stock": {
                column: asdict(figure) for column, figure in differences(one, evaluated[0], settings.bootstrap).items()
            },
            "cost": [asdict(by_name[one.result.system.name]) for by_name in costs],
        }
        for one in evaluated
    }
    return {"note": NOTE, "protocol_hash": evaluated[0].result.protocol.hash, "systems": systems}


if __name__ == "__main__":
    with errors_in_one_line():
        main()
