"""Building the demo: a tiny one end to end, going on after a kill, refusing folders of others."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from scripts_visatb.demo import build as build_module
from scripts_visatb.demo.annotations import SIZES
from scripts_visatb.demo.build import MARKER, PREPARED, Recipe, build
from scripts_visatb.workflow.sources import refuse_other_tokenizer
from visatb.benchmark import load_benchmark
from visatb.errors import InputError
from visatb.measure_section import Measure

TINY = Recipe(
    sizes={task: dict.fromkeys(splits, 4) for task, splits in SIZES.items()},
    alignment=8,
    tower={"hidden": 32, "layers": 2, "heads": 2, "steps": 2, "batch": 2},
    language={"hidden": 32, "intermediate": 48, "layers": 1, "heads": 2, "steps": 2, "batch": 2},
    stage1={"PER_DEVICE_TRAIN_BATCH_SIZE": "4"},
)
SMALLER = {"hidden": 16, "intermediate": 24}


def benchmark_for(output, repository, folder):
    text = (repository / "scripts_visatb" / "benchmarks" / "demo.yaml").read_text()
    file = folder / "demo.yaml"
    file.write_text(text.replace("runs/demo", str(output)))
    return load_benchmark(file)


@pytest.fixture(scope="module")
def built(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("demo")
    output = folder / "out"
    benchmark = benchmark_for(output, repository, folder)
    return output, benchmark, build(benchmark, output, 0, TINY)


def test_build_makes_all_parts_and_lists_them_last(built):
    output, benchmark, prepared = built
    assert json.loads((output / PREPARED).read_text()) == prepared
    for task in benchmark.tasks:
        assert {f"data/{name}" for name in task.files.values()} <= set(prepared["files"])
    for name in ("base/llama/tokenizer.model", "base/vision_tower/preprocessor_config.json"):
        assert name in prepared["files"]
    assert "base/projector/mm_projector.bin" in prepared["files"]
    assert set(prepared["seconds"]) == {
        *("images and annotations", "tokenizer", "language model", "vision tower", "stage 1")
    }
    assert min(prepared["seconds"].values()) > 0


def test_a_finished_build_makes_nothing_again(built, monkeypatch):
    output, benchmark, prepared = built
    monkeypatch.setattr(build_module, "_draw", None)
    assert build(benchmark, output, 0, TINY) == prepared


def test_the_proxy_is_added_to_a_finished_demo(built, repository, tmp_path):
    output = shutil.copytree(built[0], tmp_path / "out")
    benchmark = benchmark_for(output, repository, tmp_path)
    before = {path: path.read_bytes() for path in (output / "base").rglob("*") if path.is_file()}
    prepared = build(benchmark, output, 0, TINY, proxy=SMALLER)
    assert json.loads((output / PREPARED).read_text()) == prepared == build(benchmark, output, 0, TINY, proxy=SMALLER)
    assert set(prepared["files"]) - set(built[2]["files"]) >= {"base/proxy/projector/mm_projector.bin"}
    assert {path: path.read_bytes() for path in before} == before
    sizes = []
    for base in (output / "base", output / "base" / "proxy"):
        config = json.loads((base / "llama" / "config.json").read_text())
        weights = torch.load(base / "projector" / "mm_projector.bin", weights_only=True)
        assert {len(value) for value in weights.values()} == {config["hidden_size"]}
        sizes.append(config["hidden_size"])
    assert sizes == [32, 16]
    refuse_other_tokenizer(replace(benchmark, measure=proxy_below(output)))  # the same: not refused
    assert build(benchmark, output, 0, TINY) == prepared
    (output / PREPARED).write_text(json.dumps(built[2]))  # as if it had been killed before its end
    assert build(benchmark, output, 0, TINY, proxy=SMALLER) == prepared


def test_an_unfinished_proxy_is_not_listed_and_resumes(built, repository, tmp_path, monkeypatch):
    output = shutil.copytree(built[0], tmp_path / "out")
    benchmark = benchmark_for(output, repository, tmp_path)
    (output / PREPARED).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module.subprocess, "run", _interrupt)  # stage 1 of the proxy
        build(benchmark, output, 0, TINY, proxy=SMALLER)
    assert (output / "base" / "proxy" / "llama").is_dir()
    assert build(benchmark, output, 0, TINY)["files"] == built[2]["files"]
    assert "base/proxy/llama/config.json" in build(benchmark, output, 0, TINY, proxy=SMALLER)["files"]


def proxy_below(output):
    folder = output / "base" / "proxy"
    return Measure("proxy", environment={"BASE_MODEL_PATH": str(folder / "llama")})


def test_another_seed_in_the_same_folder_is_refused(built):
    output, benchmark, _ = built
    with pytest.raises(InputError, match="other settings .seed differ"):
        build(benchmark, output, 1, TINY)


def test_a_lost_file_is_named(built):
    output, benchmark, _ = built
    lost = output / "base" / "vision_tower" / "config.json"
    content = lost.read_bytes()
    lost.unlink()
    try:
        with pytest.raises(InputError, match="vision_tower/config.json: missing"):
            build(benchmark, output, 0, TINY)
    finally:
        lost.write_bytes(content)


def test_a_folder_that_holds_something_else_is_refused_untouched(tmp_path, repository):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="has other content .thesis.txt"):
        build(benchmark_for(output, repository, tmp_path), output, 0, TINY)
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


def test_the_run_graphs_own_files_are_no_strangers(tmp_path, repository, monkeypatch):
    for name in (".lock", ".plan.json", "done", "logs"):
        (tmp_path / "out" / name).mkdir(parents=True)
    monkeypatch.setattr(build_module, "_beside", _interrupt)
    with pytest.raises(KeyboardInterrupt):  # it gets as far as making the first part
        build(benchmark_for(tmp_path / "out", repository, tmp_path), tmp_path / "out", 0, TINY)


def test_an_interrupted_build_resumes_with_what_is_missing(tmp_path, repository, monkeypatch):
    output = tmp_path / "out"
    benchmark = benchmark_for(output, repository, tmp_path)
    monkeypatch.setattr(build_module, "_beside", lambda *args: nullcontext())
    monkeypatch.setattr(build_module, "_make_language_model", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(benchmark, output, 0, TINY)
    assert (output / MARKER).is_file() and not (output / PREPARED).exists()
    before = {path: path.read_bytes() for path in (output / "base" / "tokenizer").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(build_module, "_make_tokenizer", None)
        build(benchmark, output, 0, TINY)
    assert before and {path: path.read_bytes() for path in (output / "base" / "tokenizer").iterdir()} == before


_LONG_BUILD = """
import sys
from pathlib import Path
from scripts_visatb.demo.build import Recipe, build
from visatb.benchmark import load_benchmark

