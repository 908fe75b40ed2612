"""Tables as papers lay them out: scores of models with best and second marked, and task weights."""

from collections.abc import Sequence
from html import escape
from typing import Any

_OVERALL = {"dI_percent": "dI%", "dE_percent": "dE%", "dI_zero_percent": "dI_zero%"}
_LOWER_OVERALL = ("dE_percent",)
# How the best and the second best of a column are marked.
_MARKS = {
    "text": ("{}*", "{}+"),
    "markdown": ("**{}**", "<u>{}</u>"),
    "latex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
    "html": ("<b>{}</b>", "<u>{}</u>"),
}
_SYMBOLS = {
    "dI%": r"$\Delta I\%$",
    "dE%": r"$\Delta E\%$",
    "dI_zero%": r"$\Delta I_{zero}\%$",
    "lambda_out": r"$\lambda_{\mathrm{out}}$",
    "lambda_in": r"$\lambda_{\mathrm{in}}$",
    "lambda_D": r"$\lambda_{\mathrm{D}}$",
    "lambda": r"$\lambda$",
}
_LATEX = str.maketrans({c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"})


def format_table(comparison: dict[str, Any], layout: str = "text", baseline: str = "baseline") -> str:
    """A comparison (`eval.overall.compare`) as a table.

    Args:
        comparison: scores and overall metrics by model.
        layout: "text", where `*` marks the best and `+` the second best of a column; "markdown", "latex" or "html",
            with bold and underline. Text and Markdown show a score's change against the baseline in percent.
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
    return [forms[layout](note) for note in notes]


def format_weights(content: dict[str, Any], layout: str = "text") -> str:
    """The weights of a weights.json: a row per part and one for their combination, a column per task or group.

    Where there is a spread, a last row has its ends. Tasks that were left out have a column with their weight alone.
    """
    parts = {"lambda_out": "weight_out", "lambda_in": "weight_in", "lambda_D": "weight_difficulty"}
    columns = [content[key] for key in parts.values()]
    gone = [entry["task"] for entry in content.get("failed", ()) if not entry["weighed"]]
    rows = [["", *content["tasks"], *(f"{task} (left out)" for task in gone)]]
    rows += [[name, *map(_weight, values), *["-"] * len(gone)] for name, values in zip(parts, columns, strict=True)]
    combined = [*unit_weights(content), *(content["weights"][task] for task in gone)]
    rows.append(["lambda", *map(_weight, combined)])
    if spread := content.get("spread"):
        ends = zip(spread["low"]["weight"], spread["high"]["weight"], strict=True)
        rows.append(["interval", *(f"{low:.2f} .. {high:.2f}" for low, high in ends), *["-"] * len(gone)])
    return lay_out(rows, layout, rules=(1, 4))


def unit_weights(content: dict[str, Any]) -> list[float]:
    """lambda (Eq. 8) of every task or group of a weights.json, whose own `weights` are by task."""
    parts = (content[key] for key in ("weight_out", "weight_in", "weight_difficulty"))
    return [sum(a * w for a, w in zip(content["alpha"], unit, strict=True)) for unit in zip(*parts, strict=True)]


def lay_out(rows: Sequence[Sequence[str]], layout: str = "text", rules: Sequence[int] = (1,)) -> str:
    """Rows of cells as a table; the first row is its header, the first column names.

    Args:
        rows: cells; a cell may hold the layout's own markup, the header and the names are plain text.
        layout: "text", "markdown", "latex" (booktabs) or "html".
        rules: numbers of the rows that LaTeX draws a line before.
    """
    if layout == "latex":
        return _latex(rows, rules)
    if layout == "html":
        return _html(rows)
    if layout == "markdown":  # a bar in a name would begin another cell
        rows = [
            [name.replace("|", r"\|") for name in rows[0]],
            *([row[0].replace("|", r"\|"), *row[1:]] for row in rows[1:]),
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    if layout == "text":
        return "\n".join("  ".join(row).rstrip() for row in padded)
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rule, *padded[1:]])


def _rows(comparison: dict[str, Any], layout: str, name: str) -> list[list[str]]:
    baseline, models = comparison["baseline"], comparison["models"]
    shown = [key for key in _OVERALL if any(key in entry for entry in models.values())]
    header = ["model", *baseline, *(_OVERALL[key] for key in shown)]
    columns = []
    for column, base in baseline.items():
        values = [base, *(entry["scores"][column] for entry in models.values())]
        cells = [_score(value) for value in values]
        if layout in ("text", "markdown"):
            cells = [cells[0], *(cell + _change(e, column) for cell, e in zip(cells[1:], models.values(), strict=True))]
        columns.append(_marked(cells, values, column in comparison["lower_is_better"], layout))
    for key in shown:
        values = [None, *(entry[key] for entry in models.values())]
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        columns.append(_marked(cells, values, key in _LOWER_OVERALL, layout))
    return [header, *(list(row) for row in zip([name, *models], *columns, strict=True))]


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


def _latex(rows: Sequence[Sequence[str]], rules: Sequence[int]) -> str:
    named = [[_SYMBOLS.get(name) or name.translate(_LATEX) for name in rows[0]]]
    named += [[_SYMBOLS.get(row[0]) or row[0].translate(_LATEX), *row[1:]] for row in rows[1:]]
    lines = []
    for n, row in enumerate(named):
        lines += ([r"\midrule"] if n in rules else []) + [" & ".join(row) + r" \\"]
    start = [r"\begin{tabular}{l" + "r" * (len(rows[0]) - 1) + "}", r"\toprule"]
    return "\n".join([*start, *lines, r"\bottomrule", r"\end{tabular}"])


def _html(rows: Sequence[Sequence[str]]) -> str:
    header = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = ["".join(f"<td>{cell}</td>" for cell in (escape(row[0]), *row[1:])) for row in rows[1:]]
    return "\n".join(["<table>", *(f"<tr>{line}</tr>" for line in (header, *lines)), "</table>"])


def _weight(value: float) -> str:
    return f"{value:.4f}"


def _score(value: float) -> str:
    """Four digits of a small score, two of a large one, as papers print CIDEr and percentages."""
    return f"{value:.4f}" if value < 10 else f"{value:.2f}"
