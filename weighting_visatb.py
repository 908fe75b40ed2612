"""Task weights from a matrix of validation scores: contributions, difficulties, weights (arXiv 2403.04343, Eq. 3-8).

The matrix holds the scores of N+1 models on N tasks: one model trained on a small share of every task (`mini`), and
for every task one trained on much of that task and the small shares of all others (`<task>`, also written
`<task>+mini` or `<task>-plus-mini`). It is given as

    CSV      model,VQAv2,ChartQA      one row per model in any order; higher scores are better
             mini,61.2,10.1
             VQAv2,70.3,11.0
             ChartQA,62.0,17.4
    JSON     {"mini": {"VQAv2": 61.2, "ChartQA": 10.1}, "VQAv2": {...}, "ChartQA": {...}}
    folder   <folder>/<model>/<task>.json, metric files as eval/*.py writes them with --output

--form simpler, for tasks of free output format, compares single-task models with the base model (Eq. 10, 11): the rows
are `base` and one per task, and --single-scores holds V_i(mini_i). --form precise takes the contributions from the N+1
models and the difficulty from single-task models (Eq. 12). --single-scores is a table of the same kinds with the rows
`mini`, V_i(mini_i), and `full`, V_i(i): each column from a model of its own.

Several --scores are runs of one measurement, such as seeds: their mean is weighed, and every weight gets an interval of
t(k-1) standard errors. --bootstrap gives it one from resampled validation records. --power estimates how many more
runs or records would make these intervals half as wide.

Tasks of a benchmark may form groups; then there is one model per group, a group's contribution and difficulty are the
means over its tasks, and all its tasks get its weight. (The paper balances "each group as a whole" without a formula;
this is our reading.) A task with a fixed weight takes no part and appears in the weights at its id.
"""

import sys
from typing import TYPE_CHECKING, Any

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_json
from visatb.weighting import settings
from visatb.weighting.approximate import contribution_matrix
from visatb.weighting.comparable import ALLOW
from visatb.weighting.matrix import ScoreMatrix, mean_matrix, read_matrices, runs_that_failed
from visatb.weighting.power import Power, power_of_records, power_of_runs
from visatb.weighting.report import format_report, to_json
from visatb.weighting.settings import AUTO_RANGE, AUTO_TEMPERATURES, DEFAULT_ALPHA, DEFAULT_TEMPERATURE, MIN_GAIN  # noqa: F401
from visatb.weighting.tables import read_score_table
from visatb.weighting.uncertainty import Spread, Weigh, bootstrap, read_record_scores, spread_of_runs, weigh_alike
from visatb.weighting.weigh import (  # noqa: F401
    Weighting,
    auto_temperature,
    contribution_in,
    contribution_out,
    contributions,
    difficulty,
    softmax_weights,
    task_weights,
    weigh,
    weights_by_task,
)

if TYPE_CHECKING:
    from visatb.benchmark import Benchmark

EXAMPLE = "python weighting_visatb.py --scores scores.csv --output weights.json"


