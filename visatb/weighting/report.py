"""How a weighting is reported: tables for readers, the content of weights.json for programs."""

from collections.abc import Sequence
from typing import Any

from visatb.layout import lay_out
from visatb.weighting.power import Power, format_power
from visatb.weighting.settings import FULL_MEASURE, GRADIENT, LORA, PROXY, SHORT, STANDARD
from visatb.weighting.uncertainty import NOT_DISTINGUISHABLE, Spread
from visatb.weighting.weigh import Weighting

# The columns of the table, lambda last; weights.json has the other arrays and `weights` by task.
_COLUMNS = {
    "C_out": "contribution_out",
    "C_in": "contribution_in",
    "D": "difficulty",
    "lambda_out": "weight_out",
    "lambda_in": "weight_in",
    "lambda_D": "weight_difficulty",
    "lambda": "weight",
}
_MEASURED = {
    SHORT: "models of large subsets that were cut",
    LORA: "adapters in place of whole models",
    PROXY: "models of another base",
    GRADIENT: "contributions approximated from gradients of losses at one model",
}
_PARTS = ("lambda_out", "lambda_in", "lambda_D")


def to_json(
    weighting: Weighting,
    weights: dict[str, float],
    form: str = STANDARD,
    spread: Spread | None = None,
    failed: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
    power: Power | None = None,
    measure: str = FULL_MEASURE,
) -> dict[str, Any]:
    """The content of weights.json, at full precision.

    Args:
        weighting, spread: what is reported.
        weights: of every task.
        form: of the weights.
        failed: `FailedTask.to_json` of the tasks whose own data did not raise their score.
        notes: what else a reader should know.
        power: what narrower intervals would take.
        measure: how the models were made, one of MEASURES.
    """
    return {
        "form": form,
        "measure": measure,
        "tasks": list(weighting.tasks),
        "temperature": weighting.temperature,
        "alpha": list(weighting.alpha),
        **{name: getattr(weighting, name).tolist() for name in ("contributions", *_COLUMNS.values())[:-1]},
        "weights": weights,
        "failed": list(failed),
        "notes": list(notes),
    } | {name: part.to_json() for name, part in (("spread", spread), ("power", power)) if part is not None}


def format_report(
    weighting: Weighting,
    weights: dict[str, float],
    spread: Spread | None = None,
    failed: Sequence[dict[str, Any]] = (),
    power: Power | None = None,
    measure: str = FULL_MEASURE,
) -> str:
    """Contributions, difficulties and weights as aligned plain text, with intervals where there are some.

    Tasks that were left out (of `failed`, as in `to_json`) have a row with their weight alone.
    """
    matrix = [["", *weighting.tasks]]
    matrix += [[name, *map(_rounded, row)] for name, row in zip(weighting.tasks, weighting.contributions, strict=True)]
    rows = zip(weighting.tasks, *(getattr(weighting, column) for column in _COLUMNS.values()), strict=True)
    result = [["", *_COLUMNS], *([name, *map(_rounded, values)] for name, *values in rows)]
    gone = [entry["task"] for entry in failed if not entry["weighed"]]
    result += [[task, *"-" * 6, _rounded(weights[task])] for task in gone]
    text = [
        "Contributions: what the data of the row's task gives the column's task, as a share of its own data's gain",
        lay_out(matrix),
        "",
        f"Weights at T = {weighting.temperature:g}, alpha = {' '.join(f'{a:g}' for a in weighting.alpha)}",
        lay_out(result),
        *(entry["about"] for entry in failed),
        *measure_note(measure),
    ]
    if list(weights) != list(weighting.tasks):
        text += ["", "Weights in task-id order", lay_out([[name, _rounded(value)] for name, value in weights.items()])]
    if spread is not None:
        text += ["", *_spread_lines(weighting, spread)]
    if power is not None:
        text += ["", format_power(power)]
    return "\n".join(text)


def measure_note(measure: str) -> list[str]:
    """A sentence on weights that were not measured as the paper does; none where they were."""
    return [] if measure == FULL_MEASURE else [f"Measured by: {measure}, {_MEASURED[measure]}."]


def format_weights(content: dict[str, Any], layout: str = "text") -> str:
    """The weights of a weights.json: a row per part and one for their combination, a column per task or group.

    Where there is a spread, a last row has its ends (in CSV, which has every digit, two rows). Tasks that
    were left out have a column with their weight alone.
    """
    gone = [entry["task"] for entry in content.get("failed", ()) if not entry["weighed"]]
    number = repr if layout == "csv" else _rounded
    rows = [["", *content["tasks"], *(f"{task} (left out)" for task in gone)]]
    for name in _PARTS:
        rows.append([name, *map(number, content[_COLUMNS[name]]), *["-"] * len(gone)])
    combined = [*unit_weights(content), *(content["weights"][task] for task in gone)]
    rows.append(["lambda", *map(number, combined)])
    if spread := content.get("spread"):
        low, high = spread["low"]["weight"], spread["high"]["weight"]
        if layout == "csv":
            ends = {"low": map(repr, low), "high": map(repr, high)}
        else:
            form = "{:.2f} .. {:.2f}" if layout == "text" else "[{:.2f}, {:.2f}]"
            ends = {"interval": map(form.format, low, high)}
        rows += [[name, *cells, *["-"] * len(gone)] for name, cells in ends.items()]
    note = measure_note(content.get("measure", FULL_MEASURE)) if layout == "text" else []
    return "\n".join([lay_out(rows, layout, rules=(1, 4)), *note])


def unit_weights(content: dict[str, Any]) -> list[float]:
    """lambda (Eq. 8) of every task or group of a weights.json, whose own `weights` are by task."""
    parts = (content[_COLUMNS[name]] for name in _PARTS)
    return [sum(a * w for a, w in zip(content["alpha"], unit, strict=True)) for unit in zip(*parts, strict=True)]


def _spread_lines(weighting: Weighting, spread: Spread) -> list[str]:
    columns = {name: key for name, key in _COLUMNS.items() if name not in _PARTS}
    rows = [["", *columns, ""]]
    for n, name in enumerate(weighting.tasks):
        ends = [f"{spread.low[key][n]:.3f} .. {spread.high[key][n]:.3f}" for key in columns.values()]
        holds_one = spread.low["weight"][n] <= 1 <= spread.high["weight"][n]
        rows.append([name, *ends, NOT_DISTINGUISHABLE if holds_one else ""])
    failed = f" (a task failed in {spread.failed} of {spread.total}; {spread.rule})" if spread.failed else ""
    return [f"Spread: {spread.about}{failed}", lay_out(rows)]


def _rounded(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
