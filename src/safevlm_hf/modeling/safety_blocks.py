"""Tokens inside an image's block: families with rows or tiles write structure tokens there, and nothing else may stand
between the image positions of one image. Text there would be no question, so that nobody would judge it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.utils import logging, torch_compilable_check

from .safety_inputs import SafetyInputs, inside_blocks


logger = logging.get_logger(__name__)

MAX_TOLD = 6  # parts of a layout in an error


@dataclass(frozen=True)
class Layout:
    """Layout in which the processor writes a picture: image positions in a row, and the structure tokens between such
    runs.

    Args:
        runs: positions of each run; 0 at the ends where a picture begins or ends with structure tokens.
        between: the tokens between each run and the next. Each line break is an entry; tokenizers may join them.
    """

    runs: list[int]
    between: Sequence[tuple[str, ...]]

    def with_safety(self, before: int, after: int) -> "Layout":
        """Return the layout of the block, with s(2) in front and c behind. Without them the outermost structure tokens
        stand around the block, not in it."""
        runs = [*self.runs]
        runs[0] += before
        runs[-1] += after
        first, end = int(not runs[0]), len(runs) - int(not runs[-1])
        return Layout(runs[first:end], self.between[first : end - 1])

    def __str__(self) -> str:
        tokens = [repr("".join(between)) for between in self.between] + [""]
        parts = [part for run, between in zip(self.runs, tokens) for part in (f"{run} image tokens", between) if part]
        return ", ".join(parts if len(parts) <= MAX_TOLD else [*parts[:MAX_TOLD], "..."])


def grids_of(number: int) -> list[tuple[int, int]]:
    """Return all (rows, columns) of so many parts."""
    return [(rows, number // rows) for rows in range(1, number + 1) if number % rows == 0]


def check_runs(model, image_mask: torch.BoolTensor, block_lengths: list[int]):
    """Raise `ValueError` where an image's positions do not stand in a row, for a family without structure tokens."""
    torch_compilable_check(
        ~inside_blocks(image_mask, block_lengths).any(),
        "A token stands between the image tokens of one image. Expected each image's in a row, "
        f"{_told(block_lengths)} of them: prepare the inputs with {model.config.class_prefix}Processor, and write "
        "nothing between its image tokens.",
    )


def check_structure(model, safety_inputs: SafetyInputs, block_lengths: list[int]):
    """
    Raise `ValueError` for a block that is not as the processor writes it, for a family with structure tokens.

    Images in a cache do not tell in how many rows and columns they were written, so each grid of so many will do.

    Args:
        model: a base model with `block_layouts`.
        safety_inputs: of whole prompts, with `image_mask`.
        block_lengths: image positions of each image.
    """
    safety = model.config.safety_config
    extra = (safety.num_safety_tokens, safety.num_condition_tokens)
    positions = iter(safety_inputs.image_mask.nonzero().tolist())
    known: dict[str, torch.Tensor] = {}
    for number, length in enumerate(block_lengths):
        block = [next(positions) for _ in range(length)]
        row, columns = block[0][0], [column for _, column in block]
        starts = [place for place in range(1, length) if columns[place] > columns[place - 1] + 1]  # a run begins there
        runs = [end - start for start, end in pairwise([0, *starts, length])]
        found = [safety_inputs.text_embeds[row, columns[place - 1] + 1 : columns[place]] for place in starts]
        layouts = [layout.with_safety(*extra) for layout in model.block_layouts(length - sum(extra))]
        if not any(layout.runs == runs and _matches(model, layout.between, found, known) for layout in layouts):
            raise ValueError(
                f"A token stands between the image tokens of image {number} (sample {row}) that "
                f"{model.config.class_prefix}Processor does not write there, or one that it writes is missing. "
                f"Expected {' or '.join(map(str, layouts[:3]))}; got {_told(runs)} image tokens in a row: prepare the "
                "inputs with the processor, and change nothing between its image tokens."
            )


def _told(numbers: list[int]) -> str:
    return ", ".join([*map(str, numbers[:MAX_TOLD]), *(["..."] if len(numbers) > MAX_TOLD else [])])


def _matches(
    model, expected: Sequence[tuple[str, ...]], found: list[torch.Tensor], known: dict[str, torch.Tensor]
) -> bool:
    """Tell whether the embeddings `found`, (tokens, hidden) each, are those of the structure tokens. `known` keeps
    those of each structure token, for a model without a tokenizer."""
    checkpoint = (getattr(model.config, "_name_or_path", None), getattr(model.config, "_commit_hash", None))
    ids = [structure_ids(*checkpoint, model.config.image_token_id, between) for between in expected]
    if None in ids:
        logger.warning_once(
            "No tokenizer was found with this model, so that the structure tokens inside its image blocks are known "
            "by their places and number alone: load the model from a checkpoint that holds its processor."
        )
        return all(_could_be(*pair, known) for pair in zip(expected, found))
    if [*map(len, ids)] != [*map(len, found)]:
        return False
    if model.training or not found:  # training may add noise to embeddings
        return True
    embeds = torch.cat(found)
    wanted = torch.tensor([token_id for own in ids for token_id in own], device=embeds.device)
    return torch.equal(model.get_input_embeddings()(wanted).to(embeds), embeds)


def _could_be(expected: tuple[str, ...], found: torch.Tensor, known: dict[str, torch.Tensor]) -> bool:
    """Tell whether these may be the structure tokens: as many of them, and each the same wherever it stands."""
    if len(found) != len(expected):
        return len(found) < len(expected) and "\n" in expected  # tokenizers may join line breaks
    return all(torch.equal(known.setdefault(name, token), token) for name, token in zip(expected, found))


@lru_cache(maxsize=4)
def load_tokenizer(name_or_path: str, revision: str | None):
    """Load the tokenizer that lies with a checkpoint."""
    # Token ids need no code of the tokenizer's, and the library must not ask on stdin in the middle of an answer.
    return AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)


@lru_cache(maxsize=1024)
def structure_ids(
    name_or_path: str | None, revision: str | None, image_token_id: int, tokens: tuple[str, ...]
) -> tuple[int, ...] | None:
    """Return the ids of structure tokens between two image tokens; `None` where no tokenizer that knows these lies
    with the checkpoint."""
    if not name_or_path:
        return None
    try:
        tokenizer = load_tokenizer(name_or_path, revision)
    except (OSError, ValueError):
        return None
    image_token = tokenizer.convert_ids_to_tokens(image_token_id)
    ids = tokenizer.encode(f"{image_token}{''.join(tokens)}{image_token}", add_special_tokens=False)
    places = [place for place, token_id in enumerate(ids) if token_id == image_token_id]
    return tuple(ids[places[0] + 1 : places[-1]]) if len(places) == 2 else None
