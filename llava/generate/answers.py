"""An answer file: what is asked, the answers as they are made, the file when all are there.

`AnswerFile` is the same for every command; what differs is how the file is written:

- `write_records`: VisATB's annotation records with `conversations[1].generative_value` and `generator`;
- `write_lines`: LLaVA's JSON Lines,
  {"question_id": 3, "prompt": "...", "text": "the answer", "answer_id": "...", "model_id": "...", "metadata": {}}

The file is complete or absent; a run that was killed resumes where it was (work.py).
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.generate.engine import Engine
from llava.generate.loop import answer_all
from llava.generate.questions import Question, Settings
from llava.generate.shard import WHOLE, Shard
from llava.generate.work import Answer, Work
from visatb.cli import EXIT_FAILED, EXIT_INPUT
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_text
from visatb.records import BAD_IMAGE_SHARE, omitted_file


@dataclass(frozen=True)
class Asked:
    """One question and the record of the answer file that its answer is put into.

    Attributes:
        question: what the model is asked; its position is that in the whole question file.
        record: VisATB's record, or LLaVA's line without what names the model.
        key: of LLaVA's line, where the answer is filled in.
    """

    question: Question
    record: dict[str, Any]
    key: str = "text"


@dataclass(frozen=True)
class Outcome:
    """How an answer file stands: whether it is there, one line about it, and the exit code."""

    written: bool
    message: str
    code: int = 0


Write = Callable[[Iterable[tuple[Asked, str]], str], str]


class AnswerFile:
    """One answer file to be."""

    def __init__(
        self,
        path: Path,
        source: str | os.PathLike,
        asked: Sequence[Asked],
        settings: Settings,
        made_from: Mapping[str, Any],
        write: Write,
        most_omitted: int | None = None,
        bad_image_remedy: str = "Fix the image and run the same command again",
    ):
        """Name the work; nothing is written.

        Args:
            path: of the file.
            source: the question file.
            asked: its questions, in the order of the answers.
            settings: of generation.
            made_from: what the answers depend on besides the settings; `generator` is the model's name.
            write: the file's content from questions with answers and the model's name.
            most_omitted: how many questions may be left out because their image cannot be read; None: not one, and
                the file is not written.
            bad_image_remedy: what to do about such an image, for the message.
        """
        self.source, self.asked, self.settings, self.most_omitted = Path(source), asked, settings, most_omitted
        self._name, self._write, self._bad_image_remedy = made_from["generator"], write, bad_image_remedy
        self.work = Work(path, {**made_from, **settings.fingerprint()})

    def clear_way(self, remedy: str, overwrite: bool = False) -> None:
        """Refuse, or remove if `overwrite`, a file of that name that was made differently, before any work.

        Args:
            remedy: end of the message.

        Raises:
            InputError: as `refuse_unwritable`; a file of another run, or one that lacks answers although none may be.
        """
        if self.work.complete():
            if self.most_omitted is None and self.work.omitted():
                listed = omitted_file(self.work.final).name
                remedy = "Accept that with --on-bad-image skip, or fix their images."
                raise InputError(f"{self.work.final}: lacks the records listed in {listed}. {remedy}")
            return
        refuse_unwritable([self.work.final], [self.source])
        if overwrite:
            self.work.final.unlink(missing_ok=True)
        self.work.refuse_foreign(remedy)

    def open_questions(self, shard: Shard = WHOLE) -> list[Question]:
        """The questions of a process's share that are still to be asked."""
        return [] if self.work.complete() else self._open(shard.of_rank(len(self.asked)), self.work.answers())

    def answer(self, engine: Engine, batch_size: int, workers: int = 2, shard: Shard = WHOLE) -> None:
        """Ask a process's share of the questions; answers reach the disk batch by batch.

        Args:
            engine: the loaded model with these settings.
            batch_size, workers: as for `answer_all`.
            shard: this process's share.

        Raises:
            InputError: images for a model that takes none; another process writes this share.
            OSError: as `answer_all`.
        """
        from tqdm import tqdm

        share = shard.of_rank(len(self.asked))
        still_open = self.open_questions(shard)
        if not still_open:
            return
        questions = [self.asked[n].question for n in share]
        settled = {question.position for question in questions} - {question.position for question in still_open}
        answers = self.work.answers()
        bad = sum(answers[position].bad_image is not None for position in settled)
        bar = tqdm(
            total=len(questions),
            initial=len(settled),
            desc=self.source.stem,
            unit="q",
            disable=shard.rank > 0,
            mininterval=0.2 if sys.stderr.isatty() else 20,
        )
        with self.work.writing(shard.part) as writer, bar:
            for batch in answer_all(engine, questions, settled, batch_size, workers):
                writer.append(batch)
                bar.update(len(batch))
                bad += sum(answer.bad_image is not None for answer in batch)
                if self.most_omitted is not None and bad > self.most_omitted:
                    return

    def finish(self, shard: Shard = WHOLE) -> Outcome:
        """Write the file if every question is settled.

        Args:
            shard: a chunk whose open questions are a failure; those of other chunks are theirs to ask.
        """
        if self.work.complete():
            return Outcome(True, f"{self.work.final}: already complete")
        answers = self.work.answers()
        left = self._open(range(len(self.asked)), answers)
        return self._shortfall(len(left), answers, shard) if left else self._written(answers)

    def blank(self) -> str:
        """The file's content with every answer empty."""
        return self._write(((one, "") for one in self.asked), self._name)

    def too_many_bad(self, count: int) -> str:
        """Says that more images cannot be read than questions may be left out."""
        return (
            f"{self.source}: {count} of {len(self.asked)} records have images that cannot be read; --on-bad-image skip "
            f"leaves out {self.most_omitted} here ({BAD_IMAGE_SHARE:.0%} of those with images, at least 1)"
        )

    def _open(self, among: Iterable[int], answers: Mapping[int, Answer]) -> list[Question]:
        """Questions that are still to be asked; those of unreadable images too where they are too many to omit."""
        bad = sum(answer.bad_image is not None for answer in answers.values())
        may_omit = self.most_omitted is not None and bad <= self.most_omitted
        questions = (self.asked[n].question for n in among)
        return [q for q in questions if q.position not in answers or not answers[q.position].settles(may_omit)]

    def _shortfall(self, left: int, answers: Mapping[int, Answer], shard: Shard) -> Outcome:
        """Why the file cannot be written."""
        bad = [answers[position].bad_image for position in sorted(answers) if answers[position].bad_image is not None]
        if self.most_omitted is not None and len(bad) > self.most_omitted:
            kept = f"(the answers are kept in {self.work.folder}, and the same command resumes)"
            return Outcome(False, f"{self.too_many_bad(len(bad))}; the first: {bad[0]} {kept}", EXIT_INPUT)
        mine = self._open(shard.of_chunk(len(self.asked)), answers)
        if not mine:
            return Outcome(
                False, f"{self.work.final}: {left} questions left to other chunks; the last to finish merges"
            )
        count = f"{len(mine)} of {len(self.asked)} questions have no answer"
        failed = next((question for question in mine if question.position in answers), None)
        if failed is None:
            return Outcome(False, f"{self.work.final}: {count} yet. The same command resumes.", EXIT_FAILED)
        answer = answers[failed.position]
        reason, remedy, code = answer.bad_image, self._bad_image_remedy, EXIT_INPUT
        if reason is None:
            reason = f"{failed.where}: {answer.failed}"
            remedy, code = "The same command asks them again", EXIT_FAILED
        kept = f"the others are kept in {self.work.folder}; no answer file"
        return Outcome(False, f"{reason} ({count}, {kept}). {remedy}.", code)

    def _written(self, answers: Mapping[int, Answer]) -> Outcome:
        """Write the file, and beside it the list of what was left out."""
        texts = [(one, answers[one.question.position].text) for one in self.asked]
        answered = [(one, text) for one, text in texts if text is not None]
        omitted = [one for one, text in texts if text is None]
        listed = [
            {"position": (n := one.question.position)}
            | {key: one.record.get(key) for key in ("id", "image")}
            | {"reason": answers[n].bad_image}
            for one in omitted
        ]
        if listed:
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in listed)
            write_text(omitted_file(self.work.final), "".join(lines))
        else:
            omitted_file(self.work.final).unlink(missing_ok=True)
        counts = {"records": len(self.asked), "answered": len(answered), "omitted": len(omitted)}
        self.work.finish(self._write(answered, self._name), counts)
        message = f"{self.work.final}: {len(answered)} answers" + (f", {len(omitted)} omitted" if omitted else "")
        return Outcome(True, message)


