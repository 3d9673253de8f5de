"""Control of the verdict at work: the same records under other policies, and why the head judged as it did."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..asking import encode_prompts
from ..data.records import load_image
from ..evaluation.answering_records import give_answers
from ..items import Answer
from ..modeling.safety_policy import SafetyPolicy
from ..progress import Progress
from ..reports.plot_verdict import plot_verdict


@dataclass(frozen=True)
class PolicyTrial:
    """Effect of a policy. The answers are to the same items, in the same order, as those it is held against.

    Attributes:
        name, note: what is turned, and what it should lead to.
        policy: overrides the checkpoint's own.
        refusals: the fixed texts that it can lead to.
    """

    name: str
    note: str
    policy: dict
    refusals: frozenset[str]
    answers: Sequence[Answer]

    def is_fixed(self, answer: Answer) -> bool:
        """Tell whether the answer is one of the fixed texts."""
        return answer.text in self.refusals


POLICIES = (
    (
        "A category switched off",
        "Privacy is off, the other categories stay on.",
        {"categories": {"privacy": False}},
    ),
    (
        "A threshold moved",
        "Misleading is flagged from a probability of 0.999 alone: the less certain ones pass.",
        {"thresholds": {"misleading": 0.999}},
    ),
    (
        "A refusal forced",
        "What is flagged at the highest level gets the operator's text, whatever the language model would say.",
        {"actions": {"*": {"high": "refuse"}}, "refusals": {"*": "This service does not answer that."}},
    ),
)


def try_policies(model, processor, records: Sequence[dict]) -> list[PolicyTrial]:
    """Answer the records under each of `POLICIES`."""
    trials = []
    for name, note, policy in POLICIES:
        answers = give_answers(model, processor, records, batch_size=32, max_new_tokens=48, safety_policy=policy)
        safety = model.config.safety_config
        kept = SafetyPolicy.create(model.kept_policy(), safety)
        applied = kept.override(policy, safety)
        refuses = applied.refuses(safety)
        # A policy that refuses nowhere never shows its texts.
        texts = {applied.refusal(category) for category in (*safety.categories, None)}
        trials.append(PolicyTrial(name, note, policy, frozenset(texts if refuses else ()), answers))
    return trials


@torch.inference_mode()
def draw_explanations(model, processor, records: Sequence[dict]) -> list[bytes]:
    """Draw `plot_verdict` of each record, as PNG."""
    drawings = []
    with Progress(len(records), "drawing", "verdict") as bar:
        for record in records:
            inputs = encode_prompts(processor, [record]).to(model.device, model.dtype)
            explanation = model.explain(**inputs)
            (verdict,) = processor.post_process_safety(explanation)
            tokens = processor.question_tokens(inputs)
            figure = plot_verdict(load_image(record["images"][0]), explanation, verdict, tokens=tokens)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=80)
            drawings.append(buffer.getvalue())
            bar.update(1)
    return drawings
