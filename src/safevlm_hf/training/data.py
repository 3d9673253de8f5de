"""The records of a run: loaded or drawn, filtered, mixed with old ones."""

import logging
import random
from pathlib import Path

from ..data.hub import find_records
from ..data.records import load_records
from ..data.riskcards import NEW_CATEGORY, write_riskcards
from ..extras import needs_extra
from .arguments import PAPER_CLEAN_SHARE


with needs_extra("train"):
    from datasets import concatenate_datasets


logger = logging.getLogger(__name__)

NUM_REPLAYED_RISKCARDS = 3600  # at most; `replay_share` says how many of them


def load_data(stage: int, data_args, safety_config, seed: int):
    """Return training and validation records; RiskCards where no file is named."""
    if data_args.train_file is None:
        train_file, validation_file, replay_file = draw_files(stage, data_args, safety_config, seed)
    else:
        train_file, validation_file, replay_file = find_files(data_args)
    assert train_file is not None, "training records are named, or drawn"
    names = {"categories": safety_config.categories, "levels": safety_config.levels}
    options = {"image_root": data_args.image_root, "skip_bad_records": data_args.skip_bad_records}
    records = with_lengths(load_records(train_file, **names, **options))
    if stage == 1:
        records = with_images(records)
    if data_args.train_file is not None and data_args.clean_share is not None:
        records = with_clean_share(records, data_args.clean_share, seed)
    if replay_file is not None:
        replay = with_lengths(load_records(replay_file, **names, **options))
        records = with_replay(records, with_images(replay) if stage == 1 else replay, data_args.replay_share, seed)
    if validation_file is None:
        return records, None
    held_out = with_lengths(load_records(validation_file, **names, **options))
    _warn_of_shared_images(records, held_out)  # they stay in: a user may want the figures, knowing what they are
    if len(held_out) > data_args.max_eval_samples:
        logger.warning(
            "Judging %d of %d validation records (--max_eval_samples).", data_args.max_eval_samples, len(held_out)
        )
        held_out = held_out.shuffle(seed=seed).select(range(data_args.max_eval_samples))
    return records, held_out


def find_files(data_args) -> list[Path | None]:
    """Return what to train on, to judge, and to replay, as far as it is named; a data set becomes a file of
    records."""
    named = (
        (data_args.train_file, "train"),
        (data_args.validation_file, "validation"),
        (data_args.replay_file, "train"),
    )
    return [None if name is None else find_records(name, split) for name, split in named]


def _warn_of_shared_images(records, held_out):
    trained = {image for images in records["images"] for image in images}
    shared = sum(any(image in trained for image in images) for images in held_out["images"])
    if shared:
        logger.warning(
            "%d of %d validation records show a picture that is trained on: what is measured on them is no held-out "
            "figure.",
            shared,
            len(held_out),
        )


def draw_files(stage: int, data_args, safety_config, seed: int) -> list[Path | None]:
    """Draw RiskCards to train on, to judge, and to replay where there is a new category; those that are named stay."""
    clean_share = data_args.clean_share
    if clean_share is None:
        clean_share = PAPER_CLEAN_SHARE if stage == 1 else 0.5
    has_new = NEW_CATEGORY in safety_config.categories
    folder = Path(data_args.riskcards_dir) / f"seed{seed}"
    new = folder.with_name(f"{folder.name}-{NEW_CATEGORY}") if has_new else folder
    options = {"new_category": has_new, "varied_shapes": data_args.varied_shapes}
    stage_options = {} if stage == 1 else {"surroundings": "mixed-short", "num_text_only": data_args.num_text_only}
    train_file = write_riskcards(new, "train", data_args.num_riskcards, seed, clean_share, **stage_options, **options)
    validation_file = data_args.validation_file or write_riskcards(
        new, "validation", data_args.max_eval_samples, seed, **options
    )
    replay_file = data_args.replay_file
    # A new category is trained beside the old RiskCards, or the head would forget the old categories.
    if has_new and replay_file is None:
        replay_file = write_riskcards(
            folder, "train", NUM_REPLAYED_RISKCARDS, seed, clean_share, varied_shapes=data_args.varied_shapes
        )
    return [train_file, validation_file, replay_file]


def with_lengths(records):
    """Add a column `length` for `--train_sampling_strategy group_by_length`: how long all texts are, so that a long
    conversation pads no batch of short questions.

    It holds powers of two from 256 on: sorted to the character, a batch of short ones would hold one question again
    and again, and so one label."""
    characters = [
        sum(len(part["text"] or "") for message in messages for part in message["content"])
        for messages in records["messages"]
    ]
    return records.add_column("length", [max(256, 1 << count.bit_length()) for count in characters])


def with_images(records):
    """Leave out plain text, in which the safety modules have no part; log what is left out."""
    kept = [index for index, images in enumerate(records["images"]) if images]
    if not kept:
        raise ValueError("Stage 1 trains on images, and no record has one.")
    if len(kept) < len(records):
        logger.warning("Records without an image, which stage 1 leaves out: %d.", len(records) - len(kept))
    return records.select(kept)


def with_clean_share(records, clean_share: float, seed: int):
    """Return all risky records, and clean ones up to `clean_share` of the whole, at least one where it is over 0,
    chosen by `seed`; log what is left out."""
    levels = records["safety_level"]
    risky = [index for index, level in enumerate(levels) if level > 0]
    clean = [index for index, level in enumerate(levels) if level <= 0]
    if not 0 <= clean_share <= 1:
        raise ValueError(f"`clean_share` must be in [0, 1], got {clean_share}.")
    if clean_share == 1 or not risky:
        return records
    wanted = max(round(len(risky) * clean_share / (1 - clean_share)), 1 if clean_share else 0)
    kept = random.Random(seed).sample(clean, min(wanted, len(clean)))
    if wanted > len(clean):
        logger.warning(
            "A clean share of %.3f wants %d clean records, the data has %d.", clean_share, wanted, len(clean)
        )
    if len(kept) < len(clean):
        logger.warning(
            "Left out %d of %d clean records to keep their share at %.3f (without `--clean_share` all are kept).",
            len(clean) - len(kept),
            len(clean),
            clean_share,
        )
    # The records keep their order in the file: the Trainer's own seed decides about the batches.
    return records.select(sorted(risky + kept))


def with_replay(records, replay, replay_share: float, seed: int):
    """Return the records and old ones, `replay_share` of the whole, chosen by `seed`; log what is left out."""
    if not 0 <= replay_share < 1:
        raise ValueError(f"`replay_share` must be in [0, 1), got {replay_share}.")
    wanted = round(len(records) * replay_share / (1 - replay_share))
    if wanted > len(replay):
        logger.warning("A replay share of %.3f wants %d old records, there are %d.", replay_share, wanted, len(replay))
    chosen = sorted(random.Random(seed).sample(range(len(replay)), min(wanted, len(replay))))
    logger.info("Replaying %d of %d old records beside %d new ones.", len(chosen), len(replay), len(records))
    return concatenate_datasets([records, replay.select(chosen)])
