"""The run graph on a cluster: the chosen executor, and how Slurm is queried for its jobs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from visatb.errors import InputError
from visatb.yaml_files import read_yaml

SLURM = "slurm"
STATUS_FLAG = "--slurm-status-command"
_PROFILE_FLAGS = ("--profile", "--workflow-profile")


def executor(flags: list[str]) -> str | None:
    """The executor that Snakemake's flags name, directly or in a profile; None if jobs run on this machine."""
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
    print("note: this Slurm keeps no job accounting; squeue is queried for the state of jobs", file=sys.stderr)
    return [STATUS_FLAG, "squeue"]
