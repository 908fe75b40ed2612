"""Repeats a benchmark's run over seeds and CPU kernels, or its preparation by several measures, and compares them.

    python -m scripts_visatb.study --benchmark scripts_visatb/benchmarks/demo.yaml --seeds 0 1 2 3 4 --cores 2
    python -m scripts_visatb.study --benchmark scripts_visatb/benchmarks/demo.yaml --seeds 0 1 2 \\
        --measures 'short: {samples_per_task: 300}' 'lora: {r: 16}' gradient

    runs/study-demo/<kernel>/demo.yaml         the benchmark as it is run there
    runs/study-demo/<kernel>/demo/             data and base model that `prepare` makes, once for each kernel
    runs/study-demo/<kernel>/seed<n>/demo/     one run: sub-datasets, models, answers, scores, weights, report
    runs/study-demo/logs/                      what the runs print
    runs/study-demo/study.md, study.json       the tables (scripts_visatb/study_tables.py)

A kernel is a value of ATEN_CPU_CAPABILITY, which chooses the instructions that torch computes with, and so the order of
its additions; `native` leaves the choice to torch. Runs that differ in it alone show what rounding does.
With --measures only the weights are made, by the measure `full` and each of those named (values of `measure:` in a
benchmark file), and compared: runs/study-demo/measures/, measures.md, measures.json, measures.png.
Each run is one of `visatb run` on one core, as many at a time as there are cores. The same command
resumes a study that was stopped; runs that are finished are only read.
"""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import yaml
from tqdm import tqdm

from scripts_visatb.pictures.measures import draw_measures
from scripts_visatb.study_measures import study_of_measures, tables_of_measures
from scripts_visatb.study_tables import study_of, tables_of_study
from scripts_visatb.workflow.cost import task_sizes
from scripts_visatb.workflow.measure_costs import cost_of
from scripts_visatb.workflow.models import baseline_models
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.processes import die_with_parent
from visatb.benchmark import EW, VISATB, Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import write_json, write_text
from visatb.measure_section import MEASURE, Measure
from visatb.schema import read
from visatb.weighting.settings import FULL_MEASURE
from visatb.yaml_files import read_yaml

KERNELS = ("default", "avx2", "avx512", "native")
VARIABLE = "ATEN_CPU_CAPABILITY"
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Repetition:
    """One run of a study.

    Attributes:
        kernel, seed: what sets it apart.
        benchmark: the file it is made from.
        runs: the folder of its run, `--runs` of `visatb run`.
        log: what it prints.
    """

    kernel: str
    seed: int
    benchmark: Path
    runs: Path
    log: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"seed {self.seed}, {self.kernel}"

    def run(self) -> Run:
        """Its files."""
        benchmark = load_benchmark(self.benchmark)
        return Run(benchmark, self.runs / benchmark.name, self.seed)


def rewritten(content: Any, places: dict[str, str]) -> Any:
    """The content of a benchmark file with other places in its texts."""
    if isinstance(content, dict):
        return {key: rewritten(value, places) for key, value in content.items()}
    if isinstance(content, list):
        return [rewritten(value, places) for value in content]
    for old, new in places.items() if isinstance(content, str) else ():
        content = content.replace(old, new)
    return content


def write_benchmark(benchmark: Benchmark, folder: Path, changes: Mapping[str, Any], suffix: str = "") -> Path:
    """Write the benchmark as runs of a study read it: what its `prepare` makes goes below `folder`.

    Args:
        benchmark: the original.
        folder: of the runs that share data and base model.
        changes: keys of the benchmark with other values.
        suffix: behind the file's name; `prepare` reads the one without.

    Raises:
        InputError: `prepare` writes somewhere else than to `runs/NAME`, where the kernels would share it.
    """
    shared = folder / benchmark.path.name
    target = shared.with_stem(shared.stem + suffix)
    content = read_yaml(benchmark.path)
    if benchmark.prepare:
        made = f"runs/{benchmark.name}"
        if made not in benchmark.prepare:
            raise InputError(
                f"{benchmark.path}: prepare must write to {made}, which a study makes once for each kernel."
            )
        content = rewritten(content, {made: str(folder / benchmark.name), str(benchmark.path): str(shared)})
    text = yaml.safe_dump(content | dict(changes), sort_keys=False, allow_unicode=True)
    if not target.is_file() or target.read_text() != text:  # its date is that of a setting
        write_text(target, text)
    return target


