"""Collects the answers of a finished run: the test records that VisATB and equal weights (EW) answer differently.

`gather` selects the records, `write_answers` writes answers.html. Texts of models and annotation files are untrusted:
they are escaped, shortened and shown as text; pictures are decoded and re-encoded.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from eval.answers import Answer, read_answers
from eval.registry import find_metric
from scripts_visatb.workflow.models import EW, STL, VISATB
from scripts_visatb.workflow.pages import environment, render
from scripts_visatb.workflow.places import Run
from visatb.benchmark import Task
from visatb.boxes import Box, box_fault, read_box
from visatb.errors import InputError
from visatb.files import parse_json, read_text, write_text
from visatb.records import IMAGE_TOKEN, image_names, resolve_image
from visatb.weighting.uncertainty import PER_RECORD

PAGE = "answers.html"
RECORDS = 40  # of a task
PAGE_BYTES = 19_000_000
SIDE = 300  # of a thumbnail, in pixels
LONGEST_TEXT = 1500  # characters of a question, truth or answer
MOST_TRUTHS, MOST_PICTURES = 5, 4
# Outcome -> its name on the page. The last one is for metrics that are not hit or miss.
OUTCOMES = {
    "visatb": "VisATB better",
    "ew": "EW better",
    "right": "both right",
    "wrong": "both wrong",
    "equal": "same score",
}
KINDS = {VISATB: "visatb", EW: "ew"}  # model -> class of the style sheet


@dataclass(frozen=True)
class Said:
    """One model's answer to a record, as text; `score` is that of the record."""

    model: str
    kind: str
    text: str | None
    score: float
    best: bool
    overlap: float | None = None


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a data URI, its size on the page in pixels, and boxes in these: (class, x, y, width, height)."""

    source: str
    width: int
    height: int
    boxes: tuple[tuple[str, float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Record:
    """A test record with its answers."""

    answer: Answer
    outcome: str
    gap: float
    said: tuple[Said, ...]

    @property
    def question(self) -> str:
        """The question without the place of the image."""
        return self.answer.question.replace(IMAGE_TOKEN, "").strip()

    @property
    def truths(self) -> list[str]:
        """The truth, or the first of several references."""
        truth = self.answer.truth
        return [str(one) for one in truth[:MOST_TRUTHS]] if isinstance(truth, list) else [str(truth)]


@dataclass(frozen=True)
class TaskAnswers:
    """The test records of one task: how many ended how, and those to show, the most different first."""

    task: str
    metric: str
    counts: dict[str, int]
    shown: list[Record] = field(repr=False)


def gather(current: Run, others: Sequence[str] = (), limit: int = RECORDS) -> list[TaskAnswers]:
    """The answers of STL, EW, VisATB and `others` to the test questions of every measured task.

    Args:
        current: the seed with the final models.
        others: further models that are scored on the test sets.
        limit: records of a task to show.

    Raises:
        InputError: naming the answer file or metric file that is missing or broken.
    """
    return [_of_task(current, task, [EW, *others, VISATB], limit) for task in current.benchmark.measured]


def _of_task(current: Run, task: Task, models: Sequence[str], limit: int) -> TaskAnswers:
    metric = find_metric(task.metric)
    names = {"STL": STL + task.name} | {model: model for model in models}
    scored = {name: _entries(current, model, task.name) for name, model in names.items()}
    answers = read_answers(current.answer_file(EW, "test", task)).of_task(task.name).answers
    sign = -1 if metric.lower_is_better else 1
    hits = {float(one["score"]) for entries in scored.values() for one in entries.values()} <= {0.0, 1.0}
    records = []
    for answer in answers:
        found = {name: entries[answer.position] for name, entries in scored.items() if answer.position in entries}
        if not {EW, VISATB} <= found.keys():
            raise InputError(
                f"{current.home}: the test answers of {task.name} differ in their records. Score the models again."
            )
        gap = sign * (found[VISATB]["score"] - found[EW]["score"])
        best = max(sign * entry["score"] for entry in found.values())
        said = tuple(_said(name, entry, sign * entry["score"] == best) for name, entry in found.items())
        records.append(Record(answer, _outcome(gap, found[EW]["score"], hits), gap, said))
    counted = Counter(record.outcome for record in records)
    counts = {key: counted[key] for key in OUTCOMES if counted[key]}
    return TaskAnswers(task.name, metric.title, counts, chosen(records, limit))


def _entries(current: Run, model: str, task: str) -> dict[int, dict[str, Any]]:
    """Position -> entry of a per-record file."""
    file = current.metric_file(model, "test", task).with_suffix(PER_RECORD)
    found = {}
    for n, line in enumerate(read_text(file).splitlines(), 1):
        entry = parse_json(line, f"{file} line {n}")
        try:
            found[int(entry["position"])] = entry | {"score": float(entry["score"])}
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{file} line {n}: must have a position and a score. Score the answers again.") from None
    return found


def _said(name: str, entry: dict[str, Any], best: bool) -> Said:
    kind = "stl" if name == "STL" else KINDS.get(name, "other")
    text, overlap = entry.get("prediction"), entry.get("iou")
    text = text if isinstance(text, str) else None
    overlap = overlap if isinstance(overlap, int | float) else None
    return Said(name, kind, text, entry["score"], best and entry["score"] != 0, overlap)


def _outcome(gap: float, score: float, hits: bool) -> str:
    if gap:
        return "visatb" if gap > 0 else "ew"
    return ("right" if score else "wrong") if hits else "equal"


def chosen(records: Sequence[Record], limit: int) -> list[Record]:
    """The records to show: the largest gains of VisATB and EW in turn, and in the last quarter some without difference.

    Places that one kind does not fill go to the others.
    """
    ranked = sorted(records, key=lambda record: -abs(record.gap))
    ahead, behind = ([record for record in ranked if sign * record.gap > 0] for sign in (1, -1))
    alike = by_turns(*([r for r in ranked if r.outcome == key] for key in ("wrong", "right", "equal")))
    different = by_turns(ahead, behind)
    kept = different[: max(limit - limit // 4, limit - len(alike))]
    return kept + alike[: limit - len(kept)]


def by_turns(*lists: Sequence[Any]) -> list[Any]:
    """The elements of several lists: the first of each, then the second of each, and so on."""
    absent = object()
    return [one for one in chain.from_iterable(zip_longest(*lists, fillvalue=absent)) if one is not absent]


def pictures(record: Record, image_folder: str) -> tuple[list[Picture], str]:
    """Thumbnails of a record's images, with the boxes of question, truth and answers; and why one is missing, or ""."""
    names = image_names(record.answer.record)
    found: list[Picture] = []
    for name in names[:MOST_PICTURES]:
        try:
            found.append(_thumbnail(image_folder, name, record, with_boxes=len(names) == 1))
        except InputError as error:
            return found, str(error)
    return found, f"{len(names) - MOST_PICTURES} more images" if len(names) > MOST_PICTURES else ""


