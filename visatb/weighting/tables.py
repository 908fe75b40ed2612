"""Tables of scores: which model scored what on which task. Read from CSV, JSON, metric files or folders of them.

CSV:     model,VQAv2,RefCOCO-caption        one row per model, one column per task
         mini,78.3,0.51
JSON:    {"mini": {"VQAv2": 78.3, "RefCOCO-caption": 0.51}}, or a list of rows [{"model": "mini", "VQAv2": 78.3, ...}]
Metrics: a file that eval/*.py wrote with --output (one model, one task)
Folder:  <folder>/<model>/<task>.json with such files, or <folder>/<task>.json for one model named as the folder
"""

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visatb.errors import InputError, shown
from visatb.files import read_json, read_text
from visatb.weighting.comparable import Cell, Measured, measured_of

# float() would also take 1_0, nan and full-width digits, which nobody writes into a table on purpose.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class ScoreTable:
    """Scores by model and column.

    Attributes:
        source: the file or folder, for messages.
        columns: task names (eval/overall.py: also `task:metric`), in order.
        rows: model -> column -> score; a cell may be absent.
        measured: model -> column -> how the score was measured; a cell is absent where no metric file says.
    """

    source: str
    columns: tuple[str, ...]
    rows: dict[str, dict[str, float]]
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """How the scores were measured, as far as it is known."""
        return [Cell(model, column, of) for model, row in self.measured.items() for column, of in row.items()]


def read_score_table(path: str | os.PathLike) -> ScoreTable:
    """Read scores from any of the forms above.

    Returns:
        The table. Every score is finite and >= 0; a cell may be absent, but not empty.

    Raises:
        InputError: naming file, row, column and rule.
    """
    source = Path(path)
    if source.is_dir():
        return _from_folder(source)
    if source.suffix.lower() == ".csv":
        return _from_csv(source)
    content = read_json(source)
    if isinstance(content, dict) and "metric" in content and "score" in content:
        model, task, value = _metric(content, source, None)
        model = model or source.stem
        measured = {model: {task: measured_of(content, source)}}
        return ScoreTable(str(source), (task,), {model: {task: value}}, measured)
    return _from_json(content, source)


def merge_tables(tables: Iterable[ScoreTable], source: str) -> ScoreTable:
    """One table of several; models and columns in order of appearance.

    Raises:
        InputError: if a cell occurs twice.
    """
    columns: dict[str, None] = {}
    rows: dict[str, dict[str, float]] = {}
    measured: dict[str, dict[str, Measured]] = {}
    for table in tables:
        for model, cells in table.measured.items():
            measured.setdefault(model, {}).update(cells)
        columns.update(dict.fromkeys(table.columns))
        for model, cells in table.rows.items():
            row = rows.setdefault(model, {})
            for column, value in cells.items():
                if column in row:
                    raise InputError(f"{table.source}: {model}, {column}: is given twice. Give every score once.")
                row[column] = value
    return ScoreTable(source, tuple(columns), rows, measured)


def _from_csv(file: Path) -> ScoreTable:
    try:
        lines = [row for row in csv.reader(io.StringIO(read_text(file), newline=""), strict=True) if any(row)]
    except csv.Error as error:
        raise InputError(f"{file}: broken CSV: {error}. Fix the file.") from None
    lines = [[cell.strip() for cell in row] for row in lines]
    if not lines or lines[0][0] != "model":
        got = repr(",".join(lines[0])[:80]) if lines else "an empty file"
        raise InputError(f"{file}: header must be model,<task>,<task>..., got {got}. Fix the header.")
    columns = lines[0][1:]
    _check_columns(columns, str(file))
    entries = []
    for n, (model, *cells) in enumerate(lines[1:], 1):
        where, width = f"{file}: row {n} ({model})", len(columns) + 1
        if len(cells) != len(columns):
            raise InputError(f"{where} must have {width} cells as the header, got {len(cells) + 1}. Fix the row.")
        entries.append((where, model, dict(zip(columns, cells, strict=True))))
    return _table(entries, file, _csv_number)


def _from_json(content: Any, file: Path) -> ScoreTable:
    if isinstance(content, dict):
        content = [
            {"model": model, **(cells if isinstance(cells, dict) else {"": cells})} for model, cells in content.items()
        ]
    if not isinstance(content, list) or not all(isinstance(row, dict) and "" not in row for row in content):
        raise InputError(f'{file}: must be {{"<model>": {{"<task>": score}}}} or a list of such rows. Fix the file.')
    models = [row.pop("model", None) for row in content]
    entries = [(f"{file}: row {n} ({model})", model, content[n]) for n, model in enumerate(models)]
    return _table(entries, file, _number)