def repetitions(benchmark: Benchmark, output: Path, seeds: Sequence[int], files: dict[str, Path]) -> list[Repetition]:
    """All runs of a study, the kernels in turn.

    Args:
        files: kernel -> the benchmark as it reads it.
    """
    return [
        Repetition(kernel, seed, file, output / kernel / f"seed{seed}", output / "logs" / f"{kernel}_seed{seed}.log")
        for seed in seeds
        for kernel, file in files.items()
    ]


def start(repetition: Repetition, target: str) -> subprocess.Popen:
    """Start or resume one run up to a target."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if repetition.kernel != "native":
        environment[VARIABLE] = repetition.kernel
    command = [sys.executable, "-m", "scripts_visatb.workflow.run", "--benchmark", str(repetition.benchmark)]
    command += ["--cores", "1", "--seeds", str(repetition.seed), "--runs", str(repetition.runs), target]
    repetition.log.parent.mkdir(parents=True, exist_ok=True)
    with open(repetition.log, "ab") as log:
        # preexec_fn is safe here, where there is one thread: a killed study leaves no run behind.
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
        )


def make_all(wanted: Sequence[Repetition], target: str, cores: int) -> None:
    """Make all runs up to a target, as many at a time as there are cores.

    Raises:
        InputError: naming the runs that failed and the log of the first; the others are finished.
    """
    waiting, running, failed = deque(wanted), {}, []
    with tqdm(total=len(wanted), desc=target, unit="run") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < cores:
                    repetition = waiting.popleft()
                    running[start(repetition, target)] = repetition
                for process in [one for one in running if one.poll() is not None]:
                    repetition = running.pop(process)
                    failed += [repetition] if process.returncode else []
                    bar.update()
                time.sleep(POLL_SECONDS)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    if failed:
        names = "; ".join(repetition.name for repetition in failed)
        raise InputError(f"{len(failed)} of {len(wanted)} runs failed ({names}): see {failed[0].log}. Run it again.")


def processor() -> str:
    """The name of this machine's processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {len(names) or os.cpu_count()} cores"


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", required=True, help="benchmark YAML")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of subsets and trainings")
    parser.add_argument(
        "--kernels", nargs="+", choices=KERNELS, help="CPU kernels of torch; default: default native, or the last alone"
    )
    parser.add_argument(
        "--measures", nargs="+", metavar="MEASURE", help="measures to compare with `full`, as in a benchmark file"
    )
    parser.add_argument(
        "--rivals", nargs="*", default=[], metavar="METHOD", help="weight methods to compare with, besides EW"
    )
    parser.add_argument("--cores", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, help="folder of the study; default: runs/study-NAME")
    args = parser.parse_args()
    benchmark = load_benchmark(args.benchmark)
    output = args.output or Path("runs") / f"study-{benchmark.name}"
    kernels = args.kernels or (["native"] if args.measures else ["default", "native"])
    for flag, values, least in (("--seeds", args.seeds, 2), ("--kernels", kernels, 1)):
        if len(set(values)) != len(values) or len(values) < least:
            raise InputError(
                f"{flag} must be {least} or more different ones, got {' '.join(map(str, values))}. Fix it."
            )
    if args.cores < 1:
        raise InputError(f"--cores must be at least 1, got {args.cores}.")
    if args.measures and (len(kernels) > 1 or args.rivals):
        raise InputError("--measures takes one of --kernels and no --rivals. Leave the others out.")
    if args.measures:
        name, lay_out = "measures", tables_of_measures
        study = compare_measures(benchmark, output, args.seeds, args.measures, kernels[0], args.cores)
        draw_measures(study, output / "measures.png")
    else:
        name, lay_out = "study", tables_of_study
        study = compare_runs(benchmark, output, args.seeds, kernels, args.rivals, args.cores)
    command = shlex.join(["visatb", "study", *sys.argv[1:]])
    study |= {"command": command, "processor": processor(), "date": str(date.today())}
    write_json(output / f"{name}.json", study)
    text = lay_out(study)
    write_text(output / f"{name}.md", text)
    print(text, end="")


