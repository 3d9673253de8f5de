"""HoliSafe-Bench (arXiv 2506.04704): all combinations of safe and unsafe pictures and questions.

A type is three letters: the picture, the question, and the two together, S for safe and U for unsafe.
"""

from pathlib import Path

from ..items import Item, Label
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_json_rows, read_parquet


TYPES = ("SSS", "SSU", "USU", "UUU", "SUU")
TABLES = ("holisafe_bench.json", "data/holisafe_bench.json")
PARQUET = ("data/test-*.parquet", "test-*.parquet", "data/*.parquet", "*.parquet")
COLUMNS = ("id", "image", "query", "type", "category", "subcategory", "image_safe", "image_safety_label")


def read(data: DataFolder, part: str) -> Loaded:
    is_json = data.find(*TABLES) is not None
    pictures = data.pictures("images", "data/images", ".") if is_json else None
    items = []
    for row in read_json_rows(data, *TABLES) if is_json else read_parquet(data, COLUMNS, *PARQUET):
        if part not in ("all", row.one_of("type", TYPES)):
            continue
        picture = row.picture("image") if pictures is None else row.find_picture(pictures, "image")
        kind = row.text("type")
        labels: dict[str, Label] = {
            "is_risky": kind.endswith("U"),
            "type": kind,
            "category": row.text("category"),
            "subcategory": row.text("subcategory"),
            "is_image_risky": not row.flag("image_safe"),
        }
        # A picture stands in several combinations, which are not independent samples.
        group = Path(picture).name
        items.append(Item(row.label("id"), [picture], user_turn(row.text("query")), labels=labels, group=group))
    return Loaded(items, published_size=4031 if part == "all" else None)


BENCHMARK = Benchmark(
    name="holisafe",
    title="HoliSafe-Bench",
    source="arXiv 2506.04704",
    licence="CC-BY-NC-4.0; access is gated",
    size="4,031 pairs of picture and question in five combinations",
    metric="attack success on SSU, USU, UUU and SUU and their mean; refusal rate on SSS",
    where_to_get="ask for access, then hf download etri-vilab/holisafe-bench --repo-type dataset --local-dir FOLDER",
    read=read,
    headlines=(("attack_success_rate", "mean over type"),),
    options={"part": ("all", *TYPES)},
)
