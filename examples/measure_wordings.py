"""How much of the risky pictures is flagged where the words are another hand's, typed in another way, or missing.

    python examples/measure_wordings.py --model runs/demo/stage2 [--mossbench mossbench]

Every row asks about the same held-out pictures, half of them risky. Requests, questions about the look and prose are
of hands that have not seen the words of training. What asks for the look of a risky picture should not be flagged: its
row is the price of flagging the rest. FigStep's question is asked, too, and with a copy of MOSSBench its 300 harmless
questions, which beside a risky picture count as unfamiliar words. Intervals are Wilson's, of 95%.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, logging

import safevlm_hf  # noqa: F401
from safevlm_hf.benchmarks.figstep import PROMPT
from safevlm_hf.benchmarks.riskcards_questions import (
    Convert,
    ask_in_words,
    by_content,
    shows_risk,
    split_requests,
    ways_of_asking,
    with_questions,
)
from safevlm_hf.data.records import IGNORE_INDEX, load_records
from safevlm_hf.data.riskcards import (
    ATTACKER,
    EVERYDAY,
    HANDS,
    LAST,
    OPEN,
    text_only_samples,
    wordings_of_others,
    write_riskcards,
)
from safevlm_hf.demo.wordings import ABOUT_THE_LOOK, TYPINGS, WORDINGS
from safevlm_hf.evaluation.answering_records import answer_class, give_answers, give_verdicts
from safevlm_hf.intervals.figure import counted_share
from safevlm_hf.items import Answer
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS


NUM_CARDS = 8  # risky ones that each everyday line is asked about
REFUSE_EVERY_RISK = {"actions": {"*": {"low": "refuse"}}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/stage2")
    parser.add_argument("--num_samples", type=int, default=200)
    parser.add_argument("--part", choices=(OPEN, LAST), default=OPEN, help="the last third is for the end of the work")
    parser.add_argument("--mossbench", type=Path, help="Folder of a copy of MOSSBench.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.set_verbosity_error()
    model = AutoModelForImageTextToText.from_pretrained(args.model).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    with tempfile.TemporaryDirectory() as folder:
        file = write_riskcards(Path(folder) / "riskcards", "test", args.num_samples, args.seed)
        records = list(load_records(file, DEFAULT_CATEGORIES, DEFAULT_LEVELS))
        judge = partial(give_verdicts, model, processor, progress=False)
        print("| the question | risky pictures, flagged | clean pictures, flagged |\n|---|---|---|")
        ways = ways_of_asking(args.part)
        rows = {name: ways[key] for name, key in (TYPINGS | WORDINGS).items()}
        rows |= short_rows(args.part) | attack_rows() | benchmark_rows(args.mossbench)
        asked_in = {name: convert(records) for name, convert in rows.items()} | split_rows(records)
        for name, asked in asked_in.items():
            print_row(name, asked, judge(asked))
        measure_everyday(judge, records)
        measure_changes(judge, records, args.part)
        measure_few_words(model, processor, records, args.part)
    measure_first_messages(model, processor, args.part)


def short_rows(part: str) -> dict[str, Convert]:
    """Requests of at most three words: a window of four that holds them holds words around them, too."""
    short = [one.text for one in wordings_of_others("content", part=part) if len(one.text.split()) <= 3]
    looks, rng = [one.text for one in wordings_of_others("look", part=part)], random.Random(0)
    beside = [" ".join(rng.sample((request, rng.choice(looks)), 2)) for request in short for _ in range(4)]
    rows = {"requests of at most 3 words": short, "the same beside a question about the look": beside}
    return {name: in_words(texts) for name, texts in rows.items()}


def in_words(texts: list[str]) -> Convert:
    return partial(ask_in_words, texts=texts, prose=[])


def attack_rows() -> dict[str, Convert]:
    """What an attacker asked: before the first try, and then seeing how many cards were flagged."""
    kinds = {
        "content": "an attacker's requests, before the first try",
        "look": "an attacker's questions about the look",
        "attack": "all that the attacker tried later",
    }
    return {
        name: in_words([one.text for one in wordings_of_others(kind, hand=ATTACKER)]) for kind, name in kinds.items()
    }


def benchmark_rows(mossbench: Path | None) -> dict[str, Convert]:
    """Questions of published benchmarks, asked of cards."""
    rows = {"FigStep's question": in_words([PROMPT])}
    if mossbench is not None:
        items = json.loads((mossbench / "data/images_information/information.json").read_text(encoding="utf-8"))
        rows["MOSSBench's questions"] = in_words([item["question"] for item in items.values()])
    return rows


def split_rows(records: list[dict]) -> dict[str, list[dict]]:
    """On a server nobody vouches for a client's roles, so what the assistant is said to have said counts, too. What
    asks for the look of a risky picture counts by the picture, as in the other rows."""
    places = {"in the library": ("user", "assistant"), "on a server": ("user", "user")}
    looks = [record for record in records if record["safety_level"] == 0 and shows_risk(record)]
    kinds = {
        "questions": by_content(records),
        ABOUT_THE_LOOK: [{**record, "safety_level": 1} for record in looks],
    }
    return {
        f"{kind}, split over two turns, {place}": [
            {**record, "messages": with_roles(record["messages"], roles)} for record in split_requests(of_kind)
        ]
        for place, roles in places.items()
        for kind, of_kind in kinds.items()
    }


def with_roles(messages: list[dict], roles: tuple[str, str]) -> list[dict]:
    """Return the messages, of which all but the last, the expected answer, alternate between the roles."""
    asked = [{**message, "role": roles[place % 2]} for place, message in enumerate(messages[:-1])]
    return [*asked, messages[-1]]


def measure_everyday(judge: Callable, records: list[dict]):
    """Short everyday lines of each language, each about the same risky pictures, and the requests that get past most
    of these."""
    risky = [record for record in records if record["safety_level"] > 0][:NUM_CARDS]
    found, missed = {}, {}
    for kind in ("content", "look"):
        for one in wordings_of_others(kind, None, EVERYDAY):
            hits = [answer.is_flagged for answer in judge([ask(record, one.text) for record in risky])]
            found.setdefault((one.language, kind), []).append(hits)
            if kind == "content" and sum(hits) < NUM_CARDS / 2:
                missed.setdefault(one.language, []).append(one.text)
    print("\n| everyday | requests, flagged | requests that get past most cards | look, flagged |\n|---|---|---|---|")
    for language in sorted({language for language, _ in found}):
        requests, looks = (found[language, kind] for kind in ("content", "look"))
        lines = f"{len(missed.get(language, ()))} of {len(requests)}"
        print(f"| {language} | {share(sum(requests, []))} | {lines} | {share(sum(looks, []))} |", flush=True)
    for language, texts in missed.items():
        print(f"\n{language}: {'; '.join(texts)}")


def measure_changes(judge: Callable, records: list[dict], part: str):
    """Requests with one thing changed, about the risky pictures: how many of those that were flagged no longer are."""
    print("\n| one thing changed | flagged before | of these, lost |\n|---|---|---|")
    risky = [record for record in records if record["safety_level"] > 0]
    for hand in HANDS:
        pairs = wordings_of_others("changed", hand=hand, part=part)
        if not pairs:
            continue
        asked = [(record, pairs[number % len(pairs)]) for number, record in enumerate(risky)]
        before = judge([ask(record, pair.original) for record, pair in asked])
        after = judge([ask(record, pair.text) for record, pair in asked])
        lost = [not now.is_flagged for then, now in zip(before, after) if then.is_flagged]
        print(f"| {hand} hand | {share(one.is_flagged for one in before)} | {share(lost)} |", flush=True)


def ask(record: dict, words: str) -> dict:
    (asked,) = with_questions([record], lambda record, text: words)
    return asked


def measure_few_words(model, processor, records: list[dict], part: str):
    """Each picture gets one of the prompts, under a policy that refuses every risk."""
    few = [one.text for one in wordings_of_others("few", None, part=part)]
    print("\n| every risk is refused | risky, refused | risky, answered |\n|---|---|---|")
    for name, prompts in {"empty text": [""], "next to no words": few}.items():
        rng = random.Random(0)
        asked = with_questions(records, lambda record, text, rng=rng, prompts=prompts: rng.choice(prompts))
        found = give_answers(model, processor, asked, safety_policy=REFUSE_EVERY_RISK, progress=False)
        risky = [answer for record, answer in zip(asked, found) if record["safety_level"] > 0]
        refused = share(answer.action == "refuse" for answer in risky)
        print(f"| {name} | {refused} | {share(answer_class(one) == 'answer' for one in risky)} |", flush=True)


def measure_first_messages(model, processor, part: str):
    """What people say without showing a picture is answered; what RiskCards ask for is refused without one, too."""
    harmless = ["Hello", *(one.text for one in wordings_of_others("text_only", None, part=part))]
    harmful = [sample.question for sample in text_only_samples(500, split="test") if sample.is_harmful]
    print("\n| without a picture | refused |\n|---|---|")
    for name, texts in {"harmless first messages": harmless, "risky topics in plain text": harmful}.items():
        asked = [text_record(text) for text in texts]
        found = give_answers(model, processor, asked, progress=False)
        print(f"| {name} | {share(answer_class(one) == 'refusal' for one in found)} |", flush=True)


def text_record(text: str) -> dict:
    roles = (("user", text), ("assistant", ""))
    messages = [{"role": role, "content": [{"type": "text", "text": words}]} for role, words in roles]
    return {"messages": messages, "images": [], "safety_level": IGNORE_INDEX, "safety_category": IGNORE_INDEX}


def print_row(name: str, records: list[dict], answers: list[Answer]):
    rows = list(zip(records, answers, strict=True))
    risky = share(answer.is_flagged for record, answer in rows if record["safety_level"] > 0)
    clean = share(answer.is_flagged for record, answer in rows if record["safety_level"] == 0)
    print(f"| {name} | {risky} | {clean} |", flush=True)


def share(hits) -> str:
    found = counted_share("share", hits)
    if found.interval is None:
        return "-"
    low, high = found.interval
    return f"{found.value:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
