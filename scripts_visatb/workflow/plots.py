"""The figures of the report, each drawn from report.json into PNG, SVG and PDF files, and once more for dark pages."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visatb.weighting.figure import FORMATS, heat_map, label_beside, save, two_digits, weighting_figure
from visatb.weighting.report import unit_weights
from visatb.weighting.style import DARK, LIGHT, Theme, style
from visatb.weighting.uncertainty import Spread
from visatb.weighting.weigh import Weighting

MOST_NAMED_JOBS = 120  # a longer time line has no names


def draw_all(data: dict[str, Any], folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """Draw every figure for which there are data into `folder`; returns name -> SVG for light and for dark pages."""
    figures: dict[str, Callable[[dict[str, Any], Theme], Figure]] = {
        "weights": weights_figure,
        "matrix": matrix_figure,
        "weighting": parts_figure,
        "scores": scores_figure,
        "timeline": timeline_figure,
    }
    if any(data["curves"].values()):
        figures["curves"] = curves_figure
    if data["amounts"]:
        figures["amounts"] = amounts_figure
    drawn = {}
    for name, make in figures.items():
        with rc_context(style(LIGHT)):
            figure = make(data, LIGHT)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # computed once for all files
            for kind in FORMATS:
                save(figure, folder / f"{name}.{kind}")
        with rc_context(style(DARK)), io.BytesIO() as stream:
            make(data, DARK).savefig(stream, format="svg", metadata=FORMATS["svg"])
            drawn[name] = ((folder / f"{name}.svg").read_bytes(), stream.getvalue())
    return drawn


def weights_figure(data: dict[str, Any], theme: Theme) -> Figure:
    """The weight of every task with its interval, the highest first; tasks with a fixed weight below."""
    content = data["weighting"]
    values, spread = unit_weights(content), content.get("spread")
    order = sorted(range(len(values)), key=lambda n: -values[n])
    fixed = [(task["name"], task["weight"]) for task in data["tasks"] if task["weight"] is not None]
    figure, axes = _figure(8.6, 0.34 * (len(order) + len(fixed)) + 1.2)
    for row, n in enumerate(order):
        text = two_digits(values[n])
        if spread is not None:
            low, high = spread["low"]["weight"][n], spread["high"]["weight"][n]
            axes.hlines(row, low, high, color=theme.series["weight"], linewidth=3, alpha=0.55, capstyle="round")
            text += f"  [{two_digits(low)}, {two_digits(high)}]"
        axes.plot([values[n]], [row], "o", markersize=8, color=theme.series["weight"])
        _at_the_edge(axes, row, text)
    for row, (_, weight) in enumerate(fixed, len(order)):
        axes.plot([weight], [row], "D", markersize=6, color=theme.muted, markerfacecolor=theme.paper)
        _at_the_edge(axes, row, f"{two_digits(weight)}  fixed")
    names = [content["tasks"][n] for n in order] + [name for name, _ in fixed]
    axes.axvline(1.0, color=theme.muted, linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.06)
    axes.set_xlabel("task weight (1: an equal share)" + ("" if spread is None else ", bar: 95% interval"))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    return figure


def matrix_figure(data: dict[str, Any], theme: Theme) -> Figure:
    """Validation scores of the N+1 models, coloured by their gain over the first as a share of the column's largest."""
    matrix = data["matrix"]
    rows, columns, values = matrix["rows"], matrix["columns"], np.array(matrix["values"])
    gain = values - values[0]  # over mini, or the base in the simpler form
    largest = np.abs(gain).max(axis=0)
    figure, axes = _figure(1.1 * len(columns) + 3.5, 0.42 * len(rows) + 1.9)
    names = rows if rows[0] != "mini" else ["mini", *(f"{row} + mini" for row in rows[1:])]
    texts = [[f"{value:.3f}" for value in row] for row in values]
    heat_map(axes, gain / np.where(largest > 0, largest, 1.0), texts, names, columns, 1.0, theme)
    axes.set_xlabel("validation score on")
    axes.set_ylabel("trained on")
    return figure


def parts_figure(data: dict[str, Any], theme: Theme) -> Figure:
    """Contributions, difficulties and weights with their intervals, as weighting_visatb.py --plot draws them."""
    content = data["weighting"]
    kinds = ("contributions", "contribution_out", "contribution_in", "difficulty")
    parts = ("weight_out", "weight_in", "weight_difficulty")
    arrays = {name: np.array(content[name]) for name in (*kinds, *parts)}
    arrays["weight"] = np.array(unit_weights(content))
    names, alpha = tuple(content["tasks"]), tuple(content["alpha"])
    weighting = Weighting(tasks=names, temperature=content["temperature"], alpha=alpha, **arrays)
    spread = content.get("spread")
    if spread is not None:
        ends = {end: {name: np.array(value) for name, value in spread[end].items()} for end in ("low", "high")}
        spread = Spread(spread["about"], **ends)
    return weighting_figure(weighting, spread, theme)


