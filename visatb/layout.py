"""Tables as text, Markdown, LaTeX, HTML or CSV."""

import csv
import io
import re
from collections.abc import Sequence
from html import escape

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

_MINUS = {"latex": "$-$", "markdown": "\N{MINUS SIGN}", "html": "\N{MINUS SIGN}"}
_HYPHEN = re.compile(r"(?<![\w.)])-(?=\d)")  # of a negative number


def lay_out(rows: Sequence[Sequence[str]], layout: str = "text", rules: Sequence[int] = (1,)) -> str:
    """Rows of cells as a table; the first row is its header, the first column names.

    Args:
        rows: cells; a cell may hold the layout's own markup, the header and the names are plain text.
        layout: "text", "markdown", "latex" (booktabs), "html" or "csv". Those for readers have proper minus signs, text
            and CSV the hyphen that programs read.
        rules: numbers of the rows that LaTeX draws a line before.
    """
    if layout in _MINUS:
        sign = _MINUS[layout]
        rows = [rows[0], *([row[0], *(with_minus(cell, sign) for cell in row[1:])] for row in rows[1:])]
    if layout == "csv":
        return _csv(rows)
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


def with_minus(text: str, sign: str = "\N{MINUS SIGN}") -> str:
    """Text in which the hyphen before a negative number is a minus sign."""
    return _HYPHEN.sub(sign, text)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    with io.StringIO() as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
        return stream.getvalue().removesuffix("\n")


def _latex(rows: Sequence[Sequence[str]], rules: Sequence[int]) -> str:
    named = [[_SYMBOLS.get(name) or name.translate(_LATEX) for name in rows[0]]]
    named += [[_SYMBOLS.get(row[0]) or row[0].translate(_LATEX), *row[1:]] for row in rows[1:]]
    lines = []
    for n, row in enumerate(named):
        lines += ([r"\midrule"] if n in rules else []) + [" & ".join(row) + r" \\"]
    start = [r"\begin{tabular}{l" + "r" * (len(rows[0]) - 1) + "}", r"\toprule"]
    return "\n".join([*start, *lines, r"\bottomrule", r"\end{tabular}"])


def _html(rows: Sequence[Sequence[str]]) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in rows[0])
    lines = [
        f'<th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) for row in rows[1:]
    ]
    body = [f"<tr>{line}</tr>" for line in lines]
    return "\n".join(["<table>", f"<thead><tr>{header}</tr></thead>", "<tbody>", *body, "</tbody>", "</table>"])
