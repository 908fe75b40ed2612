"""Micro-batches without padding: their samples laid end to end in one row, and attention that stays inside each.

    batch["unpadded"]   what the model needs beside the row (see `lay_end_to_end`)

Everything that depends on lengths is worked out here, on the CPU where the batch is made: a training step never has to
wait for a GPU to know it.

Shapes: B samples, L positions of the row, T supervised tokens, H heads (G of keys and values), E head size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from transformers_patch.loss import IGNORE_INDEX, SupervisedTokens, check_task_ids, count_supervised_tokens

Batch = dict[str, Any]
_PADDED = {"input_ids", "labels", "attention_mask", "task_ids"}
_BY_TOKEN = ("predictor_T", "label_T", "sample_T")


@dataclass(eq=False)
class SampleBounds:
    """Where the samples of a row begin and end.

    Attributes:
        lengths: positions of each sample that has any.
        cumulative: int32 [B + 1] on the row's device: the lengths summed up, from 0.
        longest: positions of the longest.
        needed_T: int64 [T], the positions at which the last layer's output is read; None: all.
    """

    lengths: tuple[int, ...]
    cumulative: torch.Tensor
    needed_T: torch.Tensor | None = None

    def __post_init__(self):
        self.longest = max(self.lengths)  # no part of a compiled layer looks at lengths, whose number changes


def lay_end_to_end(
    ids: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], wide_token: int | None = None, width: int = 1
) -> Batch:
    """The row of some samples.

    Args:
        ids: int64 of each sample, without padding.
        labels: int64 of each sample, IGNORE_INDEX where a token is not supervised (which wide tokens never are).
        wide_token: an id that stands for something else than text, such as an image.
        width: positions that it takes.

    Returns:
        input_ids: int64 [1, tokens], those of all samples without wide ones;
        unpadded: lengths (list of ints), cumulative (see `SampleBounds`), position_ids int64 [1, L], which begin again
            at each sample; predictor_T, label_T, sample_T int64 [T]: the positions whose next token is supervised, that
            token, and the sample it belongs to; and, with wide tokens, order_L int64 [L]: what stands at each
            position, an index into the text tokens followed by the positions of the wide ones.
    """
    id_N, label_N = torch.cat(list(ids)), torch.cat(list(labels))
    is_wide_N = torch.zeros_like(id_N, dtype=torch.bool) if wide_token is None else id_N == wide_token
    width_N = torch.where(is_wide_N, width, 1)
    sample_N = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor([len(one) for one in ids]))
    length_B = torch.zeros(len(ids), dtype=torch.int64).index_add_(0, sample_N, width_N)
    end_B = length_B.cumsum(0)
    slot_N = width_N.cumsum(0) - width_N
    place_N = slot_N - (end_B - length_B)[sample_N]
    supervised_N = ((label_N != IGNORE_INDEX) & (place_N > 0)).nonzero()[:, 0]
    unpadded = {
        "lengths": [length for length in length_B.tolist() if length],
        "cumulative": F.pad(end_B, (1, 0)).int(),
        "position_ids": torch.cat([torch.arange(length) for length in length_B.tolist()])[None],
        "predictor_T": slot_N[supervised_N] - 1,
        "label_T": label_N[supervised_N],
        "sample_T": sample_N[supervised_N],
    }
    if bool(is_wide_N.any()):
        unpadded["order_L"] = _order(slot_N, is_wide_N, width)
    return {"input_ids": id_N[~is_wide_N][None], "unpadded": unpadded}


def _order(slot_N: torch.Tensor, is_wide_N: torch.Tensor, width: int) -> torch.Tensor:
    text, wide = slot_N[~is_wide_N], slot_N[is_wide_N]
    slots = torch.cat([text, (wide[:, None] + torch.arange(width)).flatten()])
    return torch.empty_like(slots).scatter_(0, slots, torch.arange(len(slots)))


def without_padding(batch: Batch) -> Batch:
    """A padded batch as `lay_end_to_end` has it; one that is unpadded already, or holds more than text, as it is."""
    if set(batch) - _PADDED or "labels" not in batch or "input_ids" not in batch:
        return batch
    ids, labels = batch["input_ids"], batch["labels"]
    mask = batch.get("attention_mask")
    kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    rows = range(len(ids))
    laid = lay_end_to_end([ids[n][kept[n]] for n in rows], [labels[n][kept[n]] for n in rows])
    tasks = batch.get("task_ids")
    return laid | {"task_ids": torch.zeros(len(ids), dtype=torch.int64) if tasks is None else tasks}


class UnpaddedCollator:
    """A collator of padded batches whose batches come without padding (see `without_padding`)."""

    def __init__(self, collate: Callable[[list], Batch]):
        self._collate = collate

    def __call__(self, samples: list) -> Batch:
        return without_padding(self._collate(samples))


def silenced(batch: Batch) -> Batch:
    """The batch without a supervised token."""
    if "unpadded" not in batch:
        return batch | {"labels": torch.full_like(batch["labels"], IGNORE_INDEX)}
    return batch | {"unpadded": batch["unpadded"] | {name: batch["unpadded"][name][:0] for name in _BY_TOKEN}}


def count_batch(batch: Batch, num_tasks: int) -> torch.Tensor:
    """Supervised tokens of each task in a batch, int64 [K] (see `count_supervised_tokens`)."""
    if "unpadded" not in batch:
        return count_supervised_tokens(batch["labels"], batch["task_ids"], num_tasks)
    check_task_ids(batch["task_ids"], num_tasks)
    return torch.bincount(batch["task_ids"][batch["unpadded"]["sample_T"]], minlength=num_tasks)


def bounds_of(unpadded: Batch, for_loss: bool = False) -> SampleBounds:
    """The bounds of a batch's samples; `for_loss`: the last layer's output is read at predictors alone."""
    needed_T = unpadded["predictor_T"] if for_loss else None
    return SampleBounds(tuple(unpadded["lengths"]), unpadded["cumulative"], needed_T)


def unpadded_tokens(hidden_TD: torch.Tensor, unpadded: Batch) -> SupervisedTokens:
    """The supervised tokens of a row of samples, of the hidden states of their predictors."""
    return SupervisedTokens(
        hidden_TD,
        unpadded["label_T"],
        unpadded["sample_T"],
        unpadded["position_ids"][0].index_select(0, unpadded["predictor_T"]),
        (len(unpadded["cumulative"]) - 1, max(unpadded["lengths"]) - 1),
    )


def _has_kernel(query: torch.Tensor) -> bool:
    """Whether `varlen_attn`, which is FlashAttention, takes it: half precision, heads in eights up to 256, Ampere."""
    is_half, size = query.dtype in (torch.bfloat16, torch.float16), query.shape[-1]
    fits = is_half and size % 8 == 0 and size <= 256
    return query.is_cuda and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def varlen_attn(*tensors: Any, **settings: Any) -> torch.Tensor:
    """torch's kernel, imported when it is called: its module brings the compiler, a second of every start on a CPU."""
    from torch.nn.attention.varlen import varlen_attn as kernel

    return kernel(*tensors, **settings)


def attend_within_samples(
    query_1HLE: torch.Tensor, key_1GLE: torch.Tensor, value_1GLE: torch.Tensor, bounds: SampleBounds
) -> torch.Tensor:
    """Causal attention of each position to those of its own sample: [1, H, L, E].

    By torch's kernel for samples of various lengths where there is one, else sample by sample.
    """
    grouped = query_1HLE.shape[1] != key_1GLE.shape[1]
    if _has_kernel(query_1HLE):
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query_1HLE, key_1GLE, value_1GLE))
        longest, ends = bounds.longest, bounds.cumulative
        attended = varlen_attn(query, key, value, ends, ends, longest, longest, window_size=(-1, 0), enable_gqa=grouped)
        return attended.transpose(0, 1)[None]
    split = (tensor.split(bounds.lengths, dim=2) for tensor in (query_1HLE, key_1GLE, value_1GLE))
    return torch.cat(
        [
            F.scaled_dot_product_attention(*sample, is_causal=True, enable_gqa=grouped)
            for sample in zip(*split, strict=True)
        ],
        dim=2,
    )
