"""The whole method on a current model: demo_hf.yaml by the real command, its trainings and answers in .venv-hf."""

import json
import os
import subprocess
import sys

import pytest

from visatb.environments import OWN, VARIABLE

BENCHMARK = "scripts_visatb/benchmarks/demo_hf.yaml"


@pytest.mark.skipif(not OWN.is_file(), reason="needs .venv-hf: bash tests/run.sh makes it")
def test_a_current_model_learns_two_tasks_and_their_weights_are_measured(repository, tmp_path):
    # The benchmark names its places relative to the folder that it is run in.
    for name in ("scripts_visatb", "visatb", "visatb_hf", "llava", "transformers_patch", "eval"):
        (tmp_path / name).symlink_to(repository / name)
    environment = os.environ | {VARIABLE: str(OWN), "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "visatb", "run", "--benchmark", BENCHMARK, "--cores", "1"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    folder = tmp_path / "runs" / "demo_hf"
    weights = json.loads((folder / "seed0" / "weights.json").read_text())["weights"]
    assert set(weights) >= {"Colour", "Size"} and all(0 < weight < 5 for weight in weights.values())
    chance = {"Colour": 1 / 6, "Size": 1 / 2}
    for row in json.loads((folder / "report.json").read_text())["test"]:
        assert row["STL"] > chance[row["task"]] + 0.3
    assert (folder / "report.html").is_file() and (folder / "answers.html").is_file()
