"""Checks annotation files before training: reports what a run will see, and everything that it would refuse.

Reports per task the records, supervised tokens and sequence lengths, lists all problems with the first few examples of
each kind, and exits with 2 if training would refuse the data. `--show ID` prints one record as the model is trained on
it.
"""

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Sequence

from visatb.cli import ArgumentParser, run
from visatb.environments import python_of_current_models
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_json
from visatb.records import BAD_IMAGE_CHOICES, refuse_missing_folder

_EXAMPLE = """example:
  python -m llava.data.check --data_path train.json --against val.json test.json --image_folder images \\
      --tokenizer lmsys/vicuna-7b-v1.5 --benchmark scripts_visatb/benchmarks/academic.yaml
"""


def build_parser() -> ArgumentParser:
    """The command line; settings of the training have the names and meaning of its flags."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--data_path", required=True, nargs="+", help="training file(s), .json or .jsonl, each a run")
    parser.add_argument("--against", nargs="+", default=[], help="validation and test files, checked and compared")
    parser.add_argument("--image_folder", help="folder that `image` fields are relative to")
    parser.add_argument("--no_images", action="store_true", help="skip image files")
    parser.add_argument("--decode_images", action="store_true", help="decode images completely, not only their headers")
    parser.add_argument("--bad_image", choices=BAD_IMAGE_CHOICES, default="fail", help="as in training")
    parser.add_argument(
        "--model",
        help="a current model (Qwen-VL, ...): checks its chat template and processor instead, with the flags of "
        "`python -m visatb_hf.check`, in the environment of requirements-hf.txt",
    )
    parser.add_argument("--tokenizer", help="folder or Hub name of the base model; without it no tokens are counted")
    parser.add_argument("--benchmark", help="benchmark YAML: the tasks")
    parser.add_argument("--version", default="v1", help="conversation template")
    parser.add_argument("--model_max_length", type=int, default=2048, help="longest sequence, image patches included")
    parser.add_argument("--patches_per_image", type=int, default=576, help="positions that an image takes")
    parser.add_argument("--vision_tower", help="folder or Hub name whose config gives the number of patches instead")
    parser.add_argument("--mm_use_im_start_end", action="store_true", help="<im_start>, <im_end> around images")
    parser.add_argument("--global_batch", type=int, default=128, help="samples of a step: all devices, accumulated")
    parser.add_argument("--num_train_epochs", type=float, default=1.0, help="epochs")
    parser.add_argument("--workers", type=int, help="processes; default: the number of cores, at most 8")
    parser.add_argument(
        "--show", metavar="ID", help="print this record (its id, or position if it has none) as it is trained on"
    )
    parser.add_argument("--output", help="write the report as JSON too")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        InputError: invalid flags, files that are not annotation files, or, after the report, data that training would
            refuse.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if any(word.partition("=")[0] == "--model" for word in words):
        return check_current_model(words)
    args = build_parser().parse_args(words)
    _check_flags(args)

    # Torch and transformers, once the flags are known to be sound.
    from llava.data.check_files import DataCheck, reading_of
    from llava.data.check_report import report_text
    from llava.data.check_show import find_record, show_record

    reading = reading_of(args)
    if args.show is not None:
        print(show_record(*find_record(args.data_path, args.show), reading, coloured=sys.stdout.isatty()))
        return 0
    report = DataCheck(args, reading).report()
    print(report_text(report))
    if args.output:
        write_json(args.output, report)
    if report["errors"]:
        count = sum(problem["count"] for problem in report["errors"])
        kinds = len({problem["kind"] for problem in report["errors"]})
        raise InputError(f"{count:,} error(s) of {kinds} kind(s), listed in the report. Fix the files.")
    return 0


def check_current_model(words: Sequence[str]) -> int:
    """Run `visatb_hf.check` in the environment of current models; returns its exit code."""
    named = ["--model_name_or_path" + word[7:] if word.partition("=")[0] == "--model" else word for word in words]
    return subprocess.run([python_of_current_models(), "-m", "visatb_hf.check", *named], check=False).returncode


def _check_flags(args: argparse.Namespace) -> None:
    refuse_unwritable([args.output], [*args.data_path, *args.against])
    given = [os.path.realpath(path) for path in (*args.data_path, *args.against)]
    twice = next((path for n, path in enumerate(given) if path in given[:n]), None)
    if twice is not None:
        raise InputError(f"{twice}: is given twice. Pass every file once.")
    if args.image_folder is not None and not args.no_images:
        refuse_missing_folder(args.image_folder)
    for flag in ("model_max_length", "patches_per_image", "global_batch", "workers"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} must be at least 1, got {value}. Raise it.")
    if not 0 < args.num_train_epochs < math.inf:
        raise InputError(f"--num_train_epochs must be above 0, got {args.num_train_epochs}. Raise it.")
    if args.show is not None and args.tokenizer is None:
        raise InputError("--show needs --tokenizer to mark the supervised tokens. Set it.")


if __name__ == "__main__":
    run(main)
