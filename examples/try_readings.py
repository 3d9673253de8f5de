"""What the promise costs: a sentence encoder reads the whole text, or only windows of which the strictest decides.

    python examples/try_readings.py --encoder all-MiniLM-L6-v2

A head that promises that no words around a request soften its verdict can only read windows: whatever flags a run of
words flags every text that holds it. So no run of a harmless text may be flagged. Three readings of words alone,
without a picture, are asked for the open part of other hands' wordings: the encoder's frozen vector of the whole text
with a small classifier, its frozen vectors of windows with the same classifier trained on the strictest, and the tree
of this package (data/word_reader.safetensors), which costs next to nothing. Training's lines are those of the tree.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from safevlm_hf.checkpoints.word_reader import WORD_READER
from safevlm_hf.data.riskcards import wordings_of_others
from safevlm_hf.data.riskcards.rewording import wordings_by_hand
from safevlm_hf.data.riskcards.tables import CONTENT_KINDS, FIELD_KINDS, LOOK_KINDS, NOUNS
from safevlm_hf.intervals.figure import counted_share
from safevlm_hf.modeling.configuration_safety import SafetyConfig
from safevlm_hf.modeling.safety_word_head import WindowTree
from safevlm_hf.modeling.safety_words import SafetyWords


Text = tuple[int, ...]
HANDS = ("first", "second", "language_model")
KINDS = ("content", "look")
REQUESTS, LOOKS, PROSE = (*CONTENT_KINDS, *FIELD_KINDS), (*LOOK_KINDS, "look"), ("prose", "remark")
SIZES = (4, 5, 6, 7, 8, 10, 12, 16, 24, 32)
LONGEST = 40  # tokens of a line of training
FIRST, LAST = 101, 102  # the encoder's [CLS] and [SEP]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, type=Path, help="Folder of all-MiniLM-L6-v2.")
    parser.add_argument("--num_lines", type=int, default=5000, help="Of training: requests, looks and prose, each.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.encoder / "model.safetensors").is_file():
        parser.error(
            f"--encoder {args.encoder}: expected the encoder's folder, with config.json and model.safetensors"
        )
    torch.manual_seed(args.seed)
    words, rng = SafetyWords(), random.Random(args.seed)
    trained = [draw_lines(kinds, words, args.num_lines, rng) for kinds in (REQUESTS, LOOKS, PROSE)]
    held_out = {
        (hand, kind): [tuple(words.ids(one.text)) for one in wordings_of_others(kind, hand=hand)]
        for hand in HANDS
        for kind in KINDS
    }
    texts = {text for own in (*trained, *held_out.values()) for text in own}
    vectors = Vectors(args.encoder, {run for text in texts for run in (text, *windows(text))})
    print("| reading | hand | requests, flagged | questions about the look, flagged |\n|---|---|---|---|")
    for name, cut in {"whole text": lambda text: [text], "strictest window": windows}.items():
        score = train(trained, cut, vectors, args.steps, rng)
        print_rows(f"sentence encoder, {name}", held_out, score)
    print_rows("this package's tree, strictest window", held_out, tree_score())


def draw_lines(kinds: Iterable[str], words: SafetyWords, count: int, rng: random.Random) -> list[Text]:
    nouns = list(NOUNS.values())
    texts = [text.replace("{noun}", rng.choice(nouns)) for kind in kinds for text in wordings_by_hand(kind)]
    ids = [tuple(words.ids(text)) for text in rng.sample(texts, min(count, len(texts)))]
    return [text for text in ids if 0 < len(text) <= LONGEST]


def windows(text: Text) -> list[Text]:
    """Runs of the text; the text itself where it is shorter than all of them."""
    found = [text[start : start + size] for size in SIZES for start in range(len(text) - size + 1)]
    return found or [text]


class Vectors:
    """The encoder's mean of its last states, of unit length, for each of many short runs of tokens."""

    def __init__(self, encoder: Path, runs: set[Text]):
        self.model = AutoModel.from_pretrained(encoder).eval()
        order, start = sorted(runs, key=len), time.time()
        self.places = {run: place for place, run in enumerate(order)}
        self.table = torch.cat([self._encode(order[at : at + 512]) for at in range(0, len(order), 512)])
        print(f"{len(order)} runs of tokens, {time.time() - start:.0f} s", flush=True)

    @torch.no_grad()
    def _encode(self, runs: list[Text]) -> torch.Tensor:
        rows = [torch.tensor((FIRST, *run, LAST)) for run in runs]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        is_token = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.model(input_ids=ids, attention_mask=is_token.long()).last_hidden_state.float()
        return F.normalize((states * is_token[..., None]).sum(dim=1), dim=-1).half()

    def __call__(self, runs: list[Text]) -> torch.Tensor:
        return self.table[[self.places[run] for run in runs]].float()


def train(trained: list[list[Text]], cut: Callable, vectors: Vectors, steps: int, rng: random.Random) -> Callable:
    """Return a function from a text to the logit of its strictest run, of a classifier that was trained on it."""
    size = vectors.table.shape[1]
    layers = [nn.Linear(size, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 512), nn.GELU(), nn.Dropout(0.1)]
    classifier = nn.Sequential(*layers, nn.Linear(512, 1))
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    requests, looks, prose = trained
    for _ in range(steps):
        batch = [cut(text) for text in (*rng.choices(requests, k=128), *rng.choices(looks, k=83))]
        batch += [cut(text) for text in rng.choices(prose, k=45)]
        asks = torch.arange(len(batch)) < 128
        logits = classifier(vectors([run for runs in batch for run in runs]))[:, 0]
        strictest = torch.stack([part.max() for part in logits.split([len(runs) for runs in batch])])
        loss = F.binary_cross_entropy_with_logits(strictest, asks.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier.eval()
    return torch.no_grad()(lambda text: classifier(vectors(cut(text))).max().item())


def tree_score() -> Callable:
    config, stored = SafetyConfig(head_reading="words"), load_file(WORD_READER)
    tree, flag = WindowTree(config).eval(), nn.Linear(config.head_hidden_size, 1)
    tree.load_state_dict({name: stored[name].float() for name in tree.state_dict()})
    flag.load_state_dict({name: stored[f"asks.{name}"].float() for name in flag.state_dict()})

    @torch.no_grad()
    def score(text: Text) -> float:
        states, is_window = tree(torch.tensor([text]), torch.tensor([[len(text)]]))
        return flag(states)[..., 0][is_window].max().item()

    return score


def print_rows(reading: str, held_out: dict[tuple[str, str], list[Text]], score: Callable):
    for hand in HANDS:
        found = ([score(text) > 0 for text in held_out[hand, kind]] for kind in KINDS)
        rates = [counted_share("flagged_rate", hits) for hits in found]
        shares = (f"{rate.value:.2f} ({rate.interval[0]:.2f} to {rate.interval[1]:.2f})" for rate in rates)
        print(f"| {reading} | {hand} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
