"""VLSBench (arXiv 2411.19939): the risk is in the picture, and the text alone does not tell it."""

from ..items import Item
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_json_rows


def read(data: DataFolder) -> Loaded:
    pictures = data.pictures(".", "data")
    items = []
    for row in read_json_rows(data, "data.json"):
        names = ("category", "sub_category", "source", "safety_reason")
        item = Item(
            id=row.label("instruction_id"),
            images=[row.find_picture(pictures, "image_path")],
            messages=user_turn(row.text("instruction")),  # one published instruction is empty
            labels={"is_risky": True, **{name: row.text(name) for name in names if name in row}},
            group=row.text("image_path"),  # some pictures have several questions
        )
        items.append(item)
    return Loaded(items, published_size=2241)


BENCHMARK = Benchmark(
    name="vlsbench",
    title="VLSBench",
    source="arXiv 2411.19939",
    licence="Apache-2.0",
    size="2,241 questions about 1,957 pictures (one question is empty and left out)",
    metric="safe rate: refusals and answers with a warning; a judge sorts answers into three classes",
    where_to_get="hf download Foreshhh/vlsbench --repo-type dataset --local-dir FOLDER, and unpack imgs.tar there",
    read=read,
)
