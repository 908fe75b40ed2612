"""Samples from annotation files, rendered with a chat template, and their batches, made by the model's own processor.

Shapes: B batch, S longest sample, T tokens of one sample, K tasks.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from llava.data.images import load_image, resized
from transformers_patch.loss import IGNORE_INDEX
from visatb.cli import one_line
from visatb.errors import InputError
from visatb.records import Record, image_names, name_of, resolve_image, spoken_turns
from visatb_hf.chat import Chat, labels_of, moved_spans

logger = logging.getLogger(__name__)

_OF_TOKENS = ("input_ids", "attention_mask", "labels", "mm_token_type_ids", "token_type_ids")
_WARNINGS = 5  # of each kind, from each worker
_BLANK_SIDE = 56  # pixels; no smaller than Qwen2-VL takes
_PIXELS_ERRORS = (ValueError, IndexError, TypeError)


@dataclass(frozen=True)
class Sample:
    """A record before it is tokenised.

    Attributes:
        text: rendered, one placeholder for each image.
        spans: its supervised characters.
        images: RGB, in the order of their placeholders.
        task_id: k.
        name: of the record, for messages.
    """

    text: str
    spans: list[tuple[int, int]]
    images: list[Image.Image]
    task_id: int
    name: str


class ChatDataset(Dataset):
    """Records -> samples, one at a time.

    Args:
        records: checked records, such as `visatb.record_index.open_index` gives.
        chat: the model's template.
        tasks: names in id order; with a single name, every record belongs to that task.
        image_folder: folder that `image` fields are relative to.
        min_pixels, max_pixels: limits to which images are resized before the processor sees them; None: no limit.
        source: annotation file, for messages.
    """

    def __init__(
        self,
        records: Sequence[Record],
        chat: Chat,
        tasks: Sequence[str],
        image_folder: str | Path | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        source: str | Path = "training data",
    ):
        self.records = records
        self.chat = chat
        self._ids = {name: k for k, name in enumerate(tasks)}
        self._image_folder = image_folder
        self._budget = (min_pixels, max_pixels)
        self._source = source

    def __len__(self) -> int:
        return len(self.records)

    def task_of_records(self) -> list[int]:
        """The task id of every record, without reading it (of a RecordIndex)."""
        if len(self._ids) == 1:
            return [0] * len(self.records)
        columns = self.records.columns
        ids = [self._ids.get(name, -1) for name in columns.tasks]
        return [ids[position] for position in columns.task_N.tolist()]

    def __getitem__(self, index: int) -> Sample:
        """The sample of a record. Raises InputError naming file, record and what is wrong."""
        record = self.records[index]
        where = f"{self._source}: {name_of(record, index)}"
        try:
            rendered = self.chat.render(spoken_turns(record))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        images = [
            resized(load_image(resolve_image(self._image_folder, name, where), where), *self._budget)
            for name in image_names(record)
        ]
        task = 0 if len(self._ids) == 1 else self._ids[record["task"]]
        return Sample(rendered.text, rendered.spans, images, task, where)


class ChatCollator:
    """Makes batches with a processor and adds labels; the only place where samples are cut.

    Args:
        processor: with an image processor if samples have images.
        chat: its template.
        max_length: longest sample in tokens, image tokens included; None: no limit.
        num_tasks: K.
        blank_image: give a batch without images a blank one, in a separate unsupervised row, so that
            every rank and micro-batch runs the vision tower, with a gradient of 0.
    """

    def __init__(self, processor: Any, chat: Chat, max_length: int | None, num_tasks: int, blank_image: bool = False):
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._max_length = max_length
        self._num_tasks = num_tasks
        self._adds_special_tokens = chat.adds_special_tokens
        self._warned = dict.fromkeys(("cut", "unsupervised"), 0)
        self._blank = None
        if blank_image:
            text = chat.prompt([{"from": "human", "value": "<image>"}])
            self._blank = Sample(text, [], [Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE))], 0, "a blank image")
            least = self._tokenised([self._blank])[0]["input_ids"].shape[1]
            if max_length is not None and least > max_length:
                raise InputError(
                    f"model_max_length must be at least {least} for one image, got {max_length}. Raise it."
                )

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """A batch.

        Returns:
            what the processor gives, input_ids and attention_mask [B, S] among it, labels int64 [B, S], task_ids int64
            [B]; cut_K and unsupervised_K int64 [K], samples that are longer than max_length, and those without a
            supervised token.

        Raises:
            InputError: a sample that the processor rejects.
        """
        samples = list(samples)
        rows = samples if self._blank is None or any(s.images for s in samples) else [*samples, self._blank]
        batch, replaced = self._tokenised(rows)
        length_B = batch["attention_mask"].sum(dim=1)
        fitting = [self._fitting(*row) for row in zip(rows, batch["offset_mapping"], length_B, replaced, strict=True)]
        if any(fit is not row for fit, row in zip(fitting, rows, strict=True)):
            batch, replaced = self._tokenised(self._with_image(fitting))
        batch["labels"] = torch.stack(
            [
                labels_of(ids, offsets, moved_spans(sample.spans, spans))
                for ids, offsets, sample, spans in zip(
                    batch["input_ids"], batch.pop("offset_mapping"), self._with_image(fitting), replaced, strict=True
                )
            ]
        )
        self._cut(batch)
        rows = self._with_image(fitting)
        batch["task_ids"] = torch.tensor([row.task_id for row in rows])
        over_B = length_B[: len(samples)] > (self._max_length or math.inf)
        batch["cut_K"] = self._counted("cut", samples, over_B, f"is longer than {self._max_length} tokens and was cut")
        empty_B = (batch["labels"][: len(samples), 1:] == IGNORE_INDEX).all(dim=1)
        batch["unsupervised_K"] = self._counted("unsupervised", samples, empty_B, "has no supervised token left")
        return batch

    def _with_image(self, rows: list[Sample]) -> list[Sample]:
        return rows if self._blank is None or any(row.images for row in rows) else [*rows, self._blank]

    def _tokenised(self, rows: Sequence[Sample]) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
        """The processor's batch, padded on the right, with offset_mapping [B, S, 2]; what replaced its images."""
        images = [row.images for row in rows] if any(row.images for row in rows) else None
        given = {} if images is None else {"images": images, "return_text_replacement_offsets": True}
        try:
            made = self._processor(
                text=[row.text for row in rows],
                padding=True,
                padding_side="right",
                return_tensors="pt",
                add_special_tokens=self._adds_special_tokens,
                return_offsets_mapping=True,
                **given,
            )
        except _PIXELS_ERRORS as error:
            names = rows[0].name if len(rows) == 1 else f"{rows[0].name} or one of {len(rows) - 1} others in its batch"
            raise InputError(f"{names}: the processor rejects it: {one_line(error)} Correct the record.") from None
        batch = dict(made)
        replaced = batch.pop("text_replacement_offsets", None) or [[] for _ in rows]
        return batch, replaced

    def _fitting(self, row: Sample, offset_S2: torch.Tensor, length: int, replaced: Sequence[Mapping]) -> Sample:
        """A sample without the images that do not fit whole into max_length, and without what follows them."""
        if self._max_length is None or length <= self._max_length:
            return row
        end = int(offset_S2[self._max_length - 1, 1])  # characters that are kept
        for n, image in enumerate(replaced):
            if image["new_span"][1] > end:
                start = image["span"][0]
                spans = [span for span in row.spans if span[1] <= start]
                return replace(row, text=row.text[:start], spans=spans, images=row.images[:n])
        return row

    def _cut(self, batch: dict[str, Any]) -> None:
        """Cut all rows of tokens to max_length, and to the longest row."""
        longest = int(batch["attention_mask"].sum(dim=1).max())
        kept = min(longest, self._max_length or longest)
        for name in _OF_TOKENS:
            if name in batch:
                batch[name] = batch[name][:, :kept]

    def _counted(self, kind: str, samples: Sequence[Sample], is_B: torch.Tensor, what: str) -> torch.Tensor:
        found = [sample for sample, is_one in zip(samples, is_B.tolist(), strict=True) if is_one]
        for sample in found[: _WARNINGS - self._warned[kind]]:
            self._warned[kind] += 1
            logger.warning("%s %s", sample.name, what)
        return torch.bincount(torch.tensor([s.task_id for s in found], dtype=torch.long), minlength=self._num_tasks)
