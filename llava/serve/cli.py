"""Chat with a model about one image in the terminal; answers are streamed."""

import io
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.run_llava import load_image
from llava.generate.flags import MODEL, ONE_QUESTION, add_flags, settings_of
from llava.generate.llava_model import LlavaModel
from visatb.cli import ArgumentParser, one_line, run
from visatb.errors import InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from llava.generate.llava_engine import LlavaEngine

_EXAMPLE = """example:
  python -m llava.serve.cli --model-path liuhaotian/llava-v1.5-7b --image-file view.jpg
In the chat: /image PATH, /reset, /help, /quit. Ctrl-C stops an answer; at the prompt it ends the chat.
"""
_HELP = """/image PATH  start a new conversation about another image (a file or a web address)
/reset       start a new conversation about the same image
/help        this list
/quit        quit; so do an empty line, Ctrl-C and Ctrl-D
A line that starts with a space is sent to the model, even if a slash follows."""


def build_parser() -> ArgumentParser:
    """The command line, with LLaVA's flags."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    add_flags(parser, (flag for flag in MODEL if flag != "--model-name"))
    parser.add_argument("--image-file", help="the image, a file or a web address; without one the chat is text only")
    flags = (flag for flag in ONE_QUESTION if flag != "--num_beams")  # a beam search cannot print word by word
    add_flags(parser, flags, temperature=0.2, max_new_tokens=512)
    parser.add_argument("--load-8bit", action="store_true", help="quantise the weights (needs bitsandbytes)")
    parser.add_argument("--load-4bit", action="store_true", help="quantise the weights (needs bitsandbytes)")
    parser.add_argument("--image-aspect-ratio", choices=["pad", "square"], help="the checkpoint's own if left out")
    parser.add_argument("--debug", action="store_true", help="print the prompt and the answer as they are")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    settings = settings_of(args)
    picture = load_image(args.image_file) if args.image_file else None
    model = LlavaModel.of(args)
    engine = model.load(settings, load_8bit=args.load_8bit, load_4bit=args.load_4bit)
    model.report()
    chat = Chat(engine, args.image_aspect_ratio, args.debug)
    if picture is not None:
        chat.look_at(picture, args.image_file)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a byte that is no UTF-8 costs a character, not the chat
    print("/help lists the commands; an empty line ends the chat.")
    talk(chat, _ask)
    return 0


class Chat:
    """A conversation with a model about at most one image.

    Attributes:
        turns: what was said, {"from", "value"} in alternation; it ends with an answer.
        images: float [1, 3, H, W] that the conversation is about, or None.
        roles: what the two sides are called on the terminal.
    """

    def __init__(self, answerer: "LlavaEngine", image_aspect_ratio: str | None = None, debug: bool = False):
        """Take a loaded model.

        Args:
            image_aspect_ratio: "pad" or "square"; None for the checkpoint's own.
            debug: print each prompt and answer as they are.
        """
        self.answerer = answerer
        own = getattr(answerer.model.config, "image_aspect_ratio", None)
        self.image_settings = SimpleNamespace(image_aspect_ratio=image_aspect_ratio or own)
        self.debug = debug
        self.turns: list[dict[str, str]] = []
        self.images: torch.Tensor | None = None
        self.roles = [role.removeprefix("<|im_start|>").strip() for role in answerer.conversation.roles]

    def look_at(self, picture: "Image.Image", where: str) -> None:
        """Start a new conversation about another image.

        Raises:
            InputError: the model takes no images, or the image is too long a strip. The chat is as before then.
        """
        from llava.data.images import process_images

        self.answerer.need_vision(where)
        self.images = process_images([picture], self.answerer.image_processor, self.image_settings)
        self.turns.clear()

    def answer(self, question: str) -> str:
        """Print the answer while it is made and return it; both turns become part of the conversation.

        An answer that Ctrl-C stops is kept as far as it got.

        Raises:
            InputError: the conversation has grown too long, or the model computes no numbers. The question is dropped.
        """
        asked = question
        if self.images is not None:  # the one image has its place; the same word in a question is not another
            asked = question.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            asked = asked if self.turns else f"{DEFAULT_IMAGE_TOKEN}\n{asked}"
        turns = [*self.turns, {"from": "human", "value": asked}]
        image_count = 0 if self.images is None else 1
        ids = self.answerer.conversation_ids(turns, image_count)
        if self.answerer.budget(ids) < 1:
            raise InputError("the chat is longer than the model's context; /reset starts a new one")
        said = self._generate(ids, f"{len(self.turns)}\n{asked}")
        if self.debug:
            prompt = self.answerer.filled(turns, image_count).get_prompt()
            print("\n", {"prompt": prompt, "outputs": said}, "\n")
        if said:
            self.turns = [*turns, {"from": "gpt", "value": said.replace(DEFAULT_IMAGE_TOKEN, "")}]
        return said

    def _generate(self, ids: "torch.Tensor", noise_key: str) -> str:
        from llava.serve.streamer import AnswerStreamer

        print(f"{self.roles[1]}: ", end="", flush=True)
        streamer = AnswerStreamer(self.answerer.tokenizer, self.answerer.stop_strings)
        try:
            (new,) = self.answerer.new_ids([ids], [self.images], [noise_key], streamer=streamer)
        except KeyboardInterrupt:
            streamer.end()
            return streamer.said
        except (FloatingPointError, RuntimeError) as error:  # logits that are no numbers; the device's memory is full
            print()
            raise InputError(f"the model failed: {one_line(error)}") from error
        return self.answerer.text(new)


def talk(chat: Chat, ask: Callable[[str], str | None]) -> None:
    """Ask and answer until there are no more questions.

    Args:
        ask: given a prompt, returns the next line; None or "" ends the chat.
    """
    while line := ask(f"{chat.roles[0]}: "):
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return
        try:
            if word.startswith("/"):
                _obey(chat, word, rest.strip())
            elif line.strip():
                chat.answer(line.strip())
        except (OSError, ValueError) as error:  # InputError, and paths that the system refuses
            print(f"error: {one_line(error)}", file=sys.stderr)


def _obey(chat: Chat, command: str, argument: str) -> None:
    if command == "/help":
        print(_HELP)
    elif command == "/reset":
        chat.turns.clear()
        print("started over")
    elif command != "/image":
        raise InputError(f"no command {command}; /help lists them")
    elif not argument:
        raise InputError("/image needs the path of an image")
    else:
        chat.look_at(load_image(argument), argument)
        print(f"started over about {argument}")


def _ask(prompt: str) -> str | None:
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        print()
        return None


if __name__ == "__main__":
    run(main)
