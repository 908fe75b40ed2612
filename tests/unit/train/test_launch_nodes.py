"""The commands that several nodes and the other launchers get from launch.sh."""

import os
import subprocess

import pytest

ECHO = '#!/bin/bash\necho "{name} $*"\n'
NVIDIA_SMI = '#!/bin/bash\necho "GPU 0: A (UUID: x)"\necho "GPU 1: A (UUID: y)"\n'


@pytest.fixture
def launched(repository, tmp_path):
    """Runs launch.sh on a machine with two GPUs; returns what would be started, up to the training's own flags."""
    stand_ins = {name: ECHO.format(name=name) for name in ("deepspeed", "python")} | {"nvidia-smi": NVIDIA_SMI}
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(**variables: str) -> str:
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
        script = f"set -euo pipefail; source {repository}/scripts_visatb/launch.sh; launch_training --seed 0"
        done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
        if done.returncode:
            assert not done.stdout
            return f"{done.returncode} {done.stderr.strip()}"
        assert done.stdout.strip().endswith("--seed 0")
        return done.stdout.strip().replace(str(repository), "")

    return run


def test_a_hostfile_is_handed_to_deepspeed_whatever_this_machine_has(launched, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("node1 slots=8\nnode2 slots=8\n")
    reported = launched(HOSTFILE=str(hosts), CUDA_VISIBLE_DEVICES="", MASTER_ADDR="node1", MASTER_PORT="29600")
    assert reported.startswith(
        f"deepspeed --hostfile={hosts} --master_addr node1 --master_port 29600 /llava/train/train_mem.py --bf16 True"
    )
    assert "--deepspeed=/scripts_visatb/zero3.json" in reported
    assert "--num_gpus 4 /llava" in launched(HOSTFILE=str(hosts), NUM_GPUS="4")
    assert launched(HOSTFILE="nowhere").startswith("2 error: HOSTFILE must be a file, got nowhere.")


def test_several_nodes_are_torchruns_unless_there_is_a_hostfile(launched):
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node1"}
    reported = launched(**nodes)
    assert reported.startswith(
        "python -m torch.distributed.run --nnodes 2 --node_rank 1 --master_addr node1 --master_port 29500 "
        "--nproc_per_node 2 /llava/train/train_mem.py"
    )
    assert "--bf16 True" in reported and "zero3.json" in reported
    for missing in ("NODE_RANK", "MASTER_ADDR"):
        assert f"set {missing}=" in launched(**{k: v for k, v in nodes.items() if k != missing})
    assert "error: several nodes by deepspeed need HOSTFILE." in launched(**nodes, LAUNCHER="deepspeed")


def test_torchrun_and_ddp_on_one_node(launched):
    reported = launched(LAUNCHER="torchrun", DEEPSPEED_CONFIG="none")
    assert reported.startswith("python -m torch.distributed.run --standalone --nproc_per_node 2 /llava")
    assert "--deepspeed" not in reported and "--bf16 True" in reported


def test_processes_without_gpus(launched):
    reported = launched(NUM_GPUS="0", NUM_PROCESSES="2")
    assert (
        reported == "python -m torch.distributed.run --standalone --nproc_per_node 2 /llava/train/train_mem.py --seed 0"
    )
    assert launched(NUM_GPUS="0", NUM_PROCESSES="1") == "python /llava/train/train_mem.py --seed 0"
    assert launched(NUM_PROCESSES="2").startswith("2 error: NUM_PROCESSES must be unset where GPUs are used, got 2.")
    assert launched(NUM_GPUS="0", LAUNCHER="deepspeed").startswith("2 error: LAUNCHER=deepspeed needs a GPU")


def test_a_rank_of_srun_is_the_training_itself(launched, tmp_path):
    (tmp_path / "python").write_text('#!/bin/bash\necho "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*"')
    slurm = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16", "MASTER_ADDR": "node1"}
    reported = launched(LAUNCHER="srun", **slurm)
    assert reported.startswith("9 1 16 node1 29500 /llava/train/train_mem.py --bf16 True")
    assert "LAUNCHER=srun is for commands that srun starts" in launched(LAUNCHER="srun", MASTER_ADDR="node1")
    assert "LAUNCHER must be deepspeed, torchrun or srun, got mpi" in launched(LAUNCHER="mpi")


def test_a_variable_that_is_missing_is_refused_in_a_line_with_an_example(launched):
    assert launched(NNODES="2", MASTER_ADDR="node1") == (
        "2 error: NODE_RANK must be the number of this node, from 0, and is not set. Example: set NODE_RANK=0"
    )
    assert launched(LAUNCHER="srun").startswith("2 error: LAUNCHER=srun is for commands that srun starts.")
    assert launched(LAUNCHER="srun", SLURM_PROCID="0").startswith("2 error: MASTER_ADDR must be")


RECIPES = "finetune_academic finetune_academic_vicuna13b finetune_chat finetune_lora finetune_qlora finetune_task"


@pytest.mark.parametrize("script", [*RECIPES.split(), "finetune_task_lora", "pretrain"])
def test_a_recipe_says_how_images_enter_unless_its_base_does(repository, tmp_path, script):
    (tmp_path / "python").write_text('#!/bin/bash\necho "$*"\n')
    (tmp_path / "python").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NUM_GPUS": "0"}
    env |= {"DATA_PATH": "d", "OUTPUT_DIR": "o", "IMAGE_FOLDER": "i"}

    def reported(**more):
        words = ["bash", f"{repository}/scripts_visatb/{script}.sh"]
        return subprocess.run(words, env=env | more, capture_output=True, text=True, check=True).stdout

    flags = (
        "--vision_tower=openai/clip-vit-large-patch14-336",
        "--mm_projector_type=mlp2x_gelu",
        "--mm_vision_select_layer=-2",
        "--mm_use_im_start_end False",
        "--mm_use_im_patch_token False",
    )
    own = script.startswith("finetune_task")
    assert [flag in reported() for flag in flags] == [not own] * 5
    given = reported(VISION_TOWER="tower", MM_PROJECTOR_TYPE="linear", MM_VISION_SELECT_LAYER="-1")
    for flag in ("--vision_tower=tower", "--mm_projector_type=linear", "--mm_vision_select_layer=-1"):
        assert flag in given
