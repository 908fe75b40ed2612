"""No command imports torch or transformers to print its help."""

import subprocess
import sys

from visatb.__main__ import COMMANDS

# Measures, and a test suite's own entry points: they may import what they like.
OTHERS = ("tests", "perf", "visatb_hf")
_HELP = """
import io, runpy, sys
from contextlib import redirect_stdout

heavy, slow = {"torch", "transformers", "accelerate", "peft", "matplotlib"}, []
for command in sys.argv[1:]:
    argv = sys.argv
    sys.argv = command.split() + ["--help"]
    with redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_module(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, command
    assert "usage: " in text.getvalue() or "example:" in text.getvalue(), command
    sys.argv = argv
    found = heavy & set(sys.modules)
    slow += [f"{command}: {name}" for name in sorted(found)]
    heavy -= found
print("\\n".join(slow))
"""


def test_help_of_every_command_needs_no_torch(repository):
    files = (path.relative_to(repository) for path in repository.rglob("*.py"))
    files = (path for path in files if path.parts[0] not in OTHERS and not path.parts[0].startswith("."))
    programs = [".".join(path.with_suffix("").parts) for path in files if "__main__" in (repository / path).read_text()]
    programs = [name for name in programs if not name.endswith("__main__") and name != "visatb.cli"]
    names = sorted({f"visatb {name}" for commands in COMMANDS.values() for name in commands})
    assert len(programs) > 40 and "llava.train.train" in programs
    command = [sys.executable, "-W", "ignore", "-c", _HELP, *sorted(programs), *names]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", "imported for --help, first by"


def test_wrong_training_flags_are_refused_before_torch_is_imported(tmp_path):
    needed = ["--model_name_or_path", "m", "--output_dir", str(tmp_path), "--data_path"]
    code = "import sys; from llava.train.train import main\n"
    code += "try: main()\nexcept ValueError as error: print(error, 'torch' in sys.modules)"
    for words, message in (
        ([*needed, "/no/such.json"], "/no/such.json"),
        ([*needed, "d", "--benchmark", "/no/such.yaml"], "/no/such.yaml"),
        ([*needed, "d", "--seed", "x"], "invalid int value"),
        ([*needed, "d", "--lora_r", "0", "--lora_enable", "True"], "lora_r must be"),
        ([*needed, "d", "--nonsense", "1"], "unknown arguments: --nonsense 1"),
    ):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert message in done.stdout and done.stdout.strip().endswith("False"), (words, done.stdout, done.stderr)
