"""Writes the report of a run: report.html (one file, nothing to load), report.json and the figures as PNG.

python -m scripts_visatb.workflow.report --benchmark scripts_visatb/benchmarks/demo.yaml --run runs/demo
python -m scripts_visatb.workflow.report --run runs/demo --print-table    # the final table of a finished run
"""

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from eval.overall_table import format_table
from scripts_visatb.workflow.findings import is_clear, overall_sentences, seed_sentence, weight_sentence
from visatb.benchmark import load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json, write_json, write_text
from visatb.weighting.report import format_weights, unit_weights
from visatb.weighting.uncertainty import NOT_DISTINGUISHABLE

TEMPLATE = "report.html.j2"
LAYOUTS = {"markdown": ".md", "latex": ".tex"}


def write_report(data: dict[str, Any], folder: Path) -> Path:
    """Draw the figures and write report.json and report.html; returns the path of the latter.

    Args:
        data: result of `report_data.gather`.
        folder: where the files go.
    """
    from scripts_visatb.workflow.plots import draw_all

    figures = draw_all(data, folder)
    for name, make in tables(data).items():
        for layout, suffix in LAYOUTS.items():
            write_text(folder / "tables" / f"{name}{suffix}", make(layout) + "\n")
    write_json(folder / "report.json", data)
    page = folder / "report.html"
    write_text(page, render(data, figures))
    return page


def tables(data: dict[str, Any]) -> dict[str, Callable[[str], str]]:
    """The paper's tables that a run has, by name: functions of the layout (eval/overall_table.py).

    `methods` is Table 3 (scores, dI% and dE% of the methods), `weights` Table 5, `ablations` Tables 8 and 13.
    """
    found: dict[str, Callable[[str], str]] = {"weights": partial(format_weights, data["weighting"])}
    for name in ("methods", "ablations"):
        if data[name] is not None:
            found[name] = partial(format_table, data[name], baseline="STL")
    return found


def render(data: dict[str, Any], figures: dict[str, Path]) -> str:
    """The HTML page with its figures inside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup  # its names are escaped where the tables are made

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["duration"] = duration
    embedded = {name: base64.b64encode(path.read_bytes()).decode("ascii") for name, path in figures.items()}
    return environment.get_template(TEMPLATE).render(
        data=data,
        figures=embedded,
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


def duration(seconds: float) -> str:
    """Seconds as `12.3 s`, `4 min 05 s` or `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def print_table(data: dict[str, Any], page: Path) -> None:
    """Print weights, test scores and findings on the terminal."""
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
    console = Console(highlight=False)
    console.print(table)
    for sentence in [*overall_sentences(data), weight_sentence(data), seed_sentence(data)]:
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"Report: {page}", markup=False, soft_wrap=True)


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
    data = gather(benchmark, args.run, args.seeds or [benchmark.seed])
    page = write_report(data, args.run)
    print_table(data, page)


if __name__ == "__main__":
    run(main)
