"""One training with typed arguments: start or resume, train, save; llava.train.train is its command."""

import pickle
import sys
import time
from signal import Signals

from accelerate.utils import gather_object
from transformers import set_seed

from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments
from llava.train.assembly import (
    build_model,
    build_trainer,
    load_data,
    make_weighter,
    settle_vision,
)
from llava.train.llava_trainer import LLaVATrainer
from llava.train.run_folder import LOG_FILE, RunFolder, fingerprint, leave_together, on_first_rank
from llava.train.saving import save_final_model
from transformers_patch.checkpoints import SaveError
from transformers_patch.step_loader import ReadError
from transformers_patch.stopping import StopSignals
from transformers_patch.trainer import NonFiniteLossError
from visatb.cli import EXIT_INPUT, message_of
from visatb.errors import InputError


def run_training(
    model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments, tasks: list[str]
) -> int:
    """Run one training on those tasks, in id order; returns the exit code.

    Raises:
        InputError: invalid weights, records, images or folders, found before the model loads.
    """
    set_seed(args.seed)
    weighter = make_weighter(args, tasks)
    # One rank reads and checks the file; the others get the places of its records.
    records = on_first_rank(args, lambda: load_data(data_args, tasks, model_args.version))
    model_args, config = settle_vision(model_args, args.cache_dir)  # the fingerprint has the checkpoint's own settings
    is_first = args.process_index == 0
    folder = RunFolder(args.output_dir, fingerprint(model_args, data_args, args, args.world_size, tasks))

    def look() -> tuple[bool, str | None]:
        finished = folder.open(args.overwrite_output_dir)
        return finished, None if finished else folder.newest_checkpoint(args.world_size, bool(args.deepspeed))

    finished, checkpoint = on_first_rank(args, look)
    if finished:
        if is_first:
            print(f"{folder.path}: this run is finished; nothing to do.")
        return 0
    started = time.monotonic()
    try:
        built = build_model(model_args, data_args, args, config)
        trainer = build_trainer(built, records, tasks, weighter, data_args, args)
    except InputError:
        if is_first:
            folder.leave()
        raise
    trainer.run_digest = folder.digest
    if is_first:
        folder.begin()
        if checkpoint is not None:
            print(f"resuming from {checkpoint}")
    with StopSignals() as trainer.stop:  # until the run is marked: after the last step there is nothing to stop
        code = run_to_the_end(trainer, checkpoint)
        if code:
            return code
        unsupervised, bad_images = trainer.count_unsupervised(), set(gather_object(trainer.train_dataset.bad_images))
        if is_first:
            folder.finish(
                steps=trainer.state.global_step,
                samples=len(records),
                seconds=round(time.monotonic() - started, 3),
                tasks=tasks,
                weights=[float(weight) for weight in weighter.weight_K],
                samples_without_supervised_token=unsupervised,
                bad_images=len(bad_images),
                log=LOG_FILE,
            )
    return 0


def run_to_the_end(trainer: LLaVATrainer, checkpoint: str | None) -> int:
    """Train from a checkpoint, or from the start, to the saved model; returns the exit code."""
    is_first = trainer.is_world_process_zero()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.stopped_by:
            if is_first:
                saved = f"saved checkpoint-{trainer.state.global_step}; run the same command again to resume"
                print(f"{Signals(trainer.stopped_by).name}: {saved}", file=sys.stderr)
            return 128 + trainer.stopped_by
        save_final_model(trainer)
    except NonFiniteLossError as error:
        print(f"error: {error} Lower --learning_rate or check these samples.", file=sys.stderr)
        return 1
    except ReadError as error:
        return stopped_by_data(trainer, error)
    except SaveError as error:
        if is_first:
            print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # of the logs
        error.filename = error.filename or trainer.args.output_dir
        raise
    except pickle.UnpicklingError:
        raise InputError(f"{checkpoint}: holds more than tensors and numbers, and is not loaded. Delete it.") from None
    return 0


def stopped_by_data(trainer: LLaVATrainer, error: ReadError) -> int:
    """Raise what this rank could not read, once all have saved; returns the exit code of a rank that could read.

    Raises:
        InputError: naming the record and what is saved.
    """
    leave_together()
    cause, step = error.__cause__, trainer.state.global_step
    if isinstance(cause, InputError):
        saved = f" checkpoint-{step} is saved: run the same command again to resume." if step else ""
        raise InputError(f"{message_of(cause)}{saved}") from None
    if cause is not None:
        raise cause
    return EXIT_INPUT if error.kinds == {InputError.__name__} else 1
