"""eval/grounding.py under the name that the VisATB reference gives the file."""

from eval.grounding import box_iou, main, read_box, score
from visatb.cli import run

__all__ = ["box_iou", "main", "read_box", "score"]

if __name__ == "__main__":
    run(main)
