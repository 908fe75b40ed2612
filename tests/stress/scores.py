"""Mutated score tables and metric files for weighting_visatb.py and eval/overall.py.

What is accepted must give the weights, or the overall metrics, that are computed here again from the mutated scores.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import weighting_visatb
from eval import overall
from tests.stress.mutators import NotJsonError, mutated, same, strict
from tests.stress.trials import Trial, call, verdict

COUNT = 500
_SCORES = {
    "mini": {"A": 0.5, "B": 20.0, "C": 0.1},
    "A": {"A": 0.8, "B": 22.0, "C": 0.1},
    "B": {"A": 0.53, "B": 40.0, "C": 0.3},
    "C": {"A": 0.5, "B": 19.0, "C": 0.5},
}
_CELLS = ("", " ", "nan", "inf", "-1", "1e400", "1e308", "1e-308", "0", "x", "1_0", "0,5", "50%", "None", "\x00", '"',
          "１", "mini", "A", "B+mini", "9" * 400, "0.6", "7")  # fmt: skip

Rows = dict[str, dict[str, float]]
Expected = dict[str, float]


class RefusalError(ValueError):
    """Why an input must be refused."""


@dataclass(frozen=True)
class Subject:
    """A command and the file that is mutated.

    Attributes:
        name, main, argv: the command.
        file, text: the file, and what it holds before mutation.
        mutate: text, chance -> what was done, and the bytes.
        expected: bytes -> what must come out; raises RefusalError where nothing may.
        output: what it writes.
        result: content of the output -> what came out.
    """

    name: str
    main: Callable[[], int | None]
    argv: Sequence[str | Path]
    file: Path
    text: str
    mutate: Callable[[str, random.Random], tuple[str, bytes]]
    expected: Callable[[bytes], Expected]
    output: Path
    result: Callable[[dict[str, Any]], Expected]


def trials(count: int, seed: str, folder: Path) -> Iterator[Trial]:
    """`count` mutated inputs for every kind of score file and both commands."""
    for make in (_json_table, _csv_table, _matrix_file, _overall_table, _results_file, _baseline_file):
        home = folder / make.__name__.strip("_")
        home.mkdir()
        subject = make(home)
        subject.file.write_text(subject.text)
        ended = call(subject.main, subject.argv)
        assert ended.code == 0, (subject.name, ended)
        for n in range(count):
            yield _trial(subject, random.Random(f"{seed} {subject.name} {n}"))


def _trial(subject: Subject, chance: random.Random) -> Trial:
    what, content = subject.mutate(subject.text, chance)
    subject.output.unlink(missing_ok=True)
    subject.file.write_bytes(content)
    expected, fault, unchanged = {}, None, False
    try:
        expected = subject.expected(content)
        unchanged = expected == subject.expected(subject.text.encode())
    except (NotJsonError, RefusalError) as error:
        fault = str(error) or "no JSON"
    ended = call(subject.main, subject.argv)
    wrong = partial(_wrong_result, subject, expected)
    unchanged = unchanged and same(_value(content), _value(subject.text.encode()))
    found, why = verdict(ended, fault, unchanged, wrong, [subject.output])
    return Trial(subject.name, what, found, why, content)


def _value(content: bytes) -> Any:
    try:
        return strict(content)
    except NotJsonError:
        return content.decode(errors="replace")


def _wrong_result(subject: Subject, expected: Expected) -> str | None:
    found = subject.result(json.loads(subject.output.read_text()))
    alike = found.keys() == expected.keys() and all(
        math.isclose(found[key], expected[key], rel_tol=1e-9, abs_tol=1e-9) for key in expected
    )
    return None if alike else f"{found} came out, not {expected}"


# What must come out


def _weights(rows: Rows) -> Expected:
    """The weights of Eq. 3-8 at T = 0.5, alpha = (0.25, 0.25, 0.5)."""
    tasks = list(next(iter(rows.values())))
    if set(rows) != {"mini", *tasks} or any(set(cells) != set(tasks) for cells in rows.values()):
        raise RefusalError("other rows and columns than the models and tasks")
    mini, own = rows["mini"], {task: rows[task][task] for task in tasks}
    if any(own[task] - mini[task] <= 1e-3 * own[task] for task in tasks):
        raise RefusalError("a task's own data did not raise its score")
    gain = {(i, j): (rows[i][j] - mini[j]) / (own[j] - mini[j]) for i in tasks for j in tasks}
    others = len(tasks) - 1
    values = {
        "out": [sum(gain[i, j] for j in tasks if j != i) / others for i in tasks],
        "in": [-sum(gain[j, i] for j in tasks if j != i) / others for i in tasks],
        "D": [1 - mini[i] / own[i] for i in tasks],
    }
    if not all(map(math.isfinite, [value for column in values.values() for value in column])):
        raise RefusalError("scores that cannot be divided")
    total = [0.0] * len(tasks)
    for share, column in zip((0.25, 0.25, 0.5), values.values(), strict=True):
        powers = [math.exp(max(-745.0, (value - max(column)) / 0.5)) for value in column]
        total = [t + share * len(tasks) * p / sum(powers) for t, p in zip(total, powers, strict=True)]
    return dict(zip(tasks, total, strict=True))


def _overall(baseline: dict[str, float], scores: dict[str, float], model: str = "A") -> Expected:
    """dI% and dE% of Eq. 9, over the tasks whose baseline is above 0."""
    if baseline.keys() != scores.keys() or not any(score > 0 for score in baseline.values()):
        raise RefusalError("other columns, or nothing to divide by")
    changes = [(scores[task] - base) / base for task, base in baseline.items() if base > 0]
    if not all(abs(change) <= 1e12 for change in changes):
        raise RefusalError("scores that cannot be divided")
    dI, lost = sum(changes) / len(changes), sum(max(0.0, -change) for change in changes) / len(changes)
    return {f"{model} dI": 100 * dI, f"{model} dE": 100 * lost}


def _is_score(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < 2e308 and math.isfinite(float(value))


def _rows_of(content: bytes) -> Rows:
    """The rows of a JSON table."""
    value = strict(content)
    if isinstance(value, dict):
        rows = list(value.items())
    elif isinstance(value, list) and all(isinstance(row, dict) for row in value):
        rows = [(row.get("model"), {key: cell for key, cell in row.items() if key != "model"}) for row in value]
    else:
        raise RefusalError("no rows")
    for model, cells in rows:
        if not isinstance(model, str) or not isinstance(cells, dict) or not all(map(_is_score, cells.values())):
            raise RefusalError("a cell that is no score")
        if "model" in cells or not all(
            name and name == name.strip() and name.isprintable() for name in (model, *cells)
        ):
            raise RefusalError("a name that is none")
    if len(rows) != len({model for model, _ in rows}) or not rows or not rows[0][1]:
        raise RefusalError("a model twice, or no score")
    return dict(rows)


# The commands


def _weighing(folder: Path, scores: Path, **rest: Any) -> Subject:
    output = folder.parent / f"{folder.name}-weights.json"
    argv = ["--scores", scores, "--output", output]
    result = lambda content: content["weights"]  # noqa: E731
    return Subject(main=weighting_visatb.main, argv=argv, output=output, result=result, **rest)


def _json_table(folder: Path) -> Subject:
    file = folder / "scores.json"
    expected = lambda content: _weights(_rows_of(content))  # noqa: E731
    rest = {"file": file, "text": json.dumps(_SCORES), "mutate": mutated, "expected": expected}
    return _weighing(folder, file, name="weighting_visatb.py JSON", **rest)


def _csv_table(folder: Path) -> Subject:
    file = folder / "scores.csv"
    lines = [["model", *"ABC"], *([model, *map(repr, cells.values())] for model, cells in _SCORES.items())]
    text = "\n".join(map(",".join, lines)) + "\n"
    rest = {"file": file, "text": text, "mutate": _other_csv, "expected": _csv_weights}
    return _weighing(folder, file, name="weighting_visatb.py CSV", **rest)


def _other_csv(text: str, chance: random.Random) -> tuple[str, bytes]:
    lines = [line.split(",") for line in text.rstrip("\n").split("\n")]
    what = chance.choice(
        ("odd cell", "other cell", "dropped row", "doubled row", "dropped cell", "swapped rows", "cut")
    )
    row, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    cell = chance.randrange(len(lines[row]))
    if what in ("odd cell", "other cell"):
        lines[row][cell] = chance.choice(_CELLS)
    elif what == "dropped row":
        del lines[row]
    elif what == "doubled row":
        lines.insert(row, list(lines[row]))
    elif what == "dropped cell":
        del lines[row][cell]
    elif what == "swapped rows":
        lines[row], lines[other] = lines[other], lines[row]
    changed = "\n".join(map(",".join, lines)) + "\n"
    return what, (changed[: chance.randrange(len(changed))] if what == "cut" else changed).encode()


def _csv_weights(content: bytes) -> Expected:
    text = content.decode()
    if text.count('"') % 2:
        raise RefusalError("an open quote")
    header, *lines = [[cell.strip() for cell in line.split(",")] for line in text.split("\n") if line.strip(",")] or [
        []
    ]
    if header[:1] != ["model"] or len(set(header)) < len(header) or len(header) < 2 or not all(header):
        raise RefusalError("no header")
    rows: Rows = {}
    for model, *cells in lines:
        name = model.removesuffix("+mini")
        if len(cells) != len(header) - 1 or name in rows:
            raise RefusalError("a row of another length, or twice")
        if not all(cell.isascii() and set(cell) <= set("0123456789.eE+-") for cell in cells):
            raise RefusalError("a cell that is no number")
        rows[name] = dict(zip(header[1:], map(_number, cells), strict=True))
    if not rows or not all(_is_score(value) for cells in rows.values() for value in cells.values()):
        raise RefusalError("a cell that is no score")
    return _weights(rows)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _metric(score: float, task: str, model: str) -> dict[str, Any]:
    counts = {"n": 400, "malformed": 0, "omitted": 0, "records": "0123456789abcdef"}
    return {"metric": "exact_match", "score": score} | counts | {"task": task, "generator": model, "answers": "a.json"}


def _write_models(folder: Path, scores: Rows) -> None:
    for model, cells in scores.items():
        (folder / model).mkdir()
        for task, score in cells.items():
            (folder / model / f"{task}.json").write_text(json.dumps(_metric(score, task, model)))


def _score_of(content: bytes, usual: dict[str, Any]) -> float:
    """The score of a metric file that stands beside others like `usual`."""
    found = strict(content)
    if not isinstance(found, dict) or not _is_score(found.get("score")) or found.get("metric") != usual["metric"]:
        raise RefusalError("no score of that metric")
    if (found.get("task") or usual["task"]) != usual["task"] or found.get("generator", None) not in (
        None,
        usual["generator"],
    ):
        raise RefusalError("of another task or model")
    for key in ("n", "omitted"):
        if found.get(key) is not None and not same(found[key], usual[key]):
            raise RefusalError(f"another {key}")
    if isinstance(found.get("records"), str) and found["records"] != usual["records"]:
        raise RefusalError("other records")
    return float(found["score"])


def _matrix_file(folder: Path) -> Subject:
    _write_models(folder, _SCORES)
    usual = _metric(_SCORES["B"]["A"], "A", "B")

    def expected(content: bytes) -> Expected:
        return _weights(_SCORES | {"B": _SCORES["B"] | {"A": _score_of(content, usual)}})

    rest = {"file": folder / "B/A.json", "text": json.dumps(usual), "mutate": mutated, "expected": expected}
    return _weighing(folder, folder, name="weighting_visatb.py folder", **rest)


def _comparing(folder: Path, baseline: Path, results: Path, **rest: Any) -> Subject:
    output = folder.parent / f"{folder.name}-overall.json"
    argv = ["--baseline", baseline, "--results", results, "--output", output]

    def result(content: dict[str, Any]) -> Expected:
        return {
            f"{model} {name}": entry[f"{name}_percent"]
            for model, entry in content["models"].items()
            for name in ("dI", "dE")
        }

    return Subject(main=overall.main, argv=argv, output=output, result=result, mutate=mutated, **rest)


def _overall_table(folder: Path) -> Subject:
    baseline, file = folder / "stl.json", folder / "ours.json"
    baseline.write_text(json.dumps({"STL": _SCORES["mini"]}))

    def expected(content: bytes) -> Expected:
        found: Expected = {}
        for model, cells in _rows_of(content).items():
            found |= _overall(_SCORES["mini"], cells, model)
        return found

    rest = {"file": file, "text": json.dumps({"A": _SCORES["A"]}), "expected": expected}
    return _comparing(folder, baseline, file, name="eval/overall.py JSON", **rest)


def _results_file(folder: Path) -> Subject:
    _write_models(folder, _SCORES)
    usual = _metric(_SCORES["A"]["B"], "B", "A")
    expected = lambda content: _overall(_SCORES["mini"], _SCORES["A"] | {"B": _score_of(content, usual)})  # noqa: E731
    rest = {"file": folder / "A/B.json", "text": json.dumps(usual), "expected": expected}
    return _comparing(folder, folder / "mini", folder / "A", name="eval/overall.py results", **rest)


def _baseline_file(folder: Path) -> Subject:
    _write_models(folder, _SCORES)
    usual = _metric(_SCORES["mini"]["B"], "B", "mini")
    expected = lambda content: _overall(_SCORES["mini"] | {"B": _score_of(content, usual)}, _SCORES["A"])  # noqa: E731
    rest = {"file": folder / "mini/B.json", "text": json.dumps(usual), "expected": expected}
    return _comparing(folder, folder / "mini", folder / "A", name="eval/overall.py baseline", **rest)
