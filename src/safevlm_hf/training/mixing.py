"""Training mixes from published files, in the proportions of SafeVLM's two stages (arXiv 2405.13581).

Part of the paper's risky data is closed, so the published files hold fewer than its 11,000 pairs. Then all risky
records that there are go into a mix, and clean ones in proportion. The report says how many were wanted, and warns
where clean records are too few for the proportion.

The categories and levels below are *our* mapping: neither VLGuard nor RTVLM has SafeVLM's categories, and VLGuard has
no levels.
"""

import hashlib
import heapq
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from ..benchmarks import BENCHMARKS, rtvlm, vlguard
from ..benchmarks.folder import MAX_LISTED, DataFolder
from ..benchmarks.pictures import find_picture_problems
from ..benchmarks.tables import Row, read_json, read_json_rows
from ..data.records import IMAGE_MARK, ROLES
from ..data.riskcards.tables import CATEGORIES, SAFE_ANSWERS
from ..files import write_text
from ..items import Item
from ..modeling.refusal_texts import REFUSALS


STAGES = {1: (11_000, 3_000), 2: (11_000, 89_000)}
"""Risky and clean records of each stage: "about 11,000 risky and 3,000 clean", and "about 100,000, mostly clean"."""
CLEAN_WEIGHTS = {"llava": 15_294, "coco": 81_978}
"""How many clean records the paper has from each source."""
HARD_CLEAN_SHARE = 0.5
"""Of the clean records, at most, that are the safe ones of VLGuard and RTVLM: pictures like the risky ones. Ours."""

VLGUARD_LABELS = {
    ("privacy", "personal data"): ("privacy", "high"),
    ("risky behavior", "violence"): ("illegal risk", "high"),
    ("risky behavior", "sexually explicit"): ("illegal risk", "high"),
    ("risky behavior", "political"): ("politics", "medium"),
    ("risky behavior", "professional advice"): ("misleading", "medium"),
    ("discrimination", "race"): ("fairness", "high"),
    ("discrimination", "sex"): ("fairness", "high"),
    ("discrimination", "other"): ("insults and bullying", "high"),
    ("deception", "disinformation"): ("misleading", "high"),
}
RTVLM_CATEGORIES = {
    "misleading": "misleading",
    "captcha": "privacy",
    "jailbreak": "illegal risk",
    "jailbreak2": "illegal risk",
    "face": "fairness",
    "celeb": "privacy",
    "politics": "politics",
    "racial": "fairness",
    "visual_misleading_wrong": "misleading",
    "visual_misleading_correct": "misleading",
    "visual_orderA": "misleading",
    "visual_orderB": "misleading",
}
RTVLM_LEVELS = {"answer": "safe", "condition": "low", "refuse": "high"}
CAPTION_QUESTIONS = (
    "What does the picture show?",
    "Describe the picture in one sentence.",
    "What can you see here?",
    "Give a short caption of this picture.",
)
UNREADABLE = "its picture cannot be read"
PICTURES = ("train2017", "images/train2017", "coco/train2017", "images")
LLAVA_FILES = (
    ("llava_instruct_150k.json",),
    ("conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json"),
)
WHERE = {
    **{name: BENCHMARKS[name].where_to_get for name in ("vlguard", "rtvlm")},
    "llava": "hf download liuhaotian/LLaVA-Instruct-150K --repo-type dataset, and COCO's train2017/",
    "coco": "cocodataset.org: annotations/captions_train2017.json and train2017/",
}


@dataclass
class Source:
    """Yield of one source: records, and why rows of it were left out."""

    name: str
    records: list[dict] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, images: Sequence[str], messages: list[dict], category: str, level: str) -> None:
        """Add a record, unless one of its pictures is not there. Pictures are decoded once records are drawn."""
        if not all(map(os.path.isfile, images)):
            self.left_out["its picture is missing"].append(name)
            return
        labels = {"safety_category": category, "safety_level": level}
        record = {"images": list(images), **labels, "messages": messages, "id": f"{self.name}/{name}"}
        self.records.append(record)

    def leave_out_unreadable(self, problems: Mapping[str, str]) -> None:
        """Leave out the records with a picture that has a problem."""
        bad = [record for record in self.records if any(image in problems for image in record["images"])]
        if bad:
            names = {record["id"] for record in bad}
            self.records = [record for record in self.records if record["id"] not in names]
            self.left_out[UNREADABLE] += [name.partition("/")[2] for name in sorted(names)]

    def split(self, risky: bool) -> list[dict]:
        """Return the risky records, or the clean ones."""
        return [record for record in self.records if (record["safety_level"] != "safe") == risky]


