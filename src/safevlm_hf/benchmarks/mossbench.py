"""MOSSBench (arXiv 2406.17806): harmless questions that models refuse, and harmful twins of them."""

from ..items import Item, Label
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_json_rows


TYPES = {"type 1": "exaggerated risk", "type 2": "negated harm", "type 3": "counterintuitive"}
FOLDERS = {"main": "data", "contrast": "data_contrast"}


def read(data: DataFolder, part: str) -> Loaded:
    parts = tuple(FOLDERS) if part == "all" else (part,)
    items = []
    for name in parts:
        folder = FOLDERS[name]
        pictures = data.pictures(folder, f"{folder}/images_information")
        for row in read_json_rows(data, f"{folder}/images_information/information.json"):
            image, kind = row.find_picture(pictures, "image"), row.row("metadata").one_of("over", list(TYPES))
            labels: dict[str, Label] = {"is_risky": name == "contrast", "type": TYPES[kind], "part": name}
            items.append(Item(f"{name}/{row.label('key')}", [image], user_turn(row.text("question")), labels=labels))
    return Loaded(items, published_size=sum({"main": 300, "contrast": 244}[name] for name in parts))


BENCHMARK = Benchmark(
    name="mossbench",
    title="MOSSBench: over-refusal",
    source="arXiv 2406.17806",
    licence="CC BY-SA 4.0, for testing alone",
    size="300 harmless questions of three types; 244 harmful twins (contrast)",
    metric="refusal rate by type",
    where_to_get="git clone https://github.com/xirui-li/MOSSBench (data/, data_contrast/)",
    read=read,
    options={"part": ("main", "contrast", "all")},
)
