"""Answer files made on the spot."""

import json
from pathlib import Path

import pytest


def record(identifier, truth, prediction, task="VQAv2", generator="some_model", question="What?"):
    answer = {"from": "gpt", "value": truth, "generative_value": prediction}
    return {
        "id": identifier,
        "task": task,
        "conversations": [{"from": "human", "value": question}, answer],
        "generator": generator,
    }


@pytest.fixture
def make_record():
    return record


@pytest.fixture
def write_answers(tmp_path):
    def write(records, name="VQAv2-val_some-model.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(records), encoding="utf-8")
        return path

    return write
