"""Localisation: does the map of an explanation lie on what makes a picture risky, where that is known (RiskCards)?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from ..asking import encode_prompts
from ..data.records import load_image
from ..intervals.bootstrap import Bootstrap
from ..modeling.safety_decision import predicted_ids
from ..progress import Progress


@dataclass(frozen=True)
class ExplainedRecord:
    """The map of one record.

    Attributes:
        map: (grid, grid), sum 1.
        has_right_verdict: whether level and category are as labelled.
        image_size: (width, height) in pixels.
        extra: the record's other fields.
    """

    map: torch.Tensor
    has_right_verdict: bool
    image_size: tuple[int, int]
    extra: dict


def region_mass(map: torch.Tensor, region: Sequence[float], image_size: tuple[int, int]) -> tuple[float, float]:
    """Measure how much of a map lies inside a box; a cell that the box cuts counts by its share inside.

    Args:
        map: (rows, columns), spread over the whole picture.
        region: `[left, top, right, bottom]` in pixels.
        image_size: its width and height in pixels.

    Returns:
        The mass inside as a share of the map's whole, and the box's share of the picture's area, both in [0, 1].

    Raises:
        ValueError: the box is empty or leaves the picture, or the map has no mass.
    """
    width, height = image_size
    left, top, right, bottom = region
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"The region {list(region)} is empty or leaves the picture of {width} x {height} pixels.")
    total = map.sum().item()
    if not total > 0:
        raise ValueError(f"A map needs a mass above 0, got {total}.")
    shares = []
    for low, high, side, cells in ((top, bottom, height, map.shape[0]), (left, right, width, map.shape[1])):
        # Where the box cuts through a cell, clamping the cell's edges leaves the part that is inside.
        edges = torch.linspace(0, side, cells + 1, dtype=torch.float64).clamp(low, high)
        shares.append(edges.diff() * cells / side)
    rows, columns = shares
    mass = (rows @ map.double().cpu() @ columns).item() / total
    return mass, (right - left) * (bottom - top) / (width * height)


def localisation_figures(
    maps: Sequence[torch.Tensor],
    regions: Sequence[Sequence[float]],
    image_sizes: Sequence[tuple[int, int]],
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how strongly maps lie on their regions, as means over the pictures. A uniform map has a ratio of 1.

    Args:
        maps: (grid, grid) each.
        regions: a box each, as for `region_mass`.
        image_sizes: width and height of each picture, in pixels.
        seed: of the random maps, and of the interval's draws.

    Returns:
        `mass`: the map's mass inside. `area_share`: the region's share of the area. `mass_ratio`: mass by area share.
        `interval`: the 95% bootstrap interval of `mass_ratio` over the pictures, left out of a single one.
        `intervals`: those of the other means by name, without those that no draw changes.
        `random_ratio`: the same of random maps (each cell uniform in [0, 1)). `other_ratio`: of the map of the next
        picture, which shows what the usual places of regions give. `best_ratio`: of maps that lie inside as a whole.

    Raises:
        ValueError: there are no maps, or not one region and one size per map.
    """
    if not maps or not len(maps) == len(regions) == len(image_sizes):
        raise ValueError(
            f"Expected maps, and as many regions and sizes, got {len(maps)} maps, {len(regions)} regions and "
            f"{len(image_sizes)} sizes."
        )
    generator = torch.Generator().manual_seed(seed)
    # Maps of other pictures, and random ones, show what a ratio is worth.
    candidates = {
        "mass_ratio": maps,
        "random_ratio": [torch.rand(map.shape, generator=generator) for map in maps],
        "other_ratio": [*maps[1:], maps[0]],
    }
    inside = {
        name: [region_mass(*one) for one in zip(found, regions, image_sizes)] for name, found in candidates.items()
    }
    masses, areas = zip(*inside["mass_ratio"])
    means = {
        "mass": masses,
        "area_share": areas,
        **{name: [mass / area for mass, area in pairs] for name, pairs in inside.items()},
        "best_ratio": [1 / area for area in areas],
    }
    intervals = _intervals(means, seed)
    own = {"interval": intervals.pop("mass_ratio")} if "mass_ratio" in intervals else {}
    return {**{name: fmean(values) for name, values in means.items()}, **own, "intervals": intervals}


def _intervals(means: Mapping[str, Sequence[float]], seed: int) -> dict[str, list[float]]:
    """Return 95% bootstrap intervals of means over the same pictures."""
    columns = {name: np.array(values) for name, values in means.items()}

    def draw(weights: np.ndarray) -> dict[str, float]:
        return {name: float(np.average(values, weights=weights)) for name, values in columns.items()}

    found = Bootstrap(seed=seed).intervals(draw, np.arange(len(columns["mass"])))
    return {name: [float(low), float(high)] for name, (low, high) in found.items() if low < high}


@torch.inference_mode()
def explain_records(model, processor, records: Sequence[dict], batch_size: int = 16) -> list[ExplainedRecord]:
    """Return the map of each record's image, under its question.

    Args:
        model, processor: a safe model's.
        records: as `load_records` gives them, with one image each.
    """
    explained = []
    with Progress(len(records), "explaining", "record") as bar:
        for start in range(0, len(records), batch_size):
            batch = [records[row] for row in range(start, min(start + batch_size, len(records)))]
            explanation = model.explain(**encode_prompts(processor, batch).to(model.device, model.dtype))
            levels, categories = (
                ids.tolist()
                for ids in predicted_ids(
                    explanation.safety_level_logits, explanation.safety_category_logits, model.config.safety_config
                )
            )
            maps = explanation["map"].float().clamp(min=0).cpu()
            for record, level, category, found in zip(batch, levels, categories, maps, strict=True):
                is_right = (level, category) == (record["safety_level"], record["safety_category"])
                size = load_image(record["images"][0]).size
                explained.append(ExplainedRecord(found, is_right, size, json.loads(record["extra"])))
            bar.update(len(batch))
    return explained


def riskcards_localisation(
    model, processor, records: Sequence[dict], batch_size: int = 16
) -> dict[str, dict[str, Any]]:
    """Return `localisation_figures` of the risky records of RiskCards.

    Returns figures by region: `"region"` (text, pictogram and symbol) and `"pictogram_region"`, and both again over
    the records with a right verdict alone (`"region, right verdict"`, ...; left out where there are none), each with
    `num_samples`. The region is a third of a picture in the mean, so its ratio is bounded near three (`best_ratio`).
    The pictogram, a tenth, is what the nano tower learned to name the topic from: there a map can be sharp.

    Raises:
        ValueError: no record is risky.
    """
    risky = [record for record in records if record["safety_level"] > 0 and json.loads(record["extra"]).get("region")]
    if not risky:
        raise ValueError("Localisation needs risky records with a known region, and there are none.")
    explained = explain_records(model, processor, risky, batch_size)
    right = [one for one in explained if one.has_right_verdict]
    figures = {}
    for suffix, chosen in (("", explained), (", right verdict", right)):
        for name in ("region", "pictogram_region") if chosen else ():
            regions = [one.extra[name] for one in chosen]
            sizes = [one.image_size for one in chosen]
            found = localisation_figures([one.map for one in chosen], regions, sizes)
            figures[name + suffix] = {"num_samples": len(chosen), **found}
    return figures
