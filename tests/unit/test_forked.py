"""tests/forked.py: a forked command is, to itself and to its caller, what a started one is."""

import os
import subprocess
import sys

from forked import given_by, run_forked

SCRIPT = """
import json, multiprocessing, os, sys
print(json.dumps([__name__, sys.argv, os.getcwd(), os.environ["MINE"], multiprocessing.get_start_method()]))
import beside
print(beside.NAME, file=sys.stderr)
sys.exit(3)
"""


def test_a_forked_command_sees_and_gives_what_a_started_one_does(tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "beside.py").write_text("NAME = 'found by PYTHONPATH'")
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [str(tmp_path / "script.py"), "--flag", "a b"]
    env = os.environ | {"MINE": "x=y\nz", "PYTHONPATH": str(tmp_path / "library")}
    started = subprocess.run([sys.executable, *words], env=env, cwd=tmp_path, capture_output=True, text=True)
    forked = run_forked(words, env, tmp_path)
    assert started.returncode == forked.returncode == 3
    assert started.stdout == forked.stdout and started.stderr == forked.stderr == "found by PYTHONPATH\n"


def test_a_killed_command_has_the_exit_code_of_its_signal(tmp_path):
    (tmp_path / "script.py").write_text("import os; os.kill(os.getpid(), 9)")
    assert run_forked([str(tmp_path / "script.py")], os.environ, tmp_path).returncode == -9


def test_what_a_script_would_start_is_given_word_by_word(tmp_path):
    (tmp_path / "script.sh").write_text('export MINE="x=y\nz"; exec "${PYTHON:-python}" -m module "a  b" ""')
    words, env = given_by(["bash", str(tmp_path / "script.sh")], os.environ, tmp_path)
    assert words == ["-m", "module", "a  b", ""] and env["MINE"] == "x=y\nz"
