"""How tests call the zero-shot suite and the benchmarks' scripts, and where the answers then lie."""

import os
import subprocess
from pathlib import Path

from waiting import PATIENCE

from eval.zero_shot.table import BENCHMARKS

SHORT = ["--max_new_tokens", "5"]


def command(tiny_checkpoint, data, output, *extra) -> list[str]:
    words = ["--model-path", tiny_checkpoint / "llava-tiny", "--data", data, "--output", output, *SHORT, *extra]
    return [str(word) for word in words]


def answers_of(output: Path, name: str) -> Path:
    bench = BENCHMARKS[name]
    path = bench.answers.replace("{split}", bench.split).replace("{model}", "llava-tiny")
    return output / bench.folders[0] / path


def script(repository, name, tiny_checkpoint, data, output, **variables) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a benchmark's script, on the CPU."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NUM_", "EVAL_"))}
    environment |= {"CKPT": str(tiny_checkpoint / "llava-tiny"), "EVAL_DATA": str(data), "EVAL_OUTPUT": str(output)}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **variables}
    return ["bash", str(repository / f"scripts_visatb/eval/{name}.sh"), *SHORT], environment


def run_script(repository, name, *args, **variables) -> subprocess.CompletedProcess:
    words, environment = script(repository, name, *args, **variables)
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, cwd=args[-1].parent)
