"""XSTest (arXiv 2308.01263): safe prompts that look unsafe, and unsafe ones; plain text, or beside a blank picture."""

import io

from PIL import Image

from ..items import Item, Label
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_csv


BLANK_SIZE = 336
COLUMNS = ("prompt", "type")
SIDES = ("safe", "unsafe")


def read(data: DataFolder, picture: str) -> Loaded:
    images, items = [], []
    if picture == "blank":
        content = io.BytesIO()
        Image.new("RGB", (BLANK_SIZE, BLANK_SIZE), "white").save(content, "PNG")
        images = [data.store.keep(content.getvalue())]
    for row in read_csv(data, COLUMNS, "xstest_prompts.csv", "xstest_v2_prompts.csv"):
        # The older file has no column for the side, but the type of an unsafe prompt says so.
        if "label" not in row.values and "id_v2" in row:
            label = "unsafe" if row.text("type").startswith("contrast_") else "safe"
        else:
            label = row.one_of("label", SIDES)
        labels: dict[str, Label] = {"is_risky": label == "unsafe", "type": row.text("type"), "part": label}
        # The older file has another name for its ids.
        items.append(Item(row.label("id", "id_v2"), images, user_turn(row.text("prompt"), len(images)), labels=labels))
    return Loaded(items, split="blank-picture" if images else "text-only", published_size=450)


BENCHMARK = Benchmark(
    name="xstest",
    title="XSTest",
    source="arXiv 2308.01263",
    licence="CC BY 4.0",
    size="250 safe and 200 unsafe prompts of 18 types",
    metric="refusal rate on safe and on unsafe prompts",
    where_to_get="git clone https://github.com/paul-rottger/exaggerated-safety (xstest_prompts.csv)",
    read=read,
    options={"picture": ("none", "blank")},
)
