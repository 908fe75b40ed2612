"""Repeats a benchmark's run over seeds and CPU kernels and says what holds over all of them.

    python -m scripts_visatb.study --benchmark scripts_visatb/benchmarks/demo.yaml --seeds 0 1 2 3 4 --cores 2

    runs/study-demo/<kernel>/demo.yaml         the benchmark as it is run there
    runs/study-demo/<kernel>/demo/             data and base model that `prepare` makes, once for each kernel
    runs/study-demo/<kernel>/seed<n>/demo/     one run: sub-datasets, models, answers, scores, weights, report
    runs/study-demo/logs/                      what the runs print
    runs/study-demo/study.md, study.json       the tables (scripts_visatb/study_tables.py)

A kernel is a value of ATEN_CPU_CAPABILITY, which chooses the instructions that torch computes with, and so the order of
its additions; `native` leaves the choice to torch. Runs that differ in it alone show what rounding does.
Each run is one of `visatb run` on one core, as many at a time as there are cores. Started again, the command goes on
where it was stopped; runs that are finished are only read.
"""

import os
import platform
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from scripts_visatb.study_tables import study_of, tables_of_study
from scripts_visatb.workflow.models import baseline_models
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.processes import die_with_parent
from visatb.benchmark import EW, VISATB, Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import write_json, write_text
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


def write_benchmark(benchmark: Benchmark, folder: Path, rivals: Sequence[str]) -> Path:
    """Write the benchmark as a kernel's runs read it: what its `prepare` makes goes below `folder`.

    Raises:
        InputError: `prepare` writes somewhere else than to `runs/NAME`, where the kernels would share it.
    """
    target = folder / benchmark.path.name
    content = read_yaml(benchmark.path)
    if benchmark.prepare:
        made = f"runs/{benchmark.name}"
        if made not in benchmark.prepare:
            raise InputError(
                f"{benchmark.path}: prepare must write to {made}, which a study makes once for each kernel."
            )
        content = rewritten(content, {made: str(folder / benchmark.name), str(benchmark.path): str(target)})
    content["baselines"] = list(rivals)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
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
        "--kernels", nargs="+", default=["default", "native"], choices=KERNELS, help="CPU kernels of torch"
    )
    parser.add_argument(
        "--rivals", nargs="*", default=[], metavar="METHOD", help="weight methods to compare with, besides EW"
    )
    parser.add_argument("--cores", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, help="folder of the study; default: runs/study-NAME")
    args = parser.parse_args()
    benchmark = load_benchmark(args.benchmark)
    output = args.output or Path("runs") / f"study-{benchmark.name}"
    for flag, values, least in (("--seeds", args.seeds, 2), ("--kernels", args.kernels, 1)):
        if len(set(values)) != len(values) or len(values) < least:
            raise InputError(
                f"{flag} must be {least} or more different ones, got {' '.join(map(str, values))}. Fix it."
            )
    if args.cores < 1:
        raise InputError(f"--cores must be at least 1, got {args.cores}.")
    files = {kernel: write_benchmark(benchmark, output / kernel, args.rivals) for kernel in args.kernels}
    wanted = repetitions(benchmark, output, args.seeds, files)
    # What `prepare` makes is there before the other seeds look for it.
    make_all([one for one in wanted if one.seed == args.seeds[0]], "weights", args.cores)
    make_all(wanted, "baselines" if args.rivals else "main", args.cores)
    prepared = load_benchmark(wanted[0].benchmark)
    rivals = [EW, *baseline_models(prepared)]
    study = study_of({(one.kernel, one.seed): one.run() for one in wanted}, VISATB, rivals)
    study |= {"command": " ".join(["visatb study", *sys.argv[1:]]), "processor": processor(), "date": str(date.today())}
    write_json(output / "study.json", study)
    text = tables_of_study(study)
    write_text(output / "study.md", text)
    print(text, end="")


if __name__ == "__main__":
    run(main)
