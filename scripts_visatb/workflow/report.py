"""Writes the report of a run: report.html (one file, nothing to load), answers.html, report.json, figures and tables.

python -m scripts_visatb.workflow.report --benchmark scripts_visatb/benchmarks/demo.yaml --run runs/demo
python -m scripts_visatb.workflow.report --run runs/demo --print-table    # the final table of a finished run
"""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.overall_table import format_table
from scripts_visatb.workflow.findings import is_clear, overall_sentences, seed_sentence, weight_sentence
from scripts_visatb.workflow.pages import duration, render
from visatb.benchmark import Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json, write_json, write_text
from visatb.layout import lay_out
from visatb.weighting.report import format_weights, unit_weights
from visatb.weighting.uncertainty import NOT_DISTINGUISHABLE

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["duration", "print_table", "tables", "write_report"]

LAYOUTS = {"markdown": ".md", "csv": ".csv", "latex": ".tex"}
# Sections of the page in order; those without data are omitted.
SECTIONS = {
    "summary": "Summary",
    "scores": "Test scores",
    "methods": "Weighting methods",
    "ablations": "Ablations",
    "weights": "Task weights",
    "matrix": "Validation scores of the preparation models",
    "amounts": "Score against training amount",
    "seeds": "Does the order hold over seeds?",
    "curves": "Training curves",
    "jobs": "What ran and how long",
    "data": "Training data",
    "settings": "Settings and versions",
}


def write_report(data: dict[str, Any], folder: Path, has_answers: bool = False) -> Path:
    """Draw the figures and write tables, report.json and report.html; returns the path of the latter.

    Args:
        data: result of `report_data.gather`.
        folder: where the files go.
        has_answers: whether answers.html exists, so that scores link to it.
    """
    from scripts_visatb.workflow.plots import draw_all

    figures = draw_all(data, folder)
    for name, make in tables(data).items():
        for layout, suffix in LAYOUTS.items():
            write_text(folder / "tables" / f"{name}{suffix}", make(layout) + "\n")
    write_json(folder / "report.json", data)
    page = folder / "report.html"
    write_text(page, page_text(data, figures, has_answers))
    return page


def tables(data: dict[str, Any]) -> dict[str, Callable[[str], str]]:
    """The paper's tables that a run has, by name: functions of the layout (visatb/layout.py).

    `methods` is Table 3 (scores, dI% and dE% of the methods), `weights` Table 5, `ablations` Tables 8 and 13; `matrix`
    holds the validation scores.
    """
    found: dict[str, Callable[[str], str]] = {
        "weights": partial(format_weights, data["weighting"]),
        "matrix": partial(matrix_table, data["matrix"]),
    }
    for name in ("methods", "ablations"):
        if data[name] is not None:
            found[name] = partial(
                format_table, with_spread(data[name], data["overall_spread"]["models"]), baseline="STL"
            )
    return found


def matrix_table(matrix: dict[str, Any], layout: str) -> str:
    """The validation scores of the preparation models as a table, with every digit in CSV."""
    number = repr if layout == "csv" else "{:.4f}".format
    rows = [[name, *map(number, values)] for name, values in zip(matrix["rows"], matrix["values"], strict=True)]
    return lay_out([["model", *matrix["columns"]], *rows], layout)


def with_spread(comparison: dict[str, Any], spread: dict[str, Any]) -> dict[str, Any]:
    """A comparison with the known intervals added to its models."""
    models = {
        name: entry | ({"spread": spread[name]} if name in spread else {})
        for name, entry in comparison["models"].items()
    }
    return comparison | {"models": models}


def page_text(data: dict[str, Any], figures: dict[str, tuple[bytes, bytes]], has_answers: bool) -> str:
    """The HTML page with its figures inside."""
    from markupsafe import Markup  # names are escaped when the tables are made

    absent = {name for name in ("amounts", "curves") if name not in figures}
    absent |= {"ablations"} if not data["ablations"] else set()
    absent |= {"methods"} if not data["methods"] or len(data["methods"]["models"]) < 3 else set()
    return render(
        "report.html.j2",
        data=data,
        figures={name: [_embedded(svg) for svg in pair] for name, pair in figures.items()},
        sections={name: title for name, title in SECTIONS.items() if name not in absent} | dict.fromkeys(absent, ""),
        has_answers=has_answers,
        sentences=[*overall_sentences(data), weight_sentence(data)],
        seed_sentence=seed_sentence(data),
        is_clear=is_clear,
        unit_weights=unit_weights(data["weighting"]),
        not_distinguishable=NOT_DISTINGUISHABLE,
        tables={name: Markup(make("html")) for name, make in tables(data).items()},
        span=max((job["started"] + job["seconds"] for job in data["jobs"]), default=0.0),
        work=sum(job["seconds"] for job in data["jobs"]),
        peak=max((job["peak_mib"] for job in data["jobs"]), default=0.0),
    )


