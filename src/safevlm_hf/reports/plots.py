"""Plots of reports as inline SVG, which is small, sharp at any size, and whose text can be searched."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from ..extras import needs_extra
from ..intervals.figure import Figure as Share
from ..intervals.rates import wilson_interval
from ..intervals.reliability import ReliabilityBin


with needs_extra("eval"):
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, MUTED, GRID = "#1f2933", "#66727f", "#e4e7eb"
COLOURS = ("#2563a8", "#d9822b", "#2f8f5b", "#8a4fa3", "#c2394b", "#5f6b7a", "#b59a00", "#1a8a8f")
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
}
SHARES = ("accuracy", "rate", "match", "right", "share", "recall")
NOT_CURVES = ("learning_rate", "train_loss")


def reliability_diagram(
    bins: Sequence[ReliabilityBin], predicted: str = "predicted risk", observed: str = "share that is risky"
) -> Markup:
    """Plot the observed risky share over the predicted risk, both 0 to 1, with 95% intervals, and below it the samples
    in each bin."""
    with rc_context({**STYLE, "svg.hashsalt": "reliability"}):
        figure = Figure(figsize=(4.6, 4.6), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        risks, shares = [bin.mean_risk for bin in bins], [bin.risky_share for bin in bins]
        top.plot(risks, shares, color=COLOURS[0], marker="o", markersize=5, linewidth=1.5, label="this model")
        intervals = [wilson_interval(round(bin.risky_share * bin.num_samples), bin.num_samples) for bin in bins]
        top.vlines(risks, *zip(*intervals) if intervals else ((), ()), color=COLOURS[0], linewidth=1, alpha=0.5)
        top.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=observed)
        top.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)  # above: no data lies under it
        centres, widths = [(bin.low + bin.high) / 2 for bin in bins], [0.9 * (bin.high - bin.low) for bin in bins]
        below.bar(centres, [bin.num_samples for bin in bins], widths, color="#9dbbdb")
        below.set(xlabel=predicted, ylabel="samples")
        return _to_svg(figure)


def training_curves(logs: Mapping[str, Sequence[Mapping]]) -> dict[str, Markup]:
    """Plot each stage's losses and shares (accuracies, rates) over steps, from `Trainer.state.log_history`.

    A stage without logs gets no plot.
    """
    plots = {}
    for name, log in logs.items():
        curves = _curves(log)
        if not curves:
            continue
        # The salt makes matplotlib's ids in the SVG the same in every run, and different between plots of one page.
        with rc_context({**STYLE, "svg.hashsalt": f"curves {name}"}):
            figure = Figure(figsize=(4.6, 7.2), layout="constrained")
            above, below = figure.subplots(2, 1, sharex=True)
            figure.suptitle(_plain(name), x=0, ha="left", fontsize=11, fontweight="bold")
            _draw_curves(above, {key: points for key, points in curves.items() if not _is_share(key)}, "loss")
            _draw_curves(below, {key: points for key, points in curves.items() if _is_share(key)}, "share")
            below.set(xlabel="step", ylim=(-0.03, 1.03))
            plots[name] = _to_svg(figure)
    return plots


def _curves(log: Sequence[Mapping]) -> dict[str, list[tuple[float, float]]]:
    """Collect the (step, value) pairs of each loss and each share."""
    curves = {}
    for entry in log:
        for key, value in entry.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            is_wanted = ("loss" in key or _is_share(key)) and key not in NOT_CURVES
            if is_number and is_wanted and "step" in entry:
                curves.setdefault(key, []).append((entry["step"], value))
    return curves


def _is_share(key: str) -> bool:
    return key.endswith(SHARES) and key not in NOT_CURVES


def _draw_curves(axes: Axes, curves: dict[str, list[tuple[float, float]]], label: str) -> None:
    for index, (key, points) in enumerate(curves.items()):
        # Evaluations are few, so their points are marked.
        style = {"marker": "o", "markersize": 3.5} if key.startswith("eval") or len(points) == 1 else {}
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(*zip(*points), color=colour, linewidth=1.5, label=_plain(key.replace("_", " ")), **style)
    axes.set_ylabel(label)
    if curves:
        axes.legend(fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))  # above: nothing lies under it


def _plain(text: str) -> str:
    """Return text that matplotlib shows as it is."""
    # `$` would begin a formula, and matplotlib leaves names with a leading underscore out of the legend.
    return text.replace("$", r"\$").lstrip("_")


def _to_svg(figure: Figure) -> Markup:
    """Return the figure as SVG that a template shows as it is, because matplotlib has escaped its texts."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # The size in points becomes the greatest width, so that the figure shrinks with the page.
    svg = re.sub(r'width="([\d.]+)pt" height="[\d.]+pt"', r'style="width:100%;max-width:\1pt"', svg, count=1)
    return Markup(svg)


