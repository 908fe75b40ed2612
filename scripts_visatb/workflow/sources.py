"""Inputs of a run: annotation files and base models, identified by content, and which of them are missing."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visatb.benchmark import Benchmark
from visatb.errors import InputError
from visatb.files import read_json
from visatb.training_section import BASE_VARIABLES
from visatb.weighting.settings import PROXY

DIGESTS = ".digests.json"  # in the folder of a run: see `data_digests`
_STAMP_BYTES = 1 << 20
_VOCABULARIES = ("tokenizer.model", "tokenizer.json", "vocab.json")


def annotation_files(benchmark: Benchmark) -> list[Path]:
    """The annotation files that a benchmark names."""
    names = {name for task in benchmark.tasks for name in task.files.values()}
    return [Path(benchmark.data_folder) / name for name in sorted(names)]


def data_digests(benchmark: Benchmark, cache: str | os.PathLike) -> dict[str, list]:
    """Annotation file that exists before the run -> [size, modification time in ns, SHA-256], as `cache` holds it.

    Files that `prepare` makes are not included. A missing file is reported by the step that reads it.

    Args:
        benchmark: the files.
        cache: JSON of an earlier result; a file with unchanged size and time is not read again.
    """
    known = read_json(cache) if Path(cache).is_file() else {}
    found = {}
    for path in [] if benchmark.prepare else annotation_files(benchmark):
        if not path.is_file():
            continue
        about = path.stat()
        earlier = known.get(str(path), [None, None, None])
        if earlier[:2] != [about.st_size, about.st_mtime_ns]:
            with open(path, "rb") as stream:
                earlier = [about.st_size, about.st_mtime_ns, hashlib.file_digest(stream, "sha256").hexdigest()]
        found[str(path)] = earlier
    return found


def content_key(benchmark: Benchmark, name: str, digests: Mapping[str, list]) -> str:
    """What stands for the content of an annotation file in settings: its digest, or its name where there is none."""
    path = str(Path(benchmark.data_folder) / name)
    return digests[path][2] if path in digests else name


def missing(benchmark: Benchmark) -> list[str]:
    """A sentence for each missing input of a run; none for what `prepare` makes.

    A base model or vision tower that is not a local path may be a Hub name, and is not checked.
    """
    if benchmark.prepare:
        return []
    absent = [path for path in annotation_files(benchmark) if not path.is_file()]
    problems = []
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        problems.append(f"annotation files are missing: {', '.join(map(str, absent[:3]))}{more}")
    if not Path(benchmark.image_folder).is_dir():
        problems.append(f"the image folder is missing: {benchmark.image_folder}")
    projector = (benchmark.training.get("environment") or {}).get("PRETRAIN_MM_MLP_ADAPTER")
    if projector and not Path(projector).is_file():
        problems.append(f"the projector of stage 1 is missing: {projector}")
    return problems


def base_stamps(training: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files that trainings start from, by variable; Hub names and absent paths are omitted.

    `training` is the section of that name with which the models are trained.

    A digest of names, sizes, and the first and the last MiB of every file: a base model that was trained again differs
    there, and reading whole models before every plan would take minutes.
    """
    recipe = training.get("environment") or {}
    paths = {name: Path(str(recipe[name])) for name in BASE_VARIABLES if recipe.get(name)}
    return {name: file_stamp(path) for name, path in paths.items() if path.exists()}


def refuse_other_tokenizer(benchmark: Benchmark) -> None:
    """Refuse a proxy model whose tokenizer differs from the final models': tasks would have different tokens.

    Only folders are compared; nothing is downloaded for Hub names.

    Raises:
        InputError: naming both models.
    """
    key, measure = "BASE_MODEL_PATH", benchmark.measure
    own = Path(str((benchmark.training.get("environment") or {}).get(key, "")))
    proxy = Path(str(measure.environment.get(key, "")))
    if measure.kind != PROXY or not own.is_dir() or not proxy.is_dir():
        return
    for name in _VOCABULARIES:
        if (own / name).is_file() and (proxy / name).is_file():
            if _vocabulary(own / name) != _vocabulary(proxy / name):
                raise InputError(
                    f"{benchmark.path}: measure.proxy.environment.{key} {proxy} has another tokenizer than {own} "
                    f"({name} differs). Choose a smaller model of the same kind."
                )
            return


def _vocabulary(file: Path) -> Any:
    """The part of a tokenizer file that defines tokens: of JSON only the model, independent of formatting."""
    content = read_json(file) if file.suffix == ".json" else file.read_bytes()
    return content.get("model", content) if isinstance(content, dict) else content


def file_stamp(place: Path) -> str:
    """A digest of a file, or of the files of a folder: names, sizes, the first and the last MiB."""
    files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
    stamp = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        stamp.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as stream:
            stamp.update(stream.read(_STAMP_BYTES))
            stream.seek(max(0, size - _STAMP_BYTES))
            stamp.update(stream.read(_STAMP_BYTES))
    return stamp.hexdigest()
