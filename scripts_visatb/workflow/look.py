"""Writes a page of a finished run's answers: those in which VisATB and equal weights differ most.

    python -m scripts_visatb.workflow.look runs/demo
    visatb look runs/demo --records 200 --output all_answers.html --open

The run graph writes RUN/answers.html with 40 records per task, beside the report; this command writes it for a run
without one, or with more records.
"""

import webbrowser
from pathlib import Path

from scripts_visatb.workflow.answers import PAGE, RECORDS
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json


def benchmark_of(folder: Path) -> tuple[str, int | None]:
    """The benchmark file of a run and the first seed of its report, according to the record of a step.

    Raises:
        InputError: the folder has no run, or its benchmark file is gone.
    """
    records = [folder / "done" / "report.json", *sorted(folder.glob("seed*/done/[!.]*.json"))]
    for record in records:
        words = read_json(record).get("command", []) if record.is_file() else []
        if "--benchmark" not in words[:-1]:
            continue
        file = words[words.index("--benchmark") + 1]
        if not Path(file).is_file():
            raise InputError(f"{file}: the benchmark file of {folder} does not exist. Name it with --benchmark.")
        seeds = words[words.index("--seeds") + 1 :][:1] if "--seeds" in words else []
        return file, int(seeds[0]) if seeds else None
    raise InputError(f"{folder}: no run with finished steps. Give the folder of a run, runs/<benchmark name>.")


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, runs/<benchmark name>")
    parser.add_argument("--benchmark", help="benchmark YAML; the run's own by default")
    parser.add_argument("--seed", type=int, help="seed with the final models; the first of the run by default")
    parser.add_argument("--records", type=int, default=RECORDS, help="records to show per task")
    parser.add_argument("--output", type=Path, help=f"the page; RUN/{PAGE} by default")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    args = parser.parse_args()
    if args.records < 1:
        raise InputError(f"--records must be at least 1, got {args.records}. Raise it.")
    page = args.output or args.run / PAGE
    write(args.run, page, args.benchmark, args.seed, args.records)
    print(page)
    if args.open:
        webbrowser.open(page.resolve().as_uri())


def write(folder: Path, page: Path, benchmark_file: str | None, seed: int | None, records: int) -> None:
    """Gather the answers of a run and write the page."""
    from scripts_visatb.workflow.answers import gather, write_answers
    from scripts_visatb.workflow.places import Run
    from scripts_visatb.workflow.report_data import trained_models
    from visatb.benchmark import load_benchmark
    from visatb.files import refuse_unwritable

    file, first = (benchmark_file, None) if benchmark_file else benchmark_of(folder)
    benchmark = load_benchmark(file)
    refuse_unwritable([page], [file])
    current = Run(benchmark, folder, next(s for s in (seed, first, benchmark.seed) if s is not None))
    shown, _ = trained_models(current)
    write_answers(gather(current, shown, records), benchmark.name, benchmark.image_folder, page)


if __name__ == "__main__":
    run(main)