@dataclass(frozen=True)
class Mix:
    """A mix on disk.

    Attributes:
        path: the records, as `load_records` reads them.
        wanted: how many risky and clean records the paper has, or were asked for.
        written: how many there are, by "risky" and "clean", source, and "category/level".
        left_out: reasons by source, with how many rows and the first ten.
        warning: the proportion that was reached and the wanted one, where clean records are too few for it.
    """

    path: Path
    wanted: dict[str, int]
    written: dict[str, int]
    left_out: dict[str, dict[str, str]]
    warning: str | None = None


def mix_records(
    output_dir: str | os.PathLike,
    stage: int,
    vlguard_dir=None,
    rtvlm_dir=None,
    llava_dir=None,
    coco_dir=None,
    size: int | None = None,
    seed: int = 0,
) -> Mix:
    """Write `stage<N>.jsonl`, and `stage<N>.json` with the counts, into a folder.

    The pictures of the records that are drawn are decoded once. A record with a broken one is left out, and another
    one is drawn in its place.

    Args:
        output_dir: pictures that come out of zip files are kept in its folder `pictures`; others stay where they are.
        stage: 1 (mostly risky) or 2 (mostly clean).
        vlguard_dir, rtvlm_dir: the published copies. Of RTVLM the "train" side of the benchmark's split is taken.
        llava_dir: LLaVA-Instruct's JSON files; its pictures are COCO's `train2017/`, here or in `coco_dir`.
        coco_dir: `annotations/captions_train2017.json` and `train2017/`.
        size: records in all; the paper's number if unset.
        seed: of every draw. RTVLM's split is the benchmark's default one, whatever the seed: no picture of it that a
            mix of either stage holds is asked about.

    Raises:
        BenchmarkError: a copy is laid out differently.
        ValueError: no source has risky records, or none has clean ones.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, expected 1 or 2")
    output_dir, wanted = Path(output_dir), _wanted(stage, size)
    folders = {"vlguard": vlguard_dir, "rtvlm": rtvlm_dir, "llava": llava_dir, "coco": coco_dir}
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(DataFolder(folder, WHERE[name], output_dir / "pictures"))
            for name, folder in folders.items()
            if folder is not None
        }
        names = tqdm(opened, "reading sources", unit="source", disable=None, leave=False)
        sources = [_READERS[name](opened, seed) for name in names]
    records = _draw_readable(sources, wanted, f"mix {stage} {seed}")
    return _write(output_dir, f"stage{stage}", records, sources, wanted, seed)


# --------------------------------------------------------------------------------------------------
# Sources
# --------------------------------------------------------------------------------------------------


def _read_vlguard(opened: dict[str, DataFolder], seed: int) -> Source:
    source, seen = Source("vlguard"), set()
    for item in vlguard.read_split(opened["vlguard"], "train"):
        if item.id in seen:  # the published file has one row twice
            source.left_out["it stands in the data more than once"].append(item.id)
            continue
        seen.add(item.id)
        if item.labels["type"] == "safe_unsafes":
            source.left_out["an unsafe text beside a safe picture has no published category"].append(item.id)
            continue
        category = level = "safe"
        if item.labels["is_risky"]:
            one, two = (str(item.labels[name]).strip().lower() for name in ("category", "subcategory"))
            if (one, two) not in VLGUARD_LABELS:
                source.left_out[f"our mapping has no {one}/{two}"].append(item.id)
                continue
            category, level = VLGUARD_LABELS[one, two]
        source.add(item.id, item.images, _turns(item, item.expected or ""), category, level)
    return source


def _read_rtvlm(opened: dict[str, DataFolder], seed: int) -> Source:
    source = Source("rtvlm")
    loaded = rtvlm.read(opened["rtvlm"], "all", "train", rtvlm.SEED.default)
    for reason in loaded.missing:
        source.left_out["its two pictures fall on either side of the split"].append(reason.partition(":")[0])
    for item in loaded.items:
        action, part = str(item.labels["action"]), str(item.labels["part"])
        level = RTVLM_LEVELS[action]
        category = "safe" if level == "safe" else RTVLM_CATEGORIES[part]
        # The published answer is used where it is one; our fixed texts stand in for the rest.
        answer = item.expected if part != "captcha" else None
        if action == "refuse":
            answer = REFUSALS["en"][category]
        elif action == "condition":
            answer = f"With care: {answer}" if answer else SAFE_ANSWERS[CATEGORIES.index(category), 1]
        if not answer:
            source.left_out["safe to answer, and no answer is published"].append(item.id)
        else:
            source.add(item.id, item.images, _turns(item, answer), category, level)
    return source


def _read_llava(opened: dict[str, DataFolder], seed: int) -> Source:
    source, data = Source("llava"), opened["llava"]
    files = next((names for names in LLAVA_FILES if data.find(*names)), None)
    if files is None:
        raise data.missing(" or ".join(name for names in LLAVA_FILES for name in names))
    in_llava = any(data.find(place) for place in PICTURES)
    pictures = (data if in_llava or "coco" not in opened else opened["coco"]).pictures(*PICTURES)
    for file in files:
        if data.find(file) is None:
            source.left_out[f"the file {file} is not there"].append(file)
            continue
        for number, row in enumerate(_with_bar(read_json_rows(data, file), file)):
            name = f"{file.removesuffix('.json')}/{number}"
            messages = _llava_messages(row)
            if isinstance(messages, str):
                source.left_out[messages].append(name)
            else:
                source.add(name, [row.find_picture(pictures, "image")], messages, "safe", "safe")
    return source


def _llava_messages(row: Row) -> list[dict] | str:
    """Return the conversation, or the reason why it cannot be used."""
    turns = [(ROLES.get(turn.text("from").lower()), turn.text("value")) for turn in row.rows("conversations")]
    if "image" not in row:
        return "it has no picture"
    roles = [role for role, _ in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        return "its turns do not alternate"
    if [text.count(IMAGE_MARK) for _, text in turns] != [1, *[0] * (len(turns) - 1)]:
        return "its first turn does not show the one picture"
    texts = [text.replace(IMAGE_MARK, "").strip() for _, text in turns]
    if not all(texts):
        return "a turn is empty"
    contents = [[{"type": "text", "text": text}] for text in texts]
    contents[0].insert(0, {"type": "image"})
    return [{"role": role, "content": content} for role, content in zip(roles, contents)]


def _read_coco(opened: dict[str, DataFolder], seed: int) -> Source:
    source, data = Source("coco"), opened["coco"]
    file = "annotations/captions_train2017.json"
    table = Row(data, file, read_json(data, file, "captions_train2017.json"))
    pictures = data.pictures(*PICTURES)
    captions = defaultdict(list)
    for row in _with_bar(table.rows("annotations"), "captions"):
        captions[row.whole("image_id")].append(row.text("caption").strip())
    for row in _with_bar(table.rows("images"), "pictures of the captions"):
        number = row.whole("id")
        found = [caption for caption in captions[number] if caption]
        if not found:
            source.left_out["it has no caption"].append(str(number))
            continue
        # A generator per picture keeps its question when other pictures are added or missing.
        rng = random.Random(f"coco {seed} {number}")
        question = [{"type": "image"}, {"type": "text", "text": rng.choice(CAPTION_QUESTIONS)}]
        messages = [{"role": "user", "content": question}, _assistant(rng.choice(found))]
        source.add(str(number), [row.find_picture(pictures, "file_name")], messages, "safe", "safe")
    return source


_READERS: dict[str, Callable[[dict[str, DataFolder], int], Source]] = {
    "vlguard": _read_vlguard,
    "rtvlm": _read_rtvlm,
    "llava": _read_llava,
    "coco": _read_coco,
}


def _with_bar(rows: Sequence[Row], title: str) -> Iterable[Row]:
    return tqdm(rows, title, unit="row", disable=None, leave=False)


def _turns(item: Item, answer: str) -> list[dict]:
    return [*map(dict, item.messages), _assistant(answer)]


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


# --------------------------------------------------------------------------------------------------
# The draw
# --------------------------------------------------------------------------------------------------


def _wanted(stage: int, size: int | None) -> dict[str, int]:
    risky, clean = STAGES[stage]
    size = risky + clean if size is None else size
    if size < 2:
        raise ValueError(f"size is {size}, expected 2 or more records")
    num_risky = max(1, round(size * risky / (risky + clean)))
    return {"risky": num_risky, "clean": max(1, size - num_risky)}


def _draw_readable(sources: Sequence[Source], wanted: dict[str, int], seed: str) -> list[dict]:
    """Return a draw whose pictures can all be read. The sources lose the records whose pictures cannot."""
    readable: set[str] = set()
    while True:
        records = _draw(sources, wanted, seed)
        paths = {path for record in records for path in record["images"]} - readable
        problems = find_picture_problems(sorted(paths))
        if not problems:
            return records
        readable |= paths - problems.keys()
        for source in sources:
            source.leave_out_unreadable(problems)


def _draw(sources: Sequence[Source], wanted: dict[str, int], seed: str) -> list[dict]:
    """Return risky records as far as there are any, and clean ones in proportion."""
    risky = [record for source in sources for record in source.split(risky=True)]
    hard = [record for source in sources if source.name not in CLEAN_WEIGHTS for record in source.split(risky=False)]
    easy = {source.name: source.records for source in sources if source.name in CLEAN_WEIGHTS and source.records}
    for kind, found, names in (
        ("risky", risky, "VLGuard or RTVLM"),
        ("clean", hard or easy, "LLaVA-Instruct or COCO"),
    ):
        if not found:
            where = f"in {', '.join(source.name for source in sources)}" if sources else "without a source"
            broken = [f"{source.name}/{name}" for source in sources for name in source.left_out.get(UNREADABLE, ())]
            hint = f". Pictures that cannot be read are those of {_count(broken)}" if broken else ""
            raise ValueError(f"no {kind} records {where}: name a copy of {names}{hint}")
    chosen = _sample(risky, wanted["risky"], seed)
    num_clean = _clean_in_proportion(len(chosen), wanted)
    # Harmless pictures that resemble the risky ones teach the most, but there are few of them.
    num_hard = min(len(hard), round(num_clean * HARD_CLEAN_SHARE) if easy else num_clean)
    chosen += _sample(hard, num_hard, seed)
    chosen += _draw_easy(easy, num_clean - num_hard, seed)
    random.Random(seed).shuffle(chosen)
    return chosen


def _sample(records: Sequence[dict], number: int, seed: str) -> list[dict]:
    """Return those with the lowest hashes: where one is taken away, another one comes in, and the rest stay."""
    return heapq.nsmallest(
        number, records, key=lambda record: hashlib.sha256(f"{seed} {record['id']}".encode()).digest()
    )


def _clean_in_proportion(num_risky: int, wanted: dict[str, int]) -> int:
    return max(1, round(num_risky * wanted["clean"] / wanted["risky"]))


def _draw_easy(pools: dict[str, list[dict]], size: int, seed: str) -> list[dict]:
    """Draw by the paper's weights; where a source has too few, the others give more."""
    chosen: list[dict] = []
    total = sum(CLEAN_WEIGHTS[name] for name in pools)
    # The source that runs out first comes first, so that what it lacks is shared by those that are left.
    for name in sorted(pools, key=lambda name: len(pools[name]) / CLEAN_WEIGHTS[name]):
        number = min(len(pools[name]), round((size - len(chosen)) * CLEAN_WEIGHTS[name] / total))
        chosen += _sample(pools[name], number, seed)
        total -= CLEAN_WEIGHTS[name]
    return chosen


