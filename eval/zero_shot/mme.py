"""MME: accuracy and accuracy+ of every subtask, and the totals of perception and cognition, in points.

As in the official calculation.py (https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, eval_tool) there
are two questions to every image; accuracy counts questions, accuracy+ images with both right, a subtask has the sum of
both in percent (at most 200), and an answer is read from its first four letters. `score` is the perception total.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.scores import Entry, Scores, Source, entry, percent
from eval.zero_shot.answers import AnswerLine, Answers, in_order_of, outcome
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import LLAVA_FILES, Evaluation, ZeroShot, evaluated
from visatb.cli import run
from visatb.errors import InputError
from visatb.files import read_text

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_SHORT_ANSWER = "Answer the question using a single word or phrase."
_YES_OR_NO = "Please answer yes or no."

Key = tuple[str, str, str]
Result = tuple[AnswerLine, str]


def parse_answer(text: str) -> str:
    """ "yes", "no" or "other", by the official rule."""
    start = text.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def score(results: Mapping[str, Sequence[Result]]) -> Scores:
    """The scores of every subtask, and the totals.

    Args:
        results: subtask -> (answer, true answer) of its questions, the two of an image side by side; of
            `paired_answers` or `read_results`.
    """
    entries: list[Entry] = []
    subtasks = {}
    for subtask in [*PERCEPTION, *COGNITION]:
        found = [_entry(subtask, line, truth) for line, truth in results[subtask]]
        both = [first["score"] * second["score"] for first, second in zip(found[::2], found[1::2], strict=True)]
        accuracy, accuracy_plus = percent(found), 100 * sum(both) / len(both)
        subtasks[subtask] = {
            "accuracy": accuracy,
            "accuracy_plus": accuracy_plus,
            "score": accuracy + accuracy_plus,
            "images": len(both),
        }
        entries += found
    totals = {
        name: sum(subtasks[subtask]["score"] for subtask in group)
        for name, group in (("perception", PERCEPTION), ("cognition", COGNITION))
    }
    summary = []
    for name, group in (("perception", PERCEPTION), ("cognition", COGNITION)):
        summary.append(f"=========== {name.capitalize()} ===========\ntotal score: {totals[name]}")
        summary += [f"\t{subtask} score: {subtasks[subtask]['score']}" for subtask in group]
    return outcome("perception", totals["perception"], entries, summary, subtasks=subtasks, **totals)


def paired_answers(answers: Answers, truths: Mapping[str, Sequence[tuple[Key, str]]], source: str) -> dict:
    """Subtask -> (answer, true answer) of its questions, in the order of `read_questions` (`truths`)."""
    keys = [key for found in truths.values() for key, _ in found]
    lines = iter(in_order_of(keys, answers, source, _key_of))
    return {subtask: [(next(lines), truth) for _, truth in found] for subtask, found in truths.items()}


def read_questions(folder: str | os.PathLike) -> dict[str, list[tuple[Key, str]]]:
    """The questions of the official MME_Benchmark_release_version: subtask -> (key, "yes" or "no"), two to an image.

    `<subtask>/questions_answers_YN/<image>.txt`, or `<subtask>/<image>.txt`, holds `question<TAB>answer` lines.
    """
    truths = {}
    for subtask in [*PERCEPTION, *COGNITION]:
        home = Path(folder) / subtask
        inner = home / "questions_answers_YN"
        files = sorted((inner if inner.is_dir() else home).glob("*.txt"))
        if not files:
            raise InputError(f"{home}: has no question file. MME has {len(PERCEPTION + COGNITION)} subtasks: add it.")
        truths[subtask] = [found for file in files for found in _questions_of(subtask, file)]
    return truths


def read_results(folder: str | os.PathLike) -> dict[str, list[Result]]:
    """Answers in the form of the official eval_tool: `<subtask>.txt` of `image<TAB>question<TAB>truth<TAB>answer`."""
    results = {}
    for subtask in [*PERCEPTION, *COGNITION]:
        file = Path(folder) / f"{subtask}.txt"
        rows = [(f"{file} line {n}", row) for n, row in enumerate(read_text(file).split("\n"), 1) if row]
        found, images = [], []
        for where, row in rows:
            cells = row.split("\t")
            if len(cells) != 4:
                raise InputError(f"{where}: must hold image, question, truth and answer. Write the file again.")
            found.append((AnswerLine(f"{subtask}/{cells[0]}", cells[3], cells[1], where), _truth(cells[2], where)))
            images.append(cells[0])
        if not images or images[::2] != images[1::2]:
            raise InputError(f"{file}: must hold two lines for every image, side by side. Write the file again.")
        results[subtask] = found
    return results


def result_files(results: Mapping[str, Sequence[Result]], folder: str | os.PathLike) -> dict[str, str]:
    """The files that the official calculation.py reads: path -> content."""
    files = {}
    for subtask, found in results.items():
        rows = []
        for line, truth in found:
            question = _question(line.prompt)
            cells = [_text_name(line), f"{question} {_YES_OR_NO}", truth.capitalize(), " ".join(line.text.split())]
            rows.append("\t".join(cells) + "\n")
        files[str(Path(folder) / f"{subtask}.txt")] = "".join(rows)
    return files


def _entry(subtask: str, line: AnswerLine, truth: str) -> Entry:
    said = parse_answer(line.text)
    named = replace(line, question_id=f"{subtask}/{_text_name(line)}")  # alike from answers and from official results
    return entry(named, said == truth, truth, malformed=said == "other", subtask=subtask)


def _questions_of(subtask: str, file: Path) -> list[tuple[Key, str]]:
    rows = [(f"{file} line {n}", row.strip()) for n, row in enumerate(read_text(file).split("\n"), 1) if row.strip()]
    if len(rows) != 2:
        raise InputError(f"{file}: must hold two questions, got {len(rows)}. Give the official file.")
    found = []
    for where, row in rows:
        question, tab, truth = row.rpartition("\t")
        if not tab:
            raise InputError(f"{where}: must be question<TAB>answer. Give the official file.")
        found.append(((subtask, file.name, _question(question)), _truth(truth, where)))
    return found


def _truth(text: str, where: str) -> str:
    truth = text.strip().lower()
    if truth not in ("yes", "no"):
        raise InputError(f"{where}: the true answer must be Yes or No, got {text!r}. Give the official file.")
    return truth


def _key_of(line: AnswerLine) -> Key:
    return line.key.split("/")[0], _text_name(line), _question(line.prompt)


def _text_name(line: AnswerLine) -> str:
    return Path(line.key).stem + ".txt"


def _question(text: str) -> str:
    """A question without its instructions; the official files have one space or two before theirs."""
    return " ".join(text.replace(_SHORT_ANSWER, "").replace(_YES_OR_NO, "").split())


def evaluate(
    answers: Answers | None = None,
    annotation_dir: str | None = None,
    result_upload_dir: str | None = None,
    results_dir: str | None = None,
) -> Evaluation:
    """The scores of answers, with the files for calculation.py if a folder is named; or those of such files."""
    if (answers is None) == (results_dir is None):
        raise InputError("one of --answers-file and --results-dir must be given, and not both. Choose one.")
    if results_dir is not None:
        return Evaluation(Source(Path(results_dir)), score(read_results(results_dir)))
    if annotation_dir is None:
        raise InputError("--annotation-dir must name the folder of MME's questions. Give it with --answers-file.")
    results = paired_answers(answers, read_questions(annotation_dir), annotation_dir)
    files = result_files(results, result_upload_dir) if result_upload_dir is not None else {}
    return Evaluation(answers.source, score(results), files)


BENCHMARKS = {
    "mme": ZeroShot(
        "MME",
        ("MME",),
        "llava_mme.jsonl",
        "MME_Benchmark_release_version",
        {
            "llava_mme.jsonl": LLAVA_FILES,
            "MME_Benchmark_release_version": "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models"
            "/tree/Evaluation",
        },
        evaluated(
            evaluate, {"result_upload_dir": "eval_tool/answers/{model}"}, annotation_dir="MME_Benchmark_release_version"
        ),
    )
}


FLAGS = {
    "results_dir": "folder of <subtask>.txt in the form of the official eval_tool, in place of --answers-file",
    "annotation_dir": "MME_Benchmark_release_version, with --answers-file",
    "result_upload_dir": "write <subtask>.txt for the official calculation.py here",
}
main = scorer("mme", __doc__, "--annotation-dir MME_Benchmark_release_version", "MME", evaluate, FLAGS)

if __name__ == "__main__":
    run(main)
