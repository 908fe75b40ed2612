"""Train LLaVA with task weights: the entry point of all finetune scripts.

    python -m llava.train.train --model_name_or_path ... --data_path ... --image_folder ... --output_dir ... \
        --benchmark scripts_visatb/benchmarks/demo.yaml --visatb_weights 1 1 1 1 1 1

Start the same command again after an interruption and it goes on; a finished run is left as it is.
"""

import sys
import time
from collections.abc import Sequence

from transformers import set_seed

from llava.data.dataset import SupervisedDataset as LazySupervisedDataset
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments, parse_arguments
from llava.train.assembly import build_model, build_trainer, load_data, load_tasks, make_weighter, save_final_model
from llava.train.run_folder import LOG_FILE, RunFolder, fingerprint
from transformers_patch.trainer import NonFiniteLossError
from visatb.cli import run

__all__ = ["DataArguments", "LazySupervisedDataset", "ModelArguments", "TrainingArguments", "train"]


def train(argv: Sequence[str] | None = None) -> int:
    """Run one training from a command line; returns the exit code.

    Raises:
        InputError: anything wrong with flags, weights, records, images or folders, found before the model loads.
    """
    model_args, data_args, args = parse_arguments(argv)
    set_seed(args.seed)
    tasks = load_tasks(data_args, args)
    weighter = make_weighter(args, tasks)
    records = load_data(data_args, tasks)
    with args.main_process_first(local=False, desc="run folder"):  # the others read what the first has decided
        folder = RunFolder(
            args.output_dir,
            fingerprint(model_args, data_args, args, args.world_size, tasks),
            is_first_rank=args.process_index == 0,
            overwrite=args.overwrite_output_dir,
        )
    if folder.finished:
        print(f"{folder.path}: this run is finished; nothing to do.")
        return 0
    started = time.monotonic()
    model, tokenizer, conversation = build_model(model_args, data_args, args)
    trainer = build_trainer(model, tokenizer, conversation, records, tasks, weighter, data_args, args)
    folder.begin()
    try:
        trainer.train(resume_from_checkpoint=folder.newest_checkpoint())
    except NonFiniteLossError as error:
        print(f"error: {error} Lower --learning_rate or check these samples.", file=sys.stderr)
        return 1
    save_final_model(trainer)
    folder.finish(
        steps=trainer.state.global_step,
        samples=len(records),
        seconds=round(time.monotonic() - started, 3),
        tasks=tasks,
        weights=[float(weight) for weight in weighter.weight_K],
        samples_without_supervised_token=trainer.count_unsupervised(),
        bad_images=len(trainer.train_dataset.bad_images),
        log=LOG_FILE,
    )
    return 0


if __name__ == "__main__":
    run(train)
