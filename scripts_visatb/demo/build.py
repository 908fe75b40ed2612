"""Builds the demo: images and annotation files, tokenizer, vision tower, language model, stage 1.

    python -m scripts_visatb.demo.build --benchmark scripts_visatb/benchmarks/demo.yaml --output runs/demo

    runs/demo/images/  data/             pictures and annotation files, in the folders that the benchmark names
    runs/demo/base/tokenizer/  llama/    the language model that all training runs start from, with its tokenizer
    runs/demo/base/vision_tower/         CLIP vision model
    runs/demo/base/projector/            mm_projector.bin and the log of stage 1
    runs/demo/base/proxy/llama/  projector/   with --proxy: a smaller language model, for `measure: proxy`
    runs/demo/prepared.json              written last, and when a proxy is added: every file's size and SHA-256

The seed determines data and base model; the seeds of the training runs are the run graph's. Every part is built under a
temporary name and renamed when complete, so that an interrupted build resumes; existing parts are not built again.
"""

import fcntl
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from typing import Any

from scripts_visatb.demo.annotations import SIZES
from scripts_visatb.workflow.processes import die_with_parent
from visatb.benchmark import Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import fsync_folder, read_json, write_json

MARKER = ".visatb-demo.json"
PREPARED = "prepared.json"
# Incremented when drawings, texts or models change: folders of earlier versions are refused, not mixed.
VERSION = 5
# Fields of LanguageRecipe in which the smaller language model differs from the other; it needs more steps.
PROXY = {"hidden": 64, "intermediate": 128, "steps": 1800}
# Files of the run graph in the same folder.
_NEIGHBOURS = ("done", "logs", "seed", "report", ".")
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Recipe:
    """Sizes of the data and length of the base model's training.

    Attributes:
        sizes: records by task and split.
        alignment: captions of stage 1.
        tower, language: fields of TowerRecipe and LanguageRecipe that differ from their defaults.
        stage1: variables of pretrain.sh.
    """

    sizes: dict[str, dict[str, int]] = field(default_factory=lambda: SIZES)
    alignment: int = 3000
    tower: dict[str, Any] = field(default_factory=dict)
    language: dict[str, Any] = field(default_factory=dict)
    stage1: dict[str, str] = field(
        default_factory=lambda: {"PER_DEVICE_TRAIN_BATCH_SIZE": "16", "LEARNING_RATE": "5e-3", "NUM_TRAIN_EPOCHS": "1"}
    )


class Build:
    """One output folder and the parts that are built in it.

    Args:
        benchmark: names the annotation files and the folders of data and images.
        output: the folder; created if missing.
        seed: of data and base model.
        recipe: sizes.

    Raises:
        InputError: if the folder has other content or a demo with other settings, or another process is building in it.
    """

    def __init__(self, benchmark: Benchmark, output: Path, seed: int, recipe: Recipe):
        self.benchmark, self.output, self.seed, self.recipe = benchmark, output, seed, recipe
        self.base = output / "base"
        self.proxy = self.base / "proxy"
        self.data, self.images = output / "data", output / "images"
        self._settings = {"version": VERSION, "seed": seed, "recipe": asdict(recipe)}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the folder for this process; refuse it if it is not ours."""
        marker = self.output / MARKER
        if not marker.is_file():
            self._refuse_foreign()
        self.output.mkdir(parents=True, exist_ok=True)
        with open(self.output / f"{MARKER}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.output}: another process is building here. Wait for it or end it.") from None
            if marker.is_file():
                self._recall(marker)
            else:
                self._remember()
            yield

    def part(self, name: str, target: Path, make: Callable[[Path], None]) -> None:
        """Create a folder with `make(temporary folder)` unless it exists; record the seconds."""
        if target.is_dir():
            return
        started = time.monotonic()
        scratch = target.with_name(f".{target.name}.unfinished")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        make(scratch)
        os.replace(scratch, target)
        fsync_folder(target.parent)
        self.note(name, time.monotonic() - started)

    def note(self, name: str, seconds: float) -> None:
        """Record how long a part took, across interruptions."""
        self.seconds[name] = round(seconds, 2)
        self._remember()

    def _remember(self) -> None:
        write_json(self.output / MARKER, self._settings | {"seconds": self.seconds})

    def _recall(self, marker: Path) -> None:
        found = read_json(marker)
        self.seconds = found.pop("seconds", {})
        differing = [key for key, value in self._settings.items() if found.get(key) != value]
        if differing:
            raise InputError(
                f"{self.output}: has a demo with other settings ({', '.join(differing)} differ). Choose another "
                "--output or delete the folder."
            )

    def _refuse_foreign(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output}: must be a folder, got a file (--output). Choose another path.")
        names = sorted(path.name for path in self.output.iterdir()) if self.output.is_dir() else []
        strange = [name for name in names if not name.startswith((*_NEIGHBOURS, MARKER))]
        if strange:
            raise InputError(
                f"{self.output}: has other content ({', '.join(strange[:3])}). Choose an empty folder for --output."
            )


Make = Callable[[Build, Path], None]  # builds a part in the folder


def build(
    benchmark: Benchmark, output: Path, seed: int, recipe: Recipe | None = None, proxy: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Build the missing parts of the demo; returns the content of prepared.json.

    Args:
        benchmark, output, seed, recipe: see `Build`.
        proxy: also a smaller language model: its fields like PROXY.

    Raises:
        InputError: see `Build`; a finished demo with a missing file; a benchmark file with other tasks.
    """
    from scripts_visatb.demo.dataset import check_sizes

    job = Build(benchmark, output, seed, recipe or Recipe())
    check_sizes(benchmark, job.recipe.sizes)
    _check_folders(benchmark, job)
    with job.claimed():
        if (output / PREPARED).is_file():
            prepared = read_json(output / PREPARED)
            check_prepared(output, prepared)
            if proxy is not None and "base/proxy/projector/mm_projector.bin" not in prepared["files"]:
                _make_proxy(job, proxy)
                return _finish(job)
            print(f"{output}: the demo is complete; nothing to do.")
            return prepared
        for leftover in output.glob(".*.unfinished"):
            shutil.rmtree(leftover)
        # They need nothing of the rest, which is built meanwhile on another core.
        beside = {
            "images and annotations": (job.data, _draw),
            "vision tower": (job.base / "vision_tower", _make_tower),
        }
        with _beside(job, beside):
            job.part("tokenizer", job.base / "tokenizer", lambda folder: _make_tokenizer(job, folder))
            job.part("language model", job.base / "llama", lambda folder: _make_language_model(job, folder))
        _stage1(job, "stage 1", job.base)
        if proxy is not None:
            _make_proxy(job, proxy)
        return _finish(job)


