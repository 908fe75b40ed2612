"""The zero-shot suite: one model asked all benchmarks whose data exists, every answers file scored, one table.

The model is loaded once on each GPU that is visible (--processes sets another number); --num-chunks splits the
questions over machines that share --output, and the last to finish scores. Files on the disk are kept: a run that was
killed resumes, and finished answers are only scored again. What is missing is listed with its source and its place;
annotations that do not fit the questions are found before anything is asked; a benchmark that fails is reported and the
others continue. docs/evaluation.md describes every benchmark.

Metric files are <metrics folder>/<model>/<task>.json, which eval/overall.py reads; with --split <task>-<split>.json.

Exit code: 0 if every benchmark asked for has its answers and its score (with `all`: every one whose data exists), 2 if
an input is missing or bad, else 1.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.score_tables import read_score_table
from eval.zero_shot.answers import parse_answers, read_answers
from eval.zero_shot.definition import Place, ZeroShot
from eval.zero_shot.table import BENCHMARKS
from llava.eval import model_vqa_loader, model_vqa_mmbench, model_vqa_science
from llava.eval.suite_report import missing_lines, print_table, zero_shot_line
from llava.generate.answers import AnswerFile, Asked, llava_answer_file
from llava.generate.engine import Model
from llava.generate.engines import model_of
from llava.generate.flags import ENGINE, MODEL, ONE_QUESTION, SPEED, add_flags, settings_of
from llava.generate.shard import WHOLE, Shard, shard_of
from visatb.cli import EXIT_FAILED, EXIT_INPUT, ArgumentParser, one_line, run
from visatb.endpoint import URL_VARIABLE
from visatb.errors import InputError
from visatb.files import read_json

ALL = "all"
_REMEDY = "Move it away, choose another --output or --model-name, or pass --overwrite."
_EXAMPLE = """examples:
  python -m llava.eval.suite --model-path checkpoints/llava-v1.5-7b-visatb --benchmarks all
  python -m llava.eval.suite --model-path checkpoints/ew --benchmarks pope,mme --metrics-folder metrics
  python -m llava.eval.suite --model-path checkpoints/visatb --metrics-folder metrics --baseline metrics/ew
