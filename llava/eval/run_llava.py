"""Ask a model one question about one or more images: LLaVA's `eval_model`."""

import http.client
import io
import urllib.request
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.generate.flags import MODEL, ONE_QUESTION, add_flags, settings_of, with_defaults
from llava.generate.llava_model import LlavaModel
from llava.generate.questions import Question
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_EXAMPLE = """example:
  python -m llava.eval.run_llava --model-path liuhaotian/llava-v1.5-7b --image-file view.jpg --query "What is this?"
"""
_FLAGS = tuple(flag for flag in (*MODEL, *ONE_QUESTION) if flag != "--model-name")
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
    from llava.generate.loop import answer_all

    given = with_defaults(args, _FLAGS, max_new_tokens=512)
    settings, model = settings_of(given), LlavaModel.of(given)
    images = tuple(load_images(image_parser(args)))
    engine = model.load(settings, model_name=getattr(args, "model_name", None))  # as in LLaVA, it decides the kind
    model.report()
    query = args.query.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    (answer,) = next(answer_all(engine, [Question(0, "--query", query, images)]))
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
    parser.add_argument("--image-file", help="image, a file or a web address, or several joined by --sep")
    parser.add_argument("--query", required=True, help="the question")
    parser.add_argument("--sep", default=",", help="what joins several images")
    add_flags(parser, _FLAGS, temperature=0.2, max_new_tokens=512)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    eval_model(build_parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    run(main)
