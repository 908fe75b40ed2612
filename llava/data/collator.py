"""Collates samples into a training batch; the only place where sequences are truncated.

Shapes: B batch, S longest sample, T tokens of one sample, n images of the batch.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from transformers_patch.unpadded import lay_end_to_end

logger = logging.getLogger(__name__)

_WARNINGS = 5  # of each kind, from each worker


class SupervisedCollator:
    """Truncates samples to the model's length, concatenates or pads them, and joins their images.

    Args:
        pad_token_id: value of input_ids at padded positions; the attention mask marks them.
        max_length: longest sequence in the model's positions, an image counted with its patches; None: no limit.
        patches_per_image: positions that an image takes in the model.
        padded: pad samples on the right to the longest instead of laying them end to end.

    Attributes:
        counts: (task id, "truncated" or "unsupervised") -> samples, of this process or worker.
    """

    def __init__(self, pad_token_id: int, max_length: int | None, patches_per_image: int, padded: bool = True):
        self.pad_token_id = pad_token_id
        self.max_length = max_length
        self.patches_per_image = patches_per_image
        self.padded = padded
        self.counts: Counter = Counter()

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch of samples of `SupervisedDataset`.

        Returns:
            task_ids int64 [B]; images float32 [n, 3, H, W] in the order of their tokens, if there are any;
            unsupervised_samples, a number; input_ids and unpadded of `lay_end_to_end`, or padded, input_ids int64
            [B, S] with -200 at images, labels int64 [B, S] and attention_mask bool [B, S].
        """
        cut = [self._cut(sample) for sample in samples]
        ids, labels = [ids for ids, _, _ in cut], [labels for _, labels, _ in cut]
        batch: dict[str, Any] = {
            "task_ids": torch.tensor([sample["task_id"] for sample in samples], dtype=torch.long),
            "unsupervised_samples": sum(not is_supervised(of_sample) for of_sample in labels),
        }
        batch |= (
            self._pad(ids, labels)
            if self.padded
            else lay_end_to_end(ids, labels, IMAGE_TOKEN_INDEX, self.patches_per_image)
        )
        images = [images for _, _, images in cut if images is not None and len(images)]
        if images:
            batch["images"] = torch.cat(images)
        return batch

    def _pad(self, ids: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        input_ids = pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        length_B = torch.tensor([len(of_sample) for of_sample in ids])
        return {
            "input_ids": input_ids,
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            "attention_mask": torch.arange(input_ids.shape[1]) < length_B[:, None],
        }

    def _cut(self, sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        input_ids, labels, images = sample["input_ids"], sample["labels"], sample["images"]
        kept = kept_tokens(input_ids, self.max_length, self.patches_per_image)
        if kept < len(input_ids):
            self._count(sample, "truncated", f"is longer than model_max_length ({self.max_length}) and was truncated")
            input_ids, labels = input_ids[:kept], labels[:kept]
            images = None if images is None else images[: int((input_ids == IMAGE_TOKEN_INDEX).sum())]
        if not is_supervised(labels):
            self._count(sample, "unsupervised", "has no supervised token (left) and has no effect")
        return input_ids, labels, images

    def _count(self, sample: dict[str, Any], kind: str, what: str) -> None:
        self.counts[sample["task_id"], kind] += 1
        if sum(number for (_, counted), number in self.counts.items() if counted == kind) <= _WARNINGS:
            logger.warning("record %r of task %s %s", sample.get("record_id"), sample["task_id"], what)


def is_supervised(labels: torch.LongTensor) -> bool:
    """Whether a sample has a supervised token; the first token, which is never predicted, does not count."""
    return bool((labels[1:] != IGNORE_INDEX).any())


def kept_tokens(input_ids: torch.LongTensor, max_length: int | None, patches_per_image: int) -> int:
    """Number of leading tokens int64 [T] that fit into max_length positions; a partial image is dropped."""
    if max_length is None or positions(input_ids, patches_per_image) <= max_length:  # nearly every sample
        return len(input_ids)
    width_T = torch.where(input_ids == IMAGE_TOKEN_INDEX, patches_per_image, 1)
    return int((width_T.cumsum(0) <= max_length).sum())


def positions(input_ids: torch.LongTensor, patches_per_image: int) -> int:
    """How many positions tokens int64 [T] take in the model, an image counted with its patches."""
    return len(input_ids) + int((input_ids == IMAGE_TOKEN_INDEX).sum()) * (patches_per_image - 1)
