"""The run graph on a cluster: which executor is asked for, how Slurm is asked for its jobs, why a job failed.

A step on another node prints where nobody looks. What Snakemake says of a failed job is read here and shown as it is
without a cluster: the reason, the end of the step's own log, the files.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from scripts_visatb.workflow.job import LOG_LINES, last_lines, this_attempt
from visatb.errors import InputError
from visatb.yaml_files import read_yaml

SLURM = "slurm"
STATUS_FLAG = "--slurm-status-command"
_PROFILE_FLAGS = ("--profile", "--workflow-profile")
_BLOCK = re.compile(r"(?:Error in|Error in group|Error executing) (?:rule )?(\w+)")
_FIELD = re.compile(r"    (message|jobid|input|output|log|external_jobid): (.*)")
_DATE = re.compile(r"\[\w{3} \w{3} +\d+ [\d:]{8} \d{4}\]\s*")
_LONGEST_BLOCK = 50  # lines; what comes then is shown as it is


def executor(flags: list[str]) -> str | None:
    """The executor that Snakemake's flags name, by themselves or by a profile; None where jobs run on this machine."""
    name = flag_value(flags, "--executor", "-e") or _profiles(flags).get("executor")
    return None if name in (None, "local") else str(name)


def flag_value(flags: list[str], *names: str) -> str | None:
    """The value of a flag, given as `--flag value` or `--flag=value`."""
    for position, word in enumerate(flags):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(flags[position + 1 :]), None)
    return None


def _profiles(flags: list[str]) -> dict:
    found: dict = {}
    for name in _PROFILE_FLAGS:
        folder = flag_value(flags, name)
        for file in ("config.yaml", "config.v8+.yaml"):
            if folder and (Path(folder) / file).is_file():
                content = read_yaml(Path(folder) / file)
                found |= content if isinstance(content, dict) else {}
    return found


def status_flags(flags: list[str]) -> list[str]:
    """What must be added to the flags so that Slurm's jobs are found: squeue, where the cluster keeps no accounts.

    Raises:
        InputError: if Slurm's commands are not there.
    """
    if executor(flags) != SLURM:
        return []
    if shutil.which("sbatch") is None:
        raise InputError("executor slurm: there is no command sbatch here. Start the run on a machine of the cluster.")
    if flag_value(flags, STATUS_FLAG) or STATUS_FLAG[2:] in _profiles(flags):
        return []
    try:
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    storage = re.search(r"^AccountingStorageType\s*=\s*(\S+)", shown.stdout, re.MULTILINE)
    if storage is None or not re.search(r"none|\(null\)", storage[1]):
        return []
    print("note: this Slurm keeps no accounts of its jobs; their state is asked of squeue", file=sys.stderr)
    return [STATUS_FLAG, "squeue"]


def explained(lines: Iterable[str]) -> Iterator[str]:
    """Snakemake's lines, each block on a failed job replaced by its reason and the end of its log."""
    failure: Failure | None = None
    earlier: list[str] = []
    for line in lines:
        if failure is not None and failure.takes(line):
            continue
        if failure is not None:
            yield from failure.lines(earlier)
            earlier, failure = failure.reason(), None
        if found := _BLOCK.match(line):
            failure = Failure(found[1])
        elif not _DATE.fullmatch(line):
            yield line
    if failure is not None:
        yield from failure.lines(earlier)


class Failure:
    """A failed job, parsed from Snakemake's block of lines."""

    def __init__(self, rule: str):
        self._rule = rule
        self._fields: dict[str, str] = {}
        self._message: list[str] = []
        self._lines = 0

    def takes(self, line: str) -> bool:
        """Take a line of the block; false for the first one behind it."""
        self._lines += 1
        if found := _FIELD.match(line):
            self._fields[found[1]] = found[2].strip()
            self._message += [found[2]] if found[1] == "message" else []
            return True
        if "jobid" in self._fields:
            return line.startswith("    ") or not line.strip()
        # The message may have lines of its own, and the whole call of sbatch behind it.
        if not line.startswith(" "):
            self._message.append(line)
        return self._lines < _LONGEST_BLOCK

    @property
    def job(self) -> str:
        """The rule, and the cluster's number of the job where it got one."""
        number = self._fields.get("external_jobid")
        return f"{self._rule} (job {number})" if number else self._rule

    def reason(self) -> list[str]:
        """What is known: Snakemake's message, the end of the step's own log, else that of the cluster's."""
        message = re.sub(r"\s*For further error details.*", "", " ".join(" ".join(self._message).split()))
        message = message.replace("Detailed failure reason unavailable (status command is not 'sacct').", "")
        report = [f"{self.job} failed: {message.strip() or 'the command ended with an error'}\n"]
        logs = re.sub(r" \(check log file.*", "", self._fields.get("log", "")).split(", ")
        for log in (Path(name) for name in logs if name):
            lines = this_attempt(last_lines(log, LOG_LINES)) if log.is_file() else []
            if lines:
                report += [f"the end of {log}:\n", *(f"  | {line}\n" for line in lines)]
                break
        return [*report, f"logs: {', '.join(logs)}\n"]

    def lines(self, earlier: list[str]) -> list[str]:
        """The reason, shortly where it is that of an earlier attempt."""
        again = re.sub(r"\d+", "", "".join(self.reason())) == re.sub(r"\d+", "", "".join(earlier))
        return [f"{self.job} failed again in the same way\n"] if again else self.reason()
