"""Ask a model one question about one or more images: LLaVA's `eval_model`."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from llava.eval.questions import Question, Settings, conv_mode_for
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError

_EXAMPLE = """example:
  python -m llava.eval.run_llava --model-path liuhaotian/llava-v1.5-7b --image-file view.jpg --query "What is this?"
"""


def eval_model(args: Namespace) -> str:
    """Print and return the answer to one question.

    Args:
        args: model_path, model_base, image_file (paths joined by `sep`), query; optional are model_name, sep (","),
            conv_mode (from the model's name), temperature (0.2 in LLaVA's command, 0 if absent), top_p, num_beams,
            max_new_tokens (512), seed, device, dtype.

    Raises:
        InputError: unreadable image, unknown template, setting out of range.
    """
    from llava.eval.common import Answerer, answer_all, default_device, dtype_of
    from llava.mm_utils import get_model_name_from_path

    name = getattr(args, "model_name", None) or get_model_name_from_path(args.model_path)
    settings = Settings(
        conv_mode=getattr(args, "conv_mode", None) or conv_mode_for(name),
        temperature=getattr(args, "temperature", None) or 0.0,
        top_p=getattr(args, "top_p", None),
        num_beams=getattr(args, "num_beams", None) or 1,
        max_new_tokens=getattr(args, "max_new_tokens", None) or 512,
        seed=getattr(args, "seed", None) or 0,
    )
    given = getattr(args, "image_file", None) or ""
    images = tuple(Path(part.strip()) for part in given.split(getattr(args, "sep", None) or ",") if part.strip())
    for image in images:
        if not image.is_file():
            raise InputError(f"{image}: no such image file (--image-file). Download images of the web first.")
    device = default_device(getattr(args, "device", None))
    dtype = dtype_of(getattr(args, "dtype", None) or "auto", device, args.model_path)
    answerer = Answerer.load(args.model_path, args.model_base, settings, device, dtype)
    (answer,) = next(answer_all(answerer, [Question(0, "--query", args.query, images)]))
    if answer.text is None:
        raise InputError(answer.bad_image or f"--query: {answer.failed}")
    print(answer.text)
    return answer.text


def build_parser() -> ArgumentParser:
    """The command line, with LLaVA's flags."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--model-path", required=True, help="folder of a checkpoint, or a name on the hub")
    parser.add_argument("--model-base", help="base model of a LoRA or projector-only checkpoint")
    parser.add_argument("--image-file", help="image, or several joined by --sep")
    parser.add_argument("--query", required=True, help="the question")
    parser.add_argument("--sep", default=",", help="what joins several images")
    parser.add_argument("--conv-mode", help="conversation template; guessed from the model's name if left out")
    parser.add_argument("--temperature", type=float, default=0.2, help="0: greedy or beam search; above: draw")
    parser.add_argument("--top_p", type=float, help="draw from the likeliest tokens that hold this share")
    parser.add_argument("--num_beams", type=int, default=1, help="width of the beam search (with --temperature 0)")
    parser.add_argument("--max_new_tokens", type=int, default=512, help="longest answer")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one if left out")
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto", help="of the weights")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    eval_model(build_parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    run(main)
