"""A benchmark, read by our adapter, as a local data set that lmms-eval's tasks and geh read.

python -m safevlm_hf.harness.export vlguard --data VLGuard --output examples/lmms_eval_tasks/data

`OUTPUT/vlguard/` gets `test.jsonl` for the tasks of `examples/lmms_eval_tasks`, `geh.jsonl` for `examples/geh.yaml`,
the pictures, and `missing.txt`, which names what was left out. Paths are relative, so the folder can be moved.
"""

import argparse
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..benchmarks import BENCHMARKS, BenchmarkError, Loaded, load_benchmark
from ..benchmarks.benchmark import user_turn
from ..files import check_apart, refuse_to_overwrite, write_text
from ..items import Item


WRITTEN = TEST, FOR_GEH, MISSING = "test.jsonl", "geh.jsonl", "missing.txt"


@dataclass(frozen=True)
class Exported:
    """Numbers and places of what was written.

    Attributes:
        folder: of the benchmark.
        written: rows for lmms-eval.
        written_for_geh: rows for geh.
        missing: what was left out and why, one line each.
    """

    folder: Path
    written: int
    written_for_geh: int
    missing: Sequence[str]


def export_benchmark(loaded: Loaded, output) -> Exported:
    """Write a benchmark's items with their pictures.

    A row of `test.jsonl` has `benchmark`, `id`, `prompt`, `images` (paths in the folder), `is_risky` (null where the
    benchmark does not say), `expected`, `labels` (JSON as text, so that all tables have the same columns) and `split`.
    A row of `geh.jsonl` has `id`, `prompt`, `image` and `unsafe`: geh takes one picture per row and a label, so items
    with another number of pictures, or without a side, are left out and named.

    Args:
        loaded: as `load_benchmark` gives it.
        output: of all benchmarks; this one's folder lies in it.

    Raises:
        ValueError: an item is no single user turn of pictures and then a text, which is all that these tasks ask.
    """
    for item in loaded.items:
        # The tasks put pictures in front of one text, so they would ask any other conversation differently.
        if item.messages != user_turn(item.question, len(item.images)):
            raise ValueError(
                f"{loaded.name}: {item.id} is no single turn of pictures and then a text, and no task asks it"
            )
    folder = Path(output) / loaded.benchmark
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = _copy_pictures(loaded.items, folder)
    rows = [_row(item, pictures, loaded.benchmark, loaded.split) for item in loaded.items]
    for_geh, missing = [], list(loaded.missing)
    for row in rows:
        if len(row["images"]) != 1:
            missing.append(f"{row['id']}: not in geh.jsonl, it has {len(row['images'])} pictures")
        elif row["is_risky"] is None:
            missing.append(f"{row['id']}: not in geh.jsonl, it is neither safe nor unsafe")
        else:
            one = {"id": row["id"], "prompt": row["prompt"], "image": row["images"][0], "unsafe": row["is_risky"]}
            for_geh.append(one)
    _write_lines(folder / TEST, rows)
    _write_lines(folder / FOR_GEH, for_geh)
    write_text(folder / MISSING, "".join(f"{line}\n" for line in missing))
    return Exported(folder, len(rows), len(for_geh), missing)


def _copy_pictures(items: Sequence[Item], folder: Path) -> dict[str, str]:
    """Copy the pictures, and return the name in the folder for each path."""
    names = {}
    for path in dict.fromkeys(path for item in items for path in item.images):
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            # The name comes from the content, so that no later export puts another picture there.
            names[path] = f"pictures/{hashlib.sha256(content).hexdigest()[:32]}.{image.format}".lower()
        (folder / names[path]).write_bytes(content)
    return names


def _row(item: Item, pictures: dict[str, str], benchmark: str, split: str) -> dict:
    return {
        "benchmark": benchmark,
        "id": item.id,
        "prompt": item.question,
        "images": [pictures[path] for path in item.images],
        "is_risky": item.labels.get("is_risky"),
        "expected": item.expected,
        "labels": json.dumps(dict(item.labels), ensure_ascii=False),
        "split": split,
    }


def _write_lines(path: Path, rows: Sequence[dict]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--data", required=True, help="folder of the published copy")
    parser.add_argument("--output", default="examples/lmms_eval_tasks/data")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="the benchmark's own")
    parser.add_argument("--skip-missing", action="store_true", help="leave out items without a readable picture")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export of the benchmark")
    args = parser.parse_args(arguments)
    for option in args.option:
        if "=" not in option:
            parser.error(f"--option {option}: expected NAME=VALUE")
    options = dict(option.split("=", 1) for option in args.option)
    try:
        check_apart({"--output": Path(args.output) / args.benchmark}, {"--data": Path(args.data)})
        for name in () if args.overwrite else WRITTEN:
            path = Path(args.output) / args.benchmark / name
            refuse_to_overwrite(path, "`--overwrite` replaces it, another `--output` keeps it")
        loaded = load_benchmark(args.benchmark, args.data, skip_missing=args.skip_missing, **options)
        done = export_benchmark(loaded, args.output)
    except (BenchmarkError, OSError, ValueError) as error:
        parser.exit(2, f"Error: {error}\n")
    print(f"{loaded.name}: {done.written} items, {done.written_for_geh} of them for geh; {len(done.missing)} left out")
    print(f"written to {done.folder}")


if __name__ == "__main__":
    main()
