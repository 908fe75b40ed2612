"""What a user reads of Snakemake's log records: the plan, errors, why a job of a cluster failed."""

import logging
from types import SimpleNamespace

import pytest
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.common import LogEvent

from scripts_visatb.workflow.messages import LogHandler

REFUSED = """SLURM sbatch failed. The error message was 'sbatch: error: Memory specification can not be satisfied
sbatch: error: Batch job submission failed: Requested node configuration is not available'.
    sbatch call:
        sbatch --parsable --mem 500000 --wrap="python -m snakemake"
For further error details see the cluster/cloud log and the log files of the involved rule(s)."""


@pytest.fixture
def handler():
    return LogHandler(SimpleNamespace(dryrun=False, printshellcmds=False), None)


def emit(handler, text, level=logging.ERROR, **fields):
    record = logging.LogRecord("snakemake", level, "file.py", 1, text, (), None)
    record.__dict__ |= fields
    handler.handle(record)


def fail(handler, message, *logs, **aux):
    fields = {"rule_name": "train", "rule_msg": message, "log": list(map(str, logs)), "aux": aux}
    emit(handler, "Error in rule train, jobid: 4", event=LogEvent.JOB_ERROR, **fields)


def failed(handler, job, *logs):
    message = f"SLURM-job '{job}' failed, SLURM status is: 'FAILED'.For further error details see the cluster/cloud log"
    fail(handler, message, *logs, external_jobid=str(job))


def test_a_failed_job_shows_its_reason_the_end_of_its_log_and_more(handler, tmp_path, capsys):
    log, slurm = tmp_path / "mini.log", tmp_path / "4.log"
    log.write_text("--- an earlier attempt\nold\n--- this one\nloading\nthe card is on fire\n")
    slurm.write_text("what the node says\n")
    failed(handler, 4, log, slurm)
    assert capsys.readouterr().err.splitlines() == [
        "train (job 4) failed: SLURM-job '4' failed, SLURM status is: 'FAILED'.",
        f"the end of {log}:",
        "  | loading",
        "  | the card is on fire",
        f"logs: {log}, {slurm}",
    ]
    log.write_text("--- this one\n")
    failed(handler, 4, log, slurm)
    assert "  | what the node says" in capsys.readouterr().err


def test_a_refused_submission_is_shown_without_the_call(handler, tmp_path, capsys):
    fail(handler, REFUSED, tmp_path / "none.log")
    emit(handler, "WorkflowError:\nAt least one job did not complete.", event=LogEvent.ERROR, exception="WorkflowError")
    assert capsys.readouterr().err.splitlines() == [
        "train failed: SLURM sbatch failed. The error message was 'sbatch: error: Memory specification can not be "
        "satisfied sbatch: error: Batch job submission failed: Requested node configuration is not available'.",
        f"logs: {tmp_path / 'none.log'}",
        "At least one job did not complete.",
    ]


def test_a_second_attempt_that_fails_alike_is_one_line(handler, tmp_path, capsys):
    for job in (4, 15):
        failed(handler, job, tmp_path / "a", tmp_path / "b")
    *first, last = capsys.readouterr().err.splitlines()
    assert last == "train (job 15) failed again in the same way" and len(first) == 2


def test_errors_lose_their_place_in_the_snakefile_and_nothing_else(handler, capsys):
    text = (
        'WorkflowError in file "Snakefile", line 50:\nseeds must be distinct\n  File "Snakefile", line 50, in <module>'
    )
    emit(handler, text, event=LogEvent.ERROR, exception="WorkflowError")
    emit(handler, "MissingRuleException:\nNo rule to produce x", event=LogEvent.ERROR, exception="MissingRuleException")
    emit(handler, "OSError: disk", event=LogEvent.ERROR, exception="OSError")
    emit(handler, "Failed to set up x", logging.WARNING)
    emit(handler, NOTHING_TO_BE_DONE_MSG, logging.INFO)
    shown = [
        "seeds must be distinct",
        "No rule to produce x",
        "OSError: disk",
        "Failed to set up x",
        NOTHING_TO_BE_DONE_MSG,
    ]
    assert capsys.readouterr().err.splitlines() == shown


def test_what_a_step_reports_itself_is_not_reported_twice(handler, capsys):
    text = "RuleException:\nCalledProcessError in file \"Snakefile\", line 2:\nCommand 'x' returned 3."
    emit(handler, text, event=LogEvent.ERROR, exception="RuleException")
    fail(handler, None, "a.log")
    emit(handler, "Building DAG of jobs...", logging.INFO)
    emit(handler, "No SLURM account given, trying to guess.", logging.WARNING)
    assert capsys.readouterr() == ("", "")
