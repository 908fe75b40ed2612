"""Ask a model the questions of annotation files and write answer files that eval/ scores.

Every record's first question is asked. The answer file holds the same records plus
`conversations[1].generative_value` and `generator`, and is named `<question stem>_<model name>.json` with `_` as `-`.
It is complete or absent; docs/inference.md tells how runs continue, are split and merged.
"""

import json
import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.eval.fingerprint import file_digest, images_digest, model_fingerprint
from llava.eval.questions import Question, Settings, tell_template, template_of
from llava.eval.shard import Shard, ranks_together, shard_of
from llava.eval.work import Answer, Work
from visatb.cli import EXIT_INPUT, ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_text
from visatb.records import (
    BAD_IMAGE_SHARE,
    Record,
    check_records,
    image_names,
    most_bad_images,
    name_of,
    omitted_file,
    read_records,
    refuse_missing_folder,
    resolve_image,
)

if TYPE_CHECKING:
    from llava.eval.common import Answerer

FORMAT = 1  # of the answers: raised when the same model, questions and settings would be answered differently
EXIT_FAILED = 1

_EXAMPLE = """example:
  python inference_visatb.py --model-path runs/demo/models/visatb --image-folder runs/demo/images \\
      --question-file val_a.json val_b.json --answers-folder runs/demo/answers --batch-size 16
several GPUs:
  torchrun --nproc-per-node 8 inference_visatb.py ...
"""


