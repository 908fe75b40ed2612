"""Overall metrics of tuned models against a baseline: dI%, dE% and dI_zero% (Eq. 9 of arXiv 2403.04343).

dI% is the mean over tasks of the improvement on each, in percent; dE% the mean of what got worse. The baseline of both
is the single-task models (STL). dI_zero% is dI% on zero-shot tasks with equal weights (EW) as baseline.

Scores are given as CSV (`model,<task>,...`, one row per model), as JSON {"<model>": {"<task>": score}}, as metric files
of eval/*.py, or as folders of them (<folder>/<task>.json or <folder>/<model>/<task>.json). A task with several metrics
has a column `<task>:<metric>` for each.
"""

import json
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from eval.overall_spread import read_task_scores, spread_over_records, spread_over_runs
from eval.overall_table import format_table
from eval.registry import lower_is_better
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_json, write_text
from visatb.weighting.comparable import ALLOW, Cell, check_comparable
from visatb.weighting.tables import ScoreTable, merge_tables, read_score_table

_LARGEST_CHANGE = 1e12  # beyond it scores are of different units, and sums of percentages leave the range of float64
FORMATS = ("text", "markdown", "latex", "json")


def improvements(
    scores: Mapping[str, float], baseline: Mapping[str, float], lower_is_better: Collection[str] = ()
) -> dict[str, float]:
    """The relative improvement I_i on every task (Eq. 9), a fraction.

    Args:
        scores, baseline: column -> score, with the same columns: `task`, or `task:metric` for each of its metrics.
        lower_is_better: columns with delta = 1.

    Returns:
        task -> mean over its metrics of (-1)^delta (M_e - M_b) / M_b, in the order of the baseline.

    Raises:
        InputError: if the columns differ or a baseline score is not above 0.
    """
    _refuse_other_columns(scores, baseline, lower_is_better)
    changes: dict[str, list[float]] = {}
    for column, base in baseline.items():
        if base <= 0:
            raise InputError(f"{column}: the baseline must be above 0 to be divided by, got {base:g}. Leave it out.")
        sign = -1.0 if column in lower_is_better else 1.0
        change = sign * (scores[column] - base) / base
        if not abs(change) <= _LARGEST_CHANGE:
            raise InputError(
                f"{column}: {scores[column]:g} against {base:g} is no change in percent. Check the scores."
            )
        changes.setdefault(column.partition(":")[0], []).append(change)
    return {task: sum(values) / len(values) for task, values in changes.items()}


def _refuse_other_columns(
    scores: Mapping[str, float], baseline: Mapping[str, float], lower_is_better: Collection[str]
) -> None:
    for column in [*baseline, *scores]:
        if column not in scores or column not in baseline:
            lacking = "the results" if column not in scores else "the baseline"
            raise InputError(f"{column}: has no score in {lacking}. Score the same tasks in both.")
    for column in lower_is_better:
        if column not in baseline:
            raise InputError(f"--lower-is-better {column!r} is no column. Columns are {', '.join(baseline)}.")


def overall_improvement(improvement_by_task: Mapping[str, float]) -> float:
    """dI%: 100 times the mean improvement over tasks (Eq. 9). On zero-shot tasks against EW this is dI_zero%."""
    return 100 * sum(improvement_by_task.values()) / len(improvement_by_task)


def overall_deterioration(improvement_by_task: Mapping[str, float]) -> float:
    """dE%: 100 times the mean over tasks of max(0, -I_i) (Eq. 9)."""
    return 100 * sum(max(0.0, -value) for value in improvement_by_task.values()) / len(improvement_by_task)


def compare(
    results: ScoreTable, baseline: Mapping[str, float], lower_is_better: Collection[str] = (), zero_shot: bool = False
) -> dict[str, Any]:
    """The overall metrics of every model of a table.

    Args:
        results: scores of one or more models.
        baseline: column -> score.
        lower_is_better: columns with delta = 1.
        zero_shot: the baseline is EW and the tasks are zero-shot: dI_zero% alone.

    Returns:
        {"baseline": {column: score}, "lower_is_better": [column], "models": {model: {"scores": {column: score},
        "improvement_percent": {task: number}, "dI_percent": number, "dE_percent": number}}}; with `zero_shot`,
        "dI_zero_percent" instead of the last two. A task whose baseline score is 0 has no change in percent (None)
        and takes no part in the overall metrics; a sentence in "notes" says so.

    Raises:
        InputError: as `improvements`, naming the model; or no task is left.
    """
    zeros = tasks_at_zero(baseline)
    models = {}
    for model, cells in results.rows.items():
        try:
            models[model] = _compared(cells, baseline, lower_is_better, zeros, zero_shot)
        except InputError as error:
            raise InputError(f"{results.source}: {model}: {error}") from None
    notes = []
    if zeros:
        overall = "dI_zero%" if zero_shot else "dI% and dE%"
        notes = [f"the baseline scores 0 on {', '.join(zeros)}: no change in percent; {overall} are over the others"]
    return {
        "baseline": dict(baseline),
        "lower_is_better": list(lower_is_better),
        "models": models,
        "without_percent": zeros,
        "notes": notes,
    }


