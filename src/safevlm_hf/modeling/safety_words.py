"""Words of a question, as the head reads them with `head_reading="words"`: tokens of its own, whatever backbone.

A text is normalised (compatible forms, case, accents, invisible characters, look-alike letters of other scripts in
Latin words), cut where no letter or digit stands, and each word is tokenised by itself. So no seam, blank or sign
between two words changes either. The rule is a file of the `tokenizers` library, `safety_words.json`, which every
checkpoint carries; its vocabulary is BERT's (uncased).
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from .question_mask import QuestionSpans


WORDS_FILE = "safety_words.json"
# This is the SHA-256 of how the package's own file normalises.
KNOWN_RULE = "3fff41b372620289f2373755803f1cd95583ccf4f6e367d948f6a2907d62e0cc"
NO_TURN = 0  # rows of `question_ids` are filled up with it


class SafetyWords:
    """
    Rule that turns texts into the tokens that the head reads.

    Args:
        file: a `safety_words.json`; this package's own if unset.
    """

    def __init__(self, file: str | Path | None = None):
        self.file = Path(__file__).parent / WORDS_FILE if file is None else Path(file)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(self.file)).backend_tokenizer
        # Of this package's rule, lower case is all that ASCII text notices. A tokenizer that does no more gives the
        # same tokens some twenty times as fast. Another rule stays as it is.
        self._ascii_tokenizer = self.tokenizer
        state = json.loads(self.tokenizer.to_str())
        rule = json.dumps(state["normalizer"], sort_keys=True).encode()
        if hashlib.sha256(rule).hexdigest() == KNOWN_RULE:
            lower = json.dumps({**state, "normalizer": {"type": "Lowercase"}})
            self._ascii_tokenizer = type(self.tokenizer).from_str(lower)

    def __deepcopy__(self, memo) -> "SafetyWords":
        return self  # nothing changes it

    def save(self, folder: str | Path):
        """Copy the file into a folder."""
        target = Path(folder) / WORDS_FILE
        if not target.exists() or not target.samefile(self.file):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file, target)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text; none where it holds neither letter nor digit."""
        found: list[int] = []
        for is_ascii, parts in groupby(text.split(), key=str.isascii):  # no rule of the file reaches over a blank
            tokenizer = self._ascii_tokenizer if is_ascii else self.tokenizer
            found += tokenizer.encode(" ".join(parts), add_special_tokens=False).ids
        return found

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.tokenizer.id_to_token(token_id) for token_id in ids]

    def of_spans(self, text: str, spans: Iterable[tuple[int, int, int]]) -> list[list[int]]:
        """Return [token id, turn] of each word in the spans (start, end, turn) of a text."""
        return [[token, turn] for start, end, turn in spans for token in self.ids(text[start:end])]

    def of_prompt(self, text: str, spans: QuestionSpans | None, special_tokens: Sequence[str]) -> list[list[int]]:
        """Return [token id, turn] of each word in a rendered prompt: of what users said or, where that is not known,
        of all of its text but the tokenizer's special tokens."""
        if spans is not None and spans.text == text:
            return self.of_spans(text, spans.spans)
        longest_first = sorted(filter(None, special_tokens), key=len, reverse=True)
        plain = re.sub("|".join(map(re.escape, longest_first)), " ", text) if longest_first else text
        return [[token, 1] for token in self.ids(plain)]

    def of_tokens(self, tokenizer, input_ids: torch.LongTensor, turns: torch.LongTensor) -> torch.LongTensor:
        """
        Read the words in a prompt's tokens, by the language model's tokenizer.

        Args:
            input_ids, turns: (batch, length); `turns` is 0 outside of the question.

        Returns:
            `question_ids`, (batch, words, 2), filled up with zeros.
        """
        rows = []
        for ids, row_turns in zip(input_ids.tolist(), turns.tolist()):
            words, run = [], []
            for place, (token, turn) in enumerate(zip(ids, row_turns)):
                run.append(token)
                following = row_turns[place + 1] if place + 1 < len(ids) else None
                if following == turn:
                    continue  # a run of one turn is decoded as a whole: a word may have several tokens
                if turn != NO_TURN:
                    text = tokenizer.decode(run, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                    words += [[word, turn] for word in self.ids(text)]
                run = []
            rows.append(words)
        return torch.tensor(fill_up(rows), device=input_ids.device)


def fill_up(rows: list[list[list[int]]]) -> list[list[list[int]]]:
    """Fill up rows of [token id, turn], at least one in each, of one length: no turn is 0."""
    length = max([1, *map(len, rows)])
    return [row + [[0, NO_TURN]] * (length - len(row)) for row in rows]


@lru_cache(maxsize=4)
def load_words(checkpoint: str | None, is_required: bool = False, **source) -> SafetyWords:
    """
    Return the words of a checkpoint, or this package's where it carries none, as a stock one or none at all.

    Args:
        checkpoint: folder or Hub id.
        is_required: whether its head was trained on the rule that it carries.
        source: arguments of `from_pretrained` that say where it lies (`revision`, `token`, `subfolder`, ...).

    Raises:
        OSError: it carries none, and has to.
    """
    file = None
    if checkpoint:
        file = cached_file(checkpoint, WORDS_FILE, **source, _raise_exceptions_for_missing_entries=False)
    if file is None and is_required:
        raise OSError(
            f"{checkpoint} has no {WORDS_FILE}, the rule by which its head reads a question's words, and another rule "
            "may hide what is asked: copy the file from where the checkpoint was saved."
        )
    return SafetyWords(file)
