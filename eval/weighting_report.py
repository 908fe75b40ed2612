"""How a weighting is reported: a table for readers, the content of weights.json for programs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.uncertainty import NOT_DISTINGUISHABLE, Spread

if TYPE_CHECKING:
    from weighting_visatb import Weighting


def to_json(
    weighting: "Weighting",
    weights: dict[str, float],
    form: str = "standard",
    spread: Spread | None = None,
    failed: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of weights.json, at full precision.

    Args:
        weighting, spread: what is reported.
        weights: of every task.
        form: of the weights.
        failed: `FailedTask.to_json` of the tasks whose own data did not raise their score.
        notes: what else a reader should know.
    """
    return {
        "form": form,
        "tasks": list(weighting.tasks),
        "temperature": weighting.temperature,
        "alpha": list(weighting.alpha),
        "contributions": weighting.contributions.tolist(),
        "contribution_out": weighting.contribution_out.tolist(),
        "contribution_in": weighting.contribution_in.tolist(),
        "difficulty": weighting.difficulty.tolist(),
        "weight_out": weighting.weight_out.tolist(),
        "weight_in": weighting.weight_in.tolist(),
        "weight_difficulty": weighting.weight_difficulty.tolist(),
        "weights": weights,
        "failed": list(failed),
        "notes": list(notes),
    } | ({} if spread is None else {"spread": spread.to_json()})


def format_report(
    weighting: "Weighting",
    weights: dict[str, float],
    spread: Spread | None = None,
    failed: Sequence[dict[str, Any]] = (),
) -> str:
    """Contributions, difficulties and weights as aligned plain text, with intervals where there are some.

    Tasks that were left out (of `failed`, as in `to_json`) have a row with their weight alone.
    """
    matrix = [["", *weighting.tasks]]
    matrix += [[name, *map(_rounded, row)] for name, row in zip(weighting.tasks, weighting.contributions, strict=True)]
    columns = ("contribution_out", "contribution_in", "difficulty")
    columns += ("weight_out", "weight_in", "weight_difficulty", "weight")
    header = ["", "C_out", "C_in", "D", "lambda_out", "lambda_in", "lambda_D", "lambda"]
    rows = zip(weighting.tasks, *(getattr(weighting, column) for column in columns), strict=True)
    result = [header, *([name, *map(_rounded, values)] for name, *values in rows)]
    gone = [entry["task"] for entry in failed if not entry["weighed"]]
    result += [[task, *"-" * 6, _rounded(weights[task])] for task in gone]
    text = [
        "Contributions: what the data of the row's task gives the column's task, as a share of its own data's gain",
        _aligned(matrix),
        "",
        f"Weights at T = {weighting.temperature:g}, alpha = {' '.join(f'{a:g}' for a in weighting.alpha)}",
        _aligned(result),
        *(entry["about"] for entry in failed),
    ]
    if list(weights) != list(weighting.tasks):
        text += ["", "Weights in task-id order", _aligned([[name, _rounded(value)] for name, value in weights.items()])]
    if spread is not None:
        text += ["", *_spread_lines(weighting, spread)]
    return "\n".join(text)


def _spread_lines(weighting: "Weighting", spread: Spread) -> list[str]:
    columns = {"C_out": "contribution_out", "C_in": "contribution_in", "D": "difficulty", "lambda": "weight"}
    rows = [["", *columns, ""]]
    for n, name in enumerate(weighting.tasks):
        ends = [f"{spread.low[key][n]:.3f} .. {spread.high[key][n]:.3f}" for key in columns.values()]
        holds_one = spread.low["weight"][n] <= 1 <= spread.high["weight"][n]
        rows.append([name, *ends, NOT_DISTINGUISHABLE if holds_one else ""])
    failed = f" (a task failed in {spread.failed} of {spread.total}; {spread.rule})" if spread.failed else ""
    return [f"Spread: {spread.about}{failed}", _aligned(rows)]


def _rounded(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return "\n".join(lines)
