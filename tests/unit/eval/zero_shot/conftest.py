"""Small benchmarks in the exact formats of the official files."""

import json
from pathlib import Path

import pytest

from eval.zero_shot.answers import AnswerLine, Answers


class Bench:
    """Writes files into a folder and makes answers."""

    def __init__(self, folder: Path):
        self.folder = folder

    def json(self, name, content) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def lines(self, name, records) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    def answers(self, pairs, name="answers.jsonl", **fields) -> Path:
        """A file of LLaVA's answer lines out of (question_id, text) or (question_id, text, prompt)."""
        records = []
        for identifier, text, *prompt in pairs:
            record = {"question_id": identifier, "prompt": prompt[0] if prompt else "What?", "text": text}
            records.append(record | {"answer_id": "x", "model_id": "my-model", "metadata": {}} | fields)
        return self.lines(name, records)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def answers():
    """Answers in memory out of (question_id, text) or (question_id, text, prompt)."""

    def make(*pairs) -> Answers:
        lines = [
            AnswerLine(identifier, text, prompt[0] if prompt else "", f"answers.jsonl line {n}")
            for n, (identifier, text, *prompt) in enumerate(pairs, 1)
        ]
        return Answers(Path("answers.jsonl"), tuple(lines), "my-model")

    return make
