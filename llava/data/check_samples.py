"""Tokens, positions and images of the samples of an annotation file, read by several processes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizer

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation
from llava.data.collator import kept_tokens
from llava.data.dataset import encode_record
from llava.data.images import check_image_file
from llava.data.preprocess import SegmentEncoder
from visatb.errors import InputError
from visatb.records import Record, image_names, name_of

EXAMPLES = 3  # of each kind of problem that are reported
IMAGE_FILE = "image file"  # the kind of problem that --bad_image skip tolerates
_CHUNK = 500  # records per work item of a process


class Problems:
    """Problems by file and kind: how many records have it, and the first few messages.

    Attributes:
        found: (file, kind) -> [number, messages], in the order in which they were found.
    """

    def __init__(self):
        self.found: dict[tuple[str, str], tuple[int, list[str]]] = {}

    def add(self, source: str, kind: str, message: str, count: int = 1) -> None:
        """Count a problem of a file."""
        self.extend((source, kind), count, [message])

    def merge(self, others: "Problems") -> None:
        """Add the problems that come after these."""
        for key, (count, messages) in others.found.items():
            self.extend(key, count, messages)

    def extend(self, key: tuple[str, str], count: int, messages: list[str]) -> None:
        """Count problems of a (file, kind)."""
        before, known = self.found.get(key, (0, []))
        self.found[key] = (before + count, [*known, *messages][:EXAMPLES])


@dataclass(frozen=True)
class Reading:
    """How samples are read, as set by the training flags.

    Attributes:
        tokenizer: None counts no tokens.
        conversation, mm_use_im_start_end: as for `llava.data.preprocess.preprocess`.
        max_length: model_max_length.
        patches_per_image: positions that an image takes in the model.
        image_folder: None skips images.
        decode_images: decode images completely instead of reading headers only.
        model_positions: context length of the model; None: unknown.
    """

    tokenizer: PreTrainedTokenizer | None
    conversation: Conversation
    mm_use_im_start_end: bool = False
    max_length: int = 2048
    patches_per_image: int = 576
    image_folder: str | None = None
    decode_images: bool = False
    model_positions: int | None = None


@dataclass
class Samples:
    """The samples of some records of a file, in their order.

    Attributes:
        index: int64 [n], the records that have been tokenised: positions in the file.
        length: int64 [n], model positions before anything is cut.
        supervised: int64 [n], supervised tokens after truncation.
        truncated: bool [n], whether the sample is truncated.
        bad_images: records whose images are not there or cannot be read.
        problems: what training would refuse.
    """

    index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    supervised: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    truncated: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    bad_images: int = 0
    problems: Problems = field(default_factory=Problems)


def read_samples(
    records: Sequence[Record], usable: Sequence[int], source: str, reading: Reading, workers: int, quiet: bool = False
) -> Samples:
    """The samples of the usable records, independent of the number of processes.

    Args:
        records: of one file.
        usable: positions of those that `visatb.records.record_problems` finds sound.
        source: the file, for messages.
        reading: what to look at.
        workers: processes beside this one; 0 or 1: none.
        quiet: no progress bar; there is none outside a terminal either.
    """
    chunks = _Chunks(records, usable, source, reading)
    # For a few records, starting processes takes longer than the work.
    several = workers if workers > 1 and len(chunks) > 2 else 0
    loader = DataLoader(chunks, batch_size=None, collate_fn=_as_it_is, num_workers=several)
    parts = [Samples()]
    with tqdm(total=len(usable), desc=os.path.basename(source), unit=" records", disable=quiet or None) as bar:
        for n, part in enumerate(loader):
            parts.append(part)
            bar.update(len(chunks.members(n)))
    arrays = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("index", "length", "supervised", "truncated")
    }
    whole = Samples(**arrays, bad_images=sum(part.bad_images for part in parts))
    for part in parts:
        whole.problems.merge(part.problems)
    return whole


class _Chunks(Dataset):
    """The records in chunks; reading one gives its Samples."""

    def __init__(self, records: Sequence[Record], usable: Sequence[int], source: str, reading: Reading):
        self._records = records
        self._usable = usable
        self._source = source
        self._reading = reading
        self._encoder = None if reading.tokenizer is None else SegmentEncoder(reading.tokenizer)
        self._sound_images: set[str] = set()

    def __len__(self) -> int:
        return -(-len(self._usable) // _CHUNK)

    def members(self, chunk: int) -> Sequence[int]:
        """Positions of the records of a chunk."""
        return self._usable[chunk * _CHUNK : (chunk + 1) * _CHUNK]

    def __getitem__(self, chunk: int) -> Samples:
        problems, rows, bad_images = Problems(), [], 0
        for index in self.members(chunk):
            record = self._records[index]
            where = f"{self._source}: {name_of(record, index)}"
            if self._encoder is not None:
                try:
                    rows.append((index, *self._measures(record, where)))
                except InputError as error:
                    problems.add(self._source, "conversation", str(error))
            if self._reading.image_folder is not None:
                try:
                    self._look_at_images(record, where)
                except InputError as error:
                    bad_images += 1
                    problems.add(self._source, IMAGE_FILE, str(error))
        index, length, supervised, truncated = np.array(rows, np.int64).reshape(-1, 4).T
        return Samples(index, length, supervised, truncated.astype(bool), bad_images, problems)

    def _measures(self, record: Record, where: str) -> tuple[int, int, bool]:
        """Positions, remaining supervised tokens, and whether the sample is truncated."""
        reading = self._reading
        sample = encode_record(
            record, reading.tokenizer, reading.conversation, reading.mm_use_im_start_end, where, self._encoder
        )
        ids, labels = sample["input_ids"].numpy(), sample["labels"].numpy()
        length = len(ids) + np.count_nonzero(ids == IMAGE_TOKEN_INDEX) * (reading.patches_per_image - 1)
        fits = length <= reading.max_length  # nearly always
        kept = len(ids) if fits else kept_tokens(sample["input_ids"], reading.max_length, reading.patches_per_image)
        # The first label is never predicted: a label is compared with the prediction of the token before it.
        return length, np.count_nonzero(labels[1:kept] != IGNORE_INDEX), kept < len(ids)

    def _look_at_images(self, record: Record, where: str) -> None:
        for name in image_names(record):
            if name not in self._sound_images:
                check_image_file(self._reading.image_folder, name, where, self._reading.decode_images)
                self._sound_images.add(name)


def _as_it_is(samples: Samples) -> Samples:
    return samples
