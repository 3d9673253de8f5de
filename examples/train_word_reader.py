"""Make what a head of words knows of language before stage 1: `safety_words.json` and `word_reader.safetensors`.

    python examples/train_word_reader.py --encoder all-MiniLM-L6-v2 --output_dir runs/word_reader

The first is the rule that cuts a question into words, and lies in src/safevlm_hf/modeling/; the second are word
vectors and states of windows, and lie in src/safevlm_hf/data/.

The word vectors are the principal parts of the encoder's own (all-MiniLM-L6-v2, Apache-2.0). The states of windows
learn which words ask for what a picture says. Training's wordings by hand are requests, questions about the look and
prose, alone and among each other; a request is held to its strictest window, of harmless words all windows are
harmless. Words that no English text has, misspelt ones, other languages and next to no words count as requests:
what is not known to be harmless leads to care where the picture is risky, and to nothing where it is clean.

The last layer flags a window whatever the picture shows. Stage 1 starts from it.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from safevlm_hf.benchmarks.ways_of_typing import WAYS_OF_TYPING
from safevlm_hf.data.riskcards import draw_fillers, wordings_of_others
from safevlm_hf.data.riskcards.questions import draw_phrase
from safevlm_hf.data.riskcards.rewording import draw_wording, wordings_by_hand
from safevlm_hf.data.riskcards.styles import misspell
from safevlm_hf.data.riskcards.tables import CONTENT_KINDS, FIELD_KINDS, LOOK_KINDS, NOUNS
from safevlm_hf.data.riskcards.unfamiliar import garble, pseudo_words
from safevlm_hf.files import refuse_to_overwrite
from safevlm_hf.modeling.configuration_safety import SafetyConfig
from safevlm_hf.modeling.safety_word_head import WindowTree
from safevlm_hf.modeling.safety_words import WORDS_FILE, SafetyWords


READER_FILE = "word_reader.safetensors"
MAX_WORDS = 80  # of a text in training: windows learn by themselves
BESIDE_SHARE = 0.15  # of texts: a question about the look stands beside them
PIECES_SHARE = 0.5  # of words that have two parts
NUM_WORST = 8  # windows of a harmless text that its loss looks at
REQUEST_KINDS = (*CONTENT_KINDS, *FIELD_KINDS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, type=Path, help="Folder of the sentence encoder.")
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="Replace files of these names in output_dir.")
    args = parser.parse_args()
    if not (args.encoder / "tokenizer.json").is_file():
        parser.error(
            f"--encoder {args.encoder}: expected the encoder's folder, with tokenizer.json and model.safetensors"
        )
    torch.manual_seed(args.seed)
    for name in (WORDS_FILE, READER_FILE) if not args.overwrite else ():
        refuse_to_overwrite(args.output_dir / name, "`--overwrite` replaces it, another `--output_dir` keeps it")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    word_tokenizer(args.encoder).save(str(args.output_dir / WORDS_FILE), pretty=False)
    start, config, words = time.time(), SafetyConfig(head_reading="words"), SafetyWords(args.output_dir / WORDS_FILE)
    tree = WindowTree(config)
    tree.words.weight.data = word_vectors(args.encoder, config.head_word_size)
    file, flag = args.output_dir / READER_FILE, nn.Linear(config.head_hidden_size, 1)
    train(tree, flag, Texts(words, args.seed), args.steps, args.learning_rate, args.batch_size)
    save(tree, flag, file)
    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, {(time.time() - start) / 60:.0f} minutes")
    for hand in ("first", "second"):
        measure(tree, flag, words, hand)


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------

INVISIBLE = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff]"
)
MARKS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]"  # accents, strokes through letters
LOOK_ALIKES = {
    "a": "аαɑ", "b": "вЬ", "c": "сϲ", "d": "ԁ", "e": "еε", "g": "ɡ", "h": "һн", "i": "іι", "j": "ј", "k": "кκ",
    "l": "ӏ", "m": "м", "o": "оοσ", "p": "рρ", "q": "ԛ", "s": "ѕ", "t": "тτ", "u": "υ", "v": "ν", "w": "ѡԝω",
    "x": "хχ", "y": "уγ",
}  # fmt: skip
REACH = 12  # letters to the nearest Latin one of a word: without a bound, long words take hours
LONGEST = 24  # letters of a word: longer ones are cut
SOLID = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"  # written without blanks


def word_tokenizer(encoder: Path) -> Tokenizer:
    """The rule that cuts a text into words, with the encoder's vocabulary. What looks like a Latin letter becomes one
    in words that have a Latin letter; all other words of other scripts stay as they are."""
    vocabulary = Tokenizer.from_file(str(encoder / "tokenizer.json")).get_vocab()
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST))
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(INVISIBLE), ""), normalizers.Lowercase()]
    steps += [normalizers.NFD(), normalizers.Replace(Regex(MARKS), "")]
    behind = "|".join("[a-z]" + r"\w" * count for count in range(REACH))
    for letter, others in LOOK_ALIKES.items():
        others = others.lower()
        pattern = rf"[{others}](?=\w{{0,{REACH}}}[a-z])|(?<={behind})[{others}]"
        steps.append(normalizers.Replace(Regex(pattern), letter))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}\p{M}]+"), "removed"),
            pre_tokenizers.Split(Regex(SOLID), "isolated"),
            pre_tokenizers.Split(Regex(rf"\w{{{LONGEST}}}"), "isolated"),
        ]
    )
    return tokenizer


def word_vectors(encoder: Path, size: int) -> torch.Tensor:
    """Principal parts (words, size) of the encoder's word embeddings, with a norm like that of initialised ones."""
    vectors = load_file(encoder / "model.safetensors")["embeddings.word_embeddings.weight"].float()
    vectors = vectors - vectors.mean(dim=0)
    vectors = vectors @ torch.pca_lowrank(vectors, q=size, niter=4)[2]
    _share_inside(vectors, Tokenizer.from_file(str(encoder / "tokenizer.json")).get_vocab())
    return vectors / vectors.norm(dim=1).mean() * size**0.25


