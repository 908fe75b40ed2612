"""Mutated annotation files for llava.data.check, the checks of a training, label_tasks and split.

Each of the four must refuse a file in which a rule below is broken; the rules are written down here anew. Of a file
that is accepted every answer that says something must be learned, and every record must come out as it went in.
"""

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from PIL import Image
from transformers import CLIPImageProcessor

from llava.conversation import conv_templates
from llava.data import check
from llava.data.dataset import SupervisedDataset
from llava.data.first_look import look_at_samples
from llava.data.tokenizer import read_tokenizer
from llava.train.arguments import DataArguments
from llava.train.assembly import load_data
from scripts_visatb.data import label_tasks, split
from tests.stress.mutators import NotJsonError, mutated, same, strict
from tests.stress.trials import Trial, call, verdict
from tests.tiny import make_tiny_tokenizer

COUNT = 500
_TASKS = ("VQA", "Chat")
_LONGEST = 10**6  # tokens: nothing is cut
_FOREIGN = {  # what other trainers write -> values that mean something there
    **dict.fromkeys(("images", "Images", "image_list", "image-paths"), (["a.png"], "a.png")),
    **dict.fromkeys(("video", "videos", "audio", "audios"), ("x.mp4", ["x.wav"])),
    **dict.fromkeys(("system", "system_prompt"), ("Be brief.",)),
    **dict.fromkeys(("loss", "train"), (False, 0)),
    **dict.fromkeys(("weight", "loss_scale"), (0.5, 2, "0.1")),
}
_HARMLESS = {"source": "coco", "images": [], "video": None, "system": "", "loss": True, "weight": 1, "area": [1, 2]}
_PLAIN = {re.sub("[-_ ]", "", key).lower(): values for key, values in _FOREIGN.items()}

Wrong = Callable[[list[dict]], str | None]


@dataclass(frozen=True)
class Subject:
    """A command that reads annotation files.

    Attributes:
        name, main, argv: the command.
        outputs: what it writes, a pattern of the folder.
        needs: what must be true of a record beside the rules for all four: field -> rule.
        wrong: the records of the file -> what is wrong with what came out.
    """

    name: str
    main: Callable[[], int | None]
    argv: Sequence[str | Path]
    outputs: str
    needs: dict[str, Callable[[dict], bool]]
    wrong: Wrong


def trials(count: int, seed: str, folder: Path) -> Iterator[Trial]:
    """`count` mutated files, half of them JSON Lines, for each of the four commands."""
    file, records = folder / "train.json", _make(folder)
    subjects = _subjects(folder, file)
    for n in range(-2, count):
        chance = random.Random(f"{seed} {n}")
        lines = n % 2 == 1
        text = "\n".join(map(json.dumps, records)) + "\n" if lines else json.dumps(records, indent=1)
        what, content = _mutated(text, records, lines, chance) if n >= 0 else ("nothing", text.encode())
        file.write_bytes(content)
        for subject in subjects:
            trial = _trial(subject, folder, what, content, lines, records)
            if n >= 0:
                yield trial
            else:
                assert trial.verdict == "accepted", trial


def _trial(subject: Subject, folder: Path, what: str, content: bytes, lines: bool, original: list[dict]) -> Trial:
    for path in folder.glob(subject.outputs):
        path.unlink()
    found, fault = [], None
    try:
        found = strict(content, lines)
        fault = _fault(found, subject.needs)
    except NotJsonError as error:
        fault = f"no JSON: {error}"
    ended = call(subject.main, subject.argv)
    # The report of the check is written whatever it finds.
    left = [] if subject.main is check.main else list(folder.glob(subject.outputs))
    unchanged = fault is None and same(found, original)
    result, why = verdict(ended, fault, unchanged, partial(subject.wrong, found), left)
    return Trial(subject.name, what, result, why, content)


