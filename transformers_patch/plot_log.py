"""Plots train_log.jsonl: loss, and for each task its loss, weight, share of the weighted loss and tokens.

    python -m transformers_patch.plot_log checkpoints/visatb-7b
    python -m transformers_patch.plot_log runs/demo/seed0/models/EW runs/demo/seed0/models/VisATB --output curves.png

One column of panels for each run, over the optimizer steps; long logs are averaged down. Needs matplotlib.
"""

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

LOG_FILE = "train_log.jsonl"
POINTS = 300  # of a line, at most
_DASHES = ("-", "--", ":")  # distinguish lines when the ten colours are used up

Points = list[list[float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its titles, and label -> [[x, y], ...] of each line."""

    title: str
    y_title: str
    lines: Mapping[str, Points]


def draw_panels(panels: Sequence[Panel], columns: int, x_title: str, colors: Mapping[str, str] | None = None) -> Any:
    """A matplotlib Figure of panels in rows, with one legend for all of them; nothing is written.

    Args:
        panels: row by row. Those of a row share their vertical axis' title, which stands at the first.
        columns: panels in a row.
        x_title: what the horizontal axes count.
        colors: label -> colour; labels without one get their own in order.
    """
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.3 * columns + 0.6, 2.5 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    legend: dict[str, Any] = {}
    styles = _styles([label for panel in panels for label in panel.lines], colors or {})
    for n, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        for label, points in panel.lines.items():
            marker = "o" if len(points) == 1 else None  # a line of one point has no length
            (legend[label],) = axes.plot(*zip(*points, strict=True), linewidth=1.5, marker=marker, **styles[label])
        axes.set_title(panel.title)
        axes.grid(axis="y")
        axes.set_xlabel(x_title)
        if n % columns == 0:
            axes.set_ylabel(panel.y_title)
    across = max(1, int(figure.get_figwidth() // 1.6))
    used = 0.1 + 0.28 * math.ceil(len(legend) / across)  # inches
    figure.legend(legend.values(), legend.keys(), loc="upper right", ncols=min(across, len(legend)))
    figure.tight_layout(rect=(0, 0, 1, 1 - used / figure.get_figheight()))
    return figure


def _styles(labels: Sequence[str], colors: Mapping[str, str]) -> dict[str, dict[str, str]]:
    free = [label for label in dict.fromkeys(labels) if label not in colors]
    styles = {label: {"color": color} for label, color in colors.items()}
    for n, label in enumerate(free):
        styles[label] = {"color": f"C{n % 10}", "linestyle": _DASHES[n // 10 % len(_DASHES)]}
    return styles


def thinned(points: Points, limit: int) -> Points:
    """The points, averaged in groups of equal length so that at most `limit` are left."""
    width = max(1, math.ceil(len(points) / limit))
    groups = [points[n : n + width] for n in range(0, len(points), width)]
    return [[sum(column) / len(group) for column in zip(*group, strict=True)] for group in groups]


def run_panels(name: str, lines: Sequence[dict[str, Any]]) -> list[Panel]:
    """The panels of one run, top to bottom; a task is left out of a panel that it has no value for.

    Args:
        name: what to call the run.
        lines: the content of its train_log.jsonl.
    """
    tasks = list(lines[0]["tasks"])
    total = thinned([[line["step"], line["loss"]] for line in lines], POINTS)
    panels = [Panel(name, "weighted loss", {"all tasks": total})]
    for key, y_title in (
        ("loss", "loss (nats per token)"),
        ("weight", "task weight"),
        ("share", "share of the loss"),
        ("tokens", "supervised tokens seen"),
    ):
        curves = {task: _curve(lines, task, key) for task in tasks}
        panels.append(Panel("", y_title, {task: points for task, points in curves.items() if points}))
    return panels


def _curve(lines: Sequence[dict[str, Any]], task: str, key: str) -> Points:
    points = [[line["step"], line["tasks"][task][key]] for line in lines if line["tasks"][task][key] is not None]
    if key == "tokens":  # a line has those since the line before it
        seen = 0
        for point in points:
            seen += point[1]
            point[1] = seen
    return thinned(points, POINTS)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run folder's log, or of a log file; a last line that a kill has torn is left out.

    Raises:
        ValueError: no log, none of our lines in it, or a broken line.
    """
    path = run / LOG_FILE if run.is_dir() else run
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Give the folder of a training, which holds {LOG_FILE}.")
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a {LOG_FILE}. Give the folder of a training.") from None
    lines = []
    for n, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            lines.append({key: line[key] for key in ("step", "loss", "tasks")})
        except (ValueError, KeyError, TypeError):
            if n == len(texts):
                break
            raise ValueError(f"{path} line {n}: not a line of {LOG_FILE}. Remove it.") from None
    if not lines:
        raise ValueError(f"{path}: no line in it. Wait for the first logging step.")
    return lines


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line."""
        self.exit(2, f"error: {message}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = _Parser(
        prog="python -m transformers_patch.plot_log",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a training, or its train_log.jsonl"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("train_log.png"), help="figure: .png, .svg or .pdf (%(default)s)"
    )
    args = parser.parse_args(argv)
    kind = args.output.suffix.lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        parser.error(f"--output must end in .png, .svg or .pdf, got {args.output}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        parser.error("matplotlib is not installed. Run pip install matplotlib.")
    try:
        columns = [run_panels(run.name, read_log(run)) for run in args.runs]
        figure = draw_panels([panel for row in zip(*columns, strict=True) for panel in row], len(columns), "step")
        part = args.output.with_name(f".{args.output.name}.part")
        figure.savefig(part, format=kind, dpi=150)
        os.replace(part, args.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(args.output)


if __name__ == "__main__":
    main()