"""


@dataclass
class Sitting:
    """One benchmark taken by the model, and how it went.

    Attributes:
        name, bench, place: which, and where its files are.
        missing: what its data lacks: path below the benchmark's folder -> where it comes from.
        answers: its answers file; None if its data is missing or refused.
        state: "open", then "scored", "answered" (no score can be had here), "missing", "skipped" or "failed".
        message: what a user should know, one line.
        code: of its own.
        metric, score: what the metric file says.
    """

    name: str
    bench: ZeroShot
    place: Place
    missing: dict[str, str]
    answers: AnswerFile | None = None
    state: str = "open"
    message: str = ""
    code: int = 0
    metric: str = ""
    score: float | None = None

    def end(self, state: str, message: str = "", code: int = 0) -> None:
        """Set how it went."""
        self.state, self.message, self.code = state, message, code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    names = chosen(args.benchmarks)
    _check_flags(args, names)
    if args.baseline is not None:
        read_score_table(args.baseline)  # refused before anything is asked if it cannot be read
    model = model_of(args)
    sittings = prepare(args, names, model)
    missing = [(s.name, f"{s.place.source.name}/{need}", why) for s in sittings for need, why in s.missing.items()]
    for line in missing_lines(missing, args.data):
        print(line, flush=True)
    rehearse(sittings)
    if not any(sitting.state == "open" for sitting in sittings) and len(sittings) == 1:
        raise InputError(sittings[0].message)
    ask_all(args, sittings, model)
    if _left(sittings, WHOLE) and not _left(sittings, Shard(args.chunk_idx, args.num_chunks)):
        print("questions are left to other chunks; the last to finish scores")
        return 0
    for sitting in sittings:
        if sitting.state == "open":
            finish(sitting)
    return report(args, sittings, model)


def chosen(names: str) -> list[str]:
    """The benchmarks that --benchmarks names, in the order of the table. Raises InputError for an unknown one."""
    given = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in given if name not in (ALL, *BENCHMARKS)]
    if unknown or not given:
        known = ", ".join([ALL, *BENCHMARKS])
        raise InputError(f"--benchmarks must name some of {known}, got {names!r}. Separate them by commas.")
    return [name for name in BENCHMARKS if ALL in given or name in given]


def _is_all(names: str) -> bool:
    return ALL in [name.strip() for name in names.split(",")]


def prepare(args: Namespace, names: Sequence[str], model: Model) -> list[Sitting]:
    """The sittings: every file looked for and every question read, before a model is loaded.

    What is missing or refused ends that sitting alone.
    """
    fingerprint = model.fingerprint()
    lacking = 0 if _is_all(args.benchmarks) else EXIT_INPUT
    sittings = []
    for name in names:
        bench = BENCHMARKS[name]
        place = _place(args, name, bench, model)
        absent = {need: source for need, source in bench.needs.items() if not Path(place.data(need)).exists()}
        sitting = Sitting(name, bench, place, {place.text(need): place.text(absent[need]) for need in absent})
        sittings.append(sitting)
        if absent:
            files = ", ".join(sitting.missing)
            remedy = "Put it there (sources are listed above)."
            sitting.end("missing", f"{name}: missing in {place.source}: {files}. {remedy}", lacking)
            continue
        if bench.judged and args.judge_model is None:
            message = f"{name}: reviews need a judging model. Give --judge-model (docs/evaluation.md)."
            sitting.end("skipped", message, lacking)
            continue
        try:
            sitting.answers = _answers(args, sitting, fingerprint)
        except (InputError, OSError) as error:
            sitting.end("failed", one_line(error), EXIT_INPUT)
    return sittings


def rehearse(sittings: Sequence[Sitting]) -> None:
    """End a benchmark that is yet to be asked if its files do not fit together and no answers could be scored."""
    for sitting in sittings:
        if sitting.answers is None or sitting.answers.work.complete():
            continue
        misfit = _misfit(sitting)
        if misfit is not None:
            sitting.answers = None
            message = f"{sitting.name}: nothing was asked, for it could not be scored: {misfit}"
            sitting.end("failed", message, EXIT_INPUT)


def _misfit(sitting: Sitting) -> str | None:
    """Why not even empty answers can be evaluated; None if they can."""
    bench, place = sitting.bench, sitting.place
    with tempfile.TemporaryDirectory() as folder:  # no submission or grade of an earlier run lies there
        try:
            blank = parse_answers(sitting.answers.blank(), place.data(bench.questions))
            bench.evaluate(replace(place, target=Path(folder)), blank)
        except (InputError, OSError) as error:
            return one_line(error)
    return None


def ask_all(args: Namespace, sittings: Sequence[Sitting], model: Model) -> None:
    """Answer what has no answer yet, with one process for each GPU where there are several."""
    chunk = Shard(args.chunk_idx, args.num_chunks)
    count = min(args.processes or _processes(args, model), _left(sittings, chunk))
    if count:
        model.report()
    if count == 1:
        _ask(args, sittings, model, chunk)
    elif count:
        _ask_in_processes(args, [sitting.name for sitting in sittings if sitting.answers is not None], count)


def finish(sitting: Sitting) -> None:
    """Write the answers file, then the benchmark's scores and submissions."""
    outcome = sitting.answers.finish()
    if not outcome.written:
        sitting.end("failed", f"{sitting.name}: {outcome.message}", outcome.code)
        return
    place = sitting.place
    print(f"\n{sitting.name}: {place.answers}", flush=True)
    try:
        for evaluation in sitting.bench.evaluate(place, read_answers(place.answers)):
            evaluation.finish(place.metric, place.metric.with_suffix(".per_record.jsonl"), place.task)
    except (InputError, OSError) as error:
        sitting.end("failed", one_line(error), EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED)
        return
    if not place.metric.is_file() or not sitting.bench.task:
        sitting.end("answered")
        return
    content = read_json(place.metric)
    sitting.metric, sitting.score = content["metric"], content["score"]
    sitting.end("scored")


