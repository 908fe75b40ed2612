"""What a zero-shot benchmark is: the files it needs and where those come from, how it is asked and evaluated.

Layout and file names are LLaVA's `playground/data/eval`; docs/evaluation.md describes them. Paths are relative to the
benchmark's folder and may name {split}, {tier} (GQA) and {model}.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.scores import Scores, Source, report
from eval.zero_shot.answers import Answers
from visatb.files import refuse_unwritable, replacing, write_text

LLAVA_FILES = "LLaVA's eval.zip (https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy/view?usp=sharing)"
COCO = "http://images.cocodataset.org/zips/{}.zip"
LIKE_TEST = "your own conversion, of the form of LLaVA's test file"


@dataclass(frozen=True)
class Evaluation:
    """What became of the answers to a benchmark.

    Attributes:
        source: what was evaluated.
        scores: None where only a submission is made.
        files: files to be written beside the metric file -> their content.
    """

    source: Source
    scores: Scores | None = None
    files: Mapping[str, str | bytes] = field(default_factory=dict)

    def finish(
        self, output: str | os.PathLike | None = None, per_record: str | os.PathLike | None = None, task: str = ""
    ) -> int:
        """Write all files, the metric file last, and print the scores (the files without). Returns the exit code.

        Args:
            output, per_record: see `eval.scores.report`.
            task: the name in the metric file; that of `source` if left out.
        """
        for path, content in self.files.items():
            if isinstance(content, str):
                write_text(path, content)
                continue
            with replacing(path) as part:
                part.write_bytes(content)
        if self.scores is None:
            print(*self.files, sep="\n")
            return 0
        return report(self.scores, replace(self.source, task=task or self.source.task), output, per_record)


@dataclass(frozen=True)
class Place:
    """Where one model takes one benchmark.

    Attributes:
        source, target: the benchmark's folder of data, and that of what is written.
        split: name of the question file where the benchmark has several.
        model: the model's name.
        task: the name in metric files: the benchmark's, with `-<split>` behind it for a split that is not its default.
        answers, metric: the answers file and the metric file.
        judge: settings of the judging model, keywords of `eval.judge.judged_by`.
    """

    source: Path
    target: Path
    split: str
    model: str
    task: str
    answers: Path
    metric: Path
    judge: Mapping[str, Any] = field(default_factory=dict)

    def text(self, template: str) -> str:
        """A template with its names filled in."""
        tier = self.split.removeprefix("llava_gqa_")
        return template.replace("{split}", self.split).replace("{tier}", tier).replace("{model}", self.model)

    def data(self, template: str) -> str:
        """The path of something that is read."""
        return str(self.source / self.text(template))

    def made(self, template: str) -> str:
        """The path of something that is written."""
        return str(self.target / self.text(template))


@dataclass(frozen=True)
class ZeroShot:
    """One benchmark.

    Attributes:
        task: its name in metric files; "" where no number can be had here.
        folders: of its data, the first that exists counts.
        questions, images, answers: the question file, the image folder ("" for none) and the answers file.
        needs: what must be there -> where it comes from; the question file and the images stand here too.
        evaluate: (place, answers) -> evaluations, in the order in which they are finished; writes and prints nothing.
        reader: the form of the question file: "lines", "scienceqa" or "mmbench".
        reader_options: keywords of the function that reads it.
        split: default of {split}; "" where there is but one.
        max_new_tokens: longest answer, as LLaVA's command for the benchmark has it.
        judged: whether it needs a judging model.
    """

    task: str
    folders: tuple[str, ...]
    questions: str
    images: str
    needs: Mapping[str, str]
    evaluate: Callable[[Place, Answers], list[Evaluation]]
    answers: str = "answers/{model}.jsonl"
    reader: str = "lines"
    reader_options: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    max_new_tokens: int = 128
    judged: bool = False


def evaluated(
    evaluate: Callable[..., Evaluation], made: Mapping[str, str] | None = None, **data: str
) -> Callable[[Place, Answers], list[Evaluation]]:
    """A benchmark's `evaluate`, of a function (answers, paths by name) -> evaluation.

    Args:
        made, data: name of an argument -> path of what is written, or read.
    """

    def at_place(place: Place, answers: Answers) -> list[Evaluation]:
        paths = {name: place.data(path) for name, path in data.items()}
        return [evaluate(answers, **paths, **{name: place.made(path) for name, path in (made or {}).items()})]

    return at_place


def submission(answers: Answers, output: str, content: str, *inputs: str | None) -> Evaluation:
    """A submission file alone. Raises InputError if it cannot be written, or would replace one of the inputs."""
    refuse_unwritable([output], [answers.path, *inputs])
    return Evaluation(answers.source, files={output: content})