@dataclass(frozen=True, eq=False)
class Job:
    """One question file and its answers.

    Attributes:
        file: the question file.
        records, questions: its content, by position.
        work: its answers on the disk.
        name: the model name that goes into `generator`.
        skip_bad_images: whether a record with an unreadable image is left out instead of ending in an error.
    """

    file: Path
    records: list[Record]
    questions: list[Question]
    work: Work
    name: str
    skip_bad_images: bool

    def open_positions(self, answers: dict[int, Answer], among: Sequence[int] | None = None) -> list[int]:
        """Positions that are still to be asked; those of unreadable images too where they are too many to skip."""
        among = range(len(self.records)) if among is None else among
        skips = self.skip_bad_images and not self.too_many_bad(answers)
        return [n for n in among if n not in answers or not answers[n].settles(skips)]

    def too_many_bad(self, answers: dict[int, Answer]) -> list[int]:
        """Positions of the unreadable images if they are more than may be left out, else []."""
        bad = sorted(n for n, answer in answers.items() if answer.bad_image is not None)
        return bad if len(bad) > self.most_bad else []

    @cached_property
    def most_bad(self) -> int:
        """How many records may be left out for their images, as in training."""
        return most_bad_images(sum(1 for record in self.records if image_names(record)))

    def merge(self) -> bool:
        """Write the answer file if every question is settled; returns whether it is there."""
        if self.work.complete():
            return True
        answers = self.work.answers()
        if self.open_positions(answers):
            return False
        omitted = [n for n in range(len(self.records)) if answers[n].text is None]
        self._report_omitted(omitted, answers)
        answered = [n for n in range(len(self.records)) if answers[n].text is not None]
        content = [_answered(self.records[n], answers[n].text, self.name) for n in answered]
        text = json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
        self.work.finish(text, {"records": len(self.records), "answered": len(answered), "omitted": len(omitted)})
        print(f"{self.work.final}: {len(answered)} answers" + (f", {len(omitted)} omitted" if omitted else ""))
        return True

    def _report_omitted(self, omitted: list[int], answers: dict[int, Answer]) -> None:
        report = omitted_file(self.work.final)
        if not omitted:
            report.unlink(missing_ok=True)
            return
        lines = [
            {
                "position": n,
                "id": self.records[n].get("id"),
                "image": self.records[n].get("image"),
                "reason": answers[n].bad_image,
            }
            for n in omitted
        ]
        write_text(report, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    model = parser.add_argument_group("model")
    model.add_argument("--model-path", required=True, help="folder of a checkpoint, or a name on the hub")
    model.add_argument("--model-base", help="base model of a LoRA or projector-only checkpoint")
    model.add_argument("--model-name", help="name in file names and in `generator`; the folder's if left out")
    model.add_argument("--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto", help="of the weights")
    model.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one if left out")
    data = parser.add_argument_group("questions and answers")
    data.add_argument("--question-file", nargs="+", required=True, metavar="FILE", help="annotation files")
    data.add_argument("--image-folder", default="", help="folder that `image` fields are relative to")
    data.add_argument("--answers-folder", required=True, help="where answer files go; unfinished work in its work/")
    data.add_argument("--on-bad-image", choices=["fail", "skip"], default="fail", help="skip: leave the record out")
    data.add_argument("--overwrite", action="store_true", help="replace answer files that were made differently")
    prompt = parser.add_argument_group("generation")
    prompt.add_argument("--conv-mode", help="conversation template; that of the model's training if left out")
    prompt.add_argument("--temperature", type=float, default=0.0, help="0: greedy or beam search; above: draw")
    prompt.add_argument("--top_p", type=float, help="draw from the likeliest tokens that hold this share")
    prompt.add_argument("--num_beams", type=int, default=1, help="width of the beam search")
    prompt.add_argument("--max_new_tokens", type=int, default=128, help="longest answer")
    prompt.add_argument("--seed", type=int, default=0, help="of the draws; each question draws by itself")
    speed = parser.add_argument_group("speed; no effect on the answers")
    speed.add_argument("--batch-size", type=int, default=16, help="questions at a time")
    speed.add_argument("--workers", type=int, default=2, help="threads that read images ahead")
    speed.add_argument("--num-chunks", type=int, default=1, help="split over this many separate processes")
    speed.add_argument("--chunk-idx", type=int, default=0, help="which of them this is; the last to finish merges")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    shard = shard_of(args.chunk_idx, args.num_chunks, os.environ)
    for flag, value in (("--batch-size", args.batch_size), ("--workers", args.workers)):
        if value < 1:
            raise InputError(f"{flag} must be at least 1, got {value}.")

    template, reason = template_of(args.model_path, args.conv_mode)
    settings = Settings(template, args.temperature, args.top_p, args.num_beams, args.max_new_tokens, args.seed)
    jobs = plan_jobs(args, settings, shard)
    with ranks_together(shard) as wait_for_all:
        for job in jobs:
            _clear_way(job, args.overwrite, shard)
        wait_for_all()
        unfinished = [job for job in jobs if not job.work.complete()]
        asked = [job for job in unfinished if job.open_positions(job.work.answers(), _mine(job, shard))]
        answerer = load_answerer(args, settings, shard) if asked else None
        if asked and shard.rank == 0:
            tell_template(template, reason)
        for job in unfinished:
            if job in asked:
                ask(job, answerer, args, shard)
            job.merge()
        wait_for_all()
        return outcome(jobs, unfinished, shard)


def plan_jobs(args: Any, settings: Settings, shard: Shard) -> list[Job]:
    """Read and check everything that can be checked before the model is loaded.

    Raises:
        InputError: naming file, record and field.
    """
    name = model_name(args)
    folder = Path(args.answers_folder)
    if not args.answers_folder or (folder.exists() and not folder.is_dir()):
        raise InputError(f"--answers-folder must be a folder, got {args.answers_folder!r}. Choose another.")
    model = model_fingerprint(args.model_path, args.model_base)
    made_from = {
        "format": FORMAT,
        "generator": name,
        "dtype": _device_and_dtype(args, shard)[1],
        **model,
        **settings.fingerprint(),
    }
    sees = "vision_tower" in model or any(part.startswith("hub:") for part in model.values())
    skip = args.on_bad_image == "skip"
    jobs: dict[Path, Job] = {}
    for file in map(Path, args.question_file):
        records = read_records(file)
        check_records(records, file, training=False)
        first = next((n for n, record in enumerate(records) if image_names(record)), None)
        if first is not None:
            if not args.image_folder:
                raise InputError(f"{file}: {name_of(records[first], first)} has an image. Set --image-folder.")
            refuse_missing_folder(args.image_folder)
        questions = [question_of(record, n, file, args.image_folder, skip) for n, record in enumerate(records)]
        pictured = next((question for question in questions if question.images), None)
        if pictured is not None and not sees:
            raise InputError(
                f"{pictured.where}: has an image, and {args.model_path} has no vision tower. Give a LLaVA checkpoint."
            )
        images = images_digest(args.image_folder, (image for record in records for image in image_names(record)))
        final = folder / answer_file_name(file, name)
        if final in jobs:
            raise InputError(f"{file} and {jobs[final].file} would both be answered in {final}. Rename one of them.")
        work = Work(final, made_from | {"questions": file_digest(file), "images": images})
        job = jobs[final] = Job(file, records, questions, work, name, skip)
        missing = [question.problem for question in questions if question.problem is not None]
        if len(missing) > job.most_bad:
            raise InputError(f"{file}: {_too_many(len(missing), job)}; the first: {missing[0]}")
    return list(jobs.values())


def question_of(record: Record, position: int, file: Path, image_folder: str, skip_bad_images: bool) -> Question:
    """What is asked of one record: its first turn, about its images.

    Raises:
        InputError: an image that is missing or lies outside the image folder, unless such records are skipped.
    """
    where = f"{file}: {name_of(record, position)}"
    paths, problem = [], None
    for image in image_names(record):
        try:
            paths.append(resolve_image(image_folder, image, where))
        except InputError as error:
            if not skip_bad_images:
                raise
            problem = str(error)
    return Question(position, where, record["conversations"][0]["value"], tuple(paths), problem)


def model_name(args: Any) -> str:
    """The name in `generator` and in file names."""
    from llava.mm_utils import get_model_name_from_path

    name = args.model_name or get_model_name_from_path(args.model_path)
    if "/" in name or "\0" in name or name in (".", ".."):
        raise InputError(f"--model-name must be usable in a file name, got {name!r}. Leave out slashes.")
    return name


def answer_file_name(question_file: Path, name: str) -> str:
    """`my_questions.json`, `llava_tiny` -> `my-questions_llava-tiny.json`."""
    return f"{question_file.stem.replace('_', '-')}_{name.replace('_', '-')}.json"


def load_answerer(args: Any, settings: Settings, shard: Shard) -> "Answerer":
    """Load the model once, for all question files."""
    from llava.eval.common import Answerer

    return Answerer.load(args.model_path, args.model_base, settings, *_device_and_dtype(args, shard))


def ask(job: Job, answerer: "Answerer", args: Any, shard: Shard) -> None:
    """Answer this process's share of a question file; answers reach the disk batch by batch."""
    from tqdm import tqdm

    from llava.eval.common import answer_all

    mine = _mine(job, shard)
    answers = job.work.answers()
    still_open = set(job.open_positions(answers, mine))
    settled = set(mine) - still_open
    bad = sum(answers[n].bad_image is not None for n in settled)
    with job.work.writing(shard.part) as writer:
        bar = tqdm(
            total=len(mine),
            initial=len(settled),
            desc=job.file.stem,
            unit="q",
            disable=shard.rank > 0,
            mininterval=0.2 if sys.stderr.isatty() else 20,
        )
        with bar:
            questions = [job.questions[n] for n in mine]
            for batch in answer_all(answerer, questions, settled, args.batch_size, args.workers):
                writer.append(batch)
                bar.update(len(batch))
                bad += sum(answer.bad_image is not None for answer in batch)
                if job.skip_bad_images and bad > job.most_bad:
                    return


def outcome(jobs: list[Job], unfinished: list[Job], shard: Shard) -> int:
    """Say how every question file stands; returns the exit code."""
    code = 0
    for job in jobs:
        if job not in unfinished:
            _say(shard, f"{job.work.final}: already complete")
            continue
        if job.work.complete():
            continue
        answers = job.work.answers()
        bad = job.too_many_bad(answers) if job.skip_bad_images else []
        if bad:
            code = EXIT_INPUT
            kept = f"(the answers are kept in {job.work.folder}, and the same command resumes)"
            reason = f"{_too_many(len(bad), job)}; the first: {answers[bad[0]].bad_image}"
            _say(shard, f"error: {job.file}: {reason} {kept}", sys.stderr)
            continue
        left = job.open_positions(answers)
        mine = [n for n in job.open_positions(answers, shard.of_chunk(len(job.records))) if n in answers]
        if not mine:
            _say(shard, f"{job.work.final}: {len(left)} questions left to other chunks; the last to finish merges")
            continue
        first = answers[mine[0]]
        code = max(code, EXIT_INPUT if first.bad_image else EXIT_FAILED)
        reason = first.bad_image or f"{job.questions[mine[0]].where}: {first.failed}"
        remedy = "Fix the image or pass --on-bad-image skip" if first.bad_image else "The same command asks them again"
        _say(
            shard,
            f"error: {reason} ({len(mine)} of {len(job.records)} questions have no answer, the others are kept in "
            f"{job.work.folder}; no answer file). {remedy}.",
            sys.stderr,
        )
    return code


def _too_many(bad: int, job: Job) -> str:
    return (
        f"{bad} of {len(job.records)} records have images that cannot be read; --on-bad-image skip leaves out "
        f"{job.most_bad} here ({BAD_IMAGE_SHARE:.0%} of those with images, at least 1)"
    )


def _clear_way(job: Job, overwrite: bool, shard: Shard) -> None:
    """Refuse or, if told so, remove an answer file that was made differently."""
    complete = job.work.complete()
    if complete and job.work.omitted() and not job.skip_bad_images:
        listed = omitted_file(job.work.final).name
        raise InputError(
            f"{job.work.final}: lacks the records listed in {listed}. Accept that with --on-bad-image skip, or mend "
            "their images."
        )
    if complete:
        return
    refuse_unwritable([job.work.final], [job.file])
    if not overwrite:
        job.work.refuse_foreign("Move it away, choose another --answers-folder or --model-name, or pass --overwrite.")
    elif shard.rank == 0:
        job.work.final.unlink(missing_ok=True)


def _answered(record: Record, text: str, name: str) -> Record:
    answered = deepcopy(record)
    turns = answered["conversations"]
    if len(turns) == 1:
        turns.append({"from": "gpt"})
    turns[1]["generative_value"] = text
    answered["generator"] = name
    return answered


def _mine(job: Job, shard: Shard) -> range:
    return shard.of_rank(len(job.records))


def _device_and_dtype(args: Any, shard: Shard) -> tuple[str, str]:
    from llava.eval.common import default_device, dtype_of

    device = default_device(args.device, shard.local_rank)
    return device, dtype_of(args.dtype, device, args.model_path)


def _say(shard: Shard, text: str, stream: Any = None) -> None:
    if shard.rank == 0:
        print(text, file=stream or sys.stdout)


if __name__ == "__main__":
    run(main)