def _table(entries: Iterable[tuple[str, Any, dict]], file: Path, number: Callable[[Any, str], float]) -> ScoreTable:
    """The table of rows, each as (where it is, model, its cells); `number` reads a cell."""
    rows: dict[str, dict[str, float]] = {}
    for where, model, cells in entries:
        _check_model(model, rows, where)
        rows[model] = {column: number(value, f"{where}, {column}") for column, value in cells.items()}
    if not rows:
        raise InputError(f"{file}: has no row. Add one row per model.")
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    _check_columns(columns, str(file))
    return ScoreTable(str(file), tuple(columns), rows)


def _from_folder(folder: Path) -> ScoreTable:
    """The table of `<folder>/<model>/<task>.json`, or of `<folder>/<task>.json` for one model."""
    models = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    own = _metric_files(folder)
    if models and own:
        raise InputError(f"{folder}: holds both metric files and folders. Keep <model>/<task>.json only.")
    tables = [_from_metric_files(model, _metric_files(model)) for model in models or [folder]]
    if not any(table.columns for table in tables):
        raise InputError(f"{folder}: holds no metric file <model>/<task>.json. Write them with eval/*.py --output.")
    return merge_tables(tables, str(folder))


def _from_metric_files(folder: Path, files: list[Path]) -> ScoreTable:
    cells: dict[str, float] = {}
    measured: dict[str, Measured] = {}
    generators: dict[str, Path] = {}
    for file in files:
        content = read_json(file)
        if not isinstance(content, dict):
            raise InputError(f"{file}: must be a metric file as eval/*.py writes it. Write it with --output.")
        generator, task, cells[file.stem] = _metric(content, file, file.stem)
        measured[file.stem] = measured_of(content, file)
        if task != file.stem.partition(":")[0]:  # <task>:<metric>.json is a further metric of the task
            raise InputError(f"{file}: is the metric of task {task!r}. Name the file {task}.json.")
        if generator is not None:
            generators.setdefault(generator, file)
    if len(generators) > 1:
        (first, _), (other, at) = list(generators.items())[:2]
        raise InputError(f"{at}: scores model {other!r}, but its folder has {first!r} too. Keep one model per folder.")
    model = folder.resolve().name
    return ScoreTable(str(folder), tuple(cells), {model: cells}, {model: measured})


def _metric_files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.glob("*.json") if entry.is_file() and not entry.name.startswith("."))


def _metric(content: dict[str, Any], file: Path, task: str | None) -> tuple[str | None, str, float]:
    """Model, task and score of a metric file; `task` stands in where the file names none."""
    for key in ("metric", "score"):
        if key not in content:
            raise InputError(f"{file}: must have the key {key!r}, as eval/*.py --output writes it. Write it again.")
    named = content.get("task") or task
    generator = content.get("generator")
    if not isinstance(named, str):
        raise InputError(f"{file}: task must name the task, got {content.get('task')!r}. Give a folder of <task>.json.")
    if generator is not None and not isinstance(generator, str):
        raise InputError(f"{file}: generator must be text or null, got {generator!r}. Write the file again.")
    return generator, named, _number(content["score"], f"{file}: score")


def _check_columns(columns: list[str], source: str) -> None:
    if not columns:
        raise InputError(f"{source}: has no task column. Add one column per task.")
    for column in columns:
        if not column or column != column.strip() or not column.isprintable():
            raise InputError(f"{source}: column {column!r} must be a task name. Fix the header.")
        if columns.count(column) > 1:
            raise InputError(f"{source}: column {column!r} occurs twice. Give every task one column.")


def _check_model(model: Any, rows: dict[str, dict[str, float]], where: str) -> None:
    if not isinstance(model, str) or not model or model != model.strip() or not model.isprintable():
        raise InputError(f"{where}: model must be a name, got {model!r}. Fix the row.")
    if model in rows:
        raise InputError(f"{where}: is the second row of this model. Give every model one row.")


def _csv_number(cell: str, where: str) -> float:
    if not cell:
        raise InputError(f"{where}: the score is missing. Fill in the cell.")
    if not _NUMBER.fullmatch(cell):
        raise InputError(f"{where}: must be a finite number, got {cell[:40]!r}. Fix the cell.")
    return _number(float(cell), where)


def _number(value: Any, where: str) -> float:
    if value is None:
        raise InputError(f"{where}: the score is missing. Fill in the cell.")
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where}: must be a finite number, got {shown(value)}. Fix the cell.")
    if number < 0:
        raise InputError(f"{where}: must be >= 0 (higher is better), got {number}. Fix the cell.")
    return number
