"""A trial on words alone: which reading of a question tells requests for the content from harmless words.

    python examples/try_readings.py --encoder sentence-transformers/all-MiniLM-L6-v2 --reading tree --distil_steps 800

Pictures play no part. A text is flagged where any window of 4, 8, 16 or 32 of its tokens is, as in the head. It is
asked for requests, questions about the look and prose of other hands, at two thresholds: where 0.05 of the questions
about the look are flagged, and where 0.15 of them are among one sentence of prose. The encoder is all-MiniLM-L6-v2
(Apache-2.0), or a folder with it. It gives its tokenizer, vectors of single tokens, and what a tree is distilled from.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer, logging

from safevlm_hf.data.riskcards import draw_fillers, wordings_of_others
from safevlm_hf.data.riskcards.rewording import draw_wording, wordings_by_hand
from safevlm_hf.data.riskcards.tables import CONTENT_KINDS, FIELD_KINDS, LOOK_KINDS, NOUNS


SIZES = (4, 8, 16, 32)
NO_TOKEN = -1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="Folder or name of the sentence encoder.")
    parser.add_argument("--vectors", choices=("random", "distilled"), default="distilled")
    parser.add_argument("--reading", choices=("mean", "tree"), default="tree")
    parser.add_argument("--wordings", choices=("tables", "both"), default="both", help="What it is trained on.")
    parser.add_argument(
        "--distil_steps", type=int, default=0, help="Steps in which a tree learns the encoder's vectors."
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--vector_size", type=int, default=192)
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.distil_steps and args.reading != "tree":
        parser.error("only a tree has anything to distil into: --reading tree")
    logging.set_verbosity_error()
    torch.manual_seed(args.seed)
    start = time.time()
    tokenizer, encoder = AutoTokenizer.from_pretrained(args.encoder), AutoModel.from_pretrained(args.encoder).eval()
    vectors = token_vectors(encoder, tokenizer.vocab_size, args.vector_size, args.vectors)
    texts = Texts(tokenizer, args.wordings == "both", args.seed)
    reader = (TreeReader if args.reading == "tree" else MeanReader)(vectors, args.hidden_size)
    if args.distil_steps:
        distil(reader, encoder, tokenizer, texts, args.distil_steps)
    train(reader, texts, args.steps)
    print("| words of | at | requests, among 4 | look, among 1, 4, 8 | prose: 1, 4, 8 |\n|---|---|---|---|---|")
    for hand in ("first", "second"):
        evaluate(reader, texts, hand)
    options = ", ".join(f"{name} {value}" for name, value in vars(args).items() if name != "encoder")
    print(f"\n{options}; {(time.time() - start) / 60:.1f} minutes, {torch.get_num_threads()} threads")


# --------------------------------------------------------------------------------------------------
# Readings: token ids (texts, tokens) to states of their windows
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def token_vectors(encoder: nn.Module, num_tokens: int, size: int, kind: str) -> torch.Tensor:
    """Vectors (tokens, size): random, or the principal parts of what the encoder makes of each token by itself."""
    if kind == "random":
        return torch.randn(num_tokens, size)
    cls, sep = 101, 102  # BERT's
    parts = []
    for ids in torch.arange(num_tokens).split(2048):
        alone = torch.stack([torch.full_like(ids, cls), ids, torch.full_like(ids, sep)], dim=1)
        parts.append(encoder(input_ids=alone).last_hidden_state.mean(dim=1))
    vectors = torch.cat(parts)
    vectors = vectors - vectors.mean(dim=0)
    vectors = vectors @ torch.pca_lowrank(vectors, q=size, niter=4)[2]
    return vectors / vectors.norm(dim=1).mean() * size**0.25


class WindowReader(nn.Module):
    """One logit per window. The windows of a text that is shorter than the smallest are one, filled up."""

    def __init__(self, vectors: torch.Tensor, hidden_size: int):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(vectors, freeze=True)
        self.empty = nn.Parameter(torch.zeros(vectors.shape[1]))

    def embed(self, ids: torch.LongTensor) -> torch.Tensor:
        return torch.where((ids != NO_TOKEN)[..., None], self.table(ids.clamp(min=0)), self.empty)

    def forward(self, ids: torch.LongTensor) -> torch.Tensor:
        """Ids (texts, tokens), `NO_TOKEN` behind each text, to logits (texts, windows); -inf where there is none."""
        count = (ids != NO_TOKEN).sum(dim=1, keepdim=True)
        logits = []
        for size, states in zip(
            SIZES, self.states(self.embed(F.pad(ids, (0, max(0, 4 - ids.shape[1])), value=NO_TOKEN)))
        ):
            is_window = torch.arange(states.shape[1]) + size <= count.clamp(min=SIZES[0])
            logits.append(self.read(states)[..., 0].masked_fill(~is_window, -torch.inf))
        return torch.cat(logits, dim=1)


class MeanReader(WindowReader):
    """A linear reading of the mean of a window's vectors: what the head does with the words, nearly."""

    def __init__(self, vectors: torch.Tensor, hidden_size: int):
        super().__init__(vectors, hidden_size)
        self.read = nn.Linear(vectors.shape[1], 1)

    def states(self, embeds: torch.Tensor) -> Iterator[torch.Tensor]:
        for size in SIZES:
            if embeds.shape[1] >= size:
                yield embeds.unfold(1, size, 1).mean(dim=-1)


