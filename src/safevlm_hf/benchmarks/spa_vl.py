"""SPA-VL's test set (arXiv 2406.12030): harmful questions, and harmless ones that want a helpful answer."""

from ..items import Item, Label
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_parquet


SIZE = 265
COLUMNS = ("image", "question")
CLASSES = ("class1", "class2", "class3")


def read(data: DataFolder, part: str) -> Loaded:
    names = ("harm", "help") if part == "all" else (part,)
    items = []
    for name in names:
        # The files were published in one layout, and copies of them have others.
        patterns = (f"test/{name}-*.parquet", f"test/{name}/*.parquet", f"data/{name}-*.parquet", f"{name}-*.parquet")
        rows = read_parquet(data, COLUMNS, *patterns, optional=CLASSES)
        for number, row in enumerate(rows, start=1):
            classes = {one: row.text(one) for one in CLASSES if one in row}
            labels: dict[str, Label] = {"is_risky": name == "harm", "type": name, **classes}
            question = user_turn(row.text("question"))
            items.append(Item(f"{name}/{number}", [row.picture("image")], question, labels=labels))
    return Loaded(items, published_size=SIZE * len(names))


BENCHMARK = Benchmark(
    name="spa_vl",
    title="SPA-VL, test set",
    source="arXiv 2406.12030",
    licence="CC-BY-4.0",
    size="265 harmful and 265 harmless questions",
    metric="attack success on harm, over-refusal on help. The paper's win rate on help is not computed",
    where_to_get="hf download sqrti/SPA-VL --repo-type dataset --include 'test/*' --local-dir FOLDER",
    read=read,
    options={"part": ("all", "harm", "help")},
)
