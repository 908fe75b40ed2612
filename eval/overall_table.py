"""Tables of scores as papers lay them out, with best and second marked."""

from collections.abc import Sequence
from html import escape
from typing import Any

from visatb.layout import lay_out
from visatb.weighting.report import format_weights, unit_weights

__all__ = ["format_table", "format_weights", "lay_out", "unit_weights"]

_OVERALL = {"dI_percent": "dI%", "dE_percent": "dE%", "dI_zero_percent": "dI_zero%"}
_LOWER_OVERALL = ("dE_percent",)
# How the best and the second best of a column are marked.
_MARKS = {
    "text": ("{}*", "{}+"),
    "markdown": ("**{}**", "<u>{}</u>"),
    "latex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
    "html": ("<b>{}</b>", "<u>{}</u>"),
    "csv": ("{}", "{}"),
}


def format_table(comparison: dict[str, Any], layout: str = "text", baseline: str = "baseline") -> str:
    """A comparison (`eval.overall.compare`) as a table.

    Args:
        comparison: scores and overall metrics by model.
        layout: "text", where `*` marks the best and `+` the second best of a column; "markdown", "latex" or "html",
            with bold and underline. Text and Markdown show a score's change against the baseline in percent. "csv" has
            every digit, and no marks. All but text show the intervals of dI% and dE% where models have a `spread`.
        baseline: what its row is called.

    Ties share a mark; a single model is not marked. The baseline takes part in the columns of scores.
    """
    table = lay_out(_rows(comparison, layout, baseline), layout, rules=(1, 2))
    return "\n".join([table, *_notes(comparison.get("notes", ()), layout)])


def _notes(notes: Sequence[str], layout: str) -> list[str]:
    """What a reader of a table must know, below it."""
    forms = {
        "text": lambda note: f"note: {note}",
        "markdown": lambda note: f"\nNote: {note}.",
        "latex": lambda note: f"% {note}",
        "html": lambda note: f'<p class="note">{escape(note)}.</p>',
    }
    return [forms[layout](note) for note in notes if layout in forms]  # CSV has room for numbers alone


def _rows(comparison: dict[str, Any], layout: str, name: str) -> list[list[str]]:
    baseline, models = comparison["baseline"], comparison["models"]
    shown = [key for key in _OVERALL if any(key in entry for entry in models.values())]
    header, columns = ["model", *baseline], []
    for column, base in baseline.items():
        values = [base, *(entry["scores"][column] for entry in models.values())]
        cells = [repr(value) if layout == "csv" else _score(value) for value in values]
        if layout in ("text", "markdown"):
            cells = [cells[0], *(cell + _change(e, column) for cell, e in zip(cells[1:], models.values(), strict=True))]
        columns.append(_marked(cells, values, column in comparison["lower_is_better"], layout))
    for key in shown:
        header.append(_OVERALL[key])
        values = [None, *(entry[key] for entry in models.values())]
        cells = ["" if value is None else repr(value) if layout == "csv" else f"{value:.2f}" for value in values]
        columns.append(_marked(cells, values, key in _LOWER_OVERALL, layout))
        ends = [_ends(entry, key) for entry in models.values()]
        if layout == "csv" and any(ends):
            header += [f"{_OVERALL[key]} {end}" for end in ("low", "high")]
            columns += [["", *(repr(pair[n]) if pair else "" for pair in ends)] for n in range(2)]
        elif layout != "text":
            shown_ends = [f" [{pair[0]:.2f}, {pair[1]:.2f}]" if pair else "" for pair in ends]
            columns[-1] = [columns[-1][0], *map("".join, zip(columns[-1][1:], shown_ends, strict=True))]
    return [header, *(list(row) for row in zip([name, *models], *columns, strict=True))]


def _ends(entry: dict[str, Any], key: str) -> list[float] | None:
    """The interval of an overall metric, where the model has one."""
    return entry.get("spread", {}).get(key.removesuffix("_percent"))


def _change(entry: dict[str, Any], column: str) -> str:
    task, _, metric = column.partition(":")
    change = entry["improvement_percent"][task]
    return "" if metric or change is None else f" ({change:+.2f}%)"


def _marked(cells: list[str], values: list[float | None], lower: bool, layout: str) -> list[str]:
    """The cells with the best and the second best marked."""
    ranked = sorted({value for value in values if value is not None}, reverse=not lower)
    if len(ranked) < 2:
        return cells
    best, second = _MARKS[layout]
    marks = {ranked[0]: best, ranked[1]: second}
    return [marks.get(value, "{}").format(cell) for cell, value in zip(cells, values, strict=True)]


def _score(value: float) -> str:
    """Four digits of a small score, two of a large one, as papers print CIDEr and percentages."""
    return f"{value:.4f}" if value < 10 else f"{value:.2f}"
