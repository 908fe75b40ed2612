"""Which GPUs the training scripts use, and with which launcher."""

import os
import subprocess

import pytest

DEEPSPEED = """#!/bin/bash
echo "deepspeed $1 $2"
"""
NVIDIA_SMI = """#!/bin/bash
echo "GPU 0: A (UUID: x)"
echo "GPU 1: A (UUID: y)"
"""


@pytest.fixture
def launched(repository, tmp_path):
    for name, text in {"deepspeed": DEEPSPEED, "nvidia-smi": NVIDIA_SMI, "python": "#!/bin/bash\necho python"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(**variables: str) -> str:
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
        script = f"set -euo pipefail; source {repository}/scripts_visatb/launch.sh; launch_training --seed 0"
        return subprocess.run(
            ["bash", "-c", script], env=env, capture_output=True, text=True, check=True
        ).stdout.strip()

    return run


def test_all_gpus_are_used_by_default(launched):
    assert launched() == "deepspeed --num_gpus 2"
    assert launched(NUM_GPUS="1") == "deepspeed --num_gpus 1"


def test_chosen_gpus_are_passed_to_deepspeed_by_name(launched):
    assert launched(CUDA_VISIBLE_DEVICES="2,3,5") == "deepspeed --include localhost:2,3,5"
    assert launched(CUDA_VISIBLE_DEVICES="2,3,5", NUM_GPUS="2") == "deepspeed --include localhost:2,3"


def test_without_a_gpu_plain_python_runs(launched, tmp_path):
    assert (
        launched(NUM_GPUS="0") == launched(CUDA_VISIBLE_DEVICES="") == launched(CUDA_VISIBLE_DEVICES="-1") == "python"
    )
    (tmp_path / "nvidia-smi").write_text("#!/bin/bash\necho 'NVIDIA-SMI has failed: no driver'\nexit 9")
    assert launched() == "python"


def test_gpus_are_hidden_from_a_cpu_training(launched, tmp_path):
    (tmp_path / "python").write_text('#!/bin/bash\necho "${CUDA_VISIBLE_DEVICES-all}"')
    assert launched(NUM_GPUS="0") == launched(NUM_GPUS="0", CUDA_VISIBLE_DEVICES="1") == ""
    (tmp_path / "nvidia-smi").write_text("#!/bin/bash\nexit 9")
    assert launched() == "all"