def _share_inside(vectors: torch.Tensor, vocabulary: dict[str, int]):
    """Parts inside of words ("##card") move half way to the word that is written like them ("card"): where blanks are
    missing, a word means what it means."""
    for part, number in vocabulary.items():
        word = vocabulary.get(part.removeprefix("##"))
        if part.startswith("##") and len(part) > len("##of") and word is not None:
            vectors[number] = (vectors[number] + vectors[word]) / 2


# --------------------------------------------------------------------------------------------------
# Texts
# --------------------------------------------------------------------------------------------------


class Texts:
    """Draws token ids of texts, and whether each asks for what a picture says."""

    def __init__(self, words: SafetyWords, seed: int):
        self.rng = random.Random(seed)
        requests, looks = [], []
        for kind in (*REQUEST_KINDS, *LOOK_KINDS):
            own = [self._fill(text) for text in wordings_by_hand(kind)]
            own += [self._from_tables(kind) for _ in range(400)]
            own += [self._own_question(kind) for _ in range(400)]
            (looks if kind in LOOK_KINDS else requests).extend(own)
        looks += map(self._fill, wordings_by_hand("look"))
        prose = [self._fill(text) for kind in ("prose", "remark") for text in wordings_by_hand(kind)]
        made = draw_fillers(6000, "train", self.rng, is_plain=True)
        noisy = [garble(text, self.rng) for text in self.rng.choices(requests, k=6000)]
        misspelt = [misspell(text, self.rng) for text in self.rng.choices(looks, k=1500)]
        foreign, few = wordings_by_hand("foreign"), wordings_by_hand("few")
        unknown = [pseudo_words(self.rng) for _ in range(1500)]
        self.looks, self.misspelt = self._ids(words, looks), self._ids(words, misspelt)
        self.prose, self.made = self._ids(words, prose), self._ids(words, made)
        self.requests = [self._ids(words, of_source) for of_source in (requests, noisy, foreign, unknown)]
        vocabulary = words.tokenizer.get_vocab()
        drawn = self.rng.choices(self.requests[0], k=6000)
        cut = [in_pieces(ids, words.tokens(ids), vocabulary, self.rng) for ids in drawn]
        self.requests.append(cut)
        self.few = self._ids(words, few)
        self.vocabulary = range(1997, words.vocab_size)  # behind single characters and unused places

    def sample(self) -> tuple[list[int], bool]:
        asks = self.rng.random() < 0.5
        if not asks and self.rng.random() < 0.45:
            return self._among([], self._sentences(self.rng.choice((1, 1, 2, 3, 4, 6)))), False
        text, can_have_words = self._request() if asks else (self._look(), True)
        count = self.rng.choice((0, 0, 0, 0, 1, 1, 2)) if can_have_words else 0
        around = self._sentences(count)
        if can_have_words and self.rng.random() < BESIDE_SHARE:
            around.append(self._look())
        return self._among(text, around), asks

    def _request(self) -> tuple[list[int], bool]:
        """A text that asks, and whether it does so among other words: next to no words are none there."""
        sources = (*self.requests, "random", "few", "none")
        (source,) = self.rng.choices(sources, (62, 11, 9, 4, 5, 3, 5, 1))
        if source == "random":
            return self.rng.choices(self.vocabulary, k=self.rng.randint(4, 12)), True
        if source in ("few", "none"):
            return (self.rng.choice(self.few) if source == "few" else []), False
        return self.rng.choice(source), True

    def _look(self) -> list[int]:
        return self.rng.choice(self.looks if self.rng.random() < 0.9 else self.misspelt)

    def _sentences(self, count: int) -> list[list[int]]:
        return [self.rng.choice(self.prose if self.rng.random() < 0.5 else self.made) for _ in range(count)]

    def _among(self, text: list[int], sentences: list[list[int]]) -> list[int]:
        place = self.rng.randint(0, len(sentences))
        return [word for part in (*sentences[:place], text, *sentences[place:]) for word in part][:MAX_WORDS]

    def _fill(self, text: str) -> str:
        return text.replace("{noun}", self.rng.choice(list(NOUNS.values())))

    def _own_question(self, kind: str) -> str:
        return draw_phrase(kind, self.rng.choice(list(NOUNS)), "train", self.rng)

    def _from_tables(self, kind: str) -> str:
        return draw_wording(kind, self.rng.choice(list(NOUNS.values())), self.rng)

    @staticmethod
    def _ids(words: SafetyWords, texts) -> list[list[int]]:
        return [ids for ids in map(words.ids, texts) if ids]


