"""LLaVA's convert_seed_for_submission: SEED-Bench's accuracies, and the file that its leaderboard takes."""

from eval.zero_shot.seed import main
from visatb.cli import run

if __name__ == "__main__":
    run(main)