def report(args: Namespace, sittings: Sequence[Sitting], model: Model) -> int:
    """Print what went wrong, the table and dI_zero%; returns the exit code."""
    for sitting in sittings:
        if sitting.code or sitting.state == "skipped":
            stream = sys.stderr if sitting.code else sys.stdout
            print(f"error: {sitting.message}" if sitting.code else sitting.message, file=stream, flush=True)
    if len(sittings) > 1:
        print_table(f"Zero-shot: {model.name}", ((s.name, s.state, s.metric, s.score) for s in sittings))
    codes = {sitting.code for sitting in sittings}
    if all(sitting.state in ("missing", "skipped") for sitting in sittings):
        if EXIT_INPUT not in codes and any(sitting.state == "missing" for sitting in sittings):
            print("error: no benchmark has its data. Put it there (sources are listed above).", file=sys.stderr)
        codes.add(EXIT_INPUT)
    if args.baseline is not None:
        try:
            print(zero_shot_line(_metrics_folder(args) / model.name, args.baseline))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            codes.add(EXIT_INPUT)
    return EXIT_INPUT if EXIT_INPUT in codes else max(codes)


def _place(args: Namespace, name: str, bench: ZeroShot, model: Model) -> Place:
    """The benchmark's folder of data is the first that has its question file; output has the same name."""
    split = args.split or bench.split
    question_file = bench.questions.replace("{split}", split)
    folders = [folder for folder in bench.folders if (Path(args.data) / folder / question_file).exists()]
    folder = (folders or list(bench.folders))[0]
    target = Path(args.output or args.data) / folder
    judge = {"judge_model": args.judge_model, "judge_url": args.judge_url}
    answers = bench.answers.replace("{split}", split).replace("{model}", model.name)
    # Another split is another task; a benchmark of which there is no number has a name that is never written.
    task = (bench.task or name) + (f"-{split}" if split != bench.split else "")
    metric = _metrics_folder(args) / model.name / f"{task}.json"
    return Place(Path(args.data) / folder, target, split, model.name, task, target / answers, metric, judge)


def _answers(args: Namespace, sitting: Sitting, fingerprint: dict[str, str]) -> AnswerFile:
    """The answers file of a benchmark, its way cleared; a metric file of other answers is removed."""
    bench, place = sitting.bench, sitting.place
    questions = place.data(bench.questions)
    asked = _read(bench, questions, place.data(bench.images))
    settings = settings_of(args, bench.max_new_tokens)
    answers = llava_answer_file(place.answers, questions, asked, settings, fingerprint)
    answers.clear_way(_REMEDY, args.overwrite)
    if not answers.work.complete() and bench.task:
        place.metric.unlink(missing_ok=True)
    return answers


def _read(bench: ZeroShot, questions: str, images: str) -> list[Asked]:
    """The questions of a benchmark, in the form of its question file."""
    if bench.reader == "mmbench":  # its images are in the table
        return model_vqa_mmbench.read(questions, **bench.reader_options)
    module = {"lines": model_vqa_loader, "scienceqa": model_vqa_science}[bench.reader]
    return module.read(questions, images, **bench.reader_options)


def _left(sittings: Sequence[Sitting], shard: Shard) -> int:
    """How many questions (of a share) have no answer yet."""
    return sum(len(s.answers.open_questions(shard)) for s in sittings if s.answers is not None)