def main() -> int:
    """The command. Prints the table, or with --print-weights the weights alone."""
    options = _parser().parse_args()
    if options.scores is None:
        raise InputError(f"--scores must name the score matrix (CSV, JSON or folder). For example: {EXAMPLE}")
    inputs = [*options.scores, *(options.single_scores or ()), options.benchmark, options.contributions]
    refuse_unwritable([options.output, options.plot], inputs)
    benchmark, metric_names = _benchmark(options.benchmark)
    form, chosen = _settings(options, benchmark)
    measure = options.measure or settings.FULL_MEASURE
    if options.contributions is None:
        tables = (options.scores, options.single_scores, form)
        matrices, notes = read_matrices(*tables, benchmark, options.allow_different_records, metric_names)
    else:
        matrix, about = _approximated(options, benchmark)
        matrices, notes, form, measure = [matrix], [about], settings.GRADIENT, settings.GRADIENT
    notes += runs_that_failed(matrices, options.min_gain)
    matrix = mean_matrix(matrices)
    weighting = weigh(matrix, **chosen)
    weigh_part = weigh_alike(matrix, weighting, chosen["on_failed"], options.min_gain)
    spread, power = _spread(matrices, weigh_part, weighting, options)
    weights = weights_by_task(weighting, matrix, benchmark)
    failed_tasks = matrix.failed_tasks(options.min_gain)
    failed = [task.to_json(chosen["on_failed"], weighting.tasks) for task in failed_tasks]
    for note in [*notes, *(entry["about"] for entry in failed)]:
        print(f"note: {note}", file=sys.stderr)
    if options.plot is not None:
        from visatb.weighting.figure import draw  # needs matplotlib

        draw(weighting, options.plot, spread)
    if options.output is not None:
        write_json(options.output, to_json(weighting, weights, form, spread, failed, notes, power, measure))
    report = format_report(weighting, weights, spread, failed, power, measure)
    print(report, file=sys.stderr if options.print_weights else sys.stdout)
    if options.print_weights:
        print(*map(repr, weights.values()))
    return 0


def _approximated(options: Any, benchmark: "Benchmark | None") -> tuple[ScoreMatrix, str]:
    """The matrix of --contributions, whose difficulties are those of --scores; and a note on how it was measured."""
    for name in ("form", "measure", "single_scores", "bootstrap", "power"):
        if getattr(options, name):
            raise InputError(f"--contributions takes no --{name.replace('_', '-')}. Leave it out.")
    if len(options.scores) > 1:
        raise InputError("--contributions takes one --scores, with the rows base and mini, or mini and full.")
    matrix, about = contribution_matrix(options.contributions, read_score_table(options.scores[0]))
    if benchmark is not None:
        measured = [task.name for task in benchmark.measured]
        if list(matrix.tasks) != measured:
            got = ", ".join(matrix.tasks)
            raise InputError(f"{options.contributions}: tasks must be {', '.join(measured)}, got {got}. Measure again.")
    return matrix, about


def _benchmark(path: str | None) -> tuple["Benchmark | None", dict[str, str] | None]:
    """The benchmark, and the names of its metrics in metric files."""
    if path is None:
        return None, None
    from eval.registry import all_metrics  # these need packages that a table of scores does not
    from visatb.benchmark import load_benchmark

    return load_benchmark(path), {metric.name: metric.written for metric in all_metrics()}


def _settings(options: Any, benchmark: "Benchmark | None") -> tuple[str, dict[str, Any]]:
    """The form, and the settings of `weigh`: the flags, else the benchmark's, else the defaults."""
    chosen = {"form": settings.STANDARD, "temperature": DEFAULT_TEMPERATURE, "alpha": DEFAULT_ALPHA}
    chosen |= {"on_failed": settings.ON_FAILED[0], "min_gain": options.min_gain}
    for name in ("form", "temperature", "alpha", "on_failed"):
        if benchmark is not None:
            chosen[name] = getattr(benchmark, name)
        if getattr(options, name) is not None:
            chosen[name] = getattr(options, name)
    if options.temperature is not None:
        chosen["temperature"] = _temperature(options.temperature)
    return chosen.pop("form"), chosen


def _temperature(given: str) -> float | None:
    try:
        return None if given == "auto" else float(given)
    except ValueError:
        raise InputError(f"--temperature must be a number > 0 or auto, got {given!r}. Fix it.") from None


