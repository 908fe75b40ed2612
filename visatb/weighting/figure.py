"""The figure of a weighting: contributions as a heat map, then contributions, difficulties and weights as bars."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visatb.errors import InputError
from visatb.files import replacing
from visatb.weighting.style import LIGHT, Theme, readable_on, style
from visatb.weighting.uncertainty import Spread
from visatb.weighting.weigh import Weighting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Without version and date: the same numbers give the same bytes.
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}
DPI = 150
_BAR = 0.21  # inches from one bar to the next: a label of 8 points fits


def draw(weighting: Weighting, path: str | os.PathLike, spread: Spread | None = None) -> None:
    """Write the figure to a PNG, SVG or PDF file (after Figure 3 of arXiv 2403.04343).

    Args:
        weighting: N tasks or groups.
        path: ends in .png, .svg or .pdf.
        spread: its intervals are drawn as whiskers.

    Raises:
        InputError: if the path ends otherwise or matplotlib is not installed.
    """
    if os.path.splitext(path)[1][1:] not in FORMATS:
        raise InputError(f"--plot must name a .png, .svg or .pdf file, got {str(path)!r}. Fix it.")
    try:
        from matplotlib import rc_context
    except ImportError:
        raise InputError("--plot needs matplotlib, which is not installed. Run pip install matplotlib.") from None
    with rc_context(style(LIGHT)):
        save(weighting_figure(weighting, spread), path)


def save(figure: "Figure", path: str | os.PathLike) -> None:
    """Write a figure in the format of the file's ending, atomically."""
    kind = os.path.splitext(path)[1][1:]
    with replacing(path) as part:
        figure.savefig(part, format=kind, dpi=DPI, metadata=FORMATS[kind])


def weighting_figure(weighting: Weighting, spread: Spread | None = None, theme: Theme = LIGHT) -> "Figure":
    """The figure of a weighting; nothing is written. Call it in `rc_context(style(theme))`."""
    from matplotlib.figure import Figure

    tasks = len(weighting.tasks)
    heights = (max(3.2, tasks * 2.9 * _BAR + 1.4), tasks * 4.9 * _BAR + 1.2)
    longest = max(map(len, weighting.tasks))
    width = max(11.0, 1.3 * tasks + 6.0) + 0.16 * max(0, longest - 12)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    heat, contribution_axes = upper.subplots(1, 2, width_ratios=(1.35, 1.0))
    difficulty_axes, weight_axes = lower.subplots(1, 2, width_ratios=(1.0, 1.35))
    C_NN = weighting.contributions
    off_diagonal = C_NN[~np.eye(tasks, dtype=bool)]
    # Colours span what tasks give each other; the diagonal is 1 by definition and would drown it: blank.
    span = max(float(np.abs(off_diagonal).max(initial=0.0)), 1e-6)
    shown_NN = np.where(np.eye(tasks, dtype=bool), np.nan, C_NN)
    texts = [[two_digits(value) for value in row] for row in C_NN]
    heat_map(heat, shown_NN, texts, weighting.tasks, weighting.tasks, 1.15 * span, theme)
    heat.set_xlabel("to the score of")
    heat.set_ylabel("from the data of")
    heat.set_title("Contribution between tasks")
    names = {"contribution_out": "out (given)", "contribution_in": "in (received)"}
    _bars(contribution_axes, weighting, names, "Mean contribution", spread, theme)
    _bars(difficulty_axes, weighting, {"difficulty": ""}, "Difficulty  1 \u2212 V(mini) / V(own)", spread, theme)
    names = {"weight_out": "out", "weight_in": "in", "weight_difficulty": "difficulty", "weight": "final"}
    title = f"Weight  (T = {weighting.temperature:g}, alpha = {', '.join(f'{a:g}' for a in weighting.alpha)})"
    _bars(weight_axes, weighting, names, title, spread, theme)
    weight_axes.axvline(1.0, color=theme.muted, linewidth=0.9, linestyle="--", zorder=3)
    return figure


def heat_map(
    axes: "Axes",
    values: Any,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    limit: float,
    theme: Theme,
) -> None:
    """A heat map with its numbers; colours from -limit to limit, NaN blank."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("visatb", theme.diverging).with_extremes(bad=theme.blank)
    shades = np.asarray(values, dtype=float)
    image = axes.imshow(shades, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    for (i, j), shade in np.ndenumerate(np.ma.masked_invalid(shades)):
        ink = readable_on(image.cmap(image.norm(shade)))
        axes.text(j, i, texts[i][j], ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.grid(which="minor", color=theme.paper, linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _bars(
    axes: "Axes", weighting: Weighting, names: dict[str, str], title: str, spread: Spread | None, theme: Theme
) -> None:
    """Bars of each quantity -> label, task by task downwards, with whiskers for the quantities that have a spread."""
    ends = [0.0]
    pitch = 1.0 / (len(names) + 0.9)
    for n, (quantity, label) in enumerate(names.items()):
        values = getattr(weighting, quantity)
        at = np.arange(len(values)) + (n - (len(names) - 1) / 2) * pitch
        axes.barh(at, values, pitch * 0.86, label=label or None, color=theme.series[quantity.rpartition("_")[2]])
        low, high = values, values
        if spread is not None and quantity in spread.low:
            low, high = spread.low[quantity], spread.high[quantity]
            axes.hlines(at, low, high, color=theme.ink, linewidth=1.1, zorder=4)
        ends += [*np.minimum(low, values), *np.maximum(high, values)]
        bold = "bold" if quantity == "weight" else "normal"
        for place, value, end in zip(at, values, np.maximum(np.maximum(high, values), 0.0), strict=True):
            label_beside(axes, two_digits(value), end, place, fontweight=bold)
    axes.set_yticks(range(len(weighting.tasks)), weighting.tasks)
    axes.set_ylim(len(weighting.tasks) - 0.5, -0.5)
    reach = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.03 * reach, max(ends) + 0.17 * reach)  # room for the labels
    axes.axvline(0.0, color=theme.muted, linewidth=0.9)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="both", length=0)
    axes.set_title(title, pad=22 if len(names) > 1 else 6)
    if len(names) > 1:
        axes.legend(ncols=len(names), loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.1, borderpad=0.1)


def label_beside(axes: "Axes", text: str, x: float, y: float, left: bool = False, **more: Any) -> None:
    """Write a value beside the end of a bar or whisker; what crosses it passes behind."""
    shift, side = (-4, "right") if left else (4, "left")
    paper = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.8}
    place = {"textcoords": "offset points", "ha": side, "va": "center_baseline"}
    axes.annotate(text, (x, y), (shift, 0), **place, fontsize=8, bbox=paper, zorder=5, **more)


def two_digits(value: float) -> str:
    """A number with two digits after the point and a minus sign, never -0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
