"""The run graph on a cluster: the executor, how jobs are asked for, why one failed."""

import os

import pytest
import yaml

from scripts_visatb.workflow.cluster import executor, explained, status_flags
from scripts_visatb.workflow.run import quiet, without_noise
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
    assert "rules" in quiet(["-k"]) and "rules" not in quiet(["--executor", "slurm"]) + quiet(["-n"])


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
    assert ("note: this Slurm keeps no accounts" in capsys.readouterr().err) == bool(added)
    assert status_flags([*flags, "--slurm-status-command=sacct"]) == status_flags(["-k"]) == []


def test_without_sbatch_the_machine_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="executor slurm: there is no command sbatch here"):
        status_flags(["--executor", "slurm"])


FAILED = """Select jobs to execute...
[Thu Nov  6 01:33:37 2026]
Error in rule train:
    message: SLURM-job '{job}' failed, SLURM status is: 'FAILED'.For further error details see the cluster/cloud log
    jobid: 0
    output: runs/toy/seed0/done/train_mini.json
    log: {log}, {slurm} (check log file(s) for error details)
    shell:
        exec env PYTHONPATH=x python -m job
        (command exited with non-zero exit code)
    external_jobid: {job}
Trying to restart job 0.
"""

REFUSED = """Error in rule train:
    message: SLURM sbatch failed. The error message was 'sbatch: error: Memory specification can not be satisfied
sbatch: error: Batch job submission failed: Requested node configuration is not available'.
    sbatch call:
        sbatch --parsable --mem 500000 --wrap="python -m snakemake"
For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: 0
    log: {log} (check log file(s) for error details)
WorkflowError:
At least one job did not complete successfully.
"""


def reported(text: str) -> list[str]:
    lines = "".join(explained(text.splitlines(keepends=True)))
    return without_noise(lines).splitlines()


def test_a_failed_job_shows_its_reason_the_end_of_its_log_and_where_more_is(tmp_path):
    log, slurm = tmp_path / "mini.log", tmp_path / "4.log"
    log.write_text("--- an earlier attempt\nold\n--- this one\nloading\nthe card is on fire\n")
    slurm.write_text("what the node says\n")
    found = reported(FAILED.format(job=4, log=log, slurm=slurm))
    assert found == [
        "train (job 4) failed: SLURM-job '4' failed, SLURM status is: 'FAILED'.",
        f"the end of {log}:",
        "  | loading",
        "  | the card is on fire",
        f"logs: {log}, {slurm}",
    ]
    log.write_text("--- this one\n")
    assert "  | what the node says" in reported(FAILED.format(job=4, log=log, slurm=slurm))


def test_a_refused_submission_is_shown_without_the_call(tmp_path):
    found = reported(REFUSED.format(log=tmp_path / "none.log"))
    assert found == [
        "train failed: SLURM sbatch failed. The error message was 'sbatch: error: Memory specification can not be "
        "satisfied sbatch: error: Batch job submission failed: Requested node configuration is not available'.",
        f"logs: {tmp_path / 'none.log'}",
        "WorkflowError:",
        "At least one job did not complete successfully.",
    ]


def test_a_second_attempt_that_fails_alike_is_one_line(tmp_path):
    text = "".join(FAILED.format(job=job, log=tmp_path / "a", slurm=tmp_path / "b") for job in (4, 15))
    assert reported(text)[-1] == "train (job 15) failed again in the same way"
    assert len(reported(text)) == 3
