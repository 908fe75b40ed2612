"""LLaVA's answers files (JSON Lines): what is asked, the answers as they are made, the file when all are there.

    {"question_id": 3, "prompt": "...", "text": "the answer", "answer_id": "...", "model_id": "...", "metadata": {}}

`llava.eval.model_vqa*` read LLaVA's question files into `Asked` and hand them to `answer_command`; the suite
(`llava.eval.suite`) does the same for many files with one model. The file is complete or absent; a run that was killed
goes on where it was (work.py).
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.eval.fingerprint import model_fingerprint
from llava.eval.questions import Question, Settings, tell_template, template_of
from llava.eval.shard import Shard
from llava.eval.work import Work
from visatb.cli import EXIT_INPUT, ArgumentParser
from visatb.errors import InputError
from visatb.files import refuse_unwritable

if TYPE_CHECKING:
    from llava.eval.common import Answerer

EXIT_FAILED = 1
DTYPES = ("auto", "bf16", "fp16", "fp32")


@dataclass(frozen=True)
class Asked:
    """One question and the line that its answer will stand in.

    Attributes:
        question: what the model is asked; its position is that in the whole file.
        line: the answer line in LLaVA's order of keys; what tells the model is added later.
        key: of the line, where the answer is filled in.
    """

    question: Question
    line: dict[str, Any]
    key: str = "text"


@dataclass(frozen=True)
class Model:
    """Which model answers, and on what.

    Attributes:
        path, base: of the checkpoint, and of its base for LoRA and projector-only checkpoints.
        name: `model_id` of the answers.
        device, dtype: "cpu" or "cuda:N"; "bf16", "fp16" or "fp32".
    """

    path: str
    base: str | None
    name: str
    device: str
    dtype: str

    @classmethod
    def of(cls, args: Any, local_rank: int = 0) -> "Model":
        """The model that --model-path, --model-base, --model-name, --device and --dtype name."""
        from llava.eval.common import default_device, dtype_of
        from llava.mm_utils import get_model_name_from_path

        name = getattr(args, "model_name", None) or get_model_name_from_path(args.model_path)
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise InputError(f"--model-name must be usable in a file name, got {name!r}. Leave out slashes.")
        device = default_device(args.device, local_rank)
        return cls(args.model_path, args.model_base, name, device, dtype_of(args.dtype, device, args.model_path))

    def fingerprint(self) -> dict[str, str]:
        """What the answers depend on."""
        return {"generator": self.name, "dtype": self.dtype, **model_fingerprint(self.path, self.base)}

    def load(self, settings: Settings) -> "Answerer":
        """Load it."""
        from llava.eval.common import Answerer

        return Answerer.load(self.path, self.base, settings, self.device, self.dtype)


@dataclass(frozen=True)
class Shortfall:
    """Why an answers file could not be written: one line, and the exit code that says so."""

    told: str
    code: int


class AnswersFile:
    """One answers file to be."""

    def __init__(self, path: Path, asked: Sequence[Asked], settings: Settings, model: dict[str, str]):
        """Name the work; nothing is written.

        Args:
            path: of the file.
            asked: its questions, in the order of its lines.
            settings: of generation.
            model: of `Model.fingerprint`.
        """
        self.asked, self.settings, self._name = asked, settings, model["generator"]
        made_from = {"answers": "llava", **_digests(asked), **model, **settings.fingerprint()}
        self.work = Work(path, made_from)

    def clear_way(self, inputs: Sequence[str | os.PathLike], remedy: str, overwrite: bool = False) -> None:
        """Refuse or, if told so, remove a file of that name that was made differently, before any work.

        Args:
            inputs: files that must not be overwritten.
            remedy: end of the message.
            overwrite: remove it.

        Raises:
            InputError: as `refuse_unwritable`; a file of another run.
        """
        refuse_unwritable([self.work.final], inputs)
        if overwrite and not self.work.complete():
            self.work.final.unlink(missing_ok=True)
        self.work.refuse_foreign(remedy)

    def open_questions(self, shard: Shard | None = None) -> list[Question]:
        """The questions (of a process's share) that have no answer yet."""
        if self.work.complete():
            return []
        answers = self.work.answers()
        unanswered = (q for q in self._share(shard) if q.position not in answers or answers[q.position].text is None)
        return list(unanswered)

    def answer(
        self,
        answerer: "Answerer",
        batch_size: int,
        workers: int = 2,
        shard: Shard | None = None,
        title: str | None = None,
    ) -> None:
        """Ask a process's share of the questions; answers reach the disk batch by batch.

        Args:
            answerer: the loaded model with these settings.
            batch_size, workers: as for `answer_all`.
            shard: this process's share; None for all.
            title: of the progress bar; the file's name if left out.

        Raises:
            InputError: images for a model without a vision tower; another process writes this share.
            RuntimeError: as `answer_all`.
        """
        from tqdm import tqdm

        from llava.eval.common import answer_all

        questions = self._share(shard)
        still_open = {question.position for question in self.open_questions(shard)}
        if not still_open:
            return
        settled = {question.position for question in questions} - still_open
        bar = tqdm(
            total=len(questions),
            initial=len(settled),
            desc=title or self.work.final.stem,
            unit="q",
            disable=shard is not None and shard.rank > 0,
            mininterval=0.2 if sys.stderr.isatty() else 20,
        )
        with self.work.writing("answers" if shard is None else shard.part) as writer, bar:
            for batch in answer_all(answerer, questions, settled, batch_size, workers):
                writer.append(batch)
                bar.update(len(batch))

    def finish(self) -> Shortfall | None:
        """Write the file if every question is answered; else say what lacks."""
        if self.work.complete():
            return None
        answers = self.work.answers()
        left = [q for q in self._share(None) if q.position not in answers or answers[q.position].text is None]
        told = next((q for q in left if q.position in answers), None)
        if told is not None:
            answer = answers[told.position]
            reason = answer.bad_image or f"{told.where}: {answer.failed}"
            kept = f"{len(left)} of {len(self.asked)} questions have no answer; the others are kept in"
            code = EXIT_INPUT if answer.bad_image else EXIT_FAILED
            return Shortfall(f"{reason} (no answers file: {kept} {self.work.folder})", code)
        if left:
            state = f"{len(left)} of {len(self.asked)} questions have no answer yet"
            return Shortfall(f"{self.work.final}: {state}. The same command goes on.", EXIT_FAILED)
        lines = (self._line(asked, answers[asked.question.position].text) for asked in self.asked)
        self.work.finish("".join(lines), {"records": len(self.asked)})
        return None

    def blank(self) -> str:
        """The file's content with every answer empty."""
        return "".join(self._line(asked, "") for asked in self.asked)

    def _share(self, shard: Shard | None) -> list[Question]:
        share = range(len(self.asked)) if shard is None else shard.of_rank(len(self.asked))
        return [self.asked[n].question for n in share]

    def _line(self, asked: Asked, text: str) -> str:
        told = f"{self._name}\n{asked.line.get('question_id', asked.question.position)}\n{text}"
        content = asked.line | {
            asked.key: text,
            # LLaVA draws a random id; made from the content, the same run writes the same file.
            "answer_id": hashlib.sha256(told.encode()).hexdigest()[:22],
            "model_id": self._name,
            "metadata": {},
        }
        return json.dumps(content, ensure_ascii=False) + "\n"


def answer_parser(module: str, description: str | None, max_new_tokens: int, example: str = "") -> ArgumentParser:
    """The flags of LLaVA's model_vqa commands.

    Args:
        module: name of the command, for the example.
        description: what it does.
        max_new_tokens: its default.
        example: further flags of the example.
    """
    parser = ArgumentParser(
        description=description,
        epilog=f"example:\n  python -m llava.eval.{module} --model-path liuhaotian/llava-v1.5-7b \\\n"
        f"      --answers-file answers.jsonl {example}",
    )
    add_model_flags(parser)
    parser.add_argument("--image-folder", default="", help="folder that `image` fields are relative to")
    parser.add_argument(
        "--question-file",
        "--questions-file",
        dest="question_file",
        required=True,
        help="questions in the benchmark's format",
    )
    parser.add_argument("--answers-file", required=True, help="JSON Lines to be written")
    parser.add_argument("--num-chunks", type=int, default=1, help="parts that the questions are split into")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which part to ask; join the parts' files with cat")
    add_generation_flags(parser, max_new_tokens)
    return parser


def add_model_flags(parser: ArgumentParser) -> None:
    """The flags that `Model.of` reads."""
    parser.add_argument("--model-path", required=True, help="folder of a checkpoint, or a name on the hub")
    parser.add_argument("--model-base", help="base model of a LoRA or projector-only checkpoint")
    parser.add_argument("--model-name", help="`model_id` of the answers; the folder's name if left out")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one if left out")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")


