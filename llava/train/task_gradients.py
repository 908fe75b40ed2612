"""The gradients of tasks at one model, and the first-order contributions they give: the work of `visatb gradients`."""

# N units, J measured tasks, D buckets of a sketch, K task ids of the benchmark

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import conversation_for_version
from llava.data.collator import SupervisedCollator
from llava.data.dataset import SupervisedDataset
from llava.data.images import check_image_files
from llava.generate.fingerprint import file_digest, key_of, model_fingerprint
from llava.generate.llava_model import default_device, dtype_of
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
from transformers_patch import EqualWeighting
from transformers_patch.compat import quiet_checkpointing
from transformers_patch.first_order import (
    FirstOrderError,
    SecondMoment,
    Sketch,
    first_order_contributions,
    mean_gradient,
)
from transformers_patch.unpadded import count_batch
from visatb.benchmark import Benchmark, Task, load_benchmark
from visatb.errors import InputError
from visatb.files import replacing
from visatb.records import Record, check_records, image_names, name_of, read_records

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ABOUT = (
    "an approximation: first-order contributions from gradients at one model, of losses instead of scores "
    "(docs/cheaper_measurement.md)"
)


def measure(options: Namespace, parts: Path) -> dict[str, Any]:
    """The content of the contributions file.

    Args:
        options: of llava.train.contributions.
        parts: folder for the sketches made so far.

    Raises:
        InputError: data or a model that training would refuse; a task whose own data does not help it.
    """
    benchmark = load_benchmark(options.benchmark)
    work = _Work(options, benchmark, parts)
    units = list(dict.fromkeys(task.group or task.name for task in benchmark.measured))
    members = [[task for task in benchmark.measured if unit in (task.group, task.name)] for unit in units]
    training_ND = [work.sketch(f"train {unit}", tasks, "train") for unit, tasks in zip(units, members, strict=True)]
    validation_JD = [work.sketch(f"val {task.name}", [task], "val") for task in benchmark.measured]
    unit_J = [units.index(task.group or task.name) for task in benchmark.measured]
    try:
        C_NJ, gain_J = first_order_contributions(torch.stack(validation_JD), torch.stack(training_ND), unit_J)
    except FirstOrderError as error:
        names = ", ".join(benchmark.measured[j].name for j in error.tasks)
        raise InputError(
            f"{options.model_path}: to first order the own data of {names} does not lower its validation loss. Measure "
            "with more --samples_per_task, or by trainings (visatb run)."
        ) from None
    return {
        "about": ABOUT,
        "model": str(options.model_path),
        "units": units,
        "unit_of_task": unit_J,
        "tasks": [task.name for task in benchmark.measured],
        "contributions": C_NJ.tolist(),
        "gain": gain_J.tolist(),
    } | {name: getattr(options, name) for name in ("samples_per_task", "steps", "step_size", "buckets", "seed")}