# --------------------------------------------------------------------------------------------------
# On disk
# --------------------------------------------------------------------------------------------------


def _write(output_dir: Path, name: str, records, sources: Sequence[Source], wanted: dict[str, int], seed: int) -> Mix:
    written: Counter[str] = Counter()
    lines, top = [], output_dir.absolute()
    for record in records:
        source = record["id"].partition("/")[0]
        side = "clean" if record["safety_level"] == "safe" else "risky"
        written.update([side, source, f"{record['safety_category']}/{record['safety_level']}"])
        # Pictures in the mix's own folder are named relative to it, so that the folder can be moved.
        paths = map(Path, record["images"])
        images = [str(path.relative_to(top) if path.is_relative_to(top) else path) for path in paths]
        lines.append(json.dumps(record | {"images": images}, ensure_ascii=False) + "\n")
    left_out = {
        source.name: {reason: _count(names) for reason, names in source.left_out.items()} for source in sources
    }
    warning = None
    if written["clean"] < _clean_in_proportion(written["risky"], wanted):
        # A model that sees too few clean records flags what is harmless.
        warning = (
            f"the proportion of risky to clean is {_proportion(written)}, wanted is {_proportion(wanted)}: there are "
            "too few clean records. Name copies of LLaVA-Instruct and COCO, or ask for a smaller size"
        )
    mix = Mix(output_dir / f"{name}.jsonl", wanted, dict(sorted(written.items())), left_out, warning)
    write_text(mix.path, "".join(lines))
    found = {source.name: len(source.records) for source in sources}
    report = {"seed": seed, "wanted": wanted, "found": found, "written": mix.written, "left_out": left_out}
    write_text(output_dir / f"{name}.json", json.dumps(report | {"warning": warning}, indent=2) + "\n")
    return mix


def _proportion(numbers: Mapping[str, int]) -> str:
    """Write the shares in percent, risky to clean."""
    share = 100 * numbers["risky"] / (numbers["risky"] + numbers["clean"])
    return f"{share:.0f}:{100 - share:.0f} ({numbers['risky']} and {numbers['clean']} records)"


def _count(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{len(names)}: {', '.join(names[:MAX_LISTED])}{more}"
