"""The checkpoint commands as users start them."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_tiny_lora

from scripts_visatb.checkpoints import convert_hf, extract_mm_projector, merge_lora_weights

TOOLS = ("merge_lora_weights", "extract_mm_projector", "convert_hf")


def command(tool, *words):
    line = [sys.executable, "-m", f"scripts_visatb.checkpoints.{tool}", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_has_an_example_with_flags_that_exist(tool):
    shown = command(tool, "--help").stdout
    example = shown.partition("example")[2].replace("\\\n", " ")
    assert f"python -m scripts_visatb.checkpoints.{tool} --" in example
    flags = {word for word in example.split() if word.startswith("--")}
    assert flags and all(f"  {flag}" in shown.partition("example")[0] or f", {flag}" in shown for flag in flags)


def test_from_adapter_to_the_other_layout_and_back(tiny_checkpoint, tmp_path):
    lora = make_tiny_lora(tmp_path / "llava-lora", tiny_checkpoint)
    merged, theirs, ours = (str(tmp_path / name) for name in ("llava-merged", "hf", "ours"))
    base, projector = str(tiny_checkpoint / "llama"), str(tmp_path / "mm_projector.bin")
    merge_lora_weights.main(["--model-path", str(lora), "--model-base", base, "--save_model-path", merged])
    extract_mm_projector.main(["--model-path", merged, "--output", projector])
    convert_hf.main(["--to-hf", "--model-path", merged, "--save-model-path", theirs])
    convert_hf.main(["--from-hf", "--model-path", theirs, "--save-model-path", ours])
    for file in Path(merged).iterdir():
        assert (Path(ours) / file.name).read_bytes() == file.read_bytes()
    again = command("convert_hf", "--from-hf", "--model-path", theirs, "--save-model-path", ours)
    assert again.returncode == 2 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1