def share_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]],
    xlabel: str,
    ylabel: str,
    is_stepped: bool = False,
    corner: float = 1,
) -> Markup:
    """Plot curves of one share over another, both 0 to 1, with one marked point on each.

    Args:
        curves: name to its (x, y).
        points: name to the point of its curve that is marked.
        corner: how far the axes reach from the corner where x is 0 and y is 1; all points lie in it.
    """
    with rc_context({**STYLE, "svg.hashsalt": f"{xlabel} {corner:g}"}):
        figure = Figure(figsize=(4.6, 5), layout="constrained")
        axes = figure.subplots()
        for index, (name, (x, y)) in enumerate(curves.items()):
            colour, drawstyle = COLOURS[index % len(COLOURS)], "steps-pre" if is_stepped else "default"
            # Without clipping, lines on the border keep their width. A corner needs it, for the curves go on outside.
            style = {"linewidth": 1.5, "drawstyle": drawstyle, "clip_on": corner < 1}
            axes.plot(x, y, color=colour, label=_plain(name), **style)
            if name in points:
                axes.plot(*points[name], color=colour, marker="o", markersize=6, clip_on=False)
        axes.set(xlim=(0, corner), ylim=(1 - corner, 1), xlabel=xlabel, ylabel=ylabel)
        if curves:
            _add_legend(figure)
        return _to_svg(figure)


def rate_curves(
    curves: Mapping[str, Sequence[tuple[float, Share]]],
    xlabel: str,
    bounds: Iterable[float] = (),
    ylabel: str = "share",
) -> Markup:
    """Plot shares over a number, with their 95% intervals. Bounds are dashed lines.

    Args:
        curves: name to its (x, share).
    """
    with rc_context({**STYLE, "svg.hashsalt": xlabel + ylabel}):
        figure = Figure(figsize=(4.6, 5.2), layout="constrained")
        axes = figure.subplots()
        for index, (name, points) in enumerate(curves.items()):
            x, shares = zip(*((place, share.value) for place, share in points))
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(x, shares, color=colour, marker="o", markersize=4, label=_plain(name))
            low, high = zip(*(share.interval for _, share in points))
            axes.fill_between(x, low, high, color=colour, alpha=0.08, linewidth=0)
        for bound in bounds:
            axes.axhline(bound, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        places = sorted({place for points in curves.values() for place, _ in points})
        # Places that lie far apart get a logarithmic axis, which is linear near 0 to show it.
        if places[-1] > 10:
            axes.set_xscale("symlog", linthresh=places[1], base=2)
            axes.set_xlim(-0.1 * places[1], 1.2 * places[-1])
        axes.set(ylim=(-0.03, 1.03), xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
        _add_legend(figure)
        return _to_svg(figure)


def _add_legend(figure: Figure) -> None:
    """Name the curves below the axes, side by side where there is room for that."""
    place = {"fontsize": 9, "loc": "outside lower center"}
    legend = figure.legend(ncols=2, **place)
    if legend.get_window_extent().width > figure.bbox.width:
        legend.remove()
        figure.legend(ncols=1, **place)