def _embedded(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def print_table(data: dict[str, Any], page: Path, console: "Console | None" = None) -> None:
    """Print weights, test scores and findings to the terminal, or to another console."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{data['benchmark']}: test scores, seed {data['seeds'][0]}"
    # Narrow enough for 80 columns with task names of usual length.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("weight", "STL", "EW", "VisATB", "EW %", "VisATB %"):
        table.add_column(name, justify="right")
    weights, overall = data["weighting"]["weights"], data["overall"]
    left_out = [entry["task"] for entry in data["weighting"].get("failed", ()) if not entry["weighed"]]
    for row in data["test"]:
        name = row["task"]
        percents = [entry["tasks"][name] if entry else None for entry in (overall["EW"], overall["VisATB"])]
        changes = ["-" if percent is None else f"{percent:+.2f}" for percent in percents]
        scores = [f"{row[model]:.4f}" for model in ("STL", "EW", "VisATB")]
        table.add_row(
            name, row["metric"], "left out" if name in left_out else f"{weights[name]:.3f}", *scores, *changes
        )
    if overall["VisATB"] is not None:
        table.add_section()
        for label, key, sign in (("dI%", "dI", "+"), ("dE%", "dE", "")):
            values = [f"{overall[model][key]:{sign}.2f}" for model in ("EW", "VisATB")]
            table.add_row(label, "", "", "", "", "", *values, style="bold")
            if spread := data["overall_spread"]["models"]:
                errors = [f"± {spread[model][key + '_error']:.2f}" for model in ("EW", "VisATB")]
                table.add_row("  error", "", "", "", "", "", *errors)
    console = console or Console(highlight=False)
    console.print(table)
    for sentence in [*overall_sentences(data), weight_sentence(data), seed_sentence(data)]:
        console.print(sentence, markup=False, soft_wrap=True)
    for name, file in (("Report", page), ("Answers to look at", page.with_name("answers.html"))):
        if file.is_file():
            console.print(f"{name}: {file}", markup=False, soft_wrap=True)


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", help="benchmark YAML; not needed with --print-table")
    parser.add_argument("--run", required=True, type=Path, help="run folder, runs/<benchmark name>")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds that were run; the benchmark's own by default")
    parser.add_argument("--print-table", action="store_true", help="only print the final table of a written report")
    args = parser.parse_args()
    page = args.run / "report.html"
    if args.print_table:
        # A report of an earlier version has no intervals of dI% and dE%.
        data = {"overall_spread": {"models": {}}} | read_json(args.run / "report.json")
        print_table(data, page)
        return
    if args.benchmark is None:
        raise InputError("--benchmark must name the benchmark file of the run. For the table alone: --print-table.")
    from scripts_visatb.workflow.report_data import gather

    benchmark = load_benchmark(args.benchmark)
    seeds = args.seeds or [benchmark.seed]
    data = gather(benchmark, args.run, seeds)
    lacking = write_answers_page(benchmark, args.run, seeds[0])
    data["warnings"] += lacking
    page = write_report(data, args.run, has_answers=not lacking)
    print_table(data, page)


def write_answers_page(benchmark: Benchmark, folder: Path, seed: int) -> Sequence[str]:
    """Write answers.html of a run; returns a sentence if that is impossible, since a report does not need it."""
    from scripts_visatb.workflow.answers import PAGE, gather, write_answers
    from scripts_visatb.workflow.places import Run
    from scripts_visatb.workflow.report_data import trained_models

    current = Run(benchmark, folder, seed)
    try:
        found = gather(current, trained_models(current)[0])
    except InputError as error:
        (folder / PAGE).unlink(missing_ok=True)  # a page of other answers would be misleading
        return [f"there is no page of answers: {error}"]
    write_answers(found, benchmark.name, benchmark.image_folder, folder / PAGE)
    return []


if __name__ == "__main__":
    run(main)
