"""The figures of the report, each drawn from report.json into a PNG file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from eval.weighting_figure import DIVERGING_COLORS, PART_COLORS
from visatb.files import replacing

INK = "#1f2733"
MUTED = "#68737f"
GRID = "#e3e7ec"
MODEL_COLORS = {"STL": "#9aa5b1", "EW": "#4878a8", "VisATB": "#d9733a"}
PART_NAMES = {
    "weight_out": "from what it gives",
    "weight_in": "from what it receives",
    "weight_difficulty": "from its difficulty",
    "weight": "final weight",
}
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
        "contributions": draw_contributions,
        "difficulty": draw_difficulty,
        "weights": draw_weights,
        "scores": draw_scores,
        "timeline": draw_timeline,
    }
    if any(data["curves"].values()):
        figures["curves"] = draw_curves
    paths = {}
    for name, draw in figures.items():
        paths[name] = folder / f"{name}.png"
        with rc_context(STYLE):
            draw(data, paths[name])
    return paths


def draw_matrix(data: dict[str, Any], path: Path) -> None:
    """Validation scores of the N+1 models, coloured by their gain over `mini` as a share of the column's largest."""
    matrix = data["matrix"]
    rows, columns, values = matrix["rows"], matrix["columns"], matrix["values"]
    mini = values[rows.index("mini")]
    largest = [max(abs(row[j] - mini[j]) for row in values) or 1.0 for j in range(len(columns))]
    shade = [[(row[j] - mini[j]) / largest[j] for j in range(len(columns))] for row in values]
    with _figure(path, 1.5 * len(columns) + 3, 0.52 * len(rows) + 1.5) as axes:
        names = ["mini" if row == "mini" else f"{row} + mini" for row in rows]
        _heat_map(axes, shade, [[f"{v:.3f}" for v in row] for row in values], names, columns, limit=1.0)
        axes.set_xlabel("validation score on", labelpad=8)
        axes.set_ylabel("trained on")


def draw_contributions(data: dict[str, Any], path: Path) -> None:
    """The contribution heat map, C[i -> j] in row i (Eq. 3)."""
    weighting = data["weighting"]
    names, values = weighting["tasks"], weighting["contributions"]
    others = [abs(v) for i, row in enumerate(values) for j, v in enumerate(row) if i != j]
    with _figure(path, 1.35 * len(names) + 2.6, 0.62 * len(names) + 1.7) as axes:
        texts = [[f"{v:+.2f}" if i != j else "1" for j, v in enumerate(row)] for i, row in enumerate(values)]
        _heat_map(axes, values, texts, names, names, limit=max(0.05, *others))
        for n in range(len(names)):
            axes.add_patch(Rectangle((n - 0.5, n - 0.5), 1, 1, facecolor="#eceff3", edgecolor="white", zorder=2))
            axes.text(n, n, "1", ha="center", va="center", color=MUTED, zorder=3)
        axes.set_xlabel("gain of task j", labelpad=8)
        axes.set_ylabel("from data of task i")


def draw_difficulty(data: dict[str, Any], path: Path) -> None:
    """Difficulty of every task (Eq. 6) as bars."""
    weighting = data["weighting"]
    names, values = weighting["tasks"], weighting["difficulty"]
    with _figure(path, 7.2, 0.42 * len(names) + 1.0) as axes:
        bars = axes.barh(names, values, color=PART_COLORS["weight_difficulty"], height=0.62)
        axes.bar_label(bars, [f"{v:.2f}" for v in values], padding=4, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(min(0.0, *values) * 1.15, max(0.1, *values) * 1.15)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xlabel("difficulty D = 1 - V(mini) / V(task + mini)")
        axes.grid(axis="x")


def draw_weights(data: dict[str, Any], path: Path) -> None:
    """The three partial weights and the final one of every task, around the equal weight 1."""
    weighting = data["weighting"]
    names = weighting["tasks"]
    final = [weighting["weights"].get(name) for name in names]
    series = {part: weighting[part] for part in ("weight_out", "weight_in", "weight_difficulty")}
    series["weight"] = final if None not in final else _combined(weighting)
    with _figure(path, max(7.2, 1.55 * len(names)), 3.6) as axes:
        width = 0.2
        for n, (part, values) in enumerate(series.items()):
            places = [k + (n - 1.5) * width for k in range(len(names))]
            bars = axes.bar(places, values, width * 0.92, color=PART_COLORS[part], label=PART_NAMES[part])
            if part == "weight":
                texts = axes.bar_label(bars, [f"{v:.2f}" for v in values], padding=2, fontsize=9, fontweight="bold")
                for text in texts:
                    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85})
        axes.axhline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("weight (1 = equal)")
        axes.grid(axis="y")
        _legend_above(axes)


def draw_scores(data: dict[str, Any], path: Path) -> None:
    """Test scores of EW and VisATB relative to the single-task model of each task."""
    test, overall = data["test"], data["overall"]
    names = [row["task"] for row in test]
    relative = all(overall.values())
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


def _combined(weighting: dict[str, Any]) -> list[float]:
    """The final weight of every unit where units are groups, whose names are not task names (Eq. 8)."""
    parts = [weighting[part] for part in ("weight_out", "weight_in", "weight_difficulty")]
    return [sum(a * w for a, w in zip(weighting["alpha"], column, strict=True)) for column in zip(*parts, strict=True)]
