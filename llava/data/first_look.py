"""Checks of the samples of all tasks at the start of training, before the first step."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.data.collator import positions
from llava.data.dataset import UNSUPERVISED_SHARE, SupervisedDataset, surveyed
from visatb.errors import InputError
from visatb.record_index import EMPTY_ANSWER, EMPTY_QUESTION, Columns
from visatb.records import Record, name_of

_LONGEST = 32  # longest records by characters, which are checked beside the evenly spread ones


def look_at_samples(
    dataset: SupervisedDataset, tasks: Sequence[str], max_length: int, patches: int, config: Any, is_first: bool
) -> None:
    """Refuse data with too many unsupervised samples; report truncated, empty and too long samples.

    Args:
        dataset: the training set.
        tasks: names, by id.
        max_length: model_max_length.
        patches: positions that an image takes in the model.
        config: of the model.
        is_first: whether this process reports.

    Raises:
        InputError: naming the task.
    """
    refuse_unsupervised(dataset, tasks, max_length, patches)
    if not is_first:
        return
    found = [empty_turns(dataset.columns.empty_N, dataset.records, dataset.source, range(len(dataset)))]
    available = model_positions(vars(config))
    if available is not None and max_length > available:
        found.append(_beyond(dataset, max_length, patches, available))
    for message in filter(None, found):
        print(f"warning: {message}", file=sys.stderr)


def weight_without_effect(columns: Columns, tasks: Sequence[str]) -> str | None:
    """The task that has steps of its own when steps are grouped by modality; None if there is none."""
    kinds = {(bool(images), int(task)) for images, task in zip(columns.images_N, columns.task_N, strict=True)}
    found = {kind: {columns.tasks[task] for has, task in kinds if has == kind} for kind in {has for has, _ in kinds}}
    for has_images, of_kind in found.items():
        if len(tasks) > 1 and len(found) == 2 and len(of_kind) == 1:
            kind = "with images" if has_images else "without images"
            return (
                f"--group_by_modality_length True gives records {kind} steps of their own. All are of task "
                f"{of_kind.pop()}, whose weight cancels out there. Set it to False for the weight to have an effect."
            )
    return None


def refuse_unsupervised(dataset: SupervisedDataset, tasks: Sequence[str], max_length: int, patches: int) -> None:
    """Refuse data if too much of an evenly spread sample is empty or has no supervised token after truncation."""
    source = dataset.source
    for task_id, counts in sorted(dataset.survey(max_length, patches).items()):
        of_task = f"of the sampled records of task {tasks[task_id]}"
        share = {kind: counts[kind] / counts["records"] for kind in ("unsupervised", "unanswered")}
        if share["unanswered"] > UNSUPERVISED_SHARE:
            raise InputError(f"{source}: {share['unanswered']:.0%} {of_task} have empty answers only. Write them.")
        if share["unsupervised"] > UNSUPERVISED_SHARE:
            raise InputError(
                f"{source}: {share['unsupervised']:.0%} {of_task} keep no supervised token "
                f"within --model_max_length {max_length} ({patches} positions per image). Raise it or shorten them."
            )
        if counts["truncated"]:
            warnings.warn(
                f"{source}: {counts['truncated']} of {counts['records']} {of_task.removeprefix('of the ')} are "
                f"cut at --model_max_length {max_length}.",
                stacklevel=2,
            )


def empty_turns(empty_N: np.ndarray, records: Sequence[Record], source: str, positions: Sequence[int]) -> str | None:
    """A message with the number of records with empty turns and the first of them; None if there are none.

    Args:
        empty_N: of some records, as `visatb.record_index.empty_turns_of` has it.
        records: of the file.
        source: annotation file, for the message.
        positions: of these records in the file.
    """
    if not empty_N.any():
        return None
    first = positions[int(np.flatnonzero(empty_N)[0])]
    count = {
        "answer": int(((empty_N & EMPTY_ANSWER) > 0).sum()),
        "question": int(((empty_N & EMPTY_QUESTION) > 0).sum()),
    }
    numbers = " and ".join(f"{number:,} with an empty {kind}" for kind, number in count.items() if number)
    name = name_of(records[first], first)
    return f"{source}: records with empty turns: {numbers}, the first is {name}. Empty answers are not supervised."


def model_positions(config: Mapping[str, Any]) -> int | None:
    """The context length of a language model, including scaled rotary embeddings; None if unknown.

    Args:
        config: keys of its config.json.
    """
    count, scaling = config.get("max_position_embeddings"), config.get("rope_scaling")
    if not isinstance(count, int) or isinstance(count, bool):
        return None
    factor = scaling.get("factor", 1) if isinstance(scaling, Mapping) else 1
    return int(count * factor) if isinstance(factor, int | float) else count


def beyond_positions(longest: str, length: int, available: int) -> str:
    """The message for samples that are longer than the model.

    Args:
        longest: file and name of the longest sample.
        length: its positions, cut at model_max_length.
        available: the model's positions.
    """
    return (
        f"{longest}: the longest sample takes {length:,} positions, the model supports {available:,} "
        f"(max_position_embeddings). Set --model_max_length {available}."
    )


def _beyond(dataset: SupervisedDataset, max_length: int, patches: int, available: int) -> str | None:
    """The message for the longest of the evenly spread samples and of those with the most text."""

    columns = dataset.columns
    # Of each image its token and, weighed as four characters each, its patches.
    size_N = columns.characters_N + (4 * patches + len(DEFAULT_IMAGE_TOKEN)) * columns.images_N.astype(np.int64)
    most_text = np.argsort(size_N, kind="stable")[-_LONGEST:].tolist()
    length, n = max(
        (positions(dataset.encode(n)["input_ids"], patches), -n) for n in {*surveyed(len(dataset)), *most_text}
    )
    if min(length, max_length) <= available:
        return None
    return beyond_positions(f"{dataset.source}: {name_of(dataset.records[-n], -n)}", min(length, max_length), available)
