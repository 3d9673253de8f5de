"""Draw a verdict: the picture, the places that the head looked at, its probabilities, and the words that mattered."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..extras import needs_extra
from .plots import INK, MUTED


with needs_extra("eval"):
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.figure import Figure


FLAGGED, REVIEW, OTHER, CALM = "#c2394b", "#d9822b", "#9dbbdb", "#2563a8"
HEAT = LinearSegmentedColormap.from_list("heat", [(1, 0.85, 0.2, 0), (1, 0.6, 0, 0.75), (0.75, 0, 0.1, 0.9)])
LINE = 140  # characters in a line of the question
WORD_STARTS = (" ", "Ġ", "▁", "Ċ")  # the blank or line break before a word, also as tokenizers write it


def plot_verdict(
    image,
    explanation,
    verdict,
    index: int = 0,
    path: str | os.PathLike | None = None,
    tokens: Sequence[str] | None = None,
) -> Figure:
    """Draw one image's verdict and its explanation.

    Args:
        image: the picture, a PIL image or an array (height, width, channels). The map is spread over all of it.
        explanation: what `model.explain` returned.
        verdict: the `SafetyVerdict` on this image, from `processor.post_process_safety`.
        index: which image of the explanation.
        path: where to save the figure; its ending says the format.
        tokens: one text per position of `explanation.question_weights`, as `processor.question_tokens` gives them.
            Those with a weight are shown: the stronger the shade the larger the weight; red raises the risk, blue
            lowers it.

    Returns:
        The figure: picture, picture with the map of `explanation`, probabilities of the categories (a filled circle
        marks the flagged ones, an empty one those to review), and the tokens. No state of pyplot is touched.

    Raises:
        ValueError: there are not as many tokens as the prompt has.
        IndexError: the explanation has no such image.
    """
    picture = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    figure = Figure(figsize=(12, 4.6 if tokens is None else 5.6), layout="constrained")
    top, below = (figure, None) if tokens is None else figure.subfigures(2, 1, height_ratios=(4.6, 1))
    seen, mapped, bars = top.subplots(1, 3)
    title = f"{verdict.category}, {verdict.level}    risk {verdict.risk:.2f}    {verdict.action}"
    # A name may hold a `$`, which would begin a formula.
    figure.suptitle(title, color=INK, fontsize=13, parse_math=False)
    _draw_picture(seen, picture, "picture")
    _draw_picture(mapped, picture, "what the verdict rests on", is_faint=True)
    _draw_map(mapped, explanation.map[index].float().cpu().numpy(), picture.shape[:2])
    _draw_categories(bars, verdict)
    if tokens is not None:
        weights, parts = explanation.question_weights[index], explanation.question_contributions[index]
        _draw_tokens(below.subplots(), tokens, weights.tolist(), parts.tolist())
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _draw_picture(axes: Axes, picture: np.ndarray, title: str, is_faint: bool = False) -> None:
    """Draw the picture in its colours, or in light grey to draw upon."""
    if is_faint:
        axes.imshow(picture[..., :3].mean(axis=-1), cmap="gray", alpha=0.7)
    else:
        axes.imshow(picture)
    axes.set_title(title, loc="left", fontsize=10, color=MUTED)
    axes.set_anchor("N")
    axes.set_axis_off()


def _draw_map(axes: Axes, shares: np.ndarray, size: tuple[int, int]) -> None:
    edges = (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
    shown = axes.imshow(100 * shares, cmap=HEAT, vmin=0, interpolation="bilinear", extent=edges)
    place = {"location": "bottom", "shrink": 0.6, "aspect": 30, "pad": 0.02, "panchor": False}
    bar = axes.figure.colorbar(shown, ax=axes, format="%g %%", **place)
    bar.outline.set_edgecolor(OTHER)
    bar.ax.tick_params(labelsize=8, labelcolor=MUTED, length=0)


def _draw_categories(axes: Axes, verdict) -> None:
    # Matplotlib draws the first bar at the bottom.
    names = list(verdict.category_probabilities)[::-1]
    values = [verdict.category_probabilities[name] for name in names]
    marks = {**dict.fromkeys(verdict.review_categories, "○"), **dict.fromkeys(verdict.flagged_categories, "●")}
    shades = [{"●": FLAGGED, "○": REVIEW}.get(marks.get(name), OTHER) for name in names]
    axes.barh(names, values, color=shades, height=0.65)
    for row, (name, value) in enumerate(zip(names, values)):
        axes.text(value + 0.02, row, f"{value:.2f} {marks.get(name, '')}", va="center", fontsize=9, color=MUTED)
    axes.set_xlim(0, 1.2)
    axes.set_title("probability of each category", loc="left", fontsize=10, color=MUTED)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _draw_tokens(axes: Axes, tokens: Sequence[str], weights: Sequence[float], parts: Sequence[float]) -> None:
    """Draw the tokens that have a weight, line by line, in a fixed pitch."""
    if len(tokens) != len(weights):
        raise ValueError(f"Expected a token for each of {len(weights)} positions of the prompt, got {len(tokens)}.")
    largest = max(weights, default=0)
    column = line = 0
    # The head's own tokens are words without blanks; "##" begins a piece that goes on with the word before.
    are_words = not any(token.startswith(WORD_STARTS) for token in tokens)
    for token, weight, part in zip(tokens, weights, parts):
        if not weight > 0:
            continue
        if are_words:
            token = token[2:] if token.startswith("##") else f" {token}"
        # Tokenizers write signs for a blank or a line break. A blank in front begins a word.
        text = token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").replace("<0x0A>", "\n")
        column += text.startswith(" ") and column > 0
        text = text.strip(" ").replace("\n", "↵") or "␣"
        if column + len(text) > LINE:
            column, line = 0, line + 1
        shade = to_rgba(FLAGGED if part > 0 else CALM, 0.65 * weight / largest)
        box = {"boxstyle": "square,pad=0.1", "facecolor": shade, "edgecolor": "none"}
        style = {"family": "monospace", "fontsize": 9.5, "va": "top", "color": INK, "parse_math": False}
        axes.text(column, line, text, bbox=box, **style)
        column += len(text)
    axes.set(xlim=(0, LINE), ylim=(max(line + 1, 3), 0))
    axes.set_title("the question: red raises the risk, blue lowers it", loc="left", fontsize=10, color=MUTED)
    axes.set_axis_off()
