"""Merges a LoRA or projector-only folder with its base model into a full model folder.

The result loads without the base, here and in LLaVA, and generates the same answers as base and adapter loaded together
in the same dtype, because the adapter is merged in that dtype. The vision tower's weights are included.
"""

from collections.abc import Sequence
from pathlib import Path

from visatb.cli import ArgumentParser, run
from visatb.lazy import lazily

__getattr__ = lazily(__name__, {"merge": "scripts_visatb.checkpoints.merging"})

_EXAMPLE = """example:
  python -m scripts_visatb.checkpoints.merge_lora_weights --model-path checkpoints/llava-v1.5-7b-visatb-lora \\
      --model-base lmsys/vicuna-7b-v1.5 --save-model-path checkpoints/llava-v1.5-7b-visatb
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--model-path", required=True, help="LoRA or projector-only folder, or its name on the hub")
    parser.add_argument("--model-base", required=True, help="folder or hub name of the model it was trained on")
    parser.add_argument("--save-model-path", required=True, type=Path, help="folder for the full model; must not exist")
    parser.add_argument(
        "--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto", help="of the weights; auto: as trained"
    )
    parser.add_argument("--max-shard-size", default="5GB", help="of each weight file")
    args = parser.parse_args(argv)

    # Torch and transformers, which --help does not need.
    from scripts_visatb.checkpoints.merging import merge

    merge(args.model_path, args.model_base, args.save_model_path, args.dtype, args.max_shard_size)
    print(f"{args.save_model_path}: merged")


if __name__ == "__main__":
    run(main)