def _compared(
    scores: Mapping[str, float],
    baseline: Mapping[str, float],
    lower_is_better: Collection[str],
    zeros: Collection[str],
    zero_shot: bool,
) -> dict[str, Any]:
    """The entry of one model in a comparison; `zeros` are the tasks without a change in percent."""
    _refuse_other_columns(scores, baseline, lower_is_better)
    divided = [column for column in baseline if column.partition(":")[0] not in zeros] or list(baseline)
    kept, base = ({column: row[column] for column in divided} for row in (scores, baseline))
    by_task = improvements(kept, base, [column for column in lower_is_better if column in divided])
    percent = {task: 100 * value for task, value in by_task.items()}
    entry = {
        "scores": {column: scores[column] for column in baseline},
        "improvement_percent": {task: percent.get(task) for task in (column.partition(":")[0] for column in baseline)},
    }
    if zero_shot:
        return entry | {"dI_zero_percent": overall_improvement(by_task)}
    return entry | {"dI_percent": overall_improvement(by_task), "dE_percent": overall_deterioration(by_task)}


def tasks_at_zero(baseline: Mapping[str, float]) -> list[str]:
    """The tasks without a change in percent: the baseline scores 0 on them, or on one of their metrics."""
    return list(dict.fromkeys(column.partition(":")[0] for column, score in baseline.items() if score <= 0))


def baseline_scores(table: ScoreTable, model: str | None = None) -> dict[str, float]:
    """The baseline's scores in a table.

    Args:
        table: one model, or single-task models with one task each, which together are the baseline.
        model: the row to take; None takes all.

    Raises:
        InputError: if that model is absent, or models overlap and none is named.
    """
    if model is not None:
        if model not in table.rows:
            raise InputError(f"{table.source}: has no model {model!r}; it has {', '.join(table.rows)}. Check the name.")
        return table.rows[model]
    scores: dict[str, float] = {}
    for name, cells in table.rows.items():
        for column, value in cells.items():
            if column in scores:
                raise InputError(
                    f"{table.source}: {column}: {name!r} is not the only model that scores it. "
                    f"Choose one of {', '.join(table.rows)} with --baseline-model."
                )
            scores[column] = value
    return scores


def baseline_cells(table: ScoreTable, model: str | None = None) -> list[Cell]:
    """How the scores that `baseline_scores` takes were measured, as far as it is known."""
    return [cell for cell in table.cells() if model in (None, cell.model)]


def over_records(comparison: dict[str, Any], cells: Collection[Cell], options: Namespace) -> list[str]:
    """Give every model of a comparison the `spread` of its overall metrics over resampled records; sentences on them.

    Args:
        comparison: of `compare`.
        cells: the metric files of the baseline (first) and of the models.
        options: of the command.

    Raises:
        InputError: without metric files that have record scores beside them, or for flags out of range.
    """
    if options.bootstrap < 2 or not 0 < options.confidence < 1 or options.bootstrap_seed < 0:
        raise InputError("--bootstrap needs at least 2 resamples, --confidence in (0, 1), --bootstrap-seed >= 0.")
    columns = [c for c in comparison["baseline"] if c.partition(":")[0] not in comparison["without_percent"]]
    files = {column: [cell.measured.file for cell in cells if cell.column == column] for column in columns}
    for column, found in files.items():
        if len(found) != 1 + len(comparison["models"]):
            raise InputError(f"--bootstrap needs metric files of all models; {column} has {len(found)}. Give folders.")
    signs = signs_of(columns, comparison["lower_is_better"])
    drawn = (options.bootstrap, options.confidence, options.bootstrap_seed)
    try:
        spread = spread_over_records(read_task_scores(files), signs, list(comparison["models"]), *drawn)
    except ValueError as error:
        raise InputError(f"--bootstrap: {error}. Score more records.") from None
    notes = []
    for model, found in spread["models"].items():
        comparison["models"][model]["spread"] = found | {"about": spread["about"]}
        for key, ends in _shown(found, comparison["models"][model]):
            notes.append(f"{model}: {key} {spread['about']}: {ends[0]:+.2f} .. {ends[1]:+.2f}")
    return notes


