"""`visatb new`: the benchmark file that it writes can be used, and its guesses fit the answers."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts_visatb.data.new_benchmark import annotation_files, guess, main
from visatb.benchmark import METRICS, load_benchmark
from visatb.errors import InputError

ANSWERS = {
    "Box": "[0.1, 0.2, 0.3, 0.4]",
    "Vqa": "blue",
    "Caption": "A dog runs over a green field on a sunny day.",
    "Regions": ["a dog", "the dog left"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task, answer in ANSWERS.items():
        for split in ("train", "val", "test"):
            write(tmp_path / f"mine/{task}_{split}-20.json", task, answer[0] if split == "train" else answer)
    write(tmp_path / "mine/2024_train.jsonl", "2024", "Hello.")
    (tmp_path / "mine/notes.txt").touch()
    return tmp_path / "mine"


def write(path, task, answer):
    path.parent.mkdir(exist_ok=True)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": answer}]
    path.write_text(json.dumps([{"id": n, "task": task, "conversations": turns} for n in range(20)]))


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["new", *map(str, words)])
    main()


def test_the_file_loads_and_guesses_are_marked(folder, monkeypatch, capsys):
    call(monkeypatch, folder, "--output", "b.yaml", "--image-folder", "images")
    benchmark = load_benchmark("b.yaml")
    assert {task.name: task.metric for task in benchmark.tasks} == {
        "2024": None,
        "Box": "iou",
        "Caption": "cider",
        "Regions": "cider_list",
        "Vqa": "exact_match",
    }
    assert benchmark.name == "mine" and benchmark.image_folder == "images"
    assert benchmark.task("Vqa").files == {split: f"Vqa_{split}-20.json" for split in ("train", "val", "test")}
    assert benchmark.task("2024").weight == 1.0
    lines = (folder.parent / "b.yaml").read_text().splitlines()
    assert all(
        "# guess" in line for line in lines if "metric:" in line or "max_new_tokens" in line or "weight:" in line
    )
    assert "5 tasks, 4 measured" in capsys.readouterr().out
    with pytest.raises(InputError, match="exists already"):
        call(monkeypatch, folder, "--output", "b.yaml")


@pytest.mark.parametrize(
    "name, message",
    [
        ("Box_validation.json", "are both the val file of Box"),
        ("Other_val.json", "Other has no train file"),
        ("Wrong_train.json", "task must be 'Wrong' as in the file's name, got 'Box'"),
        ("EW_train.json", "EW"),
    ],
)
def test_files_that_make_no_benchmark_are_refused_and_nothing_is_left(folder, monkeypatch, name, message):
    write(folder / name, "EW" if name.startswith("EW") else "Box", "[0.1, 0.2, 0.3, 0.4]")
    with pytest.raises(InputError, match=message):
        call(monkeypatch, folder, "--output", "b.yaml")
    assert not (folder.parent / "b.yaml").exists()


def test_a_folder_without_annotation_files_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file named"):
        annotation_files(tmp_path)


@given(st.lists(st.one_of(st.text(max_size=80), st.lists(st.text(max_size=30), min_size=1, max_size=3)), min_size=1))
def test_any_answers_give_a_metric_there_is_and_room_for_them(answers):
    found = guess(answers)
    assert found.metric in METRICS and found.max_new_tokens >= 16
    longest = max(
        len(text.split()) for answer in answers for text in (answer if isinstance(answer, list) else [answer])
    )
    assert found.max_new_tokens >= longest
