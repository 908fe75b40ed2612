"""Extracts the projector of a trained model into a separate file, for --pretrain_mm_mlp_adapter.

Accepts full models, of which only the files that contain the projector are opened, and LoRA folders
(non_lora_trainables.bin). With mm_use_im_start_end the input embeddings are included, as in LLaVA.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, replacing

if TYPE_CHECKING:
    import torch

_PREFIX = "model.mm_projector."
_EXAMPLE = """example:
  python -m scripts_visatb.checkpoints.extract_mm_projector --model-path checkpoints/llava-v1.5-7b-visatb \\
      --output checkpoints/mm_projector.bin
"""


def read_projector(model_path: str) -> "dict[str, torch.Tensor]":
    """The projector's tensors (`model.mm_projector.0.weight`, ...), and the embeddings with mm_use_im_start_end.

    Raises:
        InputError: not a LLaVA model, damaged files, a model without projector.
    """
    # Torch and transformers, which --help does not need.
    from llava.model.adapter import is_adapter, read_others
    from llava.model.builder import EMBEDDINGS
    from llava.model.config_file import read_config
    from llava.model.weights import read_tensors, weight_files

    config = read_config(model_path)
    with_embeddings = bool(getattr(config, "mm_use_im_start_end", False))

    def wanted(name: str) -> bool:
        return name.startswith(_PREFIX) or (with_embeddings and name == EMBEDDINGS)

    if is_adapter(model_path, ""):
        weights = read_others(model_path)
    else:
        weights = {}
        for file in weight_files(model_path, wanted):
            weights |= read_tensors(file)
    found = {name: weights[name].clone() for name in sorted(weights) if wanted(name)}
    if not any(name.startswith(_PREFIX) for name in found):
        raise InputError(f"{model_path}: no {_PREFIX}* weights found. Give a trained LLaVA model.")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument(
        "--model-path", "--model_name_or_path", required=True, help="folder or hub name of a trained model"
    )
    parser.add_argument("--output", required=True, type=Path, help="file to write, such as mm_projector.bin")
    args = parser.parse_args(argv)
    refuse_unwritable([args.output])
    projector = read_projector(args.model_path)
    from transformers_patch.tensor_files import save_tensors

    with replacing(args.output) as part:
        save_tensors(projector, part)
    print(f"{args.output}: {', '.join(projector)}")


if __name__ == "__main__":
    run(main)