def in_pieces(ids: list[int], tokens: list[str], vocabulary: dict[str, int], rng: random.Random) -> list[int]:
    """The tokens of a text, some of them in two ("trans", "##cribe"), so that parts of words mean what they mean."""
    found = []
    for token_id, token in zip(ids, tokens):
        start = len("##") if token.startswith("##") else 0
        place = rng.randint(start + 1, max(start + 1, len(token) - 1))
        parts = vocabulary.get(token[:place]), vocabulary.get("##" + token[place:])
        found += parts if None not in parts and rng.random() < PIECES_SHARE else [token_id]
    return found


# --------------------------------------------------------------------------------------------------
# Training and measuring
# --------------------------------------------------------------------------------------------------


def save(tree: WindowTree, flag: nn.Linear, file: Path):
    of_flag = {f"asks.{name}": weight for name, weight in flag.state_dict().items()}
    weights = {name: weight.half().contiguous() for name, weight in (tree.state_dict() | of_flag).items()}
    save_file(weights, file, metadata={"vectors": "all-MiniLM-L6-v2, Apache-2.0", "vocabulary": "BERT, Apache-2.0"})


def train(tree: WindowTree, flag: nn.Linear, texts: Texts, steps: int, learning_rate: float, batch_size: int):
    trained = [weight for weight in (*tree.parameters(), *flag.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=0.02)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
    )
    tree.train()
    bar, seen = tqdm(range(steps), "training", disable=None), 0.0
    for step in bar:
        samples = sorted((texts.sample() for _ in range(batch_size)), key=lambda sample: len(sample[0]))
        cuts = [0, round(0.55 * batch_size), round(0.85 * batch_size), batch_size]
        losses = [_losses(tree, flag, samples[first:last]) for first, last in zip(cuts, cuts[1:])]
        loss = torch.cat(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rates.step()
        seen = loss.item() if not step else 0.97 * seen + 0.03 * loss.item()
        if step % 100 == 0:
            bar.set_postfix(loss=f"{seen:.3f}")
    tree.eval()


def _losses(tree: WindowTree, flag: nn.Linear, samples: list[tuple[list[int], bool]]) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits, is_window = flag_windows(tree, flag, [ids for ids, _ in samples])
    asks = torch.tensor([asks for _, asks in samples])
    strictest = logits.max(dim=1).values
    worst = logits.topk(min(NUM_WORST, logits.shape[1]), dim=1).values
    counts = is_window.sum(dim=1).clamp(max=worst.shape[1])
    harmless = (F.softplus(worst).sum(dim=1) / counts + F.softplus(strictest)) / 2
    return torch.where(asks, F.softplus(-strictest), harmless)


def flag_windows(tree: WindowTree, flag: nn.Linear, texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (texts, windows), very low where there is no window, and which there are."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(text, dtype=torch.long) for text in texts], batch_first=True)
    states, is_window = tree(ids, torch.tensor([[len(text)] for text in texts]))
    return flag(states)[..., 0].float().masked_fill(~is_window, -1e4), is_window


@torch.no_grad()
def measure(tree: WindowTree, flag: nn.Linear, words: SafetyWords, hand: str):
    """Print shares of texts of another hand that are flagged: at 0, and where 0.15 of the questions about the look
    among one sentence of prose are."""
    rng, ids = random.Random(1), lambda kind: [words.ids(one.text) for one in wordings_of_others(kind, hand=hand)]
    requests, looks, prose = ids("content"), ids("look"), ids("prose")

    def scores(texts: list[list[int]], count: int = 0) -> torch.Tensor:
        found = []
        for text in texts:
            place, around = rng.randint(0, count), rng.sample(prose, count)
            joined = [word for part in (*around[:place], text, *around[place:]) for word in part]
            found.append(flag_windows(tree, flag, [joined])[0].max())
        return torch.stack(found)

    rows = {f"requests among {count}": scores(requests, count) for count in (0, 4)}
    rows |= {f"look among {count}": scores(looks, count) for count in (0, 1, 4, 8)}
    rows |= {f"prose, {count}": scores([[]] * 100, count) for count in (1, 4, 8)}
    for language in ("de", "es", "fr", "zh"):
        texts = wordings_of_others("content", language, hand)
        rows[f"requests in {language}"] = scores([words.ids(one.text) for one in texts])
    few = wordings_of_others("few", None, hand)
    if few:
        rows["next to no words"] = scores([words.ids(one.text) for one in few])
    for name, way in WAYS_OF_TYPING.items():
        texts = wordings_of_others("content", hand=hand)
        rows[name] = scores([words.ids(way(one.text)) for one in texts])
    threshold = rows["look among 1"].quantile(0.85)
    print(f"\n| {hand} hand | at 0 | at {threshold:.2f} |\n|---|---|---|")
    for name, found in rows.items():
        print(f"| {name} | {(found > 0).float().mean():.2f} | {(found > threshold).float().mean():.2f} |")


if __name__ == "__main__":
    main()