build(load_benchmark(sys.argv[1]), Path(sys.argv[2]), 0, Recipe(tower={"steps": 5000}, language={"steps": 5000}))
"""


def test_a_killed_build_leaves_no_process_behind(tmp_path, repository):
    output = tmp_path / "out"
    benchmark = benchmark_for(output, repository, tmp_path)
    command = [sys.executable, "-c", _LONG_BUILD, str(benchmark.path), str(output)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        shown = b""
        while b"vision tower" not in shown:  # its process trains
            shown += process.stdout.read1()
            assert process.poll() is None, shown
        process.kill()
        process.communicate(timeout=30)  # returns when the last process that holds the pipe has ended


def test_same_seed_writes_the_same_bytes(tmp_path, repository):
    from scripts_visatb.demo.dataset import draw_benchmark

    benchmark = benchmark_for(tmp_path, repository, tmp_path)
    contents = []
    for name in ("once", "again"):
        draw_benchmark(benchmark, TINY.sizes, 0, tmp_path / name / "data", tmp_path / name / "images")
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def test_an_interpreter_path_with_a_space_works(tmp_path, repository):
    python = tmp_path / "my tools" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/bash\necho "$2"\n')
    python.chmod(0o755)
    prepare = load_benchmark(repository / "scripts_visatb" / "benchmarks" / "demo.yaml").prepare
    shown = subprocess.run(
        ["bash", "-c", prepare], env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "scripts_visatb.demo.build\n"


def _interrupt(*_args, **_settings):
    raise KeyboardInterrupt