def add_generation_flags(parser: ArgumentParser, max_new_tokens: int | None) -> None:
    """The flags that `settings_of` reads, and --batch-size."""
    parser.add_argument("--conv-mode", help="conversation template; that of the model's training if left out")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy or beam search; above: draw")
    parser.add_argument("--top_p", type=float, help="draw from the likeliest tokens that hold this share")
    parser.add_argument("--num_beams", type=int, default=1, help="width of the beam search")
    own = "; each benchmark's own if left out" if max_new_tokens is None else ""
    parser.add_argument("--max_new_tokens", type=int, default=max_new_tokens, help=f"longest answer{own}")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--batch-size", type=int, default=16, help="questions at a time; no effect on the answers")


def settings_of(args: Any, max_new_tokens: int | None = None) -> Settings:
    """The settings that the flags name. Raises InputError naming the flag that is out of range."""
    if args.batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, got {args.batch_size}.")
    longest = args.max_new_tokens if args.max_new_tokens is not None else max_new_tokens
    template, _ = template_of(args.model_path, args.conv_mode)
    return Settings(template, args.temperature, args.top_p, args.num_beams, longest, args.seed)


def get_chunk(items: Sequence[Any], chunks: int, chunk: int) -> Sequence[Any]:
    """The `chunk`-th of `chunks` contiguous parts of near equal size; empty where there are more parts than items."""
    if chunks < 1 or not 0 <= chunk < chunks:
        raise InputError(f"--chunk-idx must be from 0 to --num-chunks - 1, got {chunk} of {chunks}.")
    return items[len(items) * chunk // chunks : len(items) * (chunk + 1) // chunks]


def answer_command(args: Any, read: Callable[[], list[Asked]]) -> int:
    """What the model_vqa commands do with their flags: ask this chunk's questions and write its answers file.

    Args:
        args: of `answer_parser`.
        read: gives all questions.

    Returns:
        The exit code.
    """
    settings = settings_of(args)
    asked = get_chunk(read(), args.num_chunks, args.chunk_idx)
    model = Model.of(args)
    answers = AnswersFile(Path(args.answers_file), asked, settings, model.fingerprint())
    if answers.work.complete():
        print(f"{answers.work.final}: already complete")
        return 0
    answers.clear_way([args.question_file], "Move it away or choose another --answers-file.")
    if answers.open_questions():
        answerer = model.load(settings)
        tell_template(*template_of(args.model_path, args.conv_mode))
        answers.answer(answerer, args.batch_size)
    shortfall = answers.finish()
    if shortfall is None:
        return 0
    print(f"error: {shortfall.told}", file=sys.stderr)
    return shortfall.code


def _digests(asked: Sequence[Asked]) -> dict[str, str]:
    """What is asked, as content: words and answer lines, and names and sizes of image files (see fingerprint.py)."""
    questions, images = hashlib.sha256(), hashlib.sha256()
    for one in asked:
        questions.update(json.dumps([one.question.position, one.question.text, one.line]).encode() + b"\n")
        for image in one.question.images:
            if isinstance(image, bytes):
                images.update(hashlib.sha256(image).digest())
            else:
                images.update(f"{image.name}\n{os.path.getsize(image)}\n".encode())
    return {"questions": questions.hexdigest(), "images": images.hexdigest()}