def amounts_figure(data: dict[str, Any], theme: Theme) -> Figure:
    """Validation score of each task against the share of its data, relative to its score with all data."""
    figure, axes = _figure(7.2, 3.8)
    markers = "osD^v<>P"
    for n, (task, points) in enumerate(data["amounts"].items()):
        full = points[-1][1] or 1.0
        line = [(share, score / full) for share, score in points]
        axes.plot(*zip(*line, strict=True), marker=markers[n % len(markers)], label=task)
    axes.axhline(1, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlabel("share of the task's training data")
    axes.set_ylabel("score / score with all data")
    axes.grid(axis="y")
    figure.legend(loc="outside right upper")
    return figure


def scores_figure(data: dict[str, Any], theme: Theme) -> Figure:
    """Test scores of EW and VisATB relative to the single-task model of each task."""
    overall = data["overall"]
    relative = all(overall.values())
    test = [row for row in data["test"] if not relative or overall["EW"]["tasks"][row["task"]] is not None]
    names = [row["task"] for row in test]
    models = ("EW", "VisATB") if relative else ("STL", "EW", "VisATB")
    figure, axes = _figure(8.6, (0.22 * len(models) + 0.14) * len(names) + 1.1)
    pitch = 1 / (len(models) + 0.6)
    reach = 0.0
    for n, model in enumerate(models):
        values = [overall[model]["tasks"][name] for name in names] if relative else [row[model] for row in test]
        places = [k + (n - (len(models) - 1) / 2) * pitch for k in range(len(names))]
        axes.barh(places, values, pitch * 0.88, color=theme.series[model], label=model)
        for value, place in zip(values, places, strict=True):
            text = f"{value:+.1f}%" if relative else f"{value:.3f}"
            label_beside(axes, text.replace("-", "\N{MINUS SIGN}"), value, place, left=value < 0)
        reach = max(reach, *map(abs, values))
    axes.axvline(0, color=theme.ink, linewidth=0.9)
    low, high = axes.get_xlim()
    axes.set_xlim(low - (0.12 * reach if low < 0 else 0), high + 0.12 * reach)  # room for the labels
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("% against the single-task model" if relative else "test score")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=len(models))
    return figure


def curves_figure(data: dict[str, Any], theme: Theme) -> Figure:
    """Training loss of every task with STL, EW and VisATB, one panel per task."""
    from transformers_patch.plot_log import Panel, draw_panels  # imports torch, which the other figures do not need

    panels = [
        Panel(task, "loss (nats per token)", {"STL" if m.startswith("STL") else m: line for m, line in models.items()})
        for task, models in data["curves"].items()
        if models
    ]
    colors = {model: theme.series[model] for model in ("STL", "EW", "VisATB")}
    return draw_panels(panels, min(3, len(panels)), "epoch", colors)


def timeline_figure(data: dict[str, Any], theme: Theme) -> Figure:
    """When each job ran: one row per job, in order of start."""
    jobs = data["jobs"]
    minutes = max((job["started"] + job["seconds"] for job in jobs), default=60.0) > 300
    scale, unit = (60.0, "minutes") if minutes else (1.0, "seconds")
    named = len(jobs) <= MOST_NAMED_JOBS
    figure, axes = _figure(9.6, (0.17 if named else 0.03) * len(jobs) + 1.1)
    shown = set()
    for row, job in enumerate(jobs):
        label = job["kind"] if job["kind"] not in shown and job["kind"] in ("train", "infer", "score") else None
        shown.add(job["kind"])
        color = theme.series.get(job["kind"], theme.muted)
        axes.barh(row, job["seconds"] / scale, left=job["started"] / scale, color=color, height=0.72, label=label)
    axes.set_yticks(range(len(jobs)) if named else [], [job["name"] for job in jobs] if named else [], fontsize=6.5)
    axes.set_ylim(len(jobs) - 0.4, -0.6)
    axes.set_xlabel(f"{unit} since the start")
    axes.grid(axis="x")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # A Figure of its own, not pyplot's: no global state, and no display is needed.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _at_the_edge(axes: Axes, row: float, text: str) -> None:
    """Write a value to the right of the axes."""
    axes.annotate(text, (1.0, row), (8, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center")
