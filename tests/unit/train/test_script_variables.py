"""The values of the scripts' variables are data: no flag, no pattern and no command can come out of one."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts_visatb"
TRAINING = sorted(path.name for path in SCRIPTS.glob("*.sh") if path.read_text().startswith("#!"))
EVALUATION = sorted(f"eval/{path.name}" for path in (SCRIPTS / "eval").glob("*.sh") if path.name != "run.sh")
# Numbers of processes and addresses, which a shell compares or hands to a launcher: refused unless they are that.
LAUNCH = ["NUM_GPUS", "NUM_PROCESSES", "NNODES", "NODE_RANK", "MASTER_PORT", "MASTER_ADDR", "LAUNCHER", "HOSTFILE"]
# Which program runs where, not what it is given; the system's own.
NOT_GIVEN = {*LAUNCH, "PYTHON", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "DEEPSPEED_CONFIG", "TF32", "BASH_SOURCE"}
NOT_GIVEN |= {"PATH", "PYTHON_HF"}
NOT_GIVEN |= {"SCRIPTS", "HOME_OF_EVAL", "RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"}
NASTY = [
    "--seed 5",
    "* ?",
    "$(touch {mark})",
    "; touch {mark} #",
    'it\'s "so" `touch {mark}`',
    "a\n--seed\n5",
    "\\ $HOME",
]


@pytest.fixture
def words(tmp_path):
    """Runs a script with a stand-in for Python; returns the words it is given, or the refusal."""
    (tmp_path / "python").write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    (tmp_path / "python").chmod(0o755)

    def run(script: str, *flags: str, **variables: str) -> list[str] | str:
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NUM_GPUS": "0", "PYTHON_HF": str(tmp_path / "python")}
        env |= variables
        command = ["bash", SCRIPTS / script, *flags]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        if done.returncode:
            assert done.returncode == 2 and not done.stdout
            return done.stderr
        return done.stdout.split("\0")[:-1]

    return run


def variables_of(script: str) -> list[str]:
    """Every variable that a script reads, or one that it sources."""
    texts, todo = [], [SCRIPTS / script]
    while todo:
        path = todo.pop()
        texts.append(path.read_text())
        beside = [path.parent / name for name in re.findall(r"^source .*?/([a-z_]+\.sh)\"?$", texts[-1], re.MULTILINE)]
        todo += [source for source in beside if source.is_file()]
    code = "\n".join(line for text in texts for line in text.splitlines() if not line.startswith("#"))
    return sorted(set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", code)) - NOT_GIVEN)


@pytest.mark.parametrize("script", [*TRAINING, *EVALUATION])
def test_every_variable_reaches_python_as_one_word(words, tmp_path, script):
    names = [name for name in variables_of(script) if not name.startswith("SLURM_")]
    assert {"OUTPUT_DIR", "DATA_PATH"} < set(names) or {"CKPT", "EVAL_DATA"} < set(names)
    mark = tmp_path / "mark"
    plain = words(script, **{name: f"value-of-{name}" for name in names})
    lost = [name for name in names if sum(word.endswith(f"=value-of-{name}") for word in plain) != 1]
    assert not lost
    for nasty in NASTY:
        value = nasty.format(mark=mark)
        got = words(script, **{name: f"{value} {name}" for name in names})
        assert got == [word.replace("=value-of-", f"={value} ") for word in plain], nasty
        assert not mark.exists()


@pytest.mark.parametrize("name", LAUNCH)
@pytest.mark.parametrize("nasty", ["-1", "2 --seed 5", "x[$(touch mark)]", "1\n2", "9" * 300])
def test_a_launch_variable_of_another_kind_is_refused_in_one_line(words, tmp_path, name, nasty):
    if name == "MASTER_ADDR" and nasty.isdigit():
        return
    reported = words("finetune_academic.sh", DATA_PATH="d", OUTPUT_DIR="o", **{name: nasty})
    assert isinstance(reported, str) and reported.startswith(f"error: {name} must be"), reported
    assert reported.count("\n") == 1 and len(reported) < 400
    assert not (tmp_path / "mark").exists()


def test_precision_and_deepspeed_file_are_one_word_each_on_gpus(words, tmp_path):
    (tmp_path / "nvidia-smi").write_text('#!/bin/bash\necho "GPU 0: A (UUID: x)"\n')
    (tmp_path / "deepspeed").write_bytes((tmp_path / "python").read_bytes())
    for name in ("nvidia-smi", "deepspeed"):
        (tmp_path / name).chmod(0o755)
    given = {"TF32": "False --seed 5", "DEEPSPEED_CONFIG": "my $(touch mark) *.json"}
    got = words("finetune_academic.sh", DATA_PATH="d", OUTPUT_DIR="o", NUM_GPUS="1", **given)
    assert {f"--tf32={given['TF32']}", f"--deepspeed={given['DEEPSPEED_CONFIG']}"} < set(got)
    assert not (tmp_path / "mark").exists()


def test_a_hostfile_launch_refuses_shell_metacharacters(words, tmp_path):
    (tmp_path / "deepspeed").write_bytes((tmp_path / "python").read_bytes())
    (tmp_path / "deepspeed").chmod(0o755)
    (tmp_path / "hosts").write_text("node1 slots=8\nnode2 slots=8\n")
    given = {"DATA_PATH": "my data/d.json", "HOSTFILE": "hosts", "OUTPUT_DIR": "o"}
    assert "--data_path=my data/d.json" in words("finetune_academic.sh", **given)
    for nasty in ("$(touch mark)", "a;b", "%h", "a'b", "*", "a\nb"):
        reported = words("finetune_academic.sh", **given | {"OUTPUT_DIR": nasty})
        assert "must hold no signs of a shell with HOSTFILE" in reported and reported.count("\n") == 1


def test_flags_given_to_a_script_still_come_last(words):
    got = words("finetune_lora.sh", "--seed", "7", "--visatb_weights", "1", "2", DATA_PATH="d", OUTPUT_DIR="o")
    assert got[-5:] == ["--seed", "7", "--visatb_weights", "1", "2"]


def helped(*command: str, **variables: str) -> tuple[str, dict[str, str]]:
    """What a script prints for --help, and variable -> default in it; nothing but shell tools on the PATH."""
    env = {"PATH": "/usr/bin:/bin"} | variables
    done = subprocess.run(["bash", *command], env=env, capture_output=True, text=True, cwd=SCRIPTS.parent)
    assert done.returncode == 0 and not done.stderr, done.stderr
    table = done.stdout.partition("Variables of the environment, with defaults:")[2].partition("More flags:")[0]
    return done.stdout, dict(line.split(maxsplit=1) for line in table.strip().splitlines())


@pytest.mark.parametrize("script", [*TRAINING, *EVALUATION])
def test_help_lists_every_variable_that_the_script_reads(script):
    text, listed = helped(str(SCRIPTS / script), "--help")
    header = (SCRIPTS / script).read_text().splitlines()[1].removeprefix("# ")
    assert text.startswith(header) and f"bash scripts_visatb/{script} [" in text
    read = {name for name in variables_of(script) if not name.startswith("SLURM_")}
    assert listed.keys() - NOT_GIVEN == read
    if script in TRAINING:
        assert set(LAUNCH) < set(listed)


@pytest.mark.parametrize("script", [*TRAINING, *EVALUATION])
def test_defaults_in_help_are_those_that_reach_python(words, script):
    _, listed = helped(str(SCRIPTS / script), "-h")
    needed = {name: "given" for name, default in listed.items() if default == "must be set"}
    of_training = {"DATA_PATH", "OUTPUT_DIR"}
    known = (of_training, of_training | {"IMAGE_FOLDER"}, of_training | {"BASE_MODEL_PATH"}, {"CKPT"})
    assert needed.keys() in known
    defaults = {name: text for name, text in listed.items() if name not in NOT_GIVEN and name not in needed}
    got = "\0".join(words(script, **needed)) + "\0"
    lost = [name for name, text in defaults.items() if text != "not set" and f"{text}\0" not in got]
    assert not lost
    unset = [name for name, text in defaults.items() if text == "not set"]
    assert words(script, **needed, **dict.fromkeys(unset, "")) == words(script, **needed)


@pytest.mark.parametrize("script", ["quickstart.sh", "tests/run.sh", "scripts_visatb/slurm/finetune.sbatch"])
def test_other_scripts_print_help_and_install_nothing(tmp_path, script):
    text, listed = helped(script, "--help", HOME=str(tmp_path))
    assert listed.keys() & {"CORES", "TEST_PROCESSES", "SCRIPT"}
    assert "#SBATCH" not in text and "Installing" not in text and not list(tmp_path.iterdir())
