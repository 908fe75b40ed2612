"""What the Slurm profile asks a cluster for, by rule."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml
from waiting import PATIENCE

PROFILES = "scripts_visatb/workflow/profiles"
SBATCH = '#!/bin/bash\necho "$*" >> "$SBATCH_LOG"\necho "no cluster here" >&2\nexit 1\n'


@pytest.fixture
def profiles(repository):
    return {name: yaml.safe_load((repository / PROFILES / name / "config.yaml").read_text()) for name in
            ("default", "slurm")}  # fmt: skip


def test_it_keeps_what_the_default_profile_sets(profiles):
    assert profiles["default"].items() <= profiles["slurm"].items()


def test_every_rule_it_names_is_in_the_graph(repository, profiles):
    rules = set(re.findall(r"rule (?:\w+ as )?(\w+)(?::| with:)", (repository / PROFILES).parent.joinpath("Snakefile")
                           .read_text()))  # fmt: skip
    trained = {"train", "train_baseline", "train_visatb", "infer"}
    assert trained <= rules
    assert set(profiles["slurm"]["set-resources"]) == set(profiles["slurm"]["set-threads"]) == trained


@pytest.mark.skipif(find_spec("snakemake_executor_plugin_slurm") is None, reason="pip install -e '.[slurm]'")
def test_gpus_cores_time_and_memory_of_a_training_reach_sbatch(repository, tmp_path):
    for split in ("train", "val", "test"):
        turns = [{"from": "human", "value": f"How many {split}?"}, {"from": "gpt", "value": "one"}]
        records = [{"id": f"{split}-{n}", "task": "Vqa", "conversations": turns} for n in range(40)]
        (tmp_path / f"{split}.json").write_text(json.dumps(records))
    files = {split: f"{split}.json" for split in ("train", "val", "test")}
    benchmark = {
        "name": "toy",
        "data_folder": ".",
        "image_folder": ".",
        "tasks": [{"name": "Vqa", "metric": "exact_match", "files": files}],
        "mini_rate": 0.25,
        "temperature": 0.5,
        "training": {"script": "train.sh", "gpus": 4},
        "inference": {},
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(benchmark))
    commands = {name: "#!/bin/bash\n" for name in ("sinfo", "sacct", "squeue", "scontrol", "sacctmgr", "sshare")}
    (tmp_path / "bin").mkdir()
    for name, text in (commands | {"sbatch": SBATCH}).items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SBATCH_LOG": str(tmp_path / "log")}
    env["PYTHONPATH"] = f"{repository}:{os.environ.get('PYTHONPATH', '')}"

    def run(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "scripts_visatb.workflow.run", "--benchmark", "toy.yaml", *more]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE)

    local = run("--cores", "2", "runs/toy/seed0/subsets/subsets.json")
    assert local.returncode == 0, local.stdout + local.stderr
    slurm = ("--cores", "64", "--workflow-profile", str(repository / PROFILES / "slurm"), "--retries", "0")
    dry = run(*slurm, "-n")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    at_once = ("--slurm-init-seconds-before-status-checks", "1")
    refused = run(*slurm, *at_once, "runs/toy/seed0/done/train_mini.json")
    assert refused.returncode != 0, refused.stdout + refused.stderr
    assert "train failed: SLURM" in refused.stderr and "no cluster here" in refused.stderr
    asked = (tmp_path / "log").read_text()
    assert asked.count("--parsable") == 1  # the training alone was missing
    for word in ("--gres=gpu:4", "--cpus-per-task=64", "-t 1440", "--mem 500000", "--requeue", "rule_train"):
        assert word in asked
    assert "--ntasks-per-gpu" not in asked