def _finish(job: Build) -> dict[str, Any]:
    """List the finished parts in prepared.json; an unfinished proxy is none."""
    base = [job.base / name for name in ("tokenizer", "llama", "vision_tower", "projector")]
    proxy = [job.proxy] if (job.proxy / "projector").is_dir() else []
    prepared = {
        "seed": job.seed,
        "version": VERSION,
        "seconds": job.seconds,
        "files": list_files(job.output, (job.data, job.images, *base, *proxy)),
    }
    write_json(job.output / PREPARED, prepared)
    return prepared


def list_files(output: Path, folders: tuple[Path, ...]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below the folders, by path relative to the output folder."""
    listed = {}
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            listed[path.relative_to(output).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return listed


def check_prepared(output: Path, prepared: dict[str, Any]) -> None:
    """Refuse a finished demo of which a file is missing or has another size. Raises InputError naming the file."""
    for name, facts in prepared["files"].items():
        path = output / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            part = "/".join(name.split("/")[: 2 if name.startswith("base/") else 1])
            raise InputError(
                f"{path}: missing or changed since it was made. Delete {output / part} and {output / PREPARED}, and "
                "build again."
            )


def _check_folders(benchmark: Benchmark, job: Build) -> None:
    for key, folder in (("data_folder", job.data), ("image_folder", job.images)):
        if Path(getattr(benchmark, key)).resolve() != folder.resolve():
            raise InputError(f"{benchmark.path}: {key} must be {folder} for --output {job.output}. Fix one of them.")


def _draw(job: Build, data_folder: Path) -> None:
    """Draw the pictures first, under their final names; the annotation files are completed last."""
    from scripts_visatb.demo.dataset import ALIGNMENT, draw_alignment, draw_benchmark

    shutil.rmtree(job.images, ignore_errors=True)
    scratch = job.images.with_name(f".{job.images.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    draw_benchmark(job.benchmark, job.recipe.sizes, job.seed, data_folder, scratch)
    draw_alignment(job.recipe.alignment, job.seed, data_folder / f"{ALIGNMENT}_train.json", scratch)
    os.replace(scratch, job.images)


def _make_tokenizer(job: Build, folder: Path) -> None:
    from scripts_visatb.demo.pretraining_text import tokenizer_texts
    from scripts_visatb.demo.tokenizer import train_tokenizer

    train_tokenizer(tokenizer_texts(job.seed), folder)


def _make_language_model(job: Build, folder: Path, **differing: Any) -> None:
    from scripts_visatb.demo.language_model import LanguageRecipe, train_language_model

    recipe = LanguageRecipe(**job.recipe.language | differing)
    loss = train_language_model(job.base / "tokenizer", folder, recipe, job.seed)
    print(f"language model of hidden size {recipe.hidden}: loss {loss:.3f}", flush=True)


def _make_proxy(job: Build, recipe: dict[str, Any]) -> None:
    """A smaller language model with the same tokenizer, and a projector of its own."""
    job.part("proxy", job.proxy / "llama", lambda folder: _make_language_model(job, folder, **recipe))
    _stage1(job, "stage 1 of the proxy", job.proxy)


def _make_tower(job: Build, folder: Path) -> None:
    import torch

    from scripts_visatb.demo.vision_tower import TowerRecipe, train_vision_tower

    torch.set_num_threads(1)
    right = train_vision_tower(folder, TowerRecipe(**job.recipe.tower), job.seed)
    print("vision tower:", ", ".join(f"{name} {value:.2f}" for name, value in right.items()), flush=True)


def _in_child(job: Build, parts: list[tuple[Path, Make]], seconds: SynchronizedArray) -> None:
    die_with_parent()  # a build that is killed and started again would meet its own child
    for n, (folder, make) in enumerate(parts):
        started = time.monotonic()
        make(job, folder)
        seconds[n] = time.monotonic() - started


@contextmanager
def _beside(job: Build, parts: dict[str, tuple[Path, Make]]) -> Iterator[None]:
    """Build missing parts, one after the other in a process of their own, while the body runs; wait for it at the end.

    Args:
        parts: folder and maker by name.
    """
    missing = {name: part for name, part in parts.items() if not part[0].is_dir()}
    if not missing:
        yield
        return
    scratch = [target.with_name(f".{target.name}.unfinished") for target, _ in missing.values()]
    for folder in scratch:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # spawn: a forked child would inherit the threads' locks of torch.
    context = multiprocessing.get_context("spawn")
    seconds = context.Array("d", len(missing))
    makers = [make for _, make in missing.values()]
    child = context.Process(target=_in_child, args=(job, list(zip(scratch, makers, strict=True)), seconds), daemon=True)
    child.start()
    try:
        yield
        child.join()
    finally:
        if child.is_alive():
            child.terminate()
            child.join()
    if child.exitcode != 0:
        names = ", ".join(missing)
        raise RuntimeError(f"{names}: the process ended with exit code {child.exitcode}; its message is above")
    for n, (name, (target, _)) in enumerate(missing.items()):
        os.replace(scratch[n], target)
        fsync_folder(target.parent)
        job.note(name, seconds[n])


def _stage1(job: Build, name: str, base: Path) -> None:
    """Run LLaVA's stage 1 script; it resumes interrupted training, so its folder is kept between attempts.

    Args:
        job: the data and the vision tower.
        name: of this part.
        base: the folder with the language model, for which it makes the projector.
    """
    from scripts_visatb.demo.dataset import ALIGNMENT

    target = base / "projector"
    if target.is_dir():
        return
    started = time.monotonic()
    scratch = base / "stage1"
    variables = {
        "BASE_MODEL_PATH": str(base / "llama"),
        "VISION_TOWER": str(job.base / "vision_tower"),
        "DATA_PATH": str(job.data / f"{ALIGNMENT}_train.json"),
        "IMAGE_FOLDER": str(job.images),
        "OUTPUT_DIR": str(scratch),
        "IMAGE_ASPECT_RATIO": "pad",
        "MODEL_MAX_LENGTH": "256",
        "GRADIENT_CHECKPOINTING": "False",
        "DATALOADER_NUM_WORKERS": "0",
        "REPORT_TO": "none",
        "LOGGING_STEPS": "5",
        "SEED": str(job.seed),
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",  # a second thread would gain little, and waits busily where other work runs
        **job.recipe.stage1,
    }
    script = _ROOT / "scripts_visatb" / "pretrain.sh"
    ended = subprocess.run(["bash", str(script)], env=os.environ | variables, check=False)
    if ended.returncode != 0 or not (scratch / "mm_projector.bin").is_file():
        raise RuntimeError(f"{name}: {script} ended with exit code {ended.returncode}; its message is above")
    os.replace(scratch, target)
    job.note(name, time.monotonic() - started)


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", required=True, help="benchmark YAML (scripts_visatb/benchmarks/demo.yaml)")
    parser.add_argument("--output", required=True, type=Path, help="folder of the demo, e.g. runs/demo")
    parser.add_argument("--seed", type=int, help="seed of data and base model; default: the benchmark's")
    parser.add_argument("--proxy", action="store_true", help="also a smaller language model, for `measure: proxy`")
    args = parser.parse_args()
    benchmark = load_benchmark(args.benchmark)
    seed = benchmark.seed if args.seed is None else args.seed
    prepared = build(benchmark, args.output, seed, proxy=PROXY if args.proxy else None)
    for name, seconds in prepared["seconds"].items():
        print(f"{name:<24} {seconds:7.1f} s")


if __name__ == "__main__":
    run(main)
