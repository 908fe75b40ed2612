"""Converts a full LLaVA-1.5 model to Hugging Face's LlavaForConditionalGeneration layout, and back.

--to-hf writes a folder that current transformers, vLLM and SGLang can load; --from-hf converts such a folder or a
llava-hf checkpoint to a model for training and inference here and in LLaVA. A round trip restores identical files.
Weights are copied from file to file; the model is never fully in memory.
"""

from collections.abc import Sequence
from pathlib import Path

from visatb.cli import ArgumentParser, run
from visatb.lazy import lazily

__getattr__ = lazily(__name__, dict.fromkeys(("from_hf", "to_hf"), "scripts_visatb.checkpoints.hf_layout"))

_EXAMPLE = """examples:
  python -m scripts_visatb.checkpoints.convert_hf --to-hf --model-path checkpoints/llava-v1.5-7b-visatb \\
      --save-model-path checkpoints/llava-v1.5-7b-visatb-hf
  python -m scripts_visatb.checkpoints.convert_hf --from-hf --model-path llava-hf/llava-1.5-7b-hf \\
      --save-model-path checkpoints/llava-1.5-7b
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to-hf", action="store_true", help="from LLaVA's layout to Hugging Face's")
    way.add_argument("--from-hf", action="store_true", help="from Hugging Face's layout to LLaVA's")
    parser.add_argument("--model-path", required=True, help="folder or hub name of the model")
    parser.add_argument(
        "--save-model-path", required=True, type=Path, help="folder for the converted model; must not exist"
    )
    parser.add_argument(
        "--vision-tower",
        help="folder or hub name of the vision tower; default: the one in the model's files, else OpenAI's at 336",
    )
    parser.add_argument("--max-shard-size", default="5GB", help="of each weight file")
    args = parser.parse_args(argv)

    # Torch and transformers, which --help does not need.
    from scripts_visatb.checkpoints.hf_layout import from_hf, to_hf

    convert = to_hf if args.to_hf else from_hf
    convert(args.model_path, args.save_model_path, args.vision_tower, args.max_shard_size)
    print(f"{args.save_model_path}: converted")


if __name__ == "__main__":
    run(main)
