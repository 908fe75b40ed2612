"""Draws how contributions between tasks become task weights, from a finished run: the picture of the README.

    python -m scripts_visatb.pictures.contributions runs/demo --output docs/pictures/contributions.svg

Writes the picture and the same for dark pages beside it, contributions-dark.svg. .png and .pdf work as well.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from visatb.weighting.style import Theme


def contributions_figure(content: dict[str, Any], theme: "Theme") -> "Figure":
    """The figure of a weights.json, nothing is written: contributions, their means and the difficulty, the weights.

    The tasks keep their order, so that a row can be followed from left to right.
    """
    from matplotlib.figure import Figure

    from visatb.weighting.figure import heat_map, two_digits
    from visatb.weighting.report import unit_weights

    names = content["tasks"]
    C_NN = np.array(content["contributions"])
    off_diagonal = ~np.eye(len(names), dtype=bool)
    figure = Figure(figsize=(12.0, 0.62 * len(names) + 1.9), layout="constrained")
    heat, parts, weights = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.0))
    shown_NN = np.where(off_diagonal, C_NN, np.nan)
    span = max(float(np.abs(C_NN[off_diagonal]).max(initial=0.0)), 1e-6)
    texts = [[two_digits(value) if i != j else "" for j, value in enumerate(row)] for i, row in enumerate(C_NN)]
    heat_map(heat, shown_NN, texts, names, names, 1.15 * span, theme)
    heat.set_ylabel("data of")
    heat.set_xlabel("gives to the score of")
    heat.set_title("1  What tasks give each other")
    _parts(parts, content, theme)
    _weights(weights, content, np.array(unit_weights(content)), theme)
    for axes in (parts, weights):
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), [])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(axis="x")
    return figure


def _parts(axes: "Axes", content: dict[str, Any], theme: "Theme") -> None:
    labels = {"out": "gives", "in": "receives", "difficulty": "difficulty"}
    keys = {"out": "contribution_out", "in": "contribution_in", "difficulty": "difficulty"}
    for n, (part, label) in enumerate(labels.items()):
        at = np.arange(len(content["tasks"])) + (n - 1) * 0.25
        axes.barh(at, content[keys[part]], 0.21, color=theme.series[part], label=label)
    axes.axvline(0, color=theme.muted, linewidth=0.9)
    axes.set_title("2  Mean contribution, difficulty")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08), handlelength=1.2, columnspacing=1.0)


def _weights(axes: "Axes", content: dict[str, Any], value_N: np.ndarray, theme: "Theme") -> None:
    from visatb.weighting.figure import label_beside, two_digits

    color, spread = theme.series["weight"], content.get("spread")
    low_N, high_N = (np.array(spread[end]["weight"]) if spread else value_N for end in ("low", "high"))
    rows = np.arange(len(value_N))
    axes.hlines(rows, low_N, high_N, color=color, linewidth=3, alpha=0.5, capstyle="round")
    axes.plot(value_N, rows, "o", color=color, markersize=9)
    axes.axvline(1.0, color=theme.muted, linewidth=1, linestyle="--", zorder=0)
    for row, value, high in zip(rows, value_N, high_N, strict=True):
        label_beside(axes, f" {two_digits(value)}", max(high, value), row, fontweight="bold")
    reach = high_N.max() - low_N.min() or 1.0
    axes.set_xlim(low_N.min() - 0.08 * reach, high_N.max() + 0.28 * reach)
    axes.set_title("3  Task weight" + (", 95% interval" if spread else ""))
    axes.set_xlabel("1: an equal share")


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--output", type=Path, required=True, help="the picture: .svg, .png or .pdf")
    args = parser.parse_args()
    from matplotlib import rc_context

    from visatb.weighting.figure import FORMATS, save
    from visatb.weighting.style import DARK, LIGHT, style

    if args.output.suffix[1:] not in FORMATS:
        raise InputError(f"--output must end in .svg, .png or .pdf, got {args.output}. Fix it.")
    content = read_json(args.run / "report.json")["weighting"]
    dark = args.output.with_stem(f"{args.output.stem}-dark")
    for theme, path in ((LIGHT, args.output), (DARK, dark)):
        with rc_context(style(theme)):
            save(contributions_figure(content, theme), path)
        print(path)


if __name__ == "__main__":
    run(main)
