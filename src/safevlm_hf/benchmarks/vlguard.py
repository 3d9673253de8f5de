"""VLGuard (arXiv 2402.02207): unsafe pictures, and safe pictures with a safe or an unsafe instruction."""

from ..items import Item
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import Row, read_json_rows


SUBSETS = {"unsafes": 442, "safe_unsafes": 558, "safe_safes": 558}
WHERE = "ask for access, then hf download ys-zong/VLGuard --repo-type dataset --local-dir FOLDER"


def read(data: DataFolder, part: str) -> Loaded:
    wanted = list(SUBSETS) if part == "all" else [part]
    items = [item for item in read_split(data, "test") if item.labels["type"] in wanted]
    return Loaded(items, split=f"test/{part}", published_size=sum(SUBSETS[name] for name in wanted))


def read_split(data: DataFolder, split: str) -> list[Item]:
    """Return the items of "train" or "test", with the published answers as `expected`."""
    pictures = data.pictures(split, f"data/{split}", f"{split}.zip", f"data/{split}.zip")
    items = []
    for row in read_json_rows(data, f"{split}.json", f"data/{split}.json"):
        items += _read_row(row, row.find_picture(pictures, "image"))
    return items


def _read_row(row: Row, picture: str) -> list[Item]:
    pairs = row.rows("instr-resp")
    if not row.flag("safe"):
        if len(pairs) != 1:
            raise row.error(f"'instr-resp' has {len(pairs)} pairs, expected one where 'safe' is false")
        labels = {"category": row.text("harmful_category"), "subcategory": row.text("harmful_subcategory")}
        return [_item(row, pairs[0], "unsafes", "instruction", picture, labels)]
    items = []
    for subset, name in (("safe_unsafes", "unsafe_instruction"), ("safe_safes", "safe_instruction")):
        found = [pair for pair in pairs if name in pair]
        if len(found) != 1:
            raise row.error(f"'instr-resp' has {len(found)} pairs with {name!r}, expected one where 'safe' is true")
        items.append(_item(row, found[0], subset, name, picture, {}))
    return items


def _item(row: Row, pair: Row, subset: str, name: str, picture: str, labels: dict) -> Item:
    return Item(
        id=f"{subset}/{row.label('id')}",
        images=[picture],
        messages=user_turn(pair.text(name)),
        expected=pair.text("response"),
        labels={"is_risky": subset != "safe_safes", "type": subset, **labels},
        group=row.label("id"),
    )


BENCHMARK = Benchmark(
    name="vlguard",
    title="VLGuard, test split",
    source="arXiv 2402.02207",
    licence="not verified; access is gated",
    size="442 unsafe pictures; 558 safe ones, each with a safe and an unsafe instruction",
    metric=(
        "attack success on unsafes and safe_unsafes; over-refusal on safe_safes, and there, by a judge that is asked "
        "`preference`, the win rate over the published `response` (the paper: over stored answers of GPT-4V)"
    ),
    where_to_get=WHERE,
    read=read,
    headlines=(("attack_success_rate", "mean over type"),),
    options={"part": ("all", *SUBSETS)},
)
