"""The table of overall metrics as papers lay it out: a row per model, a column per score, best and second marked."""

from typing import Any

_OVERALL = {"dI_percent": "dI%", "dE_percent": "dE%", "dI_zero_percent": "dI_zero%"}
_LOWER_OVERALL = ("dE_percent",)
# How the best and the second best of a column are marked.
_MARKS = {"text": ("{}*", "{}+"), "markdown": ("**{}**", "<u>{}</u>"), "latex": (r"\textbf{{{}}}", r"\underline{{{}}}")}
_LATEX = str.maketrans({c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"})


def format_table(comparison: dict[str, Any], layout: str = "text") -> str:
    """A comparison (`eval.overall.compare`) as a table.

    Args:
        comparison: scores and overall metrics by model.
        layout: "text", where `*` marks the best and `+` the second best of a column; "markdown" or "latex", with bold
            and underline. Text and Markdown show a score's change against the baseline in percent.

    Ties share a mark; a single model is not marked. The baseline takes part in the columns of scores.
    """
    rows = _rows(comparison, layout)
    if layout == "latex":
        return _latex(rows, comparison)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    if layout == "text":
        return "\n".join("  ".join(row).rstrip() for row in padded)
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])


def _rows(comparison: dict[str, Any], layout: str) -> list[list[str]]:
    baseline, models = comparison["baseline"], comparison["models"]
    shown = [key for key in _OVERALL if any(key in entry for entry in models.values())]
    header = ["model", *baseline, *(_OVERALL[key] for key in shown)]
    columns = []
    for column, base in baseline.items():
        values = [base, *(entry["scores"][column] for entry in models.values())]
        cells = [_score(value) for value in values]
        if layout != "latex":
            cells = [cells[0], *(cell + _change(e, column) for cell, e in zip(cells[1:], models.values(), strict=True))]
        columns.append(_marked(cells, values, column in comparison["lower_is_better"], layout))
    for key in shown:
        values = [None, *(entry[key] for entry in models.values())]
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        columns.append(_marked(cells, values, key in _LOWER_OVERALL, layout))
    return [header, *(list(row) for row in zip(["baseline", *models], *columns, strict=True))]


def _change(entry: dict[str, Any], column: str) -> str:
    task, _, metric = column.partition(":")
    return "" if metric else f" ({entry['improvement_percent'][task]:+.2f}%)"


def _marked(cells: list[str], values: list[float | None], lower: bool, layout: str) -> list[str]:
    """The cells with the best and the second best marked."""
    ranked = sorted({value for value in values if value is not None}, reverse=not lower)
    if len(ranked) < 2:
        return cells
    best, second = _MARKS[layout]
    marks = {ranked[0]: best, ranked[1]: second}
    return [marks.get(value, "{}").format(cell) for cell, value in zip(cells, values, strict=True)]


def _latex(rows: list[list[str]], comparison: dict[str, Any]) -> str:
    """A booktabs table; the baseline stands above a rule of its own."""
    symbols = {"dI%": r"$\Delta I\%$", "dE%": r"$\Delta E\%$", "dI_zero%": r"$\Delta I_{zero}\%$"}
    header = [symbols.get(name) or name.translate(_LATEX) for name in rows[0]]
    body = [[row[0].translate(_LATEX), *row[1:]] for row in rows[1:]]
    lines = [" & ".join(row) + r" \\" for row in (header, *body)]
    return "\n".join(
        [
            r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}",
            r"\toprule",
            lines[0],
            r"\midrule",
            lines[1],
            r"\midrule",
            *lines[2:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _score(value: float) -> str:
    """Four digits of a small score, two of a large one, as papers print CIDEr and percentages."""
    return f"{value:.4f}" if value < 10 else f"{value:.2f}"