def compare_runs(
    benchmark: Benchmark, output: Path, seeds: Sequence[int], kernels: Sequence[str], rivals: Sequence[str], cores: int
) -> dict[str, Any]:
    """Make the final models of every seed by every kernel; returns what they say together."""
    files = {kernel: write_benchmark(benchmark, output / kernel, {"baselines": list(rivals)}) for kernel in kernels}
    wanted = repetitions(benchmark, output, seeds, files)
    # What `prepare` makes is there before the other seeds look for it.
    make_all([one for one in wanted if one.seed == seeds[0]], "weights", cores)
    make_all(wanted, "baselines" if rivals else "main", cores)
    compared = [EW, *baseline_models(load_benchmark(wanted[0].benchmark))]
    return study_of({(one.kernel, one.seed): one.run() for one in wanted}, VISATB, compared)


def compare_measures(
    benchmark: Benchmark, output: Path, seeds: Sequence[int], measures: Sequence[str], kernel: str, cores: int
) -> dict[str, Any]:
    """Make the weights of every seed by `full` and by each measure; returns how they agree.

    The measures of a seed share a run: what two of them have in common is trained once.

    Raises:
        InputError: for a measure that a benchmark file could not have, and for one that is named twice.
    """
    chosen = {FULL_MEASURE: FULL_MEASURE} | _read_measures(measures)
    folder = output / "measures"
    write_benchmark(benchmark, folder, {"measure": FULL_MEASURE})  # the one that `prepare` reads
    runs, samples = {}, {}
    for kind, value in chosen.items():
        file = write_benchmark(benchmark, folder, {"measure": value, "ablations": []}, f"-{kind}")
        load_benchmark(file)  # every mistake is found before the first training
        wanted = [
            Repetition(kernel, seed, file, folder / f"seed{seed}", output / "logs" / f"measures_seed{seed}.log")
            for seed in seeds
        ]
        runs |= {(kind, one.seed): one for one in wanted}
    for kind in chosen:
        wanted = [runs[kind, seed] for seed in seeds]
        if kind == FULL_MEASURE:
            make_all(wanted[:1], "weights", cores)
        make_all(wanted, "weights", cores)
        prepared = wanted[0].run().benchmark
        sizes, _ = task_sizes(prepared, "train")
        epochs = float((prepared.training.get("environment") or {}).get("NUM_TRAIN_EPOCHS", 1))
        samples[kind] = cost_of(prepared, prepared.measure, sizes, epochs).samples
    return study_of_measures({key: one.run() for key, one in runs.items()}, samples)


def _read_measures(texts: Sequence[str]) -> dict[str, Any]:
    """Kind -> the value of `measure:` in a benchmark file."""
    found: dict[str, Any] = {}
    for text in texts:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--measures {text!r}: is not YAML. Write for example 'short: {{...}}'.") from None
        kind = read(Annotated[Measure, MEASURE], value, Path(f"--measures {text!r}")).kind
        if kind in found or kind == FULL_MEASURE:
            raise InputError(f"--measures: {kind} is there already. Compare two settings of one in two --output.")
        found[kind] = value
    return found


if __name__ == "__main__":
    run(main)