def _make(folder: Path) -> list[dict]:
    """Images, a tokenizer, a benchmark and rules; returns the records of the file that is mutated."""
    (folder / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30), (200, 30, 30)).save(folder / "images" / f"{name}.png")
    make_tiny_tokenizer(folder / "tokenizer")
    files = {name: {part: f"{name}_{part}.json" for part in split.SPLITS} for name in _TASKS}
    tasks = [{"name": name, "metric": "exact_match", "files": files[name]} for name in _TASKS]
    benchmark = {"name": "mix", "data_folder": ".", "image_folder": "images", "tasks": tasks}
    (folder / "mix.yaml").write_text(yaml.safe_dump(benchmark))
    (folder / "rules.yaml").write_text("rules: [{task: VQA, image: '*.png'}, {task: Chat}]")
    images = ["a.png", None, ["a.png", "b.png"], "b.png", None, ["b.png"]] * 2
    return [_record(n, image) for n, image in enumerate(images)]


def _record(n: int, image: str | list[str] | None) -> dict:
    names = [image] if isinstance(image, str) else image or []
    texts = ["<image>\n" * len(names) + "What colour is it?", "red", "And its shape?", "A square."][: 2 + 2 * (n % 2)]
    turns = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]
    # LLaVA's mix has conversations that open with an answer, which is dropped.
    turns = [{"from": "gpt", "value": "Hello."}, *turns] if n == 4 else turns
    record = {"id": n if n % 3 else f"r-{n}", "task": _TASKS[image is None], "conversations": turns}
    return record if image is None else record | {"image": image}


def _mutated(text: str, records: list[dict], lines: bool, chance: random.Random) -> tuple[str, bytes]:
    """A mutation of JSON, or a key that a record or a turn has in the data of other trainers."""
    if chance.random() < 0.75:
        return mutated(text, chance, lines)
    changed = json.loads(json.dumps(records))
    place = chance.choice(changed)
    if chance.random() < 0.4:
        place = chance.choice(place["conversations"])
    key = chance.choice([*_FOREIGN, *_HARMLESS])
    foreign = key in _FOREIGN and (key not in _HARMLESS or chance.random() < 0.5)
    place[key] = chance.choice(_FOREIGN[key]) if foreign else _HARMLESS[key]
    content = "\n".join(map(json.dumps, changed)) if lines else json.dumps(changed)
    return f"{key}: {place[key]!r}", content.encode()


# What must be refused


def _fault(records: Any, needs: dict[str, Callable[[dict], bool]]) -> str | None:
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        return "no list of records"
    for record in records:
        broken = _record_fault(record) or next((field for field, rule in needs.items() if not rule(record)), None)
        if broken is not None:
            return broken
    return None


