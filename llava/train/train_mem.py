"""LLaVA's name for the training entry; attention is scaled_dot_product_attention here, no flash-attn is needed."""

from llava.train.train import main, train
from visatb.cli import run

__all__ = ["main", "train"]

if __name__ == "__main__":
    run(main)