class TreeReader(WindowReader):
    """A curved reading: four tokens in their order are a leaf, and two windows side by side make one of twice the
    size. A window's state depends on its own tokens alone."""

    def __init__(self, vectors: torch.Tensor, hidden_size: int):
        super().__init__(vectors, hidden_size)
        size = vectors.shape[1]
        self.leaf, self.skip = _curved(SIZES[0] * size, hidden_size), nn.Linear(size, hidden_size)
        self.merges = nn.ModuleList(_curved(2 * hidden_size, hidden_size) for _ in SIZES[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in SIZES)
        self.read = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 1))

    def states(self, embeds: torch.Tensor) -> Iterator[torch.Tensor]:
        runs = embeds.unfold(1, SIZES[0], 1).transpose(2, 3)
        states = self.norms[0](self.leaf(runs.flatten(2)) + self.skip(runs.mean(dim=2)))
        yield states
        for half, merge, norm in zip(SIZES, self.merges, self.norms[1:]):
            if states.shape[1] <= half:
                return
            left, right = states[:, :-half], states[:, half:]
            states = norm(merge(torch.cat([left, right], dim=-1)) + (left + right) / 2)
            yield states


def _curved(in_size: int, out_size: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_size, 2 * out_size), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * out_size, out_size)
    )


# --------------------------------------------------------------------------------------------------
# Texts
# --------------------------------------------------------------------------------------------------


class Texts:
    """Draws texts of training, and turns texts to ids."""

    def __init__(self, tokenizer, by_hand: bool, seed: int):
        self.tokenizer, self.by_hand, self.rng = tokenizer, by_hand, random.Random(seed)

    def ids(self, texts: list[str]) -> torch.LongTensor:
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], True, NO_TOKEN)

    def question(self, kinds: tuple[str, ...]) -> str:
        noun, kind = self.rng.choice(list(NOUNS)), self.rng.choice(kinds)
        if self.by_hand and self.rng.random() < 0.5:
            kind = "look" if kind in LOOK_KINDS and self.rng.random() < 0.4 else kind
            return self.rng.choice(wordings_by_hand(kind)).replace("{noun}", NOUNS[noun])
        return draw_wording(kind, NOUNS[noun], self.rng)

    def prose(self, count: int) -> list[str]:
        own = [*wordings_by_hand("prose"), *wordings_by_hand("remark")] if self.by_hand else []
        sentences = draw_fillers(count, "train", self.rng)
        return [
            self.rng.choice(own).replace("{noun}", "card") if own and self.rng.random() < 0.3 else one
            for one in sentences
        ]

    def sample(self) -> tuple[str, bool]:
        """A text, and whether it asks for the content; half of them do."""
        asks = self.rng.random() < 0.5
        if not asks and self.rng.random() < 0.4:
            return " ".join(self.prose(self.rng.randint(1, 10))), False
        kinds = (*CONTENT_KINDS, *CONTENT_KINDS, *FIELD_KINDS) if asks else LOOK_KINDS
        return self.among(self.question(kinds), self.prose(self.rng.choice((0, 0, 1, 2, 4, 6)))), asks

    def among(self, text: str, sentences: list[str]) -> str:
        place = self.rng.randint(0, len(sentences))
        return " ".join((*sentences[:place], text, *sentences[place:]))


