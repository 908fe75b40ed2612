"""The figures of the report, each drawn from report.json into a PNG file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from visatb.files import replacing
from visatb.weighting.figure import DIVERGING_COLORS, draw
from visatb.weighting.report import unit_weights
from visatb.weighting.uncertainty import Spread
from visatb.weighting.weigh import Weighting

INK = "#1f2733"
MUTED = "#68737f"
GRID = "#e3e7ec"
MODEL_COLORS = {"STL": "#9aa5b1", "EW": "#4878a8", "VisATB": "#d9733a"}
KIND_COLORS = {
    "prepare": "#8c7aa9",
    "subsets": "#8c7aa9",
    "train": "#d9733a",
    "infer": "#4878a8",
    "score": "#7fb069",
    "matrix": "#7fb069",
    "weights": "#7fb069",
}
DIVERGING = LinearSegmentedColormap.from_list("visatb", DIVERGING_COLORS)
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "legend.frameon": False,
}
DPI = 150


def draw_all(data: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Draw every figure the data allows; returns name -> PNG file."""
    figures: dict[str, Callable[[dict[str, Any], Path], None]] = {
        "matrix": draw_matrix,
        "weighting": draw_weighting,
        "scores": draw_scores,
        "timeline": draw_timeline,
    }
    if any(data["curves"].values()):
        figures["curves"] = draw_curves
    if data["amounts"]:
        figures["amounts"] = draw_amounts
    paths = {}
    for name, draw_one in figures.items():
        paths[name] = folder / f"{name}.png"
        with rc_context(STYLE):
            draw_one(data, paths[name])
    return paths


def draw_matrix(data: dict[str, Any], path: Path) -> None:
    """Validation scores of the N+1 models, coloured by their gain over the first as a share of the column's largest."""
    matrix = data["matrix"]
    rows, columns, values = matrix["rows"], matrix["columns"], matrix["values"]
    mini = values[0]  # or the base, in the simpler form
    largest = [max(abs(row[j] - mini[j]) for row in values) or 1.0 for j in range(len(columns))]
    shade = [[(row[j] - mini[j]) / largest[j] for j in range(len(columns))] for row in values]
    with _figure(path, 1.5 * len(columns) + 3, 0.52 * len(rows) + 1.5) as axes:
        names = rows if rows[0] != "mini" else ["mini", *(f"{row} + mini" for row in rows[1:])]
        _heat_map(axes, shade, [[f"{v:.3f}" for v in row] for row in values], names, columns, limit=1.0)
        axes.set_xlabel("validation score on", labelpad=8)
        axes.set_ylabel("trained on")


def draw_weighting(data: dict[str, Any], path: Path) -> None:
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
    draw(weighting, path, spread)


def draw_amounts(data: dict[str, Any], path: Path) -> None:
    """Validation score of each task against the share of its data, as a share of its score with all of it."""
    with _figure(path, 7.2, 3.6) as axes:
        for task, points in data["amounts"].items():
            full = points[-1][1] or 1.0
            axes.plot(*zip(*((share, score / full) for share, score in points), strict=True), marker="o", label=task)
        axes.axhline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xlabel("share of the task's training data")
        axes.set_ylabel("score / score with all of it")
        axes.grid(axis="y")
        _legend_above(axes)


def draw_scores(data: dict[str, Any], path: Path) -> None:
    """Test scores of EW and VisATB relative to the single-task model of each task."""
    overall = data["overall"]
    relative = all(overall.values())
    test = [row for row in data["test"] if not relative or overall["EW"]["tasks"][row["task"]] is not None]
    names = [row["task"] for row in test]
    models = ("EW", "VisATB") if relative else ("STL", "EW", "VisATB")
    with _figure(path, max(7.2, 1.55 * len(names)), 3.4) as axes:
        width = 0.8 / (len(models) + 0.4)
        for n, model in enumerate(models):
            values = [overall[model]["tasks"][name] for name in names] if relative else [row[model] for row in test]
            places = [k + (n - (len(models) - 1) / 2) * width for k in range(len(names))]
            bars = axes.bar(places, values, width * 0.92, color=MODEL_COLORS[model], label=model)
            axes.bar_label(bars, [f"{v:+.1f}" if relative else f"{v:.2f}" for v in values], padding=2, fontsize=9)
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.margins(y=0.15)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("% against the single-task model" if relative else "test score")
        axes.grid(axis="y")
        _legend_above(axes)


def draw_curves(data: dict[str, Any], path: Path) -> None:
    """Training loss of every task under STL, EW and VisATB, one panel a task."""
    from transformers_patch.plot_log import Panel, draw_panels  # brings torch, which the other figures need not

    panels = [
        Panel(task, "loss (nats per token)", {"STL" if m.startswith("STL") else m: line for m, line in models.items()})
        for task, models in data["curves"].items()
        if models
    ]
    _save(draw_panels(panels, min(3, len(panels)), "epoch", MODEL_COLORS), path)


def draw_timeline(data: dict[str, Any], path: Path) -> None:
    """When each job ran: one row a job, in order of start."""
    jobs = data["jobs"]
    minutes = max((job["started"] + job["seconds"] for job in jobs), default=60.0) > 300
    scale, unit = (60.0, "minutes") if minutes else (1.0, "seconds")
    with _figure(path, 9.6, 0.17 * len(jobs) + 1.1) as axes:
        shown = set()
        for row, job in enumerate(jobs):
            label = job["kind"] if job["kind"] not in shown and job["kind"] in ("train", "infer", "score") else None
            shown.add(job["kind"])
            color = KIND_COLORS.get(job["kind"], MUTED)
            axes.barh(row, job["seconds"] / scale, left=job["started"] / scale, color=color, height=0.72, label=label)
        axes.set_yticks(range(len(jobs)), [job["name"] for job in jobs], fontsize=6.5)
        axes.invert_yaxis()
        axes.set_ylim(len(jobs) - 0.4, -0.6)
        axes.set_xlabel(f"{unit} since the start")
        axes.grid(axis="x")
        _legend_above(axes)


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Axes]:
    # A Figure of its own, not pyplot's: no global state, and PNG needs no display.
    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    yield axes
    figure.tight_layout()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        # No version or date in the file: the same data gives the same bytes.
        figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def _heat_map(
    axes: Axes, values: list[list[float]], texts: list[list[str]], rows: list[str], columns: list[str], limit: float
) -> None:
    axes.imshow(values, cmap=DIVERGING, norm=TwoSlopeNorm(0.0, -limit, limit), aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            color = "white" if abs(value) > 0.75 * limit else INK
            axes.text(j, i, texts[i][j], ha="center", va="center", color=color)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    for n in range(1, len(columns)):
        axes.axvline(n - 0.5, color="white", linewidth=2)
    for n in range(1, len(rows)):
        axes.axhline(n - 0.5, color="white", linewidth=2)
    axes.spines[:].set_visible(False)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2, fontsize=9)
