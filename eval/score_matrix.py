"""The earlier address of visatb/weighting/matrix.py."""

from visatb.weighting.matrix import ScoreMatrix, mean_matrix, read_matrices, score_matrix, with_single_task_scores  # noqa: F401
