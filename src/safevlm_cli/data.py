"""`safevlm data`: training data, made from published files, checked, and compared with benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from .app import THERE, Overwrite, app
from .showing import borderless_table, make_console, plain


data_app = typer.Typer(help="Make and check training data.", no_args_is_help=True)
app.add_typer(data_app, name="data")

MOST_SHOWN = 5  # examples of a kind of match

Matches = Annotated[
    Path | None, typer.Option("--output", "-o", help="The matches, as JSON; runs/overlap/BENCHMARK.json if unset.")
]
Copy = Annotated[Path | None, typer.Option(help="Folder of the published copy.")]


@data_app.command("mix")
def mix(
    output_dir: Annotated[
        Path, typer.Argument(help="Holds the records, their counts, and pictures out of zip files.")
    ],
    stage: Annotated[int, typer.Option(min=1, max=2, help="1: mostly risky; 2: mostly clean.")],
    vlguard: Copy = None,
    rtvlm: Copy = None,
    llava: Copy = None,
    coco: Copy = None,
    size: Annotated[int | None, typer.Option(min=2, help="Records in all; the paper's number if unset.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    overwrite: Overwrite = False,
):
    """
    Mix published data sets to records for a stage, in the paper's proportions.

    VLGuard's train part and four fifths of RTVLM's pictures are the risky records, LLaVA-Instruct and COCO's captions
    the clean ones. Nothing is downloaded. A record whose picture cannot be read is left out, and a warning says where
    clean records are too few for the proportion.

    Example: `safevlm data mix runs/mix --stage 1 --vlguard VLGuard --rtvlm RedTeamingVLM --llava LLaVA --coco COCO`
    """
    from safevlm_hf.files import check_writable, refuse_to_overwrite
    from safevlm_hf.training.mixing import mix_records

    for path in (output_dir / f"stage{stage}.jsonl", output_dir / f"stage{stage}.json"):
        check_writable(path)
        if not overwrite:
            refuse_to_overwrite(path, "`--overwrite` replaces it, another folder keeps it")
    done = mix_records(output_dir, stage, vlguard, rtvlm, llava, coco, size, seed)
    console = make_console()
    table = borderless_table("records", "wanted", "written")
    for name, number in done.written.items():
        table.add_row(plain(name), str(done.wanted.get(name, "")), str(number))
    console.print(table)
    for source, reasons in done.left_out.items():
        for reason, names in reasons.items():
            console.print(plain(f"left out of {source}: {reason}: {names}"), soft_wrap=True)
    if done.warning:
        make_console(stderr=True).print(plain(f"Warning: {done.warning}", "yellow"), soft_wrap=True)
    print(f"records: {done.path}   counts: {done.path.with_suffix('.json')}")


@data_app.command("scenes")
def scenes(
    output_dir: Annotated[Path, typer.Argument(help="Holds the records, their pictures, counts and attribution.")],
    sources: Annotated[Path, typer.Option(help="Folder with a clone or an unpacked package for each source.")],
    accept_terms: Annotated[
        bool,
        typer.Option(
            "--accept-terms", help="Read sources of class B, too: you keep their terms, and ship none of it."
        ),
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Clone, at their commits, or download what is not there: gigabytes.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs.")] = 0,
    questions: Annotated[int, typer.Option(min=1, help="Risky pairs for each picture of training.")] = 2,
    overwrite: Overwrite = False,
):
    """
    Build pairs of pictures and questions from photographs and drawings of others.

    The package brings the list of pictures with their hashes, and no picture. Without `--accept-terms` only class A is
    read: drawings and public domain. What is not there, differs from its hash or cannot be read is counted and named.

    Example: `safevlm data scenes runs/scenes --sources sources --download`
    """
    from safevlm_hf.data.scenes import write_scenes
    from safevlm_hf.files import check_writable

    check_writable(output_dir, is_folder=True)
    built = write_scenes(output_dir, sources, accept_terms, download, seed, questions, overwrite)
    _show_scenes(built)
    print(f"records: {built.folder}   counts: {built.folder / 'scenes.json'}")


def _show_scenes(built):
    console = make_console()
    table = borderless_table("records", "all", "risky", "picture alone", "question alone")
    for name, shortcuts in built.shortcuts().items():
        pairs = built.pairs[name]
        num_risky = sum(pair.safety_level > 0 for pair in pairs)
        shown = (f"{shortcuts[seen]:.3f}" for seen in ("picture alone", "question alone"))
        table.add_row(plain(name), str(len(pairs)), str(num_risky), *shown)
    console.print(table)
    print("picture alone, question alone: the best balanced accuracy that one of the two allows")
    print(f"pictures: {sum(built.taken.values())} of {len(built.taken)} sources")
    for reason, found in built.left_out.items():
        for source, paths in found.items():
            names = ", ".join(paths[:MOST_SHOWN]) + (", ..." if len(paths) > MOST_SHOWN else "")
            console.print(plain(f"left out of {source}: {reason}: {len(paths)}: {names}"), soft_wrap=True)
    for problem in built.problems:
        make_console(stderr=True).print(plain(f"Warning: {problem}", "yellow"), soft_wrap=True)


@data_app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(help="Training records, JSON lines.", **THERE)],
    taxonomy_file: Annotated[
        Path | None,
        typer.Option(
            "--taxonomy-file",
            "--taxonomy_file",
            help="YAML or JSON with `categories` and `levels` of your own; the default ones if unset.",
            **THERE,
        ),
    ] = None,
    image_root: Annotated[
        Path | None,
        typer.Option("--image-root", "--image_root", help="Folder of the pictures; each file's own if unset."),
    ] = None,
):
    """
    Find all bad records, as training would: one line each with file, line and reason. No model is loaded. Exit code 0:
    all are good; 1: some are bad.

    Example: `safevlm data check train.jsonl held_out.jsonl --taxonomy_file taxonomy.yaml`
    """
    from safevlm_hf.data.records import read_records
    from safevlm_hf.data.taxonomy import read_taxonomy
    from safevlm_hf.modeling.configuration_safety import SafetyConfig
    from safevlm_hf.modeling.safety_policy import SafetyNames

    safety: SafetyNames = SafetyConfig.from_dict(read_taxonomy(taxonomy_file))  # checks the names
    console, num_good, num_bad = make_console(), 0, 0
    for file in files:
        records, problems = read_records(file, safety.categories, safety.levels, image_root)
        num_good, num_bad = num_good + len(records), num_bad + len(problems)
        for problem in problems:
            console.print(plain(problem), soft_wrap=True)
    print(f"{num_bad} bad, {num_good} good")
    raise typer.Exit(1 if num_bad else 0)


@data_app.command("overlap")
def overlap(
    train: Annotated[
        list[Path], typer.Argument(help="Training records, JSON lines; all files of a model's training.", **THERE)
    ],
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="The name of one benchmark.")],
    data: Annotated[Path, typer.Option(help="The benchmark's published files.")],
    option: Annotated[list[str] | None, typer.Option(help="Of the benchmark, NAME=VALUE; several times.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Categories and levels of the records are this checkpoint's.")
    ] = None,
    image_root: Annotated[Path | None, typer.Option(help="Folder of the pictures; the file's own if unset.")] = None,
    output: Matches = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out items without a readable picture, and name them.")
    ] = False,
    overwrite: Overwrite = False,
):
    """
    Look for a benchmark's pictures and texts in training records: near-duplicates, and runs of 13 words.

    A match names the files that it is in; it is a pair to look at, and no proof. `safevlm card --overlap FILE` writes
    the counts into a model card.

    Example: `safevlm data overlap runs/mix/stage1.jsonl runs/mix/stage2.jsonl --benchmark vlguard --data VLGuard`
    """
    from safevlm_hf.benchmarks import find_benchmark
    from safevlm_hf.checkpoints.loading import read_safety
    from safevlm_hf.data.records import load_records
    from safevlm_hf.evaluation.contamination.overlap import find_overlap, save_overlap
    from safevlm_hf.files import check_apart, check_writable, refuse_to_overwrite
    from safevlm_hf.modeling.safety_policy import SafetyNames

    from .app import benchmark_options

    output = output or Path("runs/overlap") / f"{benchmark}.json"
    chosen = find_benchmark(benchmark)
    for file in train:
        check_apart({"--output": output}, {"TRAIN": file})
    check_writable(output)
    if not overwrite:
        refuse_to_overwrite(output, "`--overwrite` replaces it, another `--output` keeps it")
    loaded = chosen.load(data, skip_missing=skip_missing, **benchmark_options(option or [], [chosen])[benchmark])
    safety = read_safety(model)[0] if model else SafetyNames()
    records = {file: load_records(file, safety.categories, safety.levels, image_root) for file in train}
    found = find_overlap(records, loaded)
    path = save_overlap(found, output)
    for line in loaded.missing:
        make_console().print(plain(f"left out: {line}"), soft_wrap=True)
    _show_overlap(found)
    print(f"matches: {path}")


def _show_overlap(found):
    console = make_console()
    table = borderless_table("items that share", "number", f"of {found.num_items}, such as")
    matches = {
        "picture": found.pictures,
        "words": [one for one in found.texts if not one["is_whole"]],
        "short text": [one for one in found.texts if one["is_whole"]],
        "any": (),
    }
    titles = {"picture": "a picture that looks alike", "words": "13 words", "short text": "a short text, whole"}
    for name, number in found.counts().items():
        examples = ", ".join(f"{one['item']}: {one['train'][0]}" for one in matches[name][:MOST_SHOWN])
        table.add_row(titles.get(name, "any of these"), str(number), plain(examples))
    console.print(table)
    for file, number in found.items_by_file().items():
        console.print(plain(f"{file}: items that share something with it: {number}"), soft_wrap=True)
    blank = ", ".join(f"{number} of {side}" for side, number in found.num_blank.items())
    print(f"pictures of one colour, alike only where all pixels are equal: {blank}")
