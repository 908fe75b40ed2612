"""What the zero-shot suite prints: the data that is missing, the table of scores, dI_zero% against another model."""

from collections.abc import Iterable
from pathlib import Path

from eval.comparable import check_comparable
from eval.overall import baseline_scores, compare
from eval.score_tables import ScoreTable, read_score_table
from eval.zero_shot.table import ZERO_SHOT_TASKS
from visatb.errors import InputError


def missing_lines(missing: Iterable[tuple[str, str, str]], data: str) -> list[str]:
    """The lines that say what to download and where to put it: every source once, below it its files.

    Args:
        missing: (benchmark, path below `data`, where it comes from).
        data: folder of the benchmarks.
    """
    sources: dict[str, dict[str, list[str]]] = {}
    for name, path, source in missing:
        sources.setdefault(source, {}).setdefault(path, []).append(name)
    lines = [f"missing, to be put under {data} (see docs/evaluation.md):"] if sources else []
    for source, paths in sources.items():
        lines += [f"  {source}", *(f"    {path}  [{', '.join(names)}]" for path, names in paths.items())]
    return lines


def print_table(title: str, rows: Iterable[tuple[str, str, str, float | None]]) -> None:
    """Print benchmark, state, metric and score of every row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("benchmark", "state", "metric"):
        table.add_column(column, no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for name, state, metric, score in rows:
        table.add_row(name, state, metric, "" if score is None else f"{score:.2f}")
    Console(highlight=False).print(table)


def zero_shot_line(results: Path, baseline: str) -> str:
    """dI_zero% of a model against another (Eq. 9 of arXiv 2403.04343), over the paper's tasks that both have scores of.

    Args:
        results: folder of the model's metric files.
        baseline: folder of the other's, or any other form that eval/overall.py reads.

    Raises:
        InputError: no task in common, scores that do not compare (metric, records), a baseline of 0 on all.
    """
    if not results.is_dir():
        raise InputError(f"{results}: has no metric file to compare with {baseline}. Score a benchmark first.")
    tables = read_score_table(baseline), read_score_table(results)
    base, own = map(baseline_scores, tables)
    common = [task for task in ZERO_SHOT_TASKS if task in base and task in own]
    if not common:
        raise InputError(f"{baseline}: has no score of {', '.join(ZERO_SHOT_TASKS)} that {results} has too. Score one.")
    check_comparable([cell for table in tables for cell in table.cells() if cell.column in common])
    table = ScoreTable(str(results), tuple(common), {results.name: {task: own[task] for task in common}})
    entry = compare(table, {task: base[task] for task in common}, zero_shot=True)["models"][results.name]
    changes = ", ".join(_change(task, value) for task, value in entry["improvement_percent"].items())
    absent = [task for task in ZERO_SHOT_TASKS if task not in common]
    without = f"; without {', '.join(absent)}" if absent else ""
    return f"dI_zero% against {baseline}: {entry['dI_zero_percent']:+.2f} ({changes}{without})"


def _change(task: str, percent: float | None) -> str:
    return f"{task} scores 0 in the baseline" if percent is None else f"{task} {percent:+.2f}%"
