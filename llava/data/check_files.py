"""What `llava.data.check` finds out about annotation files; see there for the command."""

import argparse
import math
import os
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN
from llava.conversation import conversation_for_version
from llava.data.check_report import problem_list, task_rows
from llava.data.check_samples import IMAGE_FILE, Problems, Reading, Samples, read_samples
from llava.data.dataset import UNSUPERVISED_SHARE, surveyed
from llava.data.first_look import beyond_positions, empty_turns, model_positions
from llava.data.tokenizer import read_tokenizer
from llava.hub import companion
from transformers_patch.step_loader import StepLayout
from visatb.benchmark import load_benchmark
from visatb.boxes import box_fault, read_box
from visatb.errors import shown
from visatb.files import read_json
from visatb.foreign_keys import foreign_key, unknown_keys
from visatb.overlap import find_overlaps
from visatb.record_index import empty_turns_of
from visatb.records import (
    BAD_IMAGE_SHARE,
    FOREIGN_KEY,
    Record,
    image_names,
    is_refused,
    is_unanswered,
    most_bad_images,
    name_of,
    read_records,
    record_problems,
)

# Faults after which a record is not checked further.
_UNSOUND = ("id", FOREIGN_KEY, "conversation", "image field", "<image> tokens")
_UNKNOWN = "(unknown)"
_SETTINGS = ("tokenizer", "version", "mm_use_im_start_end", "model_max_length", "image_folder", "benchmark")
_KEYS = 20  # unknown keys that are listed
_ALL = "all"  # the one task of a training without a benchmark
_LONE_BOX = re.compile(r"\s*\[[^\[\]]*\]\s*")


def reading_of(args: argparse.Namespace) -> Reading:
    """How the samples are read, after LLaVA's flags."""
    tokenizer = None if args.tokenizer is None else read_tokenizer(args.tokenizer)
    if tokenizer is not None and args.mm_use_im_start_end:
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    patches = args.patches_per_image
    if args.vision_tower is not None:
        from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower

        patches = CLIPVisionTower(args.vision_tower, SimpleNamespace(mm_vision_select_layer=-2), True).num_patches
    return Reading(
        tokenizer,
        conversation_for_version(args.version),
        args.mm_use_im_start_end,
        args.model_max_length,
        patches,
        None if args.no_images else args.image_folder,
        args.decode_images,
        None if args.tokenizer is None else _positions_of(args.tokenizer),
    )


def _positions_of(model: str) -> int | None:
    """The context length of the tokenizer's model; None without a config.json beside it."""
    file = companion(model, "config.json")
    config = None if file is None else read_json(file)
    return model_positions(config) if isinstance(config, dict) else None


