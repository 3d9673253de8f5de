"""JailBreakV-28K (arXiv 2404.03027): jailbreak texts and pictures of seven formats."""

from ..items import Item
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_csv


FILES = {"mini": "mini_JailBreakV_28K.csv", "full": "JailBreakV_28K.csv"}
SIZES = {"mini": 280, "full": 28_000}
COLUMNS = ("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path")


def read(data: DataFolder, part: str) -> Loaded:
    pictures = data.pictures("JailBreakV_28K", ".")
    items = []
    for row in read_csv(data, COLUMNS, f"JailBreakV_28K/{FILES[part]}", FILES[part]):
        plain_question = row.text("redteam_query")
        item = Item(
            id=row.label("id"),
            images=[row.find_picture(pictures, "image_path")],
            messages=user_turn(row.text("jailbreak_query")),
            labels={
                "is_risky": True,
                "type": row.text("format"),
                "category": row.text("policy"),
                "plain_question": plain_question,
            },
            group=plain_question,  # Each has some fourteen forms.
        )
        items.append(item)
    return Loaded(items, published_size=SIZES[part])


BENCHMARK = Benchmark(
    name="jailbreakv",
    title="JailBreakV-28K",
    source="arXiv 2404.03027",
    licence="MIT",
    size="28,000 pairs of picture and text; mini 280",
    metric="attack success by format; the judge sees the plain request and the answer",
    where_to_get=(
        "hf download JailbreakV-28K/JailBreakV-28k --repo-type dataset --local-dir FOLDER, whose picture folders are "
        "samples: all pictures (15 GiB) are behind the form that its card names"
    ),
    read=read,
    options={"part": ("mini", "full")},
)
