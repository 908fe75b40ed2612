"""How many positions each record takes in the model, without tokenising all of them.

The number of tokens is estimated as a linear function of characters, fitted to an even sample of tokenised records;
images count exactly. All arithmetic is in integers, because ranks on different processors must agree exactly.
"""

import numpy as np

from llava.data.collator import positions
from llava.data.dataset import SupervisedDataset, surveyed

FITTED = 256  # records that are tokenised


def estimated_positions(dataset: SupervisedDataset, max_length: int, patches_per_image: int) -> list[int]:
    """Positions of each record, at most max_length.

    Args:
        dataset: the training set.
        max_length: model_max_length.
        patches_per_image: positions that an image takes in the model.
    """
    characters_N = dataset.columns.characters_N.astype(np.int64)
    known = [(int(characters_N[n]), _tokens(dataset, n)) for n in surveyed(len(dataset), FITTED)]
    count, sum_x, sum_y = len(known), sum(x for x, _ in known), sum(y for _, y in known)
    spread = count * sum(x * x for x, _ in known) - sum_x**2
    slope = count * sum(x * y for x, y in known) - sum_x * sum_y if spread else 0
    spread = spread or 1
    # tokens = mean_y + slope / spread * (x - mean_x), times count * spread, which is positive; in Python's integers,
    # which have no limit, once for each number of characters
    different, of_record_N = np.unique(characters_N, return_inverse=True)
    tokens = [max((sum_y * spread + slope * (count * x - sum_x)) // (count * spread), 1) for x in different.tolist()]
    images_N = dataset.columns.images_N.astype(np.int64)
    length_N = np.array(tokens, np.int64)[of_record_N] + patches_per_image * images_N
    return np.minimum(length_N, max_length).tolist()


def _tokens(dataset: SupervisedDataset, index: int) -> int:
    """Tokens of a record beside its images."""
    return positions(dataset.encode(index)["input_ids"], 0)
