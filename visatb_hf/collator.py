"""Adds task ids to the batches of any collator."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


class TaskCollator:
    """Adds `task_ids` int64 [B] to the batches of another collator.

    Args:
        collate: list of samples -> batch with `labels` [B, S].
        key: of the task in a sample (a mapping): an id, or a name of `tasks`. Removed before `collate` sees it.
        tasks: names in id order; None if samples have ids.

    Raises:
        ValueError: a sample without a task, or with one that is not among `tasks`.
    """

    def __init__(
        self, collate: Callable[[list], dict[str, Any]], key: str = "task", tasks: Sequence[str] | None = None
    ):
        self._collate = collate
        self._key = key
        self._ids = None if tasks is None else {name: k for k, name in enumerate(tasks)}

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `collate`, with `task_ids`."""
        task_ids = [self._id_of(sample) for sample in samples]
        batch = self._collate([{k: v for k, v in sample.items() if k != self._key} for sample in samples])
        batch["task_ids"] = torch.tensor(task_ids, dtype=torch.long)
        return batch

    def _id_of(self, sample: Mapping[str, Any]) -> int:
        if self._key not in sample:
            raise ValueError(f"a sample must have its task under {self._key!r}, got {', '.join(sample)}. Add it.")
        task = sample[self._key]
        if self._ids is None:
            return int(task)
        if task not in self._ids:
            raise ValueError(f"a sample's task must be one of {', '.join(self._ids)}, got {task!r}. Correct it.")
        return self._ids[task]
