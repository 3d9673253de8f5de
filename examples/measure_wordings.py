"""How many risky cards are flagged where the question is typed in another way, is split, or has next to no words.

    python examples/measure_wordings.py --model runs/demo/stage2

Each way of typing is measured by itself, on the same held-out questions. Intervals are Wilson's, of 95%.
"""

import argparse
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, logging

import safevlm_hf  # noqa: F401
from safevlm_hf.calibration.rates import Rate
from safevlm_hf.data.records import load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.evaluation.answering import Prediction, answer_records, judge_records
from safevlm_hf.evaluation.held_out.robustness import split_requests, with_questions
from safevlm_hf.evaluation.held_out.typing import FEW_WORDS, WAYS_OF_TYPING
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS


REFUSE_EVERY_RISK = {"actions": {"*": {"low": "refuse"}}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/stage2")
    parser.add_argument("--num_samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.set_verbosity_error()
    model = AutoModelForImageTextToText.from_pretrained(args.model).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    with tempfile.TemporaryDirectory() as folder:
        file = write_riskcards(Path(folder) / "riskcards", "test", args.num_samples, args.seed)
        records = load_records(file, DEFAULT_CATEGORIES, DEFAULT_LEVELS)
        judge = partial(judge_records, model, processor, progress=False)
        measure_typing(judge, records)
        measure_split_requests(judge, records)
        measure_few_words(model, processor, records)


def measure_typing(judge: Callable, records: list[dict]):
    print("| the question | risky, flagged | clean, flagged |\n|---|---|---|")
    for name, type_text in {"as it is": str, **WAYS_OF_TYPING}.items():
        found = judge(with_questions(records, lambda record, text, type_text=type_text: type_text(text)))
        print(f"| {name} | {flagged(found, True)} | {flagged(found, False)} |", flush=True)


def measure_split_requests(judge: Callable, records: list[dict]):
    """On a server nobody vouches for a client's roles, so what the assistant is said to have said counts, too."""
    asked = split_requests(records)
    for name, roles in {"in the library": ("user", "assistant"), "on a server": ("user", "user")}.items():
        found = judge([{**record, "messages": with_roles(record["messages"], roles)} for record in asked])
        print(f"| split over two turns, {name} | {flagged(found, True)} | {flagged(found, False)} |", flush=True)


def with_roles(messages: list[dict], roles: tuple[str, str]) -> list[dict]:
    """Return the messages, of which all but the last, the expected answer, alternate between the roles."""
    asked = [{**message, "role": roles[place % 2]} for place, message in enumerate(messages[:-1])]
    return [*asked, messages[-1]]


def measure_few_words(model, processor, records: list[dict]):
    """Each card gets one of the prompts, under a policy that refuses every risk."""
    print("\n| every risk is refused | risky, refused | risky, answered |\n|---|---|---|")
    for name, prompts in {"empty text": ("",), f"{len(FEW_WORDS)} prompts of few words": FEW_WORDS}.items():
        rng = random.Random(0)
        asked = with_questions(records, lambda record, text, rng=rng, prompts=prompts: rng.choice(prompts))
        found = answer_records(model, processor, asked, safety_policy=REFUSE_EVERY_RISK, progress=False)
        risky = [one for one in found if one.level > 0]
        refused = share(one.verdict.action == "refuse" for one in risky)
        print(f"| {name} | {refused} | {share(one.answer_class == 'answer' for one in risky)} |", flush=True)


def flagged(predictions: list[Prediction], is_risky: bool) -> str:
    return share(one.is_flagged for one in predictions if (one.level > 0) == is_risky)


def share(hits) -> str:
    hits = list(hits)
    found = Rate(sum(hits), len(hits))
    low, high = found.interval
    return f"{found.share:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
