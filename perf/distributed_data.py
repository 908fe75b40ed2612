"""Model, data, flags and processes for perf/distributed_table.py and perf/kill_training.py.

The content of the micro-batches is as uneven as possible.

Samples are written in the order in which the trainer will read them, eight to a step, sorted by task inside a step, so
that micro-batches of two or four samples lack some tasks. Answers have 1 to 60 words. In every sixth step four samples
in a row (one whole micro-batch) keep no supervised token, as their question fills the length limit; in every fifth a
task is absent from the whole step. Every third sample has an image.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
MAX_LENGTH = 160
SAMPLES_PER_STEP = 8
IMAGE_SIZE = 28
TASKS = ("Caption", "Choice", "Boxes", "Chat")
_WORDS = ("red", "green", "blue", "square", "circle", "ring", "over", "under", "beside", "one", "two", "left", "right")

# Fewest and most words of an answer, and the number of different ones: tasks must be learned at different speeds, or
# strategies that compare how fast losses fall would have no effect.
_ANSWERS = {"Caption": (4, 20, 13), "Choice": (1, 1, 1), "Boxes": (4, 8, 3), "Chat": (25, 60, 13)}


def absent_task(step: int) -> str | None:
    """The task that is absent from a step (counted from 0)."""
    return TASKS[(step // 5) % len(TASKS)] if step % 5 == 3 else None


def write_material(folder: Path, steps: int, seed: int) -> None:
    """Write base model, tokenizer, vision tower, projector, images, records, tasks and DeepSpeed settings.

    Args:
        folder: an empty folder.
        steps: optimizer steps in one epoch.
        seed: seed of the training, which determines the order in which it reads the records.
    """
    draw = random.Random(seed)
    planned = [record for step in range(steps) for record in _records_of_step(step, draw)]
    for n, record in enumerate(planned):
        record["id"] = f"record-{n}"
        if n % 3 == 0:
            record["image"] = f"{n % 12}.png"
            record["conversations"][0]["value"] = "<image>\n" + record["conversations"][0]["value"]
    _write_images(folder / "images", draw)
    (folder / "data.json").write_text(json.dumps(_as_read(planned, seed)))
    tasks = [{"name": name, "weight": 1.0, "files": {"train": "data.json"}} for name in TASKS]
    settings = {"name": "hard", "data_folder": ".", "image_folder": "images", "tasks": tasks}
    (folder / "tasks.yaml").write_text(json.dumps(settings))  # JSON is YAML
    _write_models(folder, seed)


def _records_of_step(step: int, draw: random.Random) -> list[dict]:
    present = [task for task in TASKS if task != absent_task(step)]
    tasks = sorted(draw.choices(present, k=SAMPLES_PER_STEP), key=TASKS.index)
    unsupervised = range(4) if step % 6 == 2 else ()
    if unsupervised:  # spread over the tasks: a task with too many such records is refused
        tasks = [present[n % len(present)] for n in range(SAMPLES_PER_STEP)]
    return [_record(task, draw, unsupervised=n in unsupervised) for n, task in enumerate(tasks)]


def _record(task: str, draw: random.Random, unsupervised: bool) -> dict:
    question = draw.choices(_WORDS, k=MAX_LENGTH if unsupervised else draw.randint(3, 8))
    fewest, most, different = _ANSWERS[task]
    answer = draw.choices(_WORDS[:different], k=draw.randint(fewest, most))
    turns = [{"from": "human", "value": " ".join(question)}, {"from": "gpt", "value": " ".join(answer)}]
    return {"task": task, "conversations": turns}


def _as_read(planned: list[dict], seed: int) -> list[dict]:
    """The records in an order that the trainer's shuffle of the first epoch turns into the planned one."""
    import torch

    order = torch.randperm(len(planned), generator=torch.Generator().manual_seed(seed)).tolist()
    records: list[dict] = [{}] * len(planned)
    for place, record in zip(order, planned, strict=True):
        records[place] = record
    return records


def _write_images(folder: Path, draw: random.Random) -> None:
    from PIL import Image

    folder.mkdir()
    for n in range(12):
        Image.frombytes("RGB", (IMAGE_SIZE, IMAGE_SIZE), draw.randbytes(3 * IMAGE_SIZE**2)).save(folder / f"{n}.png")


def _write_models(folder: Path, seed: int) -> None:
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaTokenizer

    from llava.conversation import conv_templates
    from scripts_visatb.demo.tokenizer import train_tokenizer
    from transformers_patch import LlamaForCausalLM

    torch.manual_seed(seed)
    texts = [" ".join(_WORDS), f"{conv_templates['vicuna_v1'].system} USER: ASSISTANT:"] * 20
    train_tokenizer(texts, folder / "llama", vocabulary=320)
    config = LlamaConfig(
        vocab_size=len(LlamaTokenizer.from_pretrained(folder / "llama")),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2 * MAX_LENGTH,
        initializer_range=0.1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama", safe_serialization=True)
    tower = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=IMAGE_SIZE // 2,
    )
    CLIPVisionModel(tower).save_pretrained(folder / "tower", safe_serialization=True)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size).save_pretrained(folder / "tower")
    projector = {"weight": 0.1 * torch.randn(64, 32), "bias": torch.zeros(64)}
    torch.save({f"model.mm_projector.{key}": value for key, value in projector.items()}, folder / "mm_projector.bin")


def write_deepspeed(source: Path, target: Path) -> None:
    """Copy one of our DeepSpeed files, adapted so that it has an effect on a tiny model trained with plain SGD."""
    settings = json.loads(source.read_text())
    settings["zero_allow_untested_optimizer"] = True
    if settings["zero_optimization"]["stage"] == 3:
        # Otherwise no tensor would be large enough to be partitioned.
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    target.write_text(json.dumps(settings))


def training_flags(folder: Path, output: Path, **flags: Any) -> list[str]:
    """The command line of a training on the material in a folder.

    Args:
        folder: see `write_material`.
        output: where model and log go.
        flags: further flags.
    """
    flags |= {
        "model_name_or_path": folder / "llama",
        "version": "v1",
        "benchmark": folder / "tasks.yaml",
        "data_path": folder / "data.json",
        "image_folder": folder / "images",
        "vision_tower": folder / "tower",
        "pretrain_mm_mlp_adapter": folder / "mm_projector.bin",
        "mm_projector_type": "linear",
        "mm_vision_select_layer": -2,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "model_max_length": MAX_LENGTH,
        "output_dir": output,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def start_processes(processes: int, module: str, words: list[str], log: IO[bytes]) -> subprocess.Popen:
    """Start a module's main as one process, or as ranks of a launcher, in a new session.

    Ranks run on the CPU in float32 with one thread each, so that the order of summation does not depend on the load.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", module, *words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def spare_compiling() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives, which takes minutes and needs a compiler."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
