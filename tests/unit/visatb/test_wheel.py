"""A wheel of the checkout has all that its commands need, and runs outside the checkout."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

pytest.importorskip("setuptools", "70.1", reason="builds a wheel without another package")
WANTED = "README.md LICENSE pyproject.toml requirements.txt *.py eval llava scripts_visatb transformers_patch visatb*"


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory):
    """The folder of an unpacked wheel, which `pip install --target` would make."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for pattern in WANTED.split():
        for path in repository.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(path, source)
    build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, built], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(built / "site")
    return built / "site"


def visatb(installed, tmp_path, *words: str) -> str:
    """What a command of the wheel prints, in a process that sees wheel and libraries but no checkout."""
    path = f"{installed}:{sysconfig.get_paths()['purelib']}"  # -S: the checkout's own .pth file has no effect
    command = [sys.executable, "-S", "-m", "visatb", *words]
    done = subprocess.run(command, env={"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scripts_and_their_files_are_in_the_wheel(repository, installed):
    kinds = ("*.sh", "*.sbatch", "*.yaml", "*.json", "*.j2", "Snakefile")
    needed = {
        path.relative_to(repository)
        for folder in ("scripts_visatb", "llava", "eval", "visatb", "visatb_hf", "transformers_patch")
        for kind in (*kinds, "*.py")
        for path in (repository / folder).rglob(kind)
        if not any(part.startswith(".") for part in path.parts[len(repository.parts) :])
    }
    assert len(needed) > 200
    assert not [str(path) for path in sorted(needed) if not (installed / path).is_file()]
    assert not {path.name for path in installed.iterdir()} & {"tests", "perf", "docs", "build"}


def test_the_wheel_installs_a_visatb_command(installed):
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "visatb = visatb.__main__:script" in entry_points.read_text()


def test_commands_of_the_wheel_run_outside_the_checkout(installed, tmp_path):
    assert "3. weigh the tasks" in visatb(installed, tmp_path, "--help")
    assert visatb(installed, tmp_path, "show", "academic").startswith("academic: 8 tasks")
    (tmp_path / "s.csv").write_text("model,A,B\nmini,50,50\nA,60,52\nB,51,70\n")
    words = ["--scores", "s.csv", "--temperature", "0.5", "--print-weights"]
    assert len(visatb(installed, tmp_path, "weigh", *words).split()) == 2
