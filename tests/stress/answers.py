"""Mutated answer files for every evaluator: eval/*.py, and the scorers of the zero-shot benchmarks.

An answer file must be refused unless it holds exactly one answer of one model to every question that was asked. Of one
that is accepted every record is there, and those whose prediction is what it was score what they scored. "alone" is a
command that is not given the questions: then the file must be sound in itself.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eval import bleu, caption, caption_list, gleu, grounding, qa
from eval.zero_shot import gqa, mmbench, mme, mmvet, pope, scienceqa, seed, submissions, textvqa, vizwiz, vqav2
from llava.eval import summarize_gpt_review
from tests.stress.mutators import NotJsonError, mutated, same, strict
from tests.stress.trials import Trial, call, verdict
from tests.zero_shot_data import make_zero_shot_data

COUNT = 500
_ROUNDING = 1e-9

Fault = Callable[[Any], str | None]


@dataclass(frozen=True)
class Subject:
    """An evaluator and an answer file that it scores.

    Attributes:
        name, main: the command.
        file: its answer file, with `text` in it before mutation.
        lines: whether that is JSON Lines.
        argv: the flags.
        fault: value of the file -> why it must be refused, or None.
        by_id: whether records have an `id` (else they are in the order of the questions).
        alone: whether the questions are unknown, so that truths may change, and with them all scores.
        output, per_record: what it writes; None if it does not.
    """

    name: str
    main: Callable[[], int | None]
    file: Path
    text: str
    lines: bool
    argv: Sequence[str | Path]
    fault: Fault
    by_id: bool = False
    output: Path | None = None
    per_record: Path | None = None
    alone: bool = False

    @property
    def outputs(self) -> list[Path]:
        return [path for path in (self.output, self.per_record) if path is not None]

    def scores(self) -> list[dict[str, Any]]:
        """What the evaluator wrote for every record."""
        return [] if self.per_record is None else list(map(json.loads, self.per_record.read_text().splitlines()))


def trials(count: int, seed: str, folder: Path) -> Iterator[Trial]:
    """`count` mutated answer files for every evaluator."""
    for subject in [*_evaluators(folder), *_zero_shot(folder)]:
        subject.file.write_text(subject.text, encoding="utf-8")
        ended = call(subject.main, subject.argv)
        assert ended.code == 0, (subject.name, ended)
        usual = subject.scores()
        for n in range(count):
            yield _trial(subject, usual, random.Random(f"{seed} {subject.name} {n}"))


def _trial(subject: Subject, usual: Sequence[dict[str, Any]], chance: random.Random) -> Trial:
    what, content = mutated(subject.text, chance, subject.lines)
    for path in subject.outputs:
        path.unlink(missing_ok=True)
    subject.file.write_bytes(content)
    value, fault, unchanged = None, None, False
    try:
        value = strict(content, subject.lines)
        fault = subject.fault(value)
        unchanged = same(value, strict(subject.text.encode(), subject.lines))
    except NotJsonError as error:
        fault = f"no JSON: {error}"
    ended = call(subject.main, subject.argv)
    found, why = verdict(ended, fault, unchanged, partial(_wrong_result, subject, usual, value), subject.outputs)
    return Trial(subject.name, what, found, why, content)


def _wrong_result(subject: Subject, usual: Sequence[dict[str, Any]], value: Any) -> str | None:
    """What is wrong with the scores that were written for the value of a file."""
    if subject.output is not None and not math.isfinite(json.loads(subject.output.read_text()).get("score", 0)):
        return "the score is not finite"
    scores = subject.scores()
    expected = len(value if subject.alone else usual)
    if len(scores) != expected:
        return f"{len(scores)} of {expected} records are scored"
    before = {entry["id"]: entry for entry in usual} if subject.by_id else dict(enumerate(usual))
    for n, entry in enumerate(scores):
        if subject.by_id and entry["prediction"] is None and (entry["score"] or not entry["malformed"]):
            return f"record {n} scores {entry['score']} without a prediction"
        other = entry if subject.alone else before[entry["id"] if subject.by_id else n]
        if _said(entry) == _said(other) and abs(entry["score"] - other["score"]) > _ROUNDING:
            return f"record {n} scored {other['score']} and scores {entry['score']} with the same prediction"
    return None


def _said(entry: dict[str, Any]) -> list[Any]:
    return [entry.get(name) for name in ("prediction", "said", "runs")]


# eval/*.py

_TRUTHS: dict[str, Callable[[int], Any]] = {
    "caption": lambda n: f"a red ring beside {n} stars",
    "caption_list": lambda n: [f"a red ring and {n} stars", f"{n} stars of some kind"],
    "grounding": lambda n: f"[0.{n}, 0.1, 0.9, 0.8]",
    "qa": lambda n: f"answer {n}",
    "bleu": lambda n: f"a red ring beside {n} stars",
    "gleu": lambda n: [f"a red ring and {n} stars", f"{n} stars"],
}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value) and any(map(_is_text, value))


_IS_TRUTH: dict[str, Callable[[Any], bool]] = {
    "caption": _is_text,
    "caption_list": _is_texts,
    "grounding": lambda value: _is_text(value) and value.count(",") >= 3,
    "qa": lambda value: isinstance(value, str),
    "bleu": lambda value: _is_text(value) or _is_texts(value),
    "gleu": lambda value: _is_text(value) or _is_texts(value),
}


def _evaluators(folder: Path) -> Iterator[Subject]:
    for module in (caption, caption_list, grounding, qa, bleu, gleu):
        name = module.__name__.removeprefix("eval.")
        home = folder / name
        home.mkdir()
        records = []
        for n in range(1, 6):
            truth = _TRUTHS[name](n)
            said = (truth if isinstance(truth, str) else truth[0]) if n % 2 else "a red ring and [0.1, 0.1, 0.9, 0.8]"
            turns = [{"from": "human", "value": f"<image>\nWhat is {n}?"}, {"from": "gpt", "value": truth}]
            turns[1]["generative_value"] = said
            identifier = n if n > 3 else f"id {n}"
            records.append({"id": identifier, "image": f"{n}.jpg", "task": "T", "conversations": turns})
            records[-1]["generator"] = "my-model"
        questions, file = home / "asked.json", home / "answers.json"
        output, per_record = home / "metric.json", home / "records.jsonl"
        questions.write_text(json.dumps([_question(record) for record in records]))
        argv = ["-a", file, "--output", output, "--per-record", per_record]
        rest = (True, output, per_record)
        text, script = json.dumps(records), f"eval/{name}.py"
        asked = [*argv, "--question-file", questions]
        yield Subject(script, module.main, file, text, False, asked, partial(_record_fault, asked=records), *rest)
        fault = partial(_fault_alone, is_truth=_IS_TRUTH[name])
        yield Subject(f"{script} alone", module.main, file, text, False, argv, fault, *rest, alone=True)


def _question(record: dict[str, Any]) -> dict[str, Any]:
    question = json.loads(json.dumps({key: value for key, value in record.items() if key != "generator"}))
    del question["conversations"][1]["generative_value"]
    return question


def _record_fault(value: Any, asked: Sequence[dict[str, Any]]) -> str | None:
    """Why the records of an answer file are not one answer of one model to each of `asked`."""
    fault = _fault_alone(value, lambda _: True)
    if fault is not None:
        return fault
    named = [json.dumps(record.get("id")) for record in value]
    wanted = {json.dumps(record["id"]): record for record in asked}
    if sorted(named) != sorted(wanted):
        return "other records than were asked"
    for name, record in zip(named, value, strict=True):
        turns = record["conversations"]
        pairs = [(turns[n].get("value"), wanted[name]["conversations"][n]["value"]) for n in range(2)]
        pairs.append((record.get("task"), wanted[name]["task"]))
        if not all(same(one, other) for one, other in pairs):
            return f"record {name} is not as it was asked"
    return None


def _fault_alone(value: Any, is_truth: Callable[[Any], bool]) -> str | None:
    """Why a file holds no answers of one model, whatever was asked."""
    if not isinstance(value, list) or not value or not all(isinstance(record, dict) for record in value):
        return "no list of records"
    named = [record.get("id") for record in value]
    if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in named):
        return "a record without id"
    if len(set(named)) < len(named):
        return "an id twice"
    for name, record in zip(named, value, strict=True):
        turns = record.get("conversations")
        if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns[:2]):
            return f"record {name} has no pair of turns"
        if "value" not in turns[1] or not is_truth(turns[1]["value"]):
            return f"record {name} has no truth"
    makers = [record.get("generator") for record in value]
    if not all(maker is None or isinstance(maker, str) for maker in makers) or len(set(makers)) > 1:
        return "no single generator"
    if not any("generative_value" in record["conversations"][1] for record in value):
        return "no prediction"
    return None


# The zero-shot benchmarks

_COLOURS = ("red", "green", "blue")


def _zero_shot(folder: Path) -> Iterator[Subject]:
    data = make_zero_shot_data(folder / "data")
    benches = {
        "textvqa": (textvqa, "textvqa/llava_textvqa_val_v051_ocr.jsonl", _COLOURS, "--annotation-file",
                    "textvqa/TextVQA_0.5.1_val.json"),
        "pope": (pope, "pope/llava_pope_test.jsonl", ("Yes", "No", "maybe"), "--annotation-dir", "pope/coco",
                 "--question-file", "pope/llava_pope_test.jsonl"),
        "mme": (mme, "MME/llava_mme.jsonl", ("Yes", "No", "no"), "--annotation-dir",
                "MME/MME_Benchmark_release_version"),
        "seed": (seed, "seed_bench/llava-seed-bench.jsonl", ("A", "B", "D"), "--annotation-file",
                 "seed_bench/SEED-Bench.json"),
        "vqav2": (vqav2, "vqav2/llava_vqav2_mscoco_val2014.jsonl", ("1", "two"), "--annotation-file",
                  "vqav2/v2_mscoco_val2014_annotations.json"),
        "gqa": (gqa, "gqa/llava_gqa_testdev_balanced.jsonl", _COLOURS, "--annotation-file",
                "gqa/data/testdev_balanced_questions.json"),
        "vizwiz": (vizwiz, "vizwiz/llava_val.jsonl", ("can", "tin"), "--question-file", "vizwiz/llava_val.jsonl",
                   "--annotation-file", "vizwiz/val.json"),
    }  # fmt: skip
    for name, (module, asked, said, *flags) in benches.items():
        questions = [json.loads(line) for line in (data / asked).read_text().splitlines()]
        pairs = [(question["question_id"], question["text"]) for question in questions]
        by_prompt = name in ("textvqa", "mme")
        paths = [flag if flag.startswith("--") else data / flag for flag in flags]
        yield _scorer(folder, name, module.main, _lines(pairs, said), paths, by_prompt=by_prompt)
    problems = json.loads((data / "scienceqa/llava_test_CQM-A.json").read_text())
    pairs = [(problem["id"], problem["conversations"][0]["value"]) for problem in problems]
    yield _scorer(folder, "scienceqa", scienceqa.main, _lines(pairs, ("A", "B")), ["--base-dir", data / "scienceqa"])
    rows = [(7, "What is it?"), (1000007, "What is it?"), (2000007, "What is it?"), (8, "Is it red?")]
    tsv = data / "mmbench/mmbench_dev_20230712.tsv"
    yield _scorer(folder, "mmbench", mmbench.main, _lines(rows, ("A", "C", "B")), ["--annotation-file", tsv])
    yield from _others(folder, data)


def _lines(pairs: Sequence[tuple[Any, str]], said: Sequence[str]) -> list[dict[str, Any]]:
    fields = {"answer_id": "x", "model_id": "my-model", "metadata": {}}
    return [
        {"question_id": identifier, "prompt": prompt, "text": said[n % len(said)], **fields}
        for n, (identifier, prompt) in enumerate(pairs)
    ]


def _scorer(folder: Path, name: str, main: Callable, lines: list, flags: Sequence, by_prompt: bool = False) -> Subject:
    home = folder / f"scorer-{name}"
    home.mkdir()
    file, output, per_record = home / "answers.jsonl", home / "metric.json", home / "records.jsonl"
    argv = ["--answers-file", file, *flags, "--output", output, "--per-record", per_record]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    fault = partial(_line_fault, asked=lines, by_prompt=by_prompt)
    return Subject(f"scorers/{name}.py", main, file, text, True, argv, fault, False, output, per_record)


def _line_fault(value: Any, asked: Sequence[dict[str, Any]], by_prompt: bool = False) -> str | None:
    """Why answer lines are not one answer of one model to each of `asked`."""
    if not value or not all(isinstance(line, dict) for line in value):
        return "no lines of objects"
    for n, line in enumerate(value):
        identifier, model = line.get("question_id"), line.get("model_id")
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            return f"line {n} has no question_id"
        if not isinstance(line.get("text"), str) or not (model is None or isinstance(model, str)):
            return f"line {n} has a text or model_id of another type"
        if not same(line.get("round_id", 0), 0):
            return None if by_prompt else _round_fault(line)
    if len({line.get("model_id") for line in value}) > 1:
        return "several models"
    keys, wanted = ([_key(line, by_prompt) for line in lines] for lines in (value, asked))
    return "other questions than were asked" if Counter(keys) != Counter(wanted) else None


def _round_fault(line: dict[str, Any]) -> str | None:
    return None if isinstance(line["round_id"], int) else "a round of another type"


def _key(line: dict[str, Any], by_prompt: bool) -> tuple[str, str]:
    """What is answered; where the prompt is part of it, subtask and image of the id and the question of the prompt."""
    identifier = str(line["question_id"])
    if not by_prompt:
        return identifier, ""
    prompt = line.get("prompt") if isinstance(line.get("prompt"), str) else ""
    question = [part for part in prompt.split("\n") if not part.startswith("Reference OCR")][0:1]
    return f"{identifier.split('/')[0]}/{Path(identifier).stem}", " ".join(" ".join(question).lower().split())


def _others(folder: Path, data: Path) -> Iterator[Subject]:
    """What reads answers or grades and is no scorer of LLaVA's lines."""
    home = folder / "others"
    home.mkdir()
    for name, asked in (
        ("gqa", "gqa/llava_gqa_testdev_balanced.jsonl"),
        ("vizwiz", "vizwiz/llava_val.jsonl"),
        ("vqav2", "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl"),
        ("mmvet", "mm-vet/llava-mm-vet.jsonl"),
    ):
        questions = [json.loads(line) for line in (data / asked).read_text().splitlines()]
        lines = _lines([(question["question_id"], question["text"]) for question in questions], ("cat", "dog"))
        file, output = home / f"{name}.jsonl", home / f"{name}-upload" / "upload.json"
        argv = [name, "--answers-file", file, "--question-file", data / asked, "--output", output]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        fault = partial(_line_fault, asked=lines)
        yield Subject(f"submissions.py {name}", submissions.main, file, text, True, argv, fault)
    grades, output, per_record = home / "grades.json", home / "mmvet.json", home / "mmvet.jsonl"
    argv = ["--grade-file", grades, "--annotation-file", data / "mm-vet/mm-vet.json"]
    argv += ["--output", output, "--per-record", per_record]
    text = json.dumps({"v1_0": {"score": [0.0, 0.5]}, "v1_1": {"score": [1.0, 1]}})
    yield Subject("scorers/mmvet.py", mmvet.main, grades, text, False, argv, _grade_fault, False, output, per_record)
    reviews = home / "reviews.jsonl"
    rated = [{"question_id": n, "category": "conv", "tuple": [8, n + 5.5], "content": "8"} for n in range(3)]
    text = "".join(json.dumps(line) + "\n" for line in rated)
    yield Subject(
        "summarize_gpt_review.py", summarize_gpt_review.main, reviews, text, True, ["-f", reviews], _review_fault
    )


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _grade_fault(value: Any) -> str | None:
    if not isinstance(value, dict) or set(value) != {"v1_0", "v1_1"}:
        return "other questions than were graded"
    runs = [grade.get("score") if isinstance(grade, dict) else None for grade in value.values()]
    if not all(isinstance(run, list) and run and all(_is_number(x, 0, 1) for x in run) for run in runs):
        return "a grade of another type"
    return "other numbers of runs" if len(runs[0]) != len(runs[1]) else None


def _review_fault(value: Any) -> str | None:
    if not value or not all(isinstance(line, dict) for line in value):
        return "no lines of objects"
    pairs = [line.get("tuple", line.get("score")) for line in value]
    rated = all(
        isinstance(pair, list) and len(pair) == 2 and all(_is_number(x, -1, 10) for x in pair) for pair in pairs
    )
    return None if rated else "ratings of another type"
