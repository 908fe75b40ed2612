"""Finds overlaps between the splits of a task: a validation score on training samples is meaningless."""

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import combinations

from visatb.records import Record, image_names

# Samples: the same images with the same question. Shared images or ids alone may be intended.
KINDS = ("samples", "images", "ids")


@dataclass(frozen=True)
class Overlap:
    """An overlap of two splits of a task.

    Attributes:
        task: name of the task.
        splits: the two splits.
        kind: one of KINDS.
        count: number of shared values.
        example: one of them.
    """

    task: str
    splits: tuple[str, str]
    kind: str
    count: int
    example: str

    def __str__(self) -> str:
        first, second = self.splits
        return f"{self.task}: {first} and {second} share {self.count} {self.kind}, e.g. {self.example}"


def find_overlaps(task: str, records_by_split: dict[str, list[Record | None]], strongest: bool = True) -> list[Overlap]:
    """Every overlap between two splits of one task.

    Args:
        task: its name.
        records_by_split: split -> its records, None for those to skip.
        strongest: report only the strongest kind of each pair.
    """
    values = {split: _values(records) for split, records in records_by_split.items()}
    found = []
    for first, second in combinations(records_by_split, 2):
        for kind in KINDS:
            shared = values[first][kind].keys() & values[second][kind].keys()
            if shared:
                example = min(values[second][kind][value] for value in shared)
                found.append(Overlap(task, (first, second), kind, len(shared), example))
                if strongest:
                    break
    return found


def _values(records: list[Record | None]) -> dict[str, dict[Hashable, str]]:
    """For each kind the values of the records, with the name of each in messages."""
    samples, images, ids = {}, {}, {}
    for n, record in enumerate(records):
        if record is None:
            continue
        names = image_names(record)
        identifier = record.get("id")
        label = f"id {identifier!r}" if identifier is not None else f"record {n}"
        samples[(tuple(names), record["conversations"][0]["value"])] = label
        images.update({name: repr(name) for name in names})
        if identifier is not None:
            ids[identifier] = label
    return {"samples": samples, "images": images, "ids": ids}
