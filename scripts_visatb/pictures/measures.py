"""The figure of `visatb study --measures`: contributions and weights of each measure against those of `full`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visatb.weighting.figure import save
from visatb.weighting.settings import FULL_MEASURE
from visatb.weighting.style import LIGHT, Theme, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 2.7  # inches of a panel
_ROWS = {"contributions": "contribution off the diagonal", "weights": "task weight"}


def draw_measures(study: Mapping[str, Any], file: Path) -> None:
    """Write the figure of a measures.json."""
    from matplotlib import rc_context

    with rc_context(style(LIGHT)):
        save(measures_figure(study, LIGHT), file)


def measures_figure(study: Mapping[str, Any], theme: Theme) -> "Figure":
    """A column per measure, the means over seeds of `full` along the horizontal axis. Call it in `rc_context`."""
    from matplotlib.figure import Figure

    means = {kind: _means(found["values"]) for kind, found in study["measures"].items()}
    kinds = [kind for kind in means if kind != FULL_MEASURE]
    size = (_SIDE * len(kinds) + 0.8, _SIDE * len(_ROWS) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(_ROWS), len(kinds), squeeze=False)
    for row, (quantity, label) in enumerate(_ROWS.items()):
        for column, kind in enumerate(kinds):
            axes = panels[row, column]
            _scatter(axes, means[FULL_MEASURE][quantity], means[kind][quantity], theme, names=quantity == "weights")
            axes.set_title(kind if row == 0 else "")
            axes.set_xlabel(f"{label}, {FULL_MEASURE}")
        panels[row, 0].set_ylabel(f"{label}, measure")
    return figure


def _means(by_seed: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Quantity -> what it is of -> mean over the seeds that have it."""
    found: dict[str, dict[str, float]] = {}
    for quantity in _ROWS:
        seeds = [values[quantity] for values in by_seed.values()]
        names = dict.fromkeys(name for values in seeds for name in values)
        found[quantity] = {name: float(np.mean([v[name] for v in seeds if name in v])) for name in names}
    return found


def _scatter(axes: "Axes", full: Mapping[str, float], mine: Mapping[str, float], theme: Theme, names: bool) -> None:
    common = [name for name in full if name in mine]
    x, y = ([values[name] for name in common] for values in (full, mine))
    ends = [min(x + y), max(x + y)]
    axes.plot(ends, ends, color=theme.muted, linewidth=1, zorder=1)
    axes.scatter(x, y, s=22, color=theme.series["weight"], zorder=2)
    for name, across, up in zip(common, x, y, strict=True) if names else ():
        axes.annotate(name, (across, up), xytext=(4, 3), textcoords="offset points", fontsize=7, color=theme.muted)
    axes.grid(True, linewidth=0.6)
