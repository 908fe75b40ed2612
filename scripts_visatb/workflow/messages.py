"""Snakemake with the messages of this project: `run` starts it in place of `python -m snakemake`.

Snakemake's log records carry what happened as fields, so none of its texts is parsed: for a plan the jobs are printed,
for a run the errors (the steps report their own start and end). Its complete log is in `.snakemake/log`.
"""

import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from scripts_visatb.workflow.job import LOG_LINES, last_lines, this_attempt

NAME = "visatb"
# From the Slurm plugin, on a cluster without accounting: it submits the jobs all the same.
HARMLESS = ("No SLURM account given", "No account was given", "Unable to guess SLURM account")


class LogHandler(LogHandlerBase):
    """Prints what matters to a user: a plan to stdout, errors to stderr."""

    writes_to_stream, writes_to_file, needs_rulegraph = True, False, False
    has_filter, has_formatter = True, True

    def __post_init__(self) -> None:
        self._planned: Counter[str] = Counter()
        self._earlier = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, if it matters to a user."""
        try:
            event = getattr(record, "event", None)
            if event == LogEvent.JOB_INFO and self.common_settings.dryrun:
                self._plan(record)
            elif event == LogEvent.SHELLCMD and self.common_settings.printshellcmds:
                print(record.shellcmd, flush=True)
            elif event == LogEvent.JOB_ERROR:
                self._failed(record)
            elif text := error_text(record):
                print(text, file=sys.stderr, flush=True)
        except Exception:  # as logging's own handlers do: a message that fails must not end the run
            self.handleError(record)

    def close(self) -> None:
        """Print the summary of the plan."""
        if self._planned:
            kinds = ", ".join(f"{count} {rule}" for rule, count in self._planned.items())
            print(f"{self._planned.total()} jobs: {kinds}", flush=True)
            self._planned.clear()  # logging closes a handler more than once
        super().close()

    def _plan(self, record: logging.LogRecord) -> None:
        if record.rule_msg:  # targets are not steps and have none
            self._planned[record.rule_name] += 1
            print(record.rule_msg, flush=True)

    def _failed(self, record: logging.LogRecord) -> None:
        if record.rule_msg is None:
            return  # on this machine: the step has reported it
        job = record.aux.get("external_jobid")
        name = f"{record.rule_name} (job {job})" if job else record.rule_name
        reason = failure(name, record.rule_msg, record.log)
        alike = re.sub(r"\d+", "", reason)
        print(f"{name} failed again in the same way" if alike == self._earlier else reason, file=sys.stderr, flush=True)
        self._earlier = alike


def error_text(record: logging.LogRecord) -> str:
    """The text of a warning or an error for a user; empty for other records, and if the step has reported it."""
    text = record.getMessage()
    if text == NOTHING_TO_BE_DONE_MSG:
        return text
    if record.levelno < logging.WARNING or text.startswith(HARMLESS):
        return ""
    if getattr(record, "event", None) != LogEvent.ERROR:
        return "" if text.startswith("Exiting because a job execution failed") else text
    if "\nCalledProcessError in file" in text:
        return ""
    # Without the place in the Snakefile or Snakemake where it was raised.
    head, _, rest = text.partition("\n")
    lines = (rest if rest and head.startswith(record.exception) else text).splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.startswith('  File "'))


def failure(name: str, message: str, logs: Iterable[str]) -> str:
    """Why a job failed on a cluster, where its output is not shown.

    Args:
        name: name of the job.
        message: Snakemake's, of which the call of sbatch is left out.
        logs: the step's own log, then the cluster's; the first that is not empty is quoted.
    """
    message = " ".join(line for line in message.splitlines() if not line.startswith(" "))
    message = re.sub(r"\s*For further error details.*", "", message)
    message = message.replace("Detailed failure reason unavailable (status command is not 'sacct').", "").strip()
    report = [f"{name} failed: {message or 'the command ended with an error'}"]
    logs = list(logs)
    for log in (Path(one) for one in logs):
        lines = this_attempt(last_lines(log, LOG_LINES)) if log.is_file() else []
        if lines:
            report += [f"the end of {log}:", *(f"  | {line}" for line in lines)]
            break
    return "\n".join([*report, f"logs: {', '.join(logs)}"])


def main() -> None:
    """Snakemake's command line, with this handler in place of its own."""
    from snakemake.cli import main as snakemake

    LoggerPluginRegistry().register_plugin(f"snakemake_logger_plugin_{NAME}", sys.modules[__name__])
    snakemake(["--logger", NAME, *sys.argv[1:]])
