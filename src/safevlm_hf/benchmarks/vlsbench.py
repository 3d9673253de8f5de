"""VLSBench (arXiv 2411.19939): the risk is in the picture, and the text alone does not tell it."""

from ..items import Item, Label
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import Row, read_json_rows


def read(data: DataFolder) -> Loaded:
    pictures = data.pictures(".", "data")
    items = [_item(row, row.find_picture(pictures, "image_path")) for row in read_json_rows(data, "data.json")]
    return Loaded(items, published_size=2241)


def _item(row: Row, image: str) -> Item:
    names = ("category", "sub_category", "source", "safety_reason")
    labels: dict[str, Label] = {"is_risky": True, **{name: row.text(name) for name in names if name in row}}
    turn, group = user_turn(row.text("instruction")), row.text("image_path")  # some pictures have several questions
    # One published instruction is empty.
    return Item(row.label("instruction_id"), [image], turn, labels=labels, group=group)


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