def _ask(args: Namespace, sittings: Sequence[Sitting], model: Model, shard: Shard) -> None:
    """Answer this process's share; a benchmark that fails is reported when it is finished."""
    engine = None
    for sitting in sittings:
        answers = sitting.answers
        if answers is None or not answers.open_questions(shard):
            continue
        if engine is None:
            engine = model.load(answers.settings)
        try:
            answers.answer(engine.asking(answers.settings), args.batch_size, args.workers, shard)
        except (InputError, OSError, RuntimeError) as error:
            print(f"error: {sitting.name}: {one_line(error)}", file=sys.stderr, flush=True)
            code = EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED
            sitting.end("failed", f"{sitting.name}: {one_line(error)}", code)


def _processes(args: Namespace, model: Model) -> int:
    """As many as there are GPUs, if none is named; one asks a server."""
    if args.device not in (None, "cuda") or getattr(model, "device", "cpu") == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()


def _ask_in_processes(args: Namespace, names: Sequence[str], count: int) -> None:
    """Let processes answer a share each; what one of them could not answer is reported when the file is finished."""
    spawn = multiprocessing.get_context("spawn")
    shares = [spawn.Process(target=run, args=(partial(_share, args, names, n, count),)) for n in range(count)]
    try:
        for process in shares:
            process.start()
        for process in shares:
            process.join()
    finally:
        for process in shares:
            if process.is_alive():
                process.terminate()
                process.join()


def _share(args: Namespace, names: Sequence[str], number: int, count: int) -> int:
    """What one of several processes does; it ends with the process that started it. The exit code is always 0."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is interrupted, and ends the others
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    model = model_of(args, number)
    sittings = prepare(args, names, model)
    _ask(args, sittings, model, Shard(args.chunk_idx, args.num_chunks, number, count))
    return 0


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(EXIT_FAILED)


def _metrics_folder(args: Namespace) -> Path:
    return Path(args.metrics_folder or os.path.join(args.output or args.data, "metrics"))


def _check_flags(args: Namespace, names: Sequence[str]) -> None:
    shard_of(args.chunk_idx, args.num_chunks, {})
    if args.processes is not None and args.processes < 1:
        raise InputError(f"--processes must be at least 1, got {args.processes}.")
    if args.split is not None and (len(names) > 1 or not BENCHMARKS[names[0]].split):
        several = ", ".join(name for name, bench in BENCHMARKS.items() if bench.split)
        raise InputError(f"--split is for one of {several} alone, got --benchmarks {args.benchmarks}. Leave it out.")
    if args.split is not None and os.sep in args.split:
        raise InputError(f"--split must be the name of a question file without its ending, got {args.split!r}.")
    if not Path(args.data).is_dir():
        raise InputError(f"{args.data}: no such folder (--data). Put the benchmarks there; see docs/evaluation.md.")
    settings_of(args, 1)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    add_flags(parser, (*ENGINE, *MODEL))
    files = parser.add_argument_group("benchmarks and files")
    files.add_argument("--benchmarks", default=ALL, help=f"{ALL}, or some of {', '.join(BENCHMARKS)}, with commas")
    files.add_argument("--data", default="playground/data/eval", help="folder of the benchmarks, as LLaVA's")
    files.add_argument("--output", help="folder for answers and submissions, laid out as --data; --data if left out")
    files.add_argument("--metrics-folder", help="<here>/<model>/<task>.json; <output>/metrics if left out")
    files.add_argument("--split", help="another question file of the one benchmark, without its ending")
    files.add_argument("--baseline", help="metric files of another model (its folder), for dI_zero%%")
    add_flags(files, ["--overwrite"])
    files.add_argument("--judge-model", help="judging model of the reviews; they are skipped if left out")
    files.add_argument("--judge-url", help=f"its endpoint; {URL_VARIABLE} or OpenAI's if left out")
    speed = parser.add_argument_group("speed; no effect on the answers")
    speed.add_argument("--processes", type=int, help="on this machine; one for each visible GPU if left out")
    add_flags(speed, SPEED)
    add_flags(parser.add_argument_group("generation; each benchmark has its own --max_new_tokens"), ONE_QUESTION)
    return parser


if __name__ == "__main__":
    run(main)