def _record_fault(record: dict) -> str | None:
    identifier, turns, images = record.get("id"), record.get("conversations"), _images(record)
    if isinstance(identifier, bool) or not isinstance(identifier, str | int | None):
        return "id"
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "conversations"
    if not all(isinstance(turn.get("value"), str) for turn in turns):
        return "a turn without text"
    spoken = [turn.get("from") for turn in _spoken(turns)]
    if not spoken or spoken != ["human", "gpt"] * (len(spoken) // 2):
        return "turns that are no questions and answers"
    if not all(isinstance(name, str) and name for name in images):
        return "image"
    tokens = [turn["value"].count("<image>") for turn in turns if turn["from"] == "human"]
    if sum(tokens) != len(images) or any("<image>" in turn["value"] for turn in turns if turn["from"] == "gpt"):
        return "image tokens"
    foreign = [key for place in (record, *turns) for key, value in place.items() if _is_foreign(key, value, place)]
    return f"key {foreign[0]}" if foreign else None


def _is_foreign(key: str, value: Any, place: dict) -> bool:
    if place.get("from") == "human" and value in (False, 0):
        return False  # questions are not learned anyway
    meant = _PLAIN.get(re.sub("[-_ ]", "", key).lower(), ())
    return any(same(value, one) for one in meant)


def _images(record: dict) -> list:
    image = record.get("image")
    return [] if image is None else image if isinstance(image, list) else [image]


def _spoken(turns: list[dict]) -> list[dict]:
    return turns[1:] if turns and turns[0].get("from") == "gpt" else turns


# The commands


def _subjects(folder: Path, file: Path) -> list[Subject]:
    every = ["--data_path", file, "--image_folder", folder / "images", "--benchmark", folder / "mix.yaml"]
    report, labelled, parts = folder / "report.json", folder / "labelled.json", folder / "parts"
    checking = [*every, "--tokenizer", folder / "tokenizer", "--model_max_length", _LONGEST, "--output", report]
    labelling = ["--input", file, "--output", labelled, "--rules", folder / "rules.yaml"]
    splitting = ["--input", file, "--output", parts, "--val", "1", "--by", "record"]
    training = _Training(folder)
    of_tasks = [{"task": _of_the_benchmark, "image": _is_there}, {"task": _is_name}]
    return [
        Subject("llava.data.check", check.main, [*checking, "--quiet"], "report.json", of_tasks[0], _report(report)),
        Subject("checks of training", training.main, every, "none", of_tasks[0], training.wrong),
        Subject("label_tasks", label_tasks.main, labelling, "labelled*", {}, _labels(labelled)),
        Subject("split", split.main, splitting, "parts/*", of_tasks[1], _parts(parts)),
    ]


def _of_the_benchmark(record: dict) -> bool:
    return isinstance(record.get("task"), str) and record["task"] in _TASKS


def _is_name(record: dict) -> bool:
    return isinstance(record.get("task"), str) and re.fullmatch(r"[\w.-]+", record["task"]) is not None


def _is_there(record: dict) -> bool:
    return {"a.png", "b.png"}.issuperset(_images(record))


def _report(file: Path) -> Wrong:
    """Whether the report counts other records than the file has."""

    def wrong(records: list[dict]) -> str | None:
        (counted,) = json.loads(file.read_text())["files"]
        found = {task: row["records"] for task, row in counted["tasks"].items()}
        return None if found == Counter(record["task"] for record in records) else f"{found} records are counted"

    return wrong


def _labels(file: Path) -> Wrong:
    """Whether a record got another task than the rules say, or changed otherwise."""

    def wrong(records: list[dict]) -> str | None:
        labelled = strict(file.read_bytes())
        firsts = [(_images(record) or [""])[0] for record in records]
        expected = [
            record | {"task": _TASKS[not first.endswith(".png")]} for record, first in zip(records, firsts, strict=True)
        ]
        ids = [str(record["id"]) for record in labelled if record.get("id") is not None]
        if not same(*([record | {"id": None} for record in part] for part in (labelled, expected))):
            return "other records came out"
        return None if len(set(ids)) == len(ids) else "an id occurs twice"

    return wrong


def _parts(folder: Path) -> Wrong:
    """Whether the files together hold other records than went in."""

    def wrong(records: list[dict]) -> str | None:
        parts = [record for path in folder.iterdir() for record in strict(path.read_bytes())]
        without = [
            sorted(
                json.dumps(one | {"conversations": _spoken(one["conversations"])}, sort_keys=True) for one in several
            )
            for several in (parts, records)
        ]
        return None if without[0] == without[1] else "other records came out"

    return wrong


class _Training:
    """What a training does with its file before the first step, without a model."""

    def __init__(self, folder: Path):
        self._tokenizer = read_tokenizer(folder / "tokenizer", model_max_length=_LONGEST)
        self._processor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
        self._dataset: SupervisedDataset | None = None

    def main(self) -> None:
        """The checks."""
        flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
        data = DataArguments(**{flag.lstrip("-"): value for flag, value in flags.items()})
        records = load_data(data, list(_TASKS))
        ids = {name: k for k, name in enumerate(_TASKS)}
        rest = {"image_processor": self._processor, "image_folder": data.image_folder, "source": data.data_path}
        self._dataset = SupervisedDataset(records, self._tokenizer, conv_templates["v1"], ids, **rest)
        look_at_samples(self._dataset, _TASKS, _LONGEST, 4, SimpleNamespace(), True)

    def wrong(self, records: list[dict]) -> str | None:
        """Whether another number of images is seen, or of answers learned, than the file has."""
        for n, record in enumerate(records):
            sample = self._dataset[n]
            learned = (sample["labels"] != -100).int()
            answers = int((learned.diff() == 1).sum())
            said = sum(bool(turn["value"].strip()) for turn in _spoken(record["conversations"])[1::2])
            images = 0 if sample["images"] is None else len(sample["images"])
            if (answers, images) != (said, len(_images(record))) or _TASKS[sample["task_id"]] != record["task"]:
                return f"record {n}: {answers} answers of {said} are learned, {images} images are seen"
        return None
