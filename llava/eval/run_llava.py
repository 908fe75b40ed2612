"""Ask a model one question about one or more images: LLaVA's `eval_model`."""

import http.client
import io
import urllib.request
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.eval.questions import Question, Settings, tell_template, template_of
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_EXAMPLE = """example:
  python -m llava.eval.run_llava --model-path liuhaotian/llava-v1.5-7b --image-file view.jpg --query "What is this?"
"""
_WEB = ("http://", "https://")
_SECONDS = 20  # a silent server is waited for
_MOST_BYTES = 64 * 2**20


def eval_model(args: Namespace) -> str:
    """Print and return the answer to one question.

    Args:
        args: any object with model_path, model_base, image_file (paths or web addresses joined by `sep`), query;
            optional are model_name, sep (","), conv_mode (that of the model's training), temperature (0.2 in LLaVA's
            command, 0 if absent), top_p, num_beams, max_new_tokens (512), seed, device, dtype.

    Raises:
        InputError: unreadable image, unknown template, setting out of range.
    """
    from llava.eval.common import Answerer, answer_all, default_device, dtype_of
    from llava.mm_utils import get_model_name_from_path

    name = getattr(args, "model_name", None) or get_model_name_from_path(args.model_path)
    template, reason = template_of(args.model_path, getattr(args, "conv_mode", None))
    settings = Settings(
        conv_mode=template,
        temperature=getattr(args, "temperature", None) or 0.0,
        top_p=getattr(args, "top_p", None),
        num_beams=getattr(args, "num_beams", None) or 1,
        max_new_tokens=getattr(args, "max_new_tokens", None) or 512,
        seed=getattr(args, "seed", None) or 0,
    )
    images = tuple(load_images(image_parser(args)))
    device = default_device(getattr(args, "device", None))
    dtype = dtype_of(getattr(args, "dtype", None) or "auto", device, args.model_path)
    model_base = getattr(args, "model_base", None)
    answerer = Answerer.load(args.model_path, model_base, settings, device, dtype, model_name=name)
    tell_template(template, reason)
    query = args.query.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    (answer,) = next(answer_all(answerer, [Question(0, "--query", query, images)]))
    if answer.text is None:
        raise InputError(answer.bad_image or f"--query: {answer.failed}")
    print(answer.text)
    return answer.text


def image_parser(args: Namespace) -> list[str]:
    """The image files of `args.image_file`, which are joined by `args.sep`."""
    given = getattr(args, "image_file", None) or ""
    return [part.strip() for part in given.split(getattr(args, "sep", None) or ",") if part.strip()]


def load_images(image_files: Sequence[str]) -> "list[Image.Image]":
    """The images of several files or web addresses."""
    return [load_image(file) for file in image_files]


def load_image(image_file: str) -> "Image.Image":
    """The image of a file or web address, RGB and upright, as training reads it.

    Only for what a user names on a command line: the image of a record is never fetched.

    Raises:
        InputError: as `llava.data.images.load_image`; an address that gives no image.
    """
    from llava.data import images

    if not image_file.startswith(_WEB):
        return images.load_image(image_file)
    try:
        # urllib follows redirections to the web only, not into the file system.
        with urllib.request.urlopen(image_file, timeout=_SECONDS) as answer:
            content = answer.read(_MOST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(f"{image_file}: cannot be fetched: {error}. Download it and give the file.") from None
    if len(content) > _MOST_BYTES:
        raise InputError(f"{image_file}: is larger than {_MOST_BYTES >> 20} MiB. Make the image smaller.")
    return images.read_image(io.BytesIO(content), image_file)


def build_parser() -> ArgumentParser:
    """The command line, with LLaVA's flags."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--model-path", required=True, help="folder of a checkpoint, or a name on the hub")
    parser.add_argument("--model-base", help="base model of a LoRA or projector-only checkpoint")
    parser.add_argument("--image-file", help="image, a file or a web address, or several joined by --sep")
    parser.add_argument("--query", required=True, help="the question")
    parser.add_argument("--sep", default=",", help="what joins several images")
    parser.add_argument("--conv-mode", help="conversation template; that of the model's training if left out")
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
