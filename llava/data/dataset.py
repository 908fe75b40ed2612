"""Training records as tensors.

Shapes: T tokens of one sample, n its images, H, W height and width of an image.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizer

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation
from llava.data.collator import kept_tokens
from llava.data.images import load_image, process_image
from llava.data.preprocess import SegmentEncoder, preprocess
from visatb.errors import InputError
from visatb.record_index import columns_of
from visatb.records import (
    BAD_IMAGE_CHOICES,
    BAD_IMAGE_SHARE,
    Record,
    image_names,
    is_unanswered,
    most_bad_images,
    name_of,
    resolve_image,
)

logger = logging.getLogger(__name__)

UNSUPERVISED_SHARE = 0.2  # of a task's records; above this, the length limit is a mistake
SURVEYED = 1000  # records whose length is checked before training
_TOKENS_OF_A_WORD = 1.4  # of LLaMA's tokenizer, in English
_WORDS_OF_AN_IMAGE = 128  # LLaVA's rule of thumb for grouping samples by length


class SupervisedDataset(Dataset):
    """Records -> token ids, labels, pixels and task id, one sample at a time.

    Args:
        records: checked records (`visatb.records.check_records`).
        tokenizer: a slow tokenizer.
        conversation: a template of `llava.conversation.conv_templates`.
        task_ids: task name -> id; None: every record is of task 0.
        image_processor: a CLIPImageProcessor; None if no record has an image.
        image_folder: folder that `image` fields are relative to.
        image_aspect_ratio: "pad" (square of the mean colour) or "square" (resize and crop the centre).
        mm_use_im_start_end: put `<im_start>`, `<im_end>` around images.
        bad_image: "fail" raises InputError at an unreadable image; "skip" (or "replace", the same) uses the next
            record of the same task instead, counts it, and fails above BAD_IMAGE_SHARE. A record of another task would
            change the task mix.
        source: annotation file, for messages.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizer,
        conversation: Conversation,
        task_ids: Mapping[str, int] | None,
        image_processor: Any = None,
        image_folder: str | Path | None = None,
        image_aspect_ratio: str = "pad",
        mm_use_im_start_end: bool = False,
        bad_image: str = "fail",
        source: str = "training data",
    ):
        if bad_image not in BAD_IMAGE_CHOICES:
            raise InputError(f"--bad_image must be one of {', '.join(BAD_IMAGE_CHOICES)}, got {bad_image!r}.")
        self.records = records
        self.columns = columns_of(records)
        self.tokenizer = tokenizer
        self.conversation = conversation
        self.image_processor = image_processor
        self.image_folder = image_folder
        self.pad = image_aspect_ratio == "pad"
        self.mm_use_im_start_end = mm_use_im_start_end
        self.bad_image = bad_image
        self.source = source
        self._check_settings()
        self._encoder = SegmentEncoder(tokenizer)
        self.task_of_record = self._task_ids(task_ids)
        # One flag per record in shared memory: the workers of a DataLoader count together.
        self._unreadable = torch.zeros(len(records), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample of one record.

        Returns:
            input_ids int64 [T] (-200 at images), labels int64 [T], task_id int, images float32 [n, 3, H, W] or None,
            record_id (the id of the record that was read, its position if it has none).

        Raises:
            InputError: naming file, record and path.
        """
        index = range(len(self.records))[index]
        images, index = self._images_or_those_of_another(index)
        record = self.records[index]
        sample = self.encode(index)
        sample.update(
            images=images, task_id=self.task_of_record[index], record_id=_present(record.get("id"), default=index)
        )
        return sample

    @property
    def lengths(self) -> list[int]:
        """Approximate length of each record: its words, and 128 for an image."""
        return [abs(length) + _WORDS_OF_AN_IMAGE * (length > 0) for length in self.modality_lengths]

    @property
    def modality_lengths(self) -> list[int]:
        """The words of each record, negative for text-only records, as `LengthGroupedSampler` takes them."""
        words_N = np.maximum(self.columns.words_N, 1)
        return np.where(self.columns.images_N > 0, words_N, -words_N).tolist()

    def estimated_positions(self, patches_per_image: int) -> list[int]:
        """About how many positions each record takes in the model, at least 1; no token and no image is looked at.

        Args:
            patches_per_image: positions that an image takes.
        """
        words_N = np.maximum(self.columns.words_N, 1)
        tokens_N = np.rint(words_N * _TOKENS_OF_A_WORD).astype(np.int64)
        return (tokens_N + patches_per_image * self.columns.images_N).tolist()

    @property
    def bad_images(self) -> list[str]:
        """The records whose image could not be read so far, by any worker of this process."""
        return [name_of(self.records[n], n) for n in self._unreadable.nonzero().flatten().tolist()]

    def survey(self, max_length: int, patches_per_image: int, limit: int = SURVEYED) -> dict[int, Counter]:
        """Effect of the length limit on the records of each task, without reading images.

        Args:
            max_length: model_max_length.
            patches_per_image: positions that an image takes in the model.
            limit: approximate number of records to check, evenly spread.

        Returns:
            task id -> Counter of `records`, `truncated` (longer than max_length), `unanswered` (every answer is empty)
            and `unsupervised` (of the others, those that no supervised token would be left of).
        """
        found: dict[int, Counter] = {}
        for index in surveyed(len(self), limit):
            sample = self.encode(index)
            kept = kept_tokens(sample["input_ids"], max_length, patches_per_image)
            counts = found.setdefault(self.task_of_record[index], Counter())
            counts["records"] += 1
            counts["truncated"] += kept < len(sample["input_ids"])
            # The first label is not predicted: a label is compared with the prediction of the previous token.
            is_learned = bool((sample["labels"][1:kept] != IGNORE_INDEX).any())
            counts["unanswered" if is_unanswered(self.records[index]) else "unsupervised"] += not is_learned
        return found

    def _check_settings(self) -> None:
        with_images = np.flatnonzero(self.columns.images_N)
        if not len(with_images):
            return
        first = int(with_images[0])
        if self.image_folder is None:
            raise InputError(f"{self._where(first)}: has an image, but no image folder is given. Set --image_folder.")
        if self.image_processor is None:
            why = "has an image, but the model has no vision tower. Set --vision_tower (VISION_TOWER)."
            raise InputError(f"{self._where(first)}: {why}")

    def _task_ids(self, task_ids: Mapping[str, int] | None) -> list[int]:
        if task_ids is None:
            return [0] * len(self.columns)
        id_of_task = np.array([*(task_ids.get(task, -1) for task in self.columns.tasks), -1])
        ids_N = id_of_task[self.columns.task_N]
        for n in np.flatnonzero(ids_N < 0).tolist():
            known, task = ", ".join(task_ids), self.records[n].get("task")
            raise InputError(f"{self._where(n)}: task must be one of {known}, got {task!r}. Fix the field.")
        return ids_N.tolist()

    def _where(self, index: int) -> str:
        return f"{self.source}: {name_of(self.records[index], index)}"

    def encode(self, index: int) -> dict[str, torch.Tensor]:
        """Ids and labels of one record, without its images: see `encode_record`."""
        where = self._where(index)
        return encode_record(
            self.records[index], self.tokenizer, self.conversation, self.mm_use_im_start_end, where, self._encoder
        )

    def _images_or_those_of_another(self, index: int) -> tuple[torch.Tensor | None, int]:
        """Pixels of a record, or of the next record of its task that can be read, and whose they are."""
        try:
            return self._images(index), index
        except InputError as error:
            if self.bad_image == "fail":
                raise InputError(f"{error} Or pass --bad_image skip, which uses another record of its task.") from None
            self._count_bad(index, error)
        total = len(self.records)
        for candidate in ((index + step) % total for step in range(1, total)):
            if self.task_of_record[candidate] != self.task_of_record[index] or self._unreadable[candidate]:
                continue
            try:
                return self._images(candidate), candidate
            except InputError as error:
                self._count_bad(candidate, error)
        raise InputError(f"{self._where(index)}: no record of its task has a readable image. Check --image_folder.")

    def _images(self, index: int) -> torch.Tensor | None:
        names = image_names(self.records[index])
        if not names:
            return None
        where = self._where(index)
        pixels = []
        for name in names:
            image = load_image(resolve_image(self.image_folder, name, where), where)
            try:
                pixels.append(process_image(image, self.image_processor, self.pad))
            except ValueError as error:
                raise InputError(f"{where}: image {name!r}: {error}") from None
        return torch.stack(pixels)

    def _count_bad(self, index: int, error: InputError) -> None:
        if not self._unreadable[index]:
            logger.warning("%s; another record of its task is used", error)
        self._unreadable[index] = True
        bad = int(self._unreadable.sum())
        with_images = int((self.columns.images_N > 0).sum())
        if bad > most_bad_images(with_images):
            raise InputError(
                f"{self.source}: {bad} of {with_images} records have unreadable images, more than "
                f"{BAD_IMAGE_SHARE:.0%}; the last is {error}"
            )


def encode_record(
    record: Record,
    tokenizer: PreTrainedTokenizer,
    conversation: Conversation,
    mm_use_im_start_end: bool,
    where: str,
    encoder: SegmentEncoder | None = None,
) -> dict[str, torch.Tensor]:
    """Ids and labels of a record's conversation, by `preprocess`.

    Raises:
        InputError: a conversation that the template cannot represent, or a number of image tokens that differs from
            images.
    """
    given = len(image_names(record))
    try:
        sample = preprocess(record["conversations"], tokenizer, conversation, mm_use_im_start_end, given, encoder)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    expected = np.count_nonzero(sample["input_ids"].numpy() == IMAGE_TOKEN_INDEX)  # a third of torch's time
    if expected != given:
        raise InputError(
            f"{where}: {expected} {DEFAULT_IMAGE_TOKEN} token(s) for {given} image(s). "
            f"Write one {DEFAULT_IMAGE_TOKEN} per image, in the questions."
        )
    return sample


def surveyed(total: int, limit: int = SURVEYED) -> range:
    """The positions, evenly spread, of about `limit` of `total` records."""
    return range(0, total, max(1, total // limit))


def _present(value: Any, default: Any) -> Any:
    return default if value is None else value
