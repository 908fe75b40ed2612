"""The run graph on a cluster: the executor, and how Slurm is queried for its jobs."""

import os

import pytest
import yaml

from scripts_visatb.workflow.cluster import executor, status_flags
from visatb.errors import InputError


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Flags of a run on a Slurm whose `scontrol` says what its file holds."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"executor": "slurm", "jobs": 2}))
    for name, text in {"sbatch": "", "scontrol": f"cat {tmp_path}/reported"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_the_executor_is_that_of_the_flags_or_of_a_profile(slurm):
    assert executor(["--workflow-profile", str(slurm)]) == executor([f"--profile={slurm}"]) == "slurm"
    assert executor(["-e", "lsf"]) == executor(["--executor=lsf", "--workflow-profile", str(slurm)]) == "lsf"
    assert executor(["-k"]) is None and executor(["--executor", "local"]) is None


@pytest.mark.parametrize(
    ("storage", "added"),
    [
        ("accounting_storage/none", ["--slurm-status-command", "squeue"]),
        ("(null)", ["--slurm-status-command", "squeue"]),
        ("accounting_storage/slurmdbd", []),
    ],
)
def test_a_slurm_without_accounts_is_asked_by_squeue_and_said_to_be_one(slurm, storage, added, capsys):
    (slurm / "reported").write_text(f"AccountingStorageHost   = here\nAccountingStorageType   = {storage}\n")
    flags = ["--workflow-profile", str(slurm)]
    assert status_flags(flags) == added
    assert ("note: this Slurm keeps no job accounting" in capsys.readouterr().err) == bool(added)
    assert status_flags([*flags, "--slurm-status-command=sacct"]) == status_flags(["-k"]) == []


def test_without_sbatch_the_machine_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="executor slurm: there is no command sbatch here"):
        status_flags(["--executor", "slurm"])
