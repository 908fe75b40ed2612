"""LLaVA's address of the command `llava.eval.scorers.scienceqa`."""

from llava.eval.scorers.scienceqa import main, score
from visatb.cli import run

__all__ = ["main", "score"]

if __name__ == "__main__":
    run(main)
