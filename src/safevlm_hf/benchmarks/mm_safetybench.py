"""MM-SafetyBench (arXiv 2311.17600): 13 scenarios, each with three kinds of pictures and a baseline in plain text.

Kind and question belong together: "Rephrased Question(SD)" to the drawn picture, "Rephrased Question" to those with
typed words, "Changed Question" to no picture.
"""

from ..items import Item
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import read_json_rows


# The names are spelt as the authors spell them.
SCENARIOS = {
    "01-Illegal_Activitiy": 97,
    "02-HateSpeech": 163,
    "03-Malware_Generation": 44,
    "04-Physical_Harm": 144,
    "05-EconomicHarm": 122,
    "06-Fraud": 154,
    "07-Sex": 109,
    "08-Political_Lobbying": 153,
    "09-Privacy_Violence": 139,
    "10-Legal_Opinion": 130,
    "11-Financial_Advice": 167,
    "12-Health_Consultation": 109,
    "13-Gov_Decision": 149,
}
QUESTIONS = {
    "SD": "Rephrased Question(SD)",
    "TYPO": "Rephrased Question",
    "SD_TYPO": "Rephrased Question",
    "text": "Changed Question",
}
KINDS = ("SD", "TYPO", "SD_TYPO")
TINY = "TinyVersion_ID_List.json"
TINY_SIZE = 168


def read(data: DataFolder, part: str, scenario: str, version: str) -> Loaded:
    kinds = KINDS if part == "all" else (part,)
    scenarios = tuple(SCENARIOS) if scenario == "all" else (scenario,)
    tiny = _read_tiny(data) if version == "tiny" else None
    items = [item for name in scenarios for item in _read_scenario(data, name, kinds, tiny)]
    size = sum(SCENARIOS[name] for name in scenarios) if tiny is None else TINY_SIZE
    # Of the tiny version only the size over all scenarios is known here.
    is_known = tiny is None or scenario == "all"
    return Loaded(items, published_size=size * len(kinds) if is_known else None)


def _read_scenario(data: DataFolder, scenario: str, kinds, tiny: dict[str, set[str]] | None) -> list[Item]:
    name = f"processed_questions/{scenario}.json"
    rows = read_json_rows(data, f"data/{name}", name)
    if tiny is not None:
        rows = [row for row in rows if row.label("key") in tiny.get(scenario, ())]
    items = []
    for kind in kinds:
        folder = f"imgs/{scenario}/{kind}"
        pictures = None if kind == "text" else data.pictures(f"data/{folder}", folder)
        for row in rows:
            images = [] if pictures is None else [pictures.path(f"{row.label('key')}.jpg")]
            item = Item(
                id=f"{scenario}/{kind}/{row.label('key')}",
                images=images,
                messages=user_turn(row.text(QUESTIONS[kind]), len(images)),
                labels={
                    "is_risky": True,
                    "type": kind,
                    "category": scenario,
                    "part": f"{scenario}, {kind}",
                    "plain_question": row.text("Question"),
                },
                group=f"{scenario}/{row.label('key')}",
            )
            items.append(item)
    return items


def _read_tiny(data: DataFolder) -> dict[str, set[str]]:
    """Return the ids of the tiny version by scenario. The scenario's name may lack its number there."""
    ids = {}
    for row in read_json_rows(data, TINY, f"data/{TINY}"):
        name = row.text("Scenario")
        found = [scenario for scenario in SCENARIOS if name in (scenario, scenario.partition("-")[2])]
        if not found:
            raise row.error(f"'Scenario' is {name[:80]!r}, expected one of {', '.join(SCENARIOS)}")
        ids[found[0]] = set(row.labels("Sampled_ID_List"))
    return ids


BENCHMARK = Benchmark(
    name="mm_safetybench",
    title="MM-SafetyBench",
    source="arXiv 2311.17600",
    licence="CC BY-NC 4.0",
    size="13 scenarios, 1,680 questions, each with the pictures SD, TYPO and SD_TYPO; tiny version 168",
    metric="attack rate by scenario and kind",
    where_to_get="git clone https://github.com/isXinLiu/MM-SafetyBench, and its pictures (link there) as data/imgs",
    read=read,
    options={
        "part": ("all", *KINDS, "text"),
        "scenario": ("all", *SCENARIOS),
        "version": ("full", "tiny"),
    },
)
