"""How many positions each record takes in the model, without tokenising all of them.

The number of tokens is estimated as a linear function of characters, fitted to an even sample of tokenised records;
images count exactly. All arithmetic is in integers, because ranks on different processors must agree exactly.
"""

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.data.collator import positions
from llava.data.dataset import SupervisedDataset, surveyed
from visatb.records import Record, image_names

FITTED = 256  # records that are tokenised


def estimated_positions(dataset: SupervisedDataset, max_length: int, patches_per_image: int) -> list[int]:
    """Positions of each record, at most max_length.

    Args:
        dataset: the training set.
        max_length: model_max_length.
        patches_per_image: positions that an image takes in the model.
    """
    known = [(_characters(dataset.records[n]), _tokens(dataset, n)) for n in surveyed(len(dataset), FITTED)]
    count, sum_x, sum_y = len(known), sum(x for x, _ in known), sum(y for _, y in known)
    spread = count * sum(x * x for x, _ in known) - sum_x**2
    slope = count * sum(x * y for x, y in known) - sum_x * sum_y if spread else 0
    spread = spread or 1
    found = []
    for record in dataset.records:
        # tokens = mean_y + slope / spread * (x - mean_x), times count * spread, which is positive
        scaled = sum_y * spread + slope * (count * _characters(record) - sum_x)
        length = max(scaled // (count * spread), 1) + patches_per_image * len(image_names(record))
        found.append(min(length, max_length))
    return found


def _characters(record: Record) -> int:
    return sum(len(turn["value"].replace(DEFAULT_IMAGE_TOKEN, "")) for turn in record["conversations"])


def _tokens(dataset: SupervisedDataset, index: int) -> int:
    """Tokens of a record beside its images."""
    return positions(dataset.encode(index)["input_ids"], 0)
