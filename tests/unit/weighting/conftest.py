"""Score matrices and benchmarks made on the spot."""

from pathlib import Path

import pytest

ROWS = {
    "mini": {"A": 0.5, "B": 20.0, "C": 0.1},
    "A": {"A": 0.8, "B": 22.0, "C": 0.1},
    "B": {"A": 0.53, "B": 40.0, "C": 0.3},
    "C": {"A": 0.5, "B": 19.0, "C": 0.5},
}


def as_csv(rows, columns=("A", "B", "C")) -> str:
    lines = [",".join(["model", *columns])]
    lines += [",".join([model, *(repr(cells[column]) for column in columns)]) for model, cells in rows.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def rows():
    return {model: dict(cells) for model, cells in ROWS.items()}


@pytest.fixture
def write_scores(tmp_path):
    def write(rows, columns=("A", "B", "C"), name="scores.csv") -> Path:
        path = tmp_path / name
        path.write_text(as_csv(rows, columns))
        return path

    return write


@pytest.fixture
def write_benchmark(tmp_path):
    def write(tasks, more="") -> Path:
        text = "name: small\ndata_folder: data\nimage_folder: images\n" + more + "tasks:\n"
        for name, setting in tasks.items():
            files = f"{{train: a.json, val: {name}-val.json, test: {name}-test.json}}"
            text += f"  - {{name: {name}, {setting}, files: {files}}}\n"
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return path

    return write