def write_records(answered: Iterable[tuple[Asked, str]], name: str) -> str:
    """VisATB's answer file: a JSON list of the records with their answers."""
    records = []
    for asked, text in answered:
        record = deepcopy(asked.record)
        turns = record["conversations"]
        if len(turns) == 1:
            turns.append({"from": "gpt"})
        turns[1]["generative_value"] = text
        record["generator"] = name
        records.append(record)
    return json.dumps(records, indent=4, ensure_ascii=False, allow_nan=False) + "\n"


def write_lines(answered: Iterable[tuple[Asked, str]], name: str) -> str:
    """LLaVA's answers file: JSON Lines."""
    lines = []
    for asked, text in answered:
        content = f"{name}\n{asked.record.get('question_id', asked.question.position)}\n{text}"
        line = asked.record | {
            asked.key: text,
            # LLaVA draws a random id; made from the content, the same run writes the same file.
            "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
            "model_id": name,
            "metadata": {},
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def llava_answer_file(
    path: Path, source: str | os.PathLike, asked: Sequence[Asked], settings: Settings, model: Mapping[str, Any]
) -> AnswerFile:
    """A LLaVA answers file; `model` is a `Model.fingerprint`."""
    return AnswerFile(path, source, asked, settings, {"answers": "llava", **_digests(asked), **model}, write_lines)


def _digests(asked: Sequence[Asked]) -> dict[str, str]:
    """What is asked, as content: words and answer lines, and names and sizes of image files (see fingerprint.py)."""
    questions, images = hashlib.sha256(), hashlib.sha256()
    for one in asked:
        questions.update(json.dumps([one.question.position, one.question.text, one.record]).encode() + b"\n")
        for image in one.question.images:
            if isinstance(image, bytes):
                images.update(hashlib.sha256(image).digest())
            else:
                images.update(f"{image.name}\n{os.path.getsize(image)}\n".encode())
    return {"questions": questions.hexdigest(), "images": images.hexdigest()}
