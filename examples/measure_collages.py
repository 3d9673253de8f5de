"""How many risky cards are flagged where they are a part of a picture: on an empty surface, or among clean cards.

    python examples/measure_collages.py --model runs/demo/stage2

A backbone that cuts pictures into tiles is told to cut the larger picture into more of them, so that the card keeps
its size in pixels; elsewhere it becomes smaller. Intervals are Wilson's, of 95%.
"""

import argparse
import random
import tempfile
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, logging

import safevlm_hf  # noqa: F401
from safevlm_hf.data.records import load_image, load_records
from safevlm_hf.data.riskcards import write_riskcards
from safevlm_hf.evaluation.answering_records import give_verdicts
from safevlm_hf.intervals.figure import counted_share
from safevlm_hf.items import Answer
from safevlm_hf.modeling.configuration_safety import DEFAULT_CATEGORIES, DEFAULT_LEVELS


ALONE, EMPTY, AMONG_OTHERS = "alone", "on an empty surface", "among clean cards"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/stage2")
    parser.add_argument("--num_samples", type=int, default=200)
    parser.add_argument("--growth", type=int, nargs="+", default=[2, 3], help="Times as wide and as high.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.set_verbosity_error()
    model = AutoModelForImageTextToText.from_pretrained(args.model).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    size = dict(processor.image_processor.size)
    print("| the card | share of the picture | tiles | risky, flagged | clean, flagged |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = write_riskcards(Path(folder) / "riskcards", "test", args.num_samples, args.seed)
        records = load_records(file, DEFAULT_CATEGORIES, DEFAULT_LEVELS)
        for growth, around in [
            (1, ALONE),
            *((growth, around) for growth in args.growth for around in (EMPTY, AMONG_OTHERS)),
        ]:
            if set(size) == {"longest_edge"}:  # in pixels; elsewhere the name may stand for an area
                processor.image_processor.size = {"longest_edge": growth * size["longest_edge"]}
            asked = [put_into_collage(record, records, growth, around, Path(folder)) for record in records]
            found = give_verdicts(model, processor, asked, batch_size=8, progress=False)
            row = (
                around,
                f"1/{growth**2}",
                num_tiles(processor, asked[0]),
                rate(asked, found, True),
                rate(asked, found, False),
            )
            print(f"| {' | '.join(row)} |", flush=True)


def put_into_collage(record: dict, records: list[dict], growth: int, around: str, folder: Path) -> dict:
    """The record with its picture at a random place of a picture that is `growth` times as wide and as high."""
    if growth == 1:
        return record
    (source,) = record["images"]
    rng = random.Random(f"{Path(source).name} {growth}")
    picture = load_image(source)
    width, height = picture.size
    places = [(column * width, row * height) for row in range(growth) for column in range(growth)]
    collage = Image.new("RGB", (growth * width, growth * height), picture.getpixel((0, 0)))
    if around == AMONG_OTHERS:
        clean = [other["images"][0] for other in records if other["safety_level"] == 0]
        for place in places:
            collage.paste(load_image(rng.choice(clean)), place)
    collage.paste(picture, rng.choice(places))
    path = folder / f"{Path(source).stem}-{growth}-{around.replace(' ', '-')}.png"
    collage.save(path)
    return {**record, "images": [str(path)]}


def num_tiles(processor, record: dict) -> str:
    """Tiles of the record's picture, the whole one among them. The pictures of a row have one shape."""
    pixels = processor.image_processor([load_image(record["images"][0])], return_tensors="pt")["pixel_values"]
    return str(pixels.shape[1]) if pixels.ndim == 5 else "1"


def rate(records: list[dict], answers: list[Answer], is_risky: bool) -> str:
    found = zip(records, answers, strict=True)
    flags = [answer.is_flagged for record, answer in found if (record["safety_level"] > 0) == is_risky]
    found = counted_share("flagged_rate", flags)
    low, high = found.interval
    return f"{found.value:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
