"""The figure of a weighting: contributions as a heat map, then contributions, difficulties and weights as bars."""

import os
from typing import TYPE_CHECKING

import numpy as np

from visatb.errors import InputError
from visatb.files import replacing
from visatb.weighting.uncertainty import Spread
from visatb.weighting.weigh import Weighting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"out": "#5b8fb9", "in": "#7fb069", "difficulty": "#b583b8", "weight": "#d9733a"}  # by a quantity's last word
# The report of the run graph draws the same quantities in the same colours.
DIVERGING_COLORS = ("#3b6ea5", "#a9c5e0", "#f7f7f7", "#f3b591", "#c2541b")  # from negative to positive
GREY = "#555555"


def draw(weighting: Weighting, path: str | os.PathLike, spread: Spread | None = None) -> None:
    """Write the figure to a PNG file (after Figure 3 of arXiv 2403.04343).

    Args:
        weighting: N tasks or groups.
        path: ends in .png.
        spread: its intervals are drawn as whiskers.

    Raises:
        InputError: if the path does not end in .png or matplotlib is not installed.
    """
    if not str(path).endswith(".png"):
        raise InputError(f"--plot must name a .png file, got {str(path)!r}. Fix it.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib, which is not installed. Run pip install matplotlib.") from None
    tasks = len(weighting.tasks)
    figure = Figure(figsize=(max(11.0, 1.5 * tasks + 5.0), max(8.5, 0.62 * tasks + 5.5)), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=(max(1.25, 0.16 * tasks), 1.0))
    heat, contribution_axes = upper.subplots(1, 2, width_ratios=(1.35, 1.0))
    difficulty_axes, weight_axes = lower.subplots(1, 2, width_ratios=(1.0, 1.35))
    _heat_map(heat, weighting)
    series = {"out: given to others": "contribution_out", "in: received from others": "contribution_in"}
    _bars(contribution_axes, weighting, series, "Mean contribution", spread)
    _bars(difficulty_axes, weighting, {"": "difficulty"}, "Difficulty  1 - V(mini) / V(own)", spread)
    series = {"out": "weight_out", "in": "weight_in", "difficulty": "weight_difficulty", "final": "weight"}
    title = f"Weight  (T = {weighting.temperature:g}, alpha = {', '.join(f'{a:g}' for a in weighting.alpha)})"
    _bars(weight_axes, weighting, series, title, spread)
    weight_axes.axhline(1.0, color=GREY, linewidth=0.8, linestyle="--", zorder=3)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)


def _heat_map(axes: "Axes", weighting: Weighting) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    C_NN, names = weighting.contributions, weighting.tasks
    off_diagonal = C_NN[~np.eye(len(names), dtype=bool)]
    # Colours span what tasks give each other; the diagonal is 1 by definition and would drown it: grey.
    span = max(float(np.abs(off_diagonal).max()), 1e-6)
    shown_NN = np.where(np.eye(len(names), dtype=bool), np.nan, C_NN)
    colours = LinearSegmentedColormap.from_list("visatb", DIVERGING_COLORS).with_extremes(bad="#d9d9d9")
    axes.imshow(shown_NN, cmap=colours, vmin=-1.15 * span, vmax=1.15 * span, aspect="auto")
    for i in range(len(names)):
        for j in range(len(names)):
            colour = "white" if i != j and abs(C_NN[i, j]) > 0.7 * span else "black"
            axes.text(j, i, _two_digits(C_NN[i, j]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("to the score of")
    axes.set_ylabel("from the data of")
    axes.set_title("Contribution between tasks", loc="left", fontweight="bold")


def _bars(axes: "Axes", weighting: Weighting, series: dict[str, str], title: str, spread: Spread | None) -> None:
    """Bars of a series for each label -> quantity, with whiskers for the quantities that have a spread."""
    names, width = weighting.tasks, 0.8 / len(series)
    for n, (label, quantity) in enumerate(series.items()):
        at = np.arange(len(names)) - 0.4 + (n + 0.5) * width
        if spread is not None and quantity in spread.low:
            axes.vlines(at, spread.low[quantity], spread.high[quantity], color=GREY, linewidth=1.2, zorder=4)
        values, colour = getattr(weighting, quantity), COLORS[quantity.rpartition("_")[2]]
        bars = axes.bar(at, values, width * 0.92, label=label or None, color=colour, zorder=2)
        if n == len(series) - 1 or len(series) < 3:
            weight = "bold" if len(series) > 2 else "normal"
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}  # whiskers pass behind
            axes.bar_label(bars, fmt=_two_digits, fontsize=8, padding=2, fontweight=weight, bbox=paper, zorder=5)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    lowest, highest = axes.get_ylim()
    axes.set_ylim(lowest * 1.1, highest + 0.2 * (highest - lowest))  # room for labels and legend
    axes.axhline(0.0, color=GREY, linewidth=0.8)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="both", length=0)
    axes.set_title(title, loc="left", fontweight="bold")
    if len(series) > 1:
        axes.legend(frameon=False, ncols=len(series), fontsize=9, loc="upper right")


def _two_digits(value: float) -> str:
    """A number with two digits after the point, never -0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}"
