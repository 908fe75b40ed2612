"""A run that is stopped: what it says, what the next one counts, and who holds a run."""

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml
from toy_graph import command, make_toy, run_graph, write_benchmark
from waiting import PATIENCE, until

# Saves at SIGTERM as a training does, and ends as one that was stopped.
SAVING = """
if [ -e slow ]; then
    trap 'mkdir -p "$OUTPUT_DIR/checkpoint-7"; exit 143' TERM INT
    touch training
    sleep 120 & wait $!
fi
"""


@pytest.fixture
def toy(tmp_path) -> Path:
    make_toy(tmp_path)
    script = (tmp_path / "train.sh").read_text().replace("if [ -e slow ]; then sleep 120; fi\n", SAVING)
    (tmp_path / "train.sh").write_text(script)
    write_benchmark(tmp_path, prepare=None)
    (tmp_path / "slow").touch()
    return tmp_path


def start(folder: Path, repository: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(repository)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command("weights"), cwd=folder, env=environment, text=True, start_new_session=True, **pipes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_what_is_saved_and_resumes_its_count(toy, repository, number):
    running = start(toy, repository)
    until((toy / "training").exists, running)
    if number == signal.SIGINT:
        os.killpg(running.pid, number)  # as a key press does
    else:
        running.send_signal(number)
    shown, reported = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + number
    *notes, last = reported.splitlines()
    # The second is printed when saving takes longer than WAIT_SECONDS, as on a busy machine.
    assert all(line.startswith(("note: ", "waiting until the running steps have saved")) for line in notes), reported
    (done, total) = re.match(r"stopped: (\d+) of (\d+) steps are done; saved: \S+ \(seed0\) at step 7", last).groups()
    assert last.endswith(". The same command resumes the run.") and "failed" not in shown + reported
    (toy / "slow").unlink()
    again = run_graph(toy, repository, "weights").stdout
    counts = re.findall(r"^ *(\d+)/(\d+)  (\w+)", again, re.MULTILINE)
    assert counts[0] == (done, total, "resume")
    # Two steps that end together may be printed in either order, or both after both are counted.
    assert min(int(count) for count, _, _ in counts[1:]) - int(done) in (1, 2)
    assert counts[-1] == (total, total, "done")


def test_a_second_process_is_refused_with_the_pid_of_the_first(toy, repository):
    running = start(toy, repository)
    try:
        until((toy / "training").exists, running)
        second = run_graph(toy, repository, check=False)
        assert second.returncode == 2 and not second.stdout
        (line,) = second.stderr.splitlines()
        (pid,) = re.findall(r"runs/toy: another process is making this run \(pid (\d+) on ", line)
        assert int(pid) == running.pid
        plain = subprocess.run(
            ["snakemake", "-s", str(repository / "scripts_visatb/workflow/Snakefile"), "--configfile", "toy.yaml"]
            + ["--cores", "1"],
            executable=str(Path(command()[0]).with_name("snakemake")),
            cwd=toy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert plain.returncode != 0 and f"(pid {running.pid} on" in plain.stdout + plain.stderr
    finally:
        steps = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=PATIENCE)
    _, alive = psutil.wait_procs(steps, timeout=PATIENCE)
    assert not alive


def test_names_and_folders_stay_what_was_typed(tmp_path, repository):
    make_toy(tmp_path)
    data = tmp_path / "it's {data}"
    (tmp_path / "data").rename(data)
    tasks = [
        {**task, "files": {split: f"{{seed}} {name}" for split, name in task["files"].items()}}
        for task in yaml.safe_load((tmp_path / "toy.yaml").read_text())["tasks"]
    ]
    for file in list(data.iterdir()):
        file.rename(file.with_name(f"{{seed}} {file.name}"))
    write_benchmark(tmp_path, name="2024_11", data_folder=data.name, tasks=tasks, prepare=None)
    (tmp_path / "toy.yaml").rename(tmp_path / "it's {my} mix.yaml")
    words = ["--benchmark", "it's {my} mix.yaml", "--runs"]
    done = run_graph(tmp_path, repository, *words, "a b/1e3", "weights")
    assert (tmp_path / "a b/1e3/2024_11/seed0/weights.json").is_file(), done.stderr
    (tmp_path / "broken").touch()  # the place of a run can be seen before its first training
    for runs in ("2024_10", "007"):
        done = run_graph(tmp_path, repository, *words, runs, "weights", check=False)
        assert (tmp_path / runs / "2024_11/seed0/subsets/subsets.json").is_file(), done.stderr
    assert (tmp_path / "2024_10/2024_11/.plan.json").is_file()
    assert not (tmp_path / "202410").exists() and not (tmp_path / "7").exists()