class DataCheck:
    """A check of training files and of the evaluation files of their models.

    Errors are what `llava.train` or the evaluation of a benchmark would refuse; everything else is a warning.

    Args:
        args: of `build_parser`.
        reading: how samples are read.
    """

    def __init__(self, args: argparse.Namespace, reading: Reading):
        self._args = args
        self._reading = reading
        self._workers = min(os.cpu_count() or 1, 8) if args.workers is None else args.workers
        benchmark = load_benchmark(args.benchmark) if args.benchmark else None
        self._metrics = None if benchmark is None else {task.name: task.metric for task in benchmark.tasks}
        self._sound: dict[str, list[Record | None]] = {}
        self._errors = Problems()
        self._warnings = Problems()

    def report(self) -> dict[str, Any]:
        """Check all files.

        Returns:
            JSON values: settings, files (numbers of each), errors, warnings.

        Raises:
            InputError: a file that cannot be read as a list of records.
        """
        args = self._args
        records = {path: read_records(path) for path in (*args.data_path, *args.against)}
        files = [self._file(path, records[path], path in args.data_path) for path in records]
        if args.against:
            self._check_overlaps()
        return {
            "settings": {name: getattr(args, name) for name in _SETTINGS}
            | {"patches_per_image": self._reading.patches_per_image},
            "files": files,
            "errors": problem_list(self._errors),
            "warnings": problem_list(self._warnings),
        }

    def _file(self, path: str, records: list[Record], training: bool) -> dict[str, Any]:
        """Check one file; returns its numbers."""
        usable = self._check_records(path, records, training)
        self._sound[path] = [None] * len(records)
        for n in usable:
            self._sound[path][n] = records[n]
            where = f"{path}: {name_of(records[n], n)}"
            self._check_boxes(records[n], where, path, training)
            measured = not training and (self._metrics or {}).get(self._task(records[n])) is not None
            if measured and len(records[n]["conversations"]) < 2:
                self._errors.add(path, "no truth", f"{where}: has no answer to compare with. Add the gpt turn.")
        reading = self._reading if training else replace(self._reading, tokenizer=None)
        samples = read_samples(records, usable, path, reading, self._workers, self._args.quiet)
        self._errors.merge(self._image_problems(path, records, samples, training))
        counted = None if reading.tokenizer is None else samples
        task_of_record = [self._task(record) for record in records]
        tasks = task_rows(records, task_of_record, counted)
        (total,) = task_rows(records, ["total"] * len(records), counted).values()
        order = [*(name for name in self._metrics or () if name in tasks), *tasks]
        file = {"path": path, "records": len(records), "tasks": {name: tasks[name] for name in order}, "total": total}
        if training:
            for name in self._metrics or ():
                if name not in tasks:
                    self._warnings.add(path, "task without records", f"{path}: no record of task {name}.")
            self._warn_of_cuts(path, records, samples)
            self._warn_of_turns(path, records, usable)
            self._warn_of_positions(path, records, samples)
            self._refuse_unsupervised(path, records, task_of_record, samples)
            file["run"] = self._run(total)
        return file

    def _check_records(self, path: str, records: list[Record], training: bool) -> list[int]:
        """Check the rules of single records; returns the positions of those to check further."""
        names = None if self._metrics is None else list(self._metrics)
        seen: set = set()
        usable = []
        unknown: dict[str, list[int]] = {}
        for n, record in enumerate(records):
            found = list(record_problems(record, f"{path}: {name_of(record, n)}", seen, names, training))
            foreign = foreign_key(record, training)
            for key in unknown_keys(record) if foreign is None else ():
                unknown.setdefault(key, []).append(n)
            for kind, error in found:
                kind = f"{kind}: {shown(foreign.key)}" if kind == FOREIGN_KEY else kind
                (self._errors if is_refused(kind, training) else self._warnings).add(path, kind, str(error))
            if not any(kind in _UNSOUND for kind, _ in found):
                usable.append(n)
        self._warn_of_unknown_keys(path, records, unknown)
        with_image = next((n for n in usable if image_names(records[n])), None)
        if with_image is not None and self._args.image_folder is None and not self._args.no_images:
            where = f"{path}: {name_of(records[with_image], with_image)}"
            self._errors.add(path, "no image folder", f"{where} has an image. Set --image_folder, or --no_images.")
        return usable

    def _warn_of_unknown_keys(self, path: str, records: list[Record], unknown: dict[str, list[int]]) -> None:
        """The keys that most records have, each counted once."""
        for key, having in sorted(unknown.items(), key=lambda item: -len(item[1]))[:_KEYS]:
            message = f"{path}: {name_of(records[having[0]], having[0])}: this key is not used"
            self._warnings.add(path, f"unknown key {shown(key)}", message, len(having))
        if len(unknown) > _KEYS:
            self._warnings.add(path, "further unknown keys", f"{path}: too many to list", len(unknown) - _KEYS)

    def _check_boxes(self, record: Record, where: str, path: str, training: bool) -> None:
        """Check answers that are boxes, and the ground truths of grounding tasks."""
        task = self._task(record)
        grounding = (self._metrics or {}).get(task) == "iou"
        truth = grounding and not training
        turns = record["conversations"]
        for n, turn in enumerate(turns if training else turns[:2]):
            fault = _box_fault(turn["value"], grounding, truth) if turn["from"] == "gpt" else None
            if fault is not None:
                rule = "must be a box [x1, y1, x2, y2] in [0, 1] with x1 < x2 and y1 < y2"
                message = f"{where}: conversations[{n}].value {rule}, got {str(turn['value'])[:80]!r}. Fix the record."
                (self._errors if truth else self._warnings).add(path, f"box {fault} (task {task})", message)

    def _image_problems(self, path: str, records: list[Record], samples: Samples, training: bool) -> Problems:
        """Turn findings of the processes into errors; `--bad_image skip` tolerates some images."""
        if not training or self._args.bad_image == "fail" or not samples.bad_images:
            return samples.problems
        refused = Problems()
        for (source, kind), (count, messages) in samples.problems.found.items():
            (self._warnings if kind == IMAGE_FILE else refused).extend((source, kind), count, messages)
        with_images = sum(1 for record in records if image_names(record))
        if samples.bad_images > most_bad_images(with_images):
            message = f"{path}: {samples.bad_images} of {with_images} records have unreadable images, more than "
            refused.add(path, "too many bad images", f"{message}{BAD_IMAGE_SHARE:.0%}. Fix them.")
        return refused

    def _warn_of_turns(self, path: str, records: list[Record], usable: list[int]) -> None:
        """Empty turns, and records whose answers are all empty."""
        message = empty_turns(np.array([empty_turns_of(records[n]) for n in usable]), records, path, usable)
        if message is not None:
            self._warnings.add(path, "empty turns", message)
        for n in filter(lambda n: is_unanswered(records[n]), usable):
            rule = "every answer is empty: no token is supervised"
            self._warnings.add(path, "empty answers only", f"{path}: {name_of(records[n], n)}: {rule}")

    def _warn_of_cuts(self, path: str, records: list[Record], samples: Samples) -> None:
        answered = np.array([not is_unanswered(records[n]) for n in samples.index.tolist()], bool)
        cut_off = (samples.supervised == 0) & answered
        for kind, flags in (("truncated", samples.truncated), ("nothing supervised", cut_off)):
            for n, length in zip(samples.index[flags].tolist(), samples.length[flags].tolist(), strict=True):
                rule = f"{length} positions, --model_max_length {self._args.model_max_length}"
                self._warnings.add(path, kind, f"{path}: {name_of(records[n], n)}: {rule}")

    def _warn_of_positions(self, path: str, records: list[Record], samples: Samples) -> None:
        """Warn of samples longer than the context of the tokenizer's model."""
        available = self._reading.model_positions
        lengths = np.minimum(samples.length, self._reading.max_length)
        if available is None or not (lengths > available).any():
            return
        n = int(samples.index[samples.length.argmax()])
        message = beyond_positions(f"{path}: {name_of(records[n], n)}", int(lengths.max()), available)
        self._warnings.add(path, "longer than the model", message, int((lengths > available).sum()))

    def _refuse_unsupervised(
        self, path: str, records: list[Record], task_of_record: list[str], samples: Samples
    ) -> None:
        """The rule of training: it looks at an evenly spread sample, and without a benchmark at all tasks as one."""
        supervised = dict(zip(samples.index.tolist(), samples.supervised.tolist(), strict=True))
        kinds: dict[str, Counter] = {}
        for n in surveyed(len(task_of_record)):
            if n in supervised:
                group = _ALL if self._metrics is None else task_of_record[n]
                kind = "learned" if supervised[n] else "unanswered" if is_unanswered(records[n]) else "unsupervised"
                kinds.setdefault(group, Counter())[kind] += 1
        limit = f"keep no supervised token within --model_max_length {self._args.model_max_length}"
        faults = {
            "unanswered": "have empty answers only. Write them.",
            "unsupervised": f"{limit}. Raise it or shorten them.",
        }
        for task, counts in kinds.items():
            for kind, fault in faults.items():
                share = counts[kind] / counts.total()
                if share > UNSUPERVISED_SHARE:
                    message = f"{path}: {share:.0%} of the sampled records of task {task} {fault}"
                    self._errors.add(path, "too few supervised", message)

    def _run(self, total: dict[str, Any]) -> dict[str, Any]:
        """Numbers of a training run on the file."""
        epochs, batch = self._args.num_train_epochs, self._args.global_batch
        tokens = total.get("supervised_tokens", {}).get("sum")
        return {
            "epochs": epochs,
            "global_batch": batch,
            "steps": math.ceil(epochs * StepLayout(batch, 1).steps(total["records"])),
            "supervised_tokens": None if tokens is None else round(epochs * tokens),
        }

    def _check_overlaps(self) -> None:
        """What evaluation files share with training files and with each other. Training files may share everything."""
        for overlap in find_overlaps("", self._sound, strongest=False):
            first, second = overlap.splits
            if second in self._args.against:
                message = f"{first} and {second} share {overlap.count:,} {overlap.kind}, e.g. {overlap.example}"
                self._warnings.add(second, f"shared {overlap.kind}", message, overlap.count)

    def _task(self, record: Record) -> str:
        """What a record is counted under."""
        task = record.get("task")
        if self._metrics is None:
            return task if isinstance(task, str) else "(none)"
        return task if isinstance(task, str) and task in self._metrics else _UNKNOWN


def _box_fault(value: str | list[str], grounding: bool, truth: bool) -> str | None:
    """Problems of the box in an answer; none if it is not a box, except for a grounding task's truth."""
    is_box = isinstance(value, str) and (grounding or _LONE_BOX.fullmatch(value))
    box = read_box(value) if is_box else None
    if box is None:
        return "missing" if truth else None
    return box_fault(box)
