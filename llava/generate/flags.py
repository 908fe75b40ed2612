"""The flags of the commands that ask a model, each declared once."""

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from llava.generate.engines import ENGINES, LLAVA
from llava.generate.questions import Settings, template_of
from visatb.errors import InputError

ENGINE = ("--engine", "--server-url", "--server-model", "--concurrency", "--retries", "--timeout")
MODEL = ("--model-path", "--model-base", "--model-name", "--device", "--dtype")
ONE_QUESTION = ("--conv-mode", "--temperature", "--top_p", "--num_beams", "--max_new_tokens", "--seed")
SPEED = ("--batch-size", "--workers", "--num-chunks", "--chunk-idx")

_FLAGS: dict[str, dict[str, Any]] = {
    "--engine": {
        "choices": ENGINES,
        "default": LLAVA,
        "help": "what answers: a LLaVA checkpoint, a current vision-language model (in .venv-hf), or a server",
    },
    "--server-url": {"help": "of the server: address of an OpenAI-compatible endpoint, up to and with /v1"},
    "--server-model": {"help": "of the server: the model's name there"},
    "--concurrency": {"type": int, "default": 8, "help": "of the server: requests at a time"},
    "--retries": {"type": int, "default": 5, "help": "of the server: how often a failed request is sent again"},
    "--timeout": {"type": float, "default": 600.0, "help": "of the server: seconds to wait for a reply"},
    "--model-path": {"required": True, "help": "folder of a checkpoint, or a name on the hub"},
    "--model-base": {"help": "base model of a LoRA or projector-only checkpoint"},
    "--model-name": {"help": "name in the answers and in file names; the folder's if left out"},
    "--device": {"help": "cpu, cuda or cuda:N; cuda where there is one if left out"},
    "--dtype": {"choices": ["auto", "bf16", "fp16", "fp32"], "default": "auto", "help": "of the weights"},
    "--image-folder": {"default": "", "help": "folder that `image` fields are relative to"},
    "--overwrite": {"action": "store_true", "help": "replace answer files that were made differently"},
    "--conv-mode": {"help": "conversation template; that of the model's training if left out"},
    "--temperature": {"type": float, "default": 0.0, "help": "0: greedy or beam search; above: draw"},
    "--top_p": {"type": float, "help": "draw from the likeliest tokens that hold this share"},
    "--num_beams": {"type": int, "default": 1, "help": "width of the beam search (with --temperature 0)"},
    "--max_new_tokens": {"type": int, "help": "longest answer"},
    "--seed": {"type": int, "default": 0, "help": "of the draws; each question has draws of its own"},
    "--batch-size": {"type": int, "default": 16, "help": "questions at a time"},
    "--workers": {"type": int, "default": 2, "help": "threads that read images ahead"},
    "--num-chunks": {"type": int, "default": 1, "help": "split the questions over this many separate commands"},
    "--chunk-idx": {"type": int, "default": 0, "help": "which contiguous part of the questions this command asks"},
}


def add_flags(parser: Any, flags: Iterable[str], **defaults: Any) -> None:
    """Add flags to a parser or a group of it.

    Args:
        flags: some of `_FLAGS`.
        defaults: other defaults, by the flags' destinations.
    """
    flags = tuple(flags)
    for flag in flags:
        name = _destination(flag)
        changed = {"default": defaults[name]} if name in defaults else {}
        if flag == "--model-path" and "--engine" in flags:  # a server's model may lie elsewhere
            changed = {"required": False, "help": f"{_FLAGS[flag]['help']}; of the server: the folder that it serves"}
        parser.add_argument(flag, **(_FLAGS[flag] | changed))


def with_defaults(args: Any, flags: Iterable[str], **defaults: Any) -> Namespace:
    """The values of flags in any object, with the default for what it lacks; arguments as for `add_flags`."""
    names = {_destination(flag): _FLAGS[flag].get("default") for flag in flags} | defaults
    given = {name: getattr(args, name, None) for name in names}
    return Namespace(**{name: names[name] if value is None else value for name, value in given.items()})


def _destination(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def settings_of(args: Any, max_new_tokens: int | None = None) -> Settings:
    """The settings that ONE_QUESTION's flags name; those of SPEED are checked if they are among them.

    Args:
        args: the parsed flags.
        max_new_tokens: the limit if no flag names one.

    Raises:
        InputError: naming the flag that is out of range.
    """
    for flag in ("--batch-size", "--workers"):
        value = getattr(args, _destination(flag), 1)
        if value < 1:
            raise InputError(f"{flag} must be at least 1, got {value}.")
    longest = args.max_new_tokens if args.max_new_tokens is not None else max_new_tokens
    if getattr(args, "engine", LLAVA) == LLAVA:
        if not args.model_path:
            raise InputError("--model-path must name the checkpoint to ask. Set it.")
        template, _ = template_of(args.model_path, args.conv_mode)
    elif args.conv_mode is not None:
        raise InputError("--conv-mode is for --engine llava: other models have their own chat template. Drop it.")
    else:
        template = None
    beams = getattr(args, "num_beams", 1)
    return Settings(template, args.temperature, args.top_p, beams, longest, args.seed)
