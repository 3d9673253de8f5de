""" "What is this?" on held-out pictures: does the answer name the thing?"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import torch
import yaml

from safevlm_hf.data.records import load_image
from safevlm_hf.intervals.rates import wilson_interval
from safevlm_hf.progress import Progress

from .pairs import NAMING, Picture


SYNONYMS = Path(__file__).parents[1] / "synonyms.yaml"
MAX_TOKENS, MAX_TOLD_TOKENS = 24, 40
TOLD_QUESTIONS = (
    "What is it used for?",
    "Where can I find one?",
    "Tell me something about it.",
    "How does it work?",
    "Write one sentence about it.",
    "Is it dangerous?",
)


class Names:
    """What counts as the name of a thing: the words of its kind, of the phrase for it, or of a synonym, in a row, in
    the singular or plural.

    `path` is a YAML file, kind to synonyms, which is written before a model is trained.
    """

    def __init__(self, path: Path = SYNONYMS):
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._synonyms = yaml.safe_load(path.read_text()) or {}

    def fits(self, answer: str, kind: str, phrase: str = "") -> bool:
        said = _words(answer)
        phrase = re.sub("^(an?|the) ", "", phrase)
        return any(
            said[start : start + len(name)] == name
            for name in map(_words, filter(None, [kind, phrase, *self._synonyms.get(kind, [])]))
            for start in range(len(said) - len(name) + 1)
        )


def _words(text: str) -> list[str]:
    """Return the words in lower case, each without the ending of a plural."""
    words = re.findall(r"[a-z0-9]+", text.lower().replace("'s", ""))
    return [re.sub(r"(?<=[^s])s$", "", re.sub(r"(?<=s|x|h)es$", "", word)) for word in words]


def measure(model, processor, pictures: list[Picture], names: Names, batch_size: int, records: Path | None = None):
    """
    Ask for the name of each picture and count: answers that name their own thing; answers that name another picture's,
    over all pairs of pictures; and the best that one answer to all could reach.

    Args:
        records: a file for picture, kind and answer, a line each.
    """
    asked = answer_pictures(model, processor, [picture.reference for picture in pictures], NAMING, batch_size)
    kinds = [picture.kind for picture in pictures]
    count = Counter(kinds)
    phrases = {picture.kind: picture.phrase for picture in pictures}
    right, elsewhere = 0, 0.0
    lines = []
    for picture, answer in zip(pictures, asked, strict=True):
        named = {kind for kind in count if names.fits(answer, kind, phrases[kind])}
        is_right = picture.kind in named
        right += is_right
        elsewhere += (sum(count[kind] for kind in named) - is_right) / max(1, len(pictures) - 1)
        lines.append({"image": picture.reference, "kind": picture.kind, "answer": answer, "right": is_right})
    if records is not None:
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    low, high = wilson_interval(right, len(pictures))
    return {
        "pictures": len(pictures),
        "kinds": len(count),
        "named": round(right / len(pictures), 4),
        "named_interval": [round(low, 4), round(high, 4)],
        "named_by_the_answer_to_another_picture": round(elsewhere / len(pictures), 4),
        "chance": round(max(count.values()) / len(pictures), 4),
        "synonyms_sha256": names.digest,
    }


def answer_pictures(model, processor, references: list[str], question: str, batch_size: int) -> list[str]:
    """Return greedy answers to one question about each picture."""
    answers = []
    with Progress(len(references), "naming", "picture") as bar:
        for start in range(0, len(references), batch_size):
            part = references[start : start + batch_size]
            asked = [[{"type": "image", "image": load_image(one)}, {"type": "text", "text": question}] for one in part]
            answers += _answer(model, processor, asked, MAX_TOKENS)
            bar.update(len(part))
    return answers


def tell(
    model, processor, phrases: dict[str, str], num_answers: int, batch_size: int
) -> dict[str, list[tuple[str, str]]]:
    """Return what the language model says about kinds of things by itself, in words alone: kind to questions and
    answers. From them it learns that a picture stands for the thing. `phrases` are those of the kinds, of which the
    first are asked for first."""
    kinds, wanted = list(phrases), []
    for number in range(num_answers if kinds else 0):
        turn, place = divmod(number, len(kinds))
        wanted.append((kinds[place], TOLD_QUESTIONS[(place + turn) % len(TOLD_QUESTIONS)]))
    told: dict[str, list[tuple[str, str]]] = {kind: [] for kind in kinds}
    with Progress(len(wanted), "what the language model says of things", "answer") as bar:
        for start in range(0, len(wanted), batch_size):
            part = wanted[start : start + batch_size]
            asked = [[{"type": "text", "text": told_prompt(phrases[kind], question)}] for kind, question in part]
            for (kind, question), answer in zip(part, _answer(model, processor, asked, MAX_TOLD_TOKENS)):
                sentence = re.match(r".*?[.!?](?=\s|$)", answer)  # one that broke off is no answer
                if sentence:
                    told[kind].append((question, sentence.group()))
            bar.update(len(part))
    return told


def told_prompt(phrase: str, question: str) -> str:
    return f"This is about {phrase}. {question} Answer in one short sentence."


@torch.no_grad()
def _answer(model, processor, asked: list[list[dict]], max_tokens: int) -> list[str]:
    """Return greedy answers to users' messages, each a list of content parts."""
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": content}] for content in asked],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"text_kwargs": {"padding": True}},
    )
    made = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    texts = processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]