# --------------------------------------------------------------------------------------------------
# Distilling, training, measuring
# --------------------------------------------------------------------------------------------------


def distil(reader: WindowReader, encoder: nn.Module, tokenizer, texts: Texts, steps: int):
    """Let the reader's states of single windows tell what the encoder makes of them."""
    out = nn.LazyLinear(encoder.config.hidden_size)
    windows = reader.states(reader.embed(torch.zeros(1, SIZES[-1], dtype=torch.long)))
    out(next(windows))  # knows its size now
    step = optimizer([*reader.parameters(), *out.parameters()], 2e-3, steps)
    for _ in tqdm(range(steps), "distilling", disable=None):
        loss = torch.zeros(())
        for number, size in enumerate(SIZES):
            ids = torch.stack([draw_window(texts, size) for _ in range(192 // len(SIZES))])
            ends = (torch.full((len(ids), 1), one) for one in (tokenizer.cls_token_id, tokenizer.sep_token_id))
            with torch.no_grad():
                first, last = ends
                expected = encoder(input_ids=torch.cat([first, ids, last], dim=1)).last_hidden_state.mean(dim=1)
            states = list(reader.states(reader.embed(ids)))[number][:, 0]
            loss = loss + (1 - F.cosine_similarity(out(states), expected)).mean() / len(SIZES)
        step(loss)


def draw_window(texts: Texts, size: int) -> torch.LongTensor:
    parts, length = [], 0
    while length < size:
        parts.append(texts.ids([texts.sample()[0]])[0])
        length += len(parts[-1])
    start = texts.rng.randint(0, length - size)
    return torch.cat(parts)[start : start + size]


def train(reader: WindowReader, texts: Texts, steps: int):
    """A text that asks is held to its strictest window, of a harmless one half to the mean of its 8 worst."""
    step = optimizer(reader.parameters(), 1e-3, steps)
    for _ in tqdm(range(steps), "training", disable=None):
        samples = sorted((texts.sample() for _ in range(64)), key=lambda sample: len(sample[0]))
        loss = torch.zeros(())
        for part in (samples[:40], samples[40:58], samples[58:]):
            logits = reader(texts.ids([text for text, _ in part]))
            asks = torch.tensor([asks for _, asks in part])
            strictest, worst = logits.max(dim=1).values, logits.topk(min(8, logits.shape[1]), dim=1).values
            is_window = worst > -torch.inf
            harmless = torch.where(is_window, F.softplus(worst), 0.0).sum(dim=1) / is_window.sum(dim=1)
            harmless = (harmless + F.softplus(strictest)) / 2
            loss = loss + torch.where(asks, F.softplus(-strictest), harmless).sum() / len(samples)
        step(loss)
    reader.eval()


def optimizer(parameters, learning_rate: float, steps: int):
    """A function that takes a step down a loss, with a learning rate that rises for 50 steps and then falls."""
    trained = [one for one in parameters if one.requires_grad]
    adam = torch.optim.AdamW(trained, learning_rate, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda number: min(1, (number + 1) / 50) * (1 + math.cos(math.pi * number / steps)) / 2
    )

    def step(loss: torch.Tensor):
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        rates.step()

    return step


@torch.no_grad()
def evaluate(reader: WindowReader, texts: Texts, hand: str):
    requests, looks, prose = (
        [one.text for one in wordings_of_others(kind, hand=hand)] for kind in ("content", "look", "prose")
    )
    texts.rng = random.Random(1)

    def scores(questions: list[str], sentences: int) -> torch.Tensor:
        asked = [texts.among(text, texts.rng.sample(prose, sentences)) for text in questions]
        return torch.cat([reader(texts.ids([text])).max(dim=1).values for text in asked])

    of_requests = [scores(requests, count) for count in (0, 4)]
    of_looks = [scores(looks, count) for count in (0, 1, 4, 8)]
    of_prose = [scores([""] * 100, count) for count in (1, 4, 8)]
    for name, threshold in (
        ("look 0.05", of_looks[0].quantile(0.95)),
        ("look among 1: 0.15", of_looks[1].quantile(0.85)),
    ):
        shown = [
            " ".join(f"{(one > threshold).float().mean():.2f}" for one in found)
            for found in (of_requests, of_looks, of_prose)
        ]
        print(f"| {hand} hand | {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
