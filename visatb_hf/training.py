"""One training of a current model: start or resume, train, save; visatb_hf.train is its command."""

import pickle
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from llava.data.images import check_image_files
from transformers_patch import Weighter, build_weighter
from transformers_patch.run_folder import (
    CONTENT,
    LOG_FILE,
    RunFolder,
    content_of,
    deepspeed_settings,
    leave_together,
    on_first_rank,
    plain,
    sha256_of_file,
)
from transformers_patch.step_loader import ReadError
from transformers_patch.stopping import StopSignals
from transformers_patch.task_sampling import sampler_of
from transformers_patch.weight_method import strategy_file
from visatb.cli import EXIT_INPUT, message_of, one_line
from visatb.errors import InputError
from visatb.record_index import RecordIndex, open_index
from visatb.records import check_record, name_of, refuse_missing_folder
from visatb.sampling import PROPORTIONAL, WEIGHTS
from visatb_hf.arguments import OF_THE_MODEL, OF_THE_RESULT
from visatb_hf.checkpoints import DamagedCheckpointError, SaveError, needed_files
from visatb_hf.data import ChatCollator, ChatDataset
from visatb_hf.models import chat_of, read_model, read_processor
from visatb_hf.trainer import NonFiniteLossError, WeightedTrainer

_KINDS = ("cut_K", "unsupervised_K")


