"""LLaVA's address of `eval.zero_shot.textvqa`."""

from eval.zero_shot.textvqa import main, score
from visatb.cli import run

__all__ = ["main", "score"]

if __name__ == "__main__":
    run(main)
