"""Chat with a model about one image on the terminal; answers appear word by word."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llava.eval.questions import Settings, conv_mode_for
from visatb.cli import ArgumentParser, run

if TYPE_CHECKING:
    import torch

    from llava.eval.common import Answerer

_EXAMPLE = """example:
  python -m llava.serve.cli --model-path liuhaotian/llava-v1.5-7b --image-file view.jpg
An empty line or end of file (Ctrl-D) ends the chat.
"""


def build_parser() -> ArgumentParser:
    """The command line, with LLaVA's flags."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--model-path", required=True, help="folder of a checkpoint, or a name on the hub")
    parser.add_argument("--model-base", help="base model of a LoRA or projector-only checkpoint")
    parser.add_argument("--image-file", help="the image; without one the chat is text only")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one if left out")
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto", help="of the weights")
    parser.add_argument("--conv-mode", help="conversation template; guessed from the model's name if left out")
    parser.add_argument("--temperature", type=float, default=0.2, help="0: greedy search; above: draw")
    parser.add_argument("--top_p", type=float, help="draw from the likeliest tokens that hold this share")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest answer")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--load-8bit", action="store_true", help="quantise the weights (needs bitsandbytes)")
    parser.add_argument("--load-4bit", action="store_true", help="quantise the weights (needs bitsandbytes)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    from llava.data.images import load_image, process_images
    from llava.eval.common import Answerer, default_device, dtype_of
    from llava.mm_utils import get_model_name_from_path

    mode = args.conv_mode or conv_mode_for(get_model_name_from_path(args.model_path))
    settings = Settings(mode, args.temperature, args.top_p, max_new_tokens=args.max_new_tokens, seed=args.seed)
    picture = load_image(args.image_file, "--image-file") if args.image_file else None
    device = default_device(args.device)
    dtype = dtype_of(args.dtype, device, args.model_path)
    answerer = Answerer.load(
        args.model_path, args.model_base, settings, device, dtype, load_8bit=args.load_8bit, load_4bit=args.load_4bit
    )
    images = None
    if picture is not None:
        answerer.need_vision(args.image_file)
        images = process_images([picture], answerer.image_processor, answerer.model.config)
    chat(answerer, images, _ask)
    return 0


def chat(answerer: "Answerer", images: "torch.Tensor | None", ask: Callable[[str], str | None]) -> list[str]:
    """Ask until there is no more question; the answers are printed as they are made and returned.

    Args:
        images: float [1, 3, H, W] that the first question is about, or None.
        ask: given a prompt, returns the next question; None or "" ends the chat.
    """
    from transformers import TextStreamer

    from llava.constants import DEFAULT_IMAGE_TOKEN

    turns: list[dict[str, str]] = []
    answers: list[str] = []
    while question := ask(f"{answerer.conversation.roles[0]}: "):
        if not turns and images is not None:
            question = f"{DEFAULT_IMAGE_TOKEN}\n{question}"
        turns.append({"from": "human", "value": question})
        ids = answerer.conversation_ids(turns, 0 if images is None else 1)
        if answerer.budget(ids) < 1:
            print("The chat is longer than the model can follow; start again.", file=sys.stderr)
            break
        print(f"{answerer.conversation.roles[1]}: ", end="", flush=True)
        streamer = TextStreamer(answerer.tokenizer, skip_prompt=True, skip_special_tokens=True)
        (new,) = answerer.new_ids([ids], [images], [f"{len(answers)}\n{question}"], streamer=streamer)
        answers.append(answerer.text(new))
        turns.append({"from": "gpt", "value": answers[-1]})
    return answers


def _ask(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        print()
        return None


if __name__ == "__main__":
    run(main)