class ChatTrainer(WeightedTrainer):
    """`WeightedTrainer` on a ChatDataset; counts samples that are cut, or have no supervised token, per task.

    Args:
        task_sampling, visatb_weights: how often tasks are drawn (`transformers_patch.task_sampling`).
    """

    def __init__(
        self,
        *args: Any,
        task_sampling: str = PROPORTIONAL,
        visatb_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        tasks = self.train_dataset.task_of_records()
        self._sampler = sampler_of(tasks, self.weighter.num_tasks, task_sampling, visatb_weights, self._data_seed)
        self._left = torch.zeros(len(_KINDS), self.weighter.num_tasks, dtype=torch.long)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the base class."""
        counts = [inputs.pop(kind).cpu() for kind in _KINDS]
        if inputs["sample_indices"]:
            self._left += torch.stack(counts)
        return super().training_step(model, inputs, *args, **kwargs)

    def _order_of_epoch(self, epoch: int) -> list[int]:
        """As the base class, or by `task_sampling`."""
        if self._sampler is None:
            return super()._order_of_epoch(epoch)
        self._sampler.set_epoch(epoch)
        return list(self._sampler)

    def left_out(self) -> dict[str, list[int]]:
        """Samples per task that were cut or had no supervised token in this call of the run (call it on all ranks)."""
        total = self._sum_over_ranks(self._left.to(self.args.device)).tolist()
        return dict(zip(("cut", "without_supervised_token"), total, strict=True))

    def describe_samples(self, indices: Sequence[int]) -> list[str]:
        """Record ids of samples of the training set."""
        return [str(self.train_dataset.records[index].get("id", index)) for index in indices]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # It is a pickle; visatb_run.json has the same information and cannot execute code.
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)


def run_training(flags: Namespace, args: TrainingArguments, tasks: list[str]) -> int:
    """Run one training on those tasks, in id order; returns the exit code.

    Raises:
        InputError: invalid weights, records, images, templates or folders, found before the model loads.
    """
    set_seed(args.seed)
    weighter = make_weighter(flags, args, tasks)
    processor = read_processor(flags.model_name_or_path)
    chat = chat_of(processor, flags)
    records = on_first_rank(args, lambda: load_records(flags, tasks))
    dataset = dataset_of(flags, records, chat, tasks)
    collator = ChatCollator(processor, chat, flags.model_max_length, len(tasks), blank_image=bool(records.images))
    folder = RunFolder(args.output_dir, fingerprint(flags, args, tasks))

    def look() -> tuple[bool, str | None]:
        finished = folder.open(flags.overwrite_output_dir)
        return finished, None if finished else folder.newest_checkpoint(
            args.world_size, bool(args.deepspeed), needed_files
        )

    finished, checkpoint = on_first_rank(args, look)
    is_first = args.process_index == 0
    if finished:
        if is_first:
            print(f"{folder.path}: this run is finished; nothing to do.")
        return 0
    started = time.monotonic()
    try:
        trainer = build_trainer(flags, args, processor, dataset, collator, weighter, tasks)
    except InputError:
        if is_first:
            folder.leave()
        raise
    trainer.run_digest = folder.digest
    if is_first:
        folder.begin()
        if checkpoint is not None:
            print(f"resuming from {checkpoint}")
    with StopSignals() as trainer.stop:
        code = run_to_the_end(trainer, checkpoint)
        if code:
            return code
        left_out = trainer.left_out()
        if is_first:
            report(left_out, tasks)
            folder.finish(
                steps=trainer.state.global_step,
                samples=len(records),
                seconds=round(time.monotonic() - started, 3),
                tasks=tasks,
                weights=[float(weight) for weight in weighter.weight_K],
                samples_left_out=left_out,
                log=LOG_FILE,
            )
    return 0


def make_weighter(flags: Namespace, args: TrainingArguments, tasks: list[str]) -> Weighter:
    """The weighting strategy, its weights checked against the tasks. Raises InputError: they do not fit."""
    try:
        return build_weighter(
            flags.weight_method,
            len(tasks),
            None if flags.task_sampling == WEIGHTS else flags.visatb_weights,
            seed=args.seed,
            window=flags.weight_window,
            temperature=flags.weight_temperature,
            lr=flags.weight_lr,
        )
    except ValueError as error:
        lost = not flags.benchmark and len(flags.visatb_weights or []) > 1
        hint = " Without --benchmark (BENCHMARK) all records are one task." if lost else ""
        raise InputError(f"{error}{hint}") from None


def load_records(flags: Namespace, tasks: list[str]) -> RecordIndex:
    """All records of the annotation file, each checked: turns, task, `<image>` marks, image files.

    Raises:
        InputError: naming file, record and field.
    """
    records = open_index(flags.data_path)
    if flags.benchmark:
        known = {position for position, task in enumerate(records.columns.tasks) if task in tasks}
        for n, position in enumerate(records.columns.task_N.tolist()):
            if position not in known:
                check_record(records[n], f"{records.path}: {name_of(records[n], n)}", set(), tasks)
    if records.images:
        first = records.images[0][1]
        if not flags.image_folder:
            where = f"{flags.data_path}: {name_of(records[first], first)}"
            raise InputError(f"{where} has an image. Set --image_folder (IMAGE_FOLDER).")
        refuse_missing_folder(flags.image_folder)
        check_image_files(records, flags.image_folder, flags.data_path)
    return records


def dataset_of(flags: Namespace, records: RecordIndex, chat: Any, tasks: list[str]) -> ChatDataset:
    """The samples that the flags select."""
    budget = (flags.min_pixels, flags.max_pixels)
    return ChatDataset(records, chat, tasks, flags.image_folder, *budget, source=flags.data_path)


def build_trainer(
    flags: Namespace,
    args: TrainingArguments,
    processor: Any,
    dataset: ChatDataset,
    collator: ChatCollator,
    weighter: Weighter,
    tasks: list[str],
) -> ChatTrainer:
    """The model, loaded, and its trainer. Raises InputError: a model that cannot be trained with these flags."""
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    if args.deepspeed and not torch.cuda.is_available():
        import deepspeed

        deepspeed.init_distributed("gloo")  # accelerate does it on GPUs only
    model = read_model(flags, dtype)
    try:
        return ChatTrainer(
            model,
            args,
            train_dataset=dataset,
            data_collator=collator,
            processing_class=processor,
            weighter=weighter,
            task_names=tasks,
            log_file=Path(args.output_dir) / LOG_FILE,
            task_sampling=flags.task_sampling,
            visatb_weights=flags.visatb_weights,
        )
    except ValueError as error:
        raise InputError(one_line(error)) from None


def fingerprint(flags: Namespace, args: TrainingArguments, tasks: list[str]) -> dict[str, Any]:
    """Everything that affects the result of a run, by name, as JSON values."""
    shape: dict[str, Any] = {"data": sha256_of_file(flags.data_path), "tasks": tasks}
    shape |= {name: plain(getattr(flags, name)) for name in OF_THE_MODEL}
    shape |= {name: plain(getattr(args, name)) for name in OF_THE_RESULT}
    shape["global_batch"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    shape["model_name_or_path" + CONTENT] = content_of(flags.model_name_or_path)
    shape["chat_template" + CONTENT] = content_of(flags.chat_template)
    shape["deepspeed" + CONTENT] = deepspeed_settings(args.deepspeed)
    shape["weight_method" + CONTENT] = content_of(strategy_file(flags.weight_method))
    return shape


def report(left_out: dict[str, list[int]], tasks: list[str]) -> None:
    """Print how many samples of each task were cut, or had no supervised token."""
    for kind, counts in left_out.items():
        found = [f"{task} {count}" for task, count in zip(tasks, counts, strict=True) if count]
        if found:
            print(f"samples {kind.replace('_', ' ')}: {', '.join(found)}", file=sys.stderr)


def run_to_the_end(trainer: ChatTrainer, checkpoint: str | None) -> int:
    """Train from a checkpoint, or from the start, to the saved model; returns the exit code."""
    is_first = trainer.is_world_process_zero()
    output = Path(trainer.args.output_dir)
    try:
        _learn(trainer, checkpoint)
        if trainer.stopped_by:
            if is_first:
                saved = f"saved checkpoint-{trainer.state.global_step}; run the same command again to resume"
                print(f"{Signals(trainer.stopped_by).name}: {saved}", file=sys.stderr)
            return 128 + trainer.stopped_by
        with trainer.writing(output):
            trainer.save_model()
            if is_first:
                _base_config(trainer).save_pretrained(output)
    except NonFiniteLossError as error:
        print(f"error: {error} Lower --learning_rate or check these samples.", file=sys.stderr)
        return 1
    except ReadError as error:
        return stopped_by_data(trainer, error)
    except SaveError as error:
        if is_first:
            print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _learn(trainer: ChatTrainer, checkpoint: str | None) -> None:
    """Train. Raises InputError: a checkpoint or a processor that does not fit the model."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except DamagedCheckpointError as error:
        raise InputError(f"{error} Delete it and run the same command again.") from None
    except pickle.UnpicklingError:
        raise InputError(f"{checkpoint}: contains more than tensors and numbers. Delete it.") from None
    except ValueError as error:
        if "image" not in str(error).lower() or "token" not in str(error).lower():
            raise
        raise InputError(
            f"{_base_config(trainer).name_or_path}: processor and model differ in image tokens: {one_line(error)}. Use "
            "the processor files that belong to the model."
        ) from None


def _base_config(trainer: ChatTrainer) -> Any:
    """The configuration of the model, or of the base model of its adapters."""
    return trainer.model.get_base_model().config if hasattr(trainer.model, "peft_config") else trainer.model.config


def stopped_by_data(trainer: ChatTrainer, error: ReadError) -> int:
    """Raise the error of a rank that could not read its samples; returns the exit code of the other ranks.

    Raises:
        InputError: naming the record.
    """
    leave_together()
    cause = error.__cause__
    if isinstance(cause, InputError):
        raise InputError(message_of(cause)) from None
    if cause is not None:
        raise cause
    return EXIT_INPUT if error.kinds == {InputError.__name__} else 1
