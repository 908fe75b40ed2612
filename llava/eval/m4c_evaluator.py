"""The names of LLaVA's m4c_evaluator that other code imports; the rules are in `eval.zero_shot.vqa_text`."""

from collections.abc import Sequence
from typing import Any

from eval.zero_shot.vqa_text import accuracy, normalize_m4c


class EvalAIAnswerProcessor:
    """Brings an answer into the form in which TextVQA's evaluator compares it."""

    def __call__(self, item: str) -> str:
        return normalize_m4c(item)


class TextVQAAccuracyEvaluator:
    """TextVQA accuracy of a list of predictions."""

    def eval_pred_list(self, pred_list: Sequence[dict[str, Any]]) -> float:
        """The mean accuracy, in [0, 1].

        Args:
            pred_list: `pred_answer` (text) and `gt_answers` (ten texts) each.
        """
        scores = [
            accuracy(normalize_m4c(one["pred_answer"]), [normalize_m4c(text) for text in one["gt_answers"]])
            for one in pred_list
        ]
        return sum(scores) / len(scores)
