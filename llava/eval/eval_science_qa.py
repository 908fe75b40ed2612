"""LLaVA's address of `eval.zero_shot.scienceqa`."""

from eval.zero_shot.scienceqa import main, score
from visatb.cli import run

__all__ = ["main", "score"]

if __name__ == "__main__":
    run(main)
