"""scripts_visatb/setup.sh: which Python makes .venv, and the message where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PYTHON = """#!/bin/bash
if [ "$1" = -c ]; then cat >/dev/null; echo "{version}"; exit; fi
echo "{name} $*" >> "{log}"
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin; cp "{folder}/made" .venv/bin/python;;
    "-m pip --version") [ -e .venv/pip ];;
    "-m ensurepip") touch .venv/pip;;
esac
"""


@pytest.fixture
def checkout(tmp_path, repository) -> Path:
    """A folder with setup.sh, and `tools` as the only other place for a Python."""
    shutil.copytree(repository / "scripts_visatb", tmp_path / "scripts_visatb", ignore=lambda *_: ["workflow", "demo"])
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    (tmp_path / "tools").mkdir()
    for tool in ("bash", "cat", "mkdir", "cp", "touch"):
        (tmp_path / "tools" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def put_python(checkout: Path, name: str, version: str) -> None:
    text = PYTHON.format(version=version, name=name, log=checkout / "calls.log", folder=checkout / "tools")
    (checkout / "tools" / name).write_text(text)
    (checkout / "tools" / name).chmod(0o755)


def set_up(checkout: Path) -> subprocess.CompletedProcess:
    script = "set -euo pipefail; source scripts_visatb/setup.sh; set_up"
    env = {"PATH": str(checkout / "tools")}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_without_python_3_11_one_line_says_what_is_needed(checkout):
    put_python(checkout, "python3", "3.12")
    done = set_up(checkout)
    assert done.returncode == 2
    assert done.stderr.startswith("VisATB needs Python 3.11") and done.stderr.count("\n") == 1
    assert not (checkout / ".venv").exists()


def test_environment_of_another_python_is_refused(checkout):
    put_python(checkout, "made", "3.12")
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copy(checkout / "tools/made", checkout / ".venv/bin/python")
    done = set_up(checkout)
    assert done.returncode == 2
    assert "delete that folder" in done.stderr and done.stderr.count("\n") == 1


def test_environment_is_made_once_and_gets_pip_after_an_interruption(checkout):
    put_python(checkout, "python3", "3.11")
    put_python(checkout, "made", "3.11")
    done = set_up(checkout)
    assert done.returncode == 0, done.stderr
    calls = (checkout / "calls.log").read_text().splitlines()
    assert calls[0] == "python3 -m venv .venv"
    assert calls.index("made -m ensurepip") < next(n for n, call in enumerate(calls) if "-r requirements.txt" in call)
    assert set_up(checkout).returncode == 0
    assert (checkout / "calls.log").read_text().splitlines() == calls