def _spread(
    matrices: list[ScoreMatrix], weigh_part: Weigh, weighting: Weighting, options: Any
) -> tuple[Spread | None, Power | None]:
    """How sure the weighting is and what would make it surer, as the flags ask."""
    if not 0 < options.confidence < 1:
        raise InputError(f"--confidence must be in (0, 1), got {options.confidence}. Change it.")
    if options.bootstrap is None:
        if len(matrices) == 1:
            if options.power:
                raise InputError("--power needs intervals. Add --bootstrap and --per-record, or several --scores.")
            return None, None
        spread = spread_of_runs(matrices, weigh_part, weighting, options.confidence, options.min_gain)
        return spread, power_of_runs(weighting, spread, len(matrices), options.confidence) if options.power else None
    if options.bootstrap < 2 or options.bootstrap_seed < 0:
        raise InputError("--bootstrap needs at least 2 resamples and --bootstrap-seed >= 0. Change them.")
    if len(matrices) > 1:
        raise InputError("--bootstrap needs one --scores. Leave the others out.")
    if options.per_record is None:
        raise InputError("--bootstrap needs --per-record, the folder of <model>/<task>.per_record.jsonl. Name it.")
    part = (matrices[0], read_record_scores(options.per_record, matrices[0], options.measure), weigh_part)
    draws = {"resamples": options.bootstrap, "seed": options.bootstrap_seed, "min_gain": options.min_gain}
    spread = bootstrap(*part, confidence=options.confidence, **draws)
    return spread, power_of_records(*part, weighting, spread, **draws) if options.power else None


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, epilog=f"example:\n  {EXAMPLE}")
    add, unset, alpha = parser.add_argument, "(not given: the benchmark's, else ", " ".join(map(str, DEFAULT_ALPHA))
    add("--scores", nargs="+", help="score matrix: CSV, JSON or folder (required); several are runs")
    add("--form", choices=settings.FORMS, help=f"Eq. 3-8; Eq. 10, 11; or Eq. 12 {unset}{settings.STANDARD})")
    gradients = "contributions of `visatb gradients` in place of those of --scores, which then gives the difficulties: "
    add("--contributions", help=f"{gradients}rows base and mini, or mini and full of single-task models")
    single = "scores of single-task models, for --form simpler and precise; one table, or one for each of --scores"
    add("--single-scores", nargs="+", help=single)
    made = (
        "how the models were made that --scores and --per-record are of: stands in the output, and before the names of "
    )
    made += (
        f"per-record folders, as in lora-mini_val (not given: {settings.FULL_MEASURE}, or gradient by --contributions)"
    )
    add("--measure", choices=settings.MEASURES[:-1], help=made)
    add("--benchmark", help="benchmark YAML: task ids, groups, fixed weights, form, temperature, alpha, on_failed")
    lowest = "the lowest of 0.05, 0.10, ... 10 that keeps all weights in [0.5, 2]"
    add("--temperature", help=f"T of Eq. 4-7, or auto: {lowest} {unset}{DEFAULT_TEMPERATURE})")
    shares = f"shares of the three weights in Eq. 8, sum 1 {unset}{alpha})"
    add("--alpha", nargs=3, type=float, metavar=("OUT", "IN", "D"), help=shares)
    failed = "if a task's own data did not raise its score: stop; leave the task out of N, with weight 1; or divide by "
    failed += "the smallest gain that is trusted and keep its contributions in [-1, 1] "
    add("--on-failed", choices=settings.ON_FAILED, help=f"{failed}{unset}{settings.ON_FAILED[0]})")
    trusted = "smallest gain V(own) - V(mini) that is trusted, as a share of V(own)"
    add("--min-gain", type=float, default=MIN_GAIN, help=trusted)
    add("--bootstrap", type=int, metavar="N", help="resample the validation records N times, e.g. 1000")
    add("--per-record", help="folder of <model>/<task>.per_record.jsonl, for --bootstrap")
    narrower = "estimate how many more records (--bootstrap) or runs would make each weight's interval half as wide"
    add("--power", action="store_true", help=narrower)
    add("--confidence", type=float, default=settings.CONFIDENCE, help="of the intervals")
    add("--bootstrap-seed", type=int, default=0, help="of the draws of --bootstrap")
    add(ALLOW, action="store_true", help="accept scores of different records, and report how they differ")
    add("--output", help="write everything to this JSON file")
    alone = "print the weights alone, in task-id order, for VISATB_WEIGHTS (the table goes to stderr)"
    add("--print-weights", action="store_true", help=alone)
    add("--plot", help="draw contributions, difficulties and weights to this PNG file")
    return parser


if __name__ == "__main__":
    run(main)