class _Work:
    """The model, loaded when the first sketch is missing, and the sketches on disk."""

    def __init__(self, options: Namespace, benchmark: Benchmark, parts: Path):
        self.options = options
        self.benchmark = benchmark
        self._ids = {task.name: k for k, task in enumerate(benchmark.tasks)}
        device = default_device(options.device)
        self._dtype = options.dtype or dtype_of("auto", device, options.model_path)
        self._device = torch.device(device)
        self._sketch = Sketch(options.buckets, options.seed)
        self._parameters: list[torch.nn.Parameter] = []
        self._model: Any = None
        files = [
            options.data_path,
            *(self._file(task, split) for task in benchmark.measured for split in ("train", "val")),
        ]
        made_from = {name: str(value) for name, value in vars(options).items() if name not in ("output", "batch_size")}
        made_from |= {"files": [_digest(file) for file in files], "dtype": self._dtype}
        self._folder = parts / key_of(made_from | model_fingerprint(options.model_path, options.model_base))

    def sketch(self, name: str, tasks: Sequence[Task], split: str) -> torch.Tensor:
        """The sketch of the mean gradient of some tasks' records, float64 [D]; from disk if it is there."""
        file = self._folder / f"{name.replace(' ', '-')}.npy"
        if file.is_file():
            return torch.from_numpy(np.load(file, allow_pickle=False))
        records = [record for task in tasks for record in self._records(task, split)]
        self._load()
        self._gradient(records, f"{name}: gradient", str(self._file(tasks[0], split)))
        sketch_D = self._sketch.of(self._parameters, self._moment)
        with replacing(file) as part, open(part, "wb") as stream:
            np.save(stream, sketch_D.numpy())
        return sketch_D

    def _load(self) -> None:
        """Load the model and average its preconditioner, once."""
        if self._model is not None:
            return
        options = self.options
        self._tokenizer, self._model, self._processor, _ = load_pretrained_model(
            options.model_path,
            options.model_base,
            get_model_name_from_path(options.model_path),
            device_map={"": str(self._device)},
            device=str(self._device),
            torch_dtype=DTYPES[self._dtype],
        )
        tower = self._model.get_vision_tower()
        self._model.requires_grad_(True)
        if tower is not None:
            tower.requires_grad_(False)
        self._model.config.use_cache = False
        self._model.train()
        self._model.gradient_checkpointing_enable()
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._moment = SecondMoment(self._parameters)
        records = self._checked(options.data_path)
        order = torch.randperm(len(records), generator=torch.Generator().manual_seed(options.seed)).tolist()
        for step in range(min(options.steps, max(1, len(order) // options.step_size))):
            chosen = order[step * options.step_size : (step + 1) * options.step_size]
            self._gradient([records[n] for n in chosen], f"preconditioner: step {step + 1}", str(options.data_path))
            self._moment.add(self._parameters)

    def _gradient(self, records: list[Record], label: str, source: str) -> None:
        tower = self._model.get_vision_tower()
        patches = 0 if tower is None else tower.num_patches
        dataset = SupervisedDataset(
            records,
            self._tokenizer,
            conversation_for_version(self.options.version),
            self._ids,
            image_processor=self._processor,
            image_folder=self.benchmark.image_folder,
            image_aspect_ratio=self.options.image_aspect_ratio,
            mm_use_im_start_end=tower is not None and self._model.config.mm_use_im_start_end,
            source=source,
        )
        collate = SupervisedCollator(self._tokenizer.pad_token_id, self.options.model_max_length, patches, padded=False)
        starts = range(0, len(dataset), self.options.batch_size)
        batches = (
            collate([dataset[n] for n in range(start, min(start + self.options.batch_size, len(dataset)))])
            for start in tqdm(starts, desc=label, unit="batch", leave=False)
        )
        try:
            with quiet_checkpointing():
                mean_gradient(self._parameters, batches, self._loss_of)
        except ValueError as error:
            raise InputError(f"{source}: {label}: {error}. Check its records.") from None

    def _loss_of(self, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
        batch.pop("unsupervised_samples", None)
        weighter = EqualWeighting(len(self._ids)).to(self._device)
        tokens = int(count_batch(batch, len(self._ids)).sum())
        moved = {name: _moved(value, self._device) for name, value in batch.items()}
        return self._model(**moved, weighter=weighter).loss * tokens, tokens

    def _records(self, task: Task, split: str) -> list[Record]:
        """The chosen records of a task's file; of a list of references the first."""
        file = self._file(task, split)
        records = self._checked(file, training=split == "train")
        draw = torch.Generator().manual_seed(self.options.seed)
        chosen = torch.randperm(len(records), generator=draw).tolist()[: self.options.samples_per_task]
        return [_as_training_record(records[n], f"{file}: {name_of(records[n], n)}") for n in sorted(chosen)]

    def _checked(self, file: Path, training: bool = True) -> list[Record]:
        records = read_records(file)
        check_records(records, file, tasks=list(self._ids), training=training)
        check_image_files(records, self.benchmark.image_folder, file)
        return records

    def _file(self, task: Task, split: str) -> Path:
        return Path(self.benchmark.data_folder) / task.files[split]


def _as_training_record(record: Record, where: str) -> Record:
    """A record of a validation file with one answer and its image's token."""
    turns = [
        turn | {"value": turn["value"][0]} if isinstance(turn["value"], list) else turn
        for turn in record["conversations"]
    ]
    if len(turns) < 2:
        raise InputError(f"{where}: has no answer, which the gradient needs. Add it.")
    if image_names(record) and not any(DEFAULT_IMAGE_TOKEN in turn["value"] for turn in turns):
        turns[0] = turns[0] | {"value": f"{DEFAULT_IMAGE_TOKEN}\n{turns[0]['value']}"}
    return record | {"conversations": turns}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _digest(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"{file}: no such file. Check the benchmark's data_folder and --data_path.")
    return file_digest(file)
