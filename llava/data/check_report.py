"""The report of `llava.data.check`: numbers of each task, problems, and both as text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llava.data.check_samples import Problems, Samples
from visatb.records import Record, image_names

_QUANTILES = {"50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}


def task_rows(
    records: Sequence[Record], task_of_record: Sequence[str], samples: Samples | None
) -> dict[str, dict[str, Any]]:
    """Numbers of every task, in the order in which `task_of_record` brings them.

    Args:
        records: of one file, whatever they hold.
        task_of_record: what each is counted under.
        samples: of those that could be tokenised; None: no tokens were counted.

    Returns:
        task -> records, with_images, and if tokens were counted length and supervised_tokens (quantiles, mean; sum and
        share of the file's), truncated, unsupervised.
    """
    number = {name: k for k, name in enumerate(dict.fromkeys(task_of_record))}
    task_N = np.array([number[name] for name in task_of_record])
    has_image_N = np.array([bool(image_names(record)) for record in records])
    rows = {}
    for name, k in number.items():
        row = {"records": int((task_N == k).sum()), "with_images": int(has_image_N[task_N == k].sum())}
        rows[name] = row | ({} if samples is None else _token_numbers(samples, task_N[samples.index] == k))
    return rows


def _token_numbers(samples: Samples, member: np.ndarray) -> dict[str, Any]:
    supervised = samples.supervised[member]
    everything = int(samples.supervised.sum())
    total = int(supervised.sum())
    return {
        "length": _distribution(samples.length[member]),
        "supervised_tokens": _distribution(supervised)
        | {"sum": total, "share": total / everything if everything else 0.0},
        "truncated": int(samples.truncated[member].sum()),
        "unsupervised": int((supervised == 0).sum()),
    }


def _distribution(values: np.ndarray) -> dict[str, float]:
    """Mean and quantiles; a quantile is one of the values."""
    if not len(values):
        return {"mean": 0.0} | dict.fromkeys(_QUANTILES, 0)
    quantiles = np.quantile(values, list(_QUANTILES.values()), method="inverted_cdf")
    return {"mean": float(values.mean())} | {
        name: int(value) for name, value in zip(_QUANTILES, quantiles, strict=True)
    }


def problem_list(problems: Problems) -> list[dict[str, Any]]:
    """Problems as JSON values."""
    return [
        {"file": source, "kind": kind, "count": count, "examples": messages}
        for (source, kind), (count, messages) in problems.found.items()
    ]


def report_text(report: dict[str, Any]) -> str:
    """The report as text for a terminal of 100 columns."""
    lines = []
    for file in report["files"]:
        lines += [f"{file['path']}: {file['records']:,} records", "", *_tables(file["tasks"], file["total"]), ""]
        if "run" in file:
            run = file["run"]
            steps = f"{run['epochs']:g} epoch(s) in batches of {run['global_batch']}: {run['steps']:,} steps"
            tokens = run["supervised_tokens"]
            known = "tokens are not counted without --tokenizer" if tokens is None else f"{tokens:,} supervised tokens"
            lines += [f"{steps}; {known}", ""]
    for severity, meaning in (("errors", "refused by training or evaluation"), ("warnings", "accepted")):
        if report[severity]:
            lines.append(f"{severity} ({meaning}):")
        for problem in report[severity]:
            lines.append(f"  {problem['kind']}: {problem['count']:,} in {problem['file']}")
            lines += [f"    {message}" for message in problem["examples"]]
    if not report["errors"]:
        lines.append("no errors")
    return "\n".join(lines)


def _tables(tasks: dict[str, Any], total: dict[str, Any]) -> list[str]:
    rows = [*tasks.items(), ("total", total)]
    if "length" not in total:
        records = [[name, row["records"], row["with_images"]] for name, row in rows]
        return _table(["task", "records", "with images"], records)
    tokens, lengths = [], []
    for name, row in rows:
        spread, length = row["supervised_tokens"], row["length"]
        tokens.append([name, row["records"], row["with_images"], spread["sum"], f"{spread['share']:.1%}"])
        tokens[-1] += [f"{spread['mean']:.1f}", *(spread[q] for q in _QUANTILES)]
        lengths.append([name, f"{length['mean']:.1f}", *(length[q] for q in _QUANTILES)])
        lengths[-1] += [row["truncated"], row["unsupervised"]]
    return [
        *_table(["task", "records", "with images", "supervised tokens", "share", "mean", *_QUANTILES], tokens),
        "",
        *_table(["task", "positions: mean", *_QUANTILES, "truncated", "nothing supervised"], lengths),
    ]


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Lines with the first column on the left and the others, numbers, on the right."""
    cells = [head, *([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = []
    for name, *numbers in cells:
        columns = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *columns]))
    return lines