def _thumbnail(image_folder: str, name: str, record: Record, with_boxes: bool) -> Picture:
    from llava.data.images import load_image

    image = load_image(resolve_image(image_folder, name, record.answer.where), record.answer.where)
    image.thumbnail((SIDE, SIDE))
    width, height = (round(size * SIDE / max(image.size)) or 1 for size in image.size)  # small pictures are enlarged
    with io.BytesIO() as stream:
        image.save(stream, format="WEBP", quality=80)
        source = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    texts = {"asked": record.question}
    texts |= {one.kind: one.text or "" for one in record.said if one.kind in KINDS.values()}
    texts["truth"] = record.truths[0]  # on top: it is dashed, so the others stay visible
    boxes = {kind: box for kind, text in texts.items() if (box := read_box(text)) and box_fault(box) is None}
    drawn = ((kind, *_placed(box, width, height)) for kind, box in boxes.items() if with_boxes)
    return Picture(source, width, height, tuple(drawn))


def _placed(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """A box of the padded square as left, top, width and height in pixels of the picture."""
    side = max(width, height)
    left, top, right, bottom = (
        round(min(max(edge * side - (side - size) / 2, 0.0), size), 1)
        for edge, size in zip(box, (width, height, width, height), strict=True)
    )
    return left, top, right - left, bottom - top


def clip(text: str) -> str:
    """Text of limited length that can be written as UTF-8."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... ({len(text):,} characters)"


def write_answers(found: Sequence[TaskAnswers], benchmark: str, image_folder: str, page: Path) -> Path:
    """Write the page; returns its path.

    Args:
        found: result of `gather`.
        benchmark: its name.
        image_folder: folder that `image` fields are relative to.
        page: the file. It stays below 20 MB: records that no longer fit are left out, the last of every task first.
    """
    from tqdm import tqdm

    cards: dict[str, list[str]] = {part.task: [] for part in found}
    room = PAGE_BYTES
    template = environment().get_template("card.html.j2")
    in_turn = by_turns(*([(part.task, record) for record in part.shown] for part in found))
    for task, record in tqdm(in_turn, desc="answers", unit=" records", delay=5):
        seen, lacking = pictures(record, image_folder)
        card = template.render(record=record, pictures=seen, lacking=lacking, clip=clip)
        room -= len(card.encode())
        if room < 0:
            break
        cards[task].append(card)
    write_text(page, _page(found, benchmark, cards))
    return page


def _page(found: Iterable[TaskAnswers], benchmark: str, cards: dict[str, list[str]]) -> str:
    from markupsafe import Markup  # the cards are escaped

    shown = {task: Markup("\n".join(texts)) for task, texts in cards.items()}
    numbers = {task: len(texts) for task, texts in cards.items()}
    values = {"benchmark": benchmark, "parts": found, "cards": shown, "numbers": numbers, "outcomes": OUTCOMES}
    return render("answers.html.j2", "answers.js", **values)