def over_runs(comparison: dict[str, Any], confidence: float) -> list[str]:
    """Give a comparison whose models are runs of one the `runs`: mean, error and interval; sentences on them."""
    models = list(comparison["models"].values())
    comparison["runs"], notes = {}, []
    for key in (key for key in ("dI_percent", "dE_percent", "dI_zero_percent") if key in models[0]):
        mean, ends, error = spread_over_runs([entry[key] for entry in models], confidence)
        comparison["runs"][key] = {"mean": mean, "interval": list(ends), "error": error}
        name = key.removesuffix("_percent") + "%"
        interval = f"{confidence:.0%} interval {ends[0]:+.2f} .. {ends[1]:+.2f}"
        notes.append(f"{name}: mean of {len(models)} runs {mean:.2f}, {interval} (Student's t, runs only)")
    return notes


def signs_of(columns: Collection[str], lower_is_better: Collection[str] = ()) -> list[np.ndarray]:
    """(-1)^delta of the metrics of every task, in order of appearance."""
    signs: dict[str, list[float]] = {}
    for column in columns:
        signs.setdefault(column.partition(":")[0], []).append(-1.0 if column in lower_is_better else 1.0)
    return [np.array(sign_K) for sign_K in signs.values()]


def _shown(found: Mapping[str, Any], entry: Mapping[str, Any]) -> list[tuple[str, Sequence[float]]]:
    keys = {"dI_percent": "dI", "dE_percent": "dE", "dI_zero_percent": "dI"}
    return [(key.removesuffix("_percent") + "%", found[name]) for key, name in keys.items() if key in entry]


def main() -> int:
    """The command. Prints the table."""
    options = _parser().parse_args()
    refuse_unwritable([options.output, options.markdown, options.latex], [*options.baseline, *options.results])
    baseline_table = merge_tables([read_score_table(path) for path in options.baseline], ", ".join(options.baseline))
    results = merge_tables([read_score_table(path) for path in options.results], ", ".join(options.results))
    baseline = baseline_scores(baseline_table, options.baseline_model)
    cells = baseline_cells(baseline_table, options.baseline_model) + results.cells()
    notes = check_comparable(cells, options.allow_different_records)
    lower = dict.fromkeys([*options.lower_is_better, *lower_is_better(cells)])
    comparison = compare(results, baseline, lower, options.zero_shot)
    comparison["notes"] += notes
    if options.bootstrap is not None:
        comparison["notes"] += over_records(comparison, cells, options)
    if options.runs:
        comparison["notes"] += over_runs(comparison, options.confidence)
    if options.markdown is not None:
        write_text(options.markdown, format_table(comparison, "markdown") + "\n")
    if options.latex is not None:
        write_text(options.latex, format_table(comparison, "latex") + "\n")
    if options.output is not None:
        write_json(options.output, comparison)
    if options.format == "json":
        print(json.dumps(comparison, indent=1, ensure_ascii=False))
    else:
        print(format_table(comparison, options.format))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python eval/overall.py --baseline stl.csv --results visatb.csv --output overall.json",
    )
    parser.add_argument("--baseline", nargs="+", required=True, help="scores of the baseline: files or folders")
    parser.add_argument("--results", nargs="+", required=True, help="scores of the models to judge: files or folders")
    parser.add_argument("--baseline-model", help="the baseline's row, where --baseline holds several models")
    parser.add_argument(
        "--lower-is-better",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns where a lower score is better, besides those whose metric says so",
    )
    parser.add_argument(
        "--zero-shot", action="store_true", help="the tasks are zero-shot and the baseline is EW: print dI_zero%%"
    )
    parser.add_argument(
        ALLOW,
        action="store_true",
        help="compare scores of different records (number, omissions, split) nevertheless, and say how they differ",
    )
    parser.add_argument(
        "--runs",
        action="store_true",
        help="the models of --results are runs (seeds) of one: report their mean and error",
    )
    parser.add_argument(
        "--bootstrap", type=int, metavar="N", help="resample the records N times, e.g. 1000, for intervals of dI and dE"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    parser.add_argument("--bootstrap-seed", type=int, default=0, help="of the draws of --bootstrap")
    parser.add_argument("--format", choices=FORMATS, default="text", help="what to print")
    parser.add_argument("--markdown", help="write the table to this Markdown file")
    parser.add_argument("--latex", help="write the table to this LaTeX file")
    parser.add_argument("--output", help="write everything to this JSON file")
    return parser


if __name__ == "__main__":
    run(main)
