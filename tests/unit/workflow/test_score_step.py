"""The scoring step of the graph: which metrics it computes, and the judge with the benchmark's settings."""

import json
from pathlib import Path

import pytest

from eval.judge_client import Judge
from scripts_visatb.workflow.graph import scoring_settings
from scripts_visatb.workflow.models import models_of
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.score import score_model
from visatb.benchmark import Benchmark, Task

FILES = {split: f"talk_{split}-4.json" for split in ("train", "val", "test")}


def make_run(folder: Path, **changes) -> Run:
    """A run of one judged task whose EW model and `base` have answered."""
    settings = {
        "path": folder / "b.yaml",
        "name": "toy",
        "tasks": (Task("talk", "judge", FILES, also=("gleu",)),),
        "mini_rate": 0.5,
        "large_rate": 1.0,
        "temperature": 0.5,
        "alpha": (0.25, 0.25, 0.5),
        "form": "simpler",
        "data_folder": str(folder),
        "image_folder": str(folder),
        "judge": {"judge-model": "m", "judge-max-tokens": 7, "concurrency": 1},
    }
    folder.mkdir(exist_ok=True)
    current = Run(Benchmark(**(settings | changes)), folder / "run", 0)
    records = [
        {
            "id": str(n),
            "task": "talk",
            "image": "one.png",
            "conversations": [{"from": "human", "value": f"<image>\nWhat {n}?"}, {"from": "gpt", "value": "a red cat"}],
        }
        for n in range(4)
    ]
    for split, model in (("test", "EW"), ("val", "base")):
        (folder / FILES[split]).write_text(json.dumps(records))
        answered = json.loads(json.dumps(records))
        for record in answered:
            record["generator"] = model
            record["conversations"][1]["generative_value"] = "a red dog"
        path = current.answer_file(model, split, current.benchmark.task("talk"))
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(answered))
    return current


@pytest.fixture
def asked(monkeypatch) -> list:
    """What the judge was asked: it says 8 for the reference and 6 for the model."""
    questions = []

    def ask(self, session, messages):
        questions.append((self, messages[-1]["content"]))
        return "8 6\nfine"

    monkeypatch.setattr(Judge, "ask", ask)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    return questions


def test_the_judge_has_the_benchmarks_settings_and_is_asked_once(tmp_path, asked):
    current = make_run(tmp_path)
    ew = models_of(current.benchmark)["EW"]
    score_model(current, ew, "test")
    found = json.loads(current.metric_file("EW", "test", "talk").read_text())
    assert (found["metric"], found["score"]) == ("relative_score", 75.0)
    judge = asked[0][0]
    assert (judge.model, judge.max_tokens, judge.url) == ("m", 7, "http://localhost:1/v1")
    assert len(current.reply_file("EW", "test", "talk").read_text().splitlines()) == len(asked) == 4
    score_model(current, ew, "test")
    assert len(asked) == 4, "a reply that is kept was paid for again"


def test_further_metrics_are_for_the_test_set(tmp_path, asked):
    current = make_run(tmp_path)
    found = models_of(current.benchmark)
    score_model(current, found["EW"], "test")
    score_model(current, found["base"], "val")
    assert current.metric_file("EW", "test", "talk:gleu").is_file()
    assert not current.metric_file("base", "val", "talk:gleu").exists()


def test_context_may_differ_between_the_splits(tmp_path, asked):
    (tmp_path / "test.jsonl").write_text(json.dumps({"image": "one.png", "caption": "a cat on a mat"}) + "\n")
    current = make_run(tmp_path, judge={"judge-model": "m", "context-file": {"test": str(tmp_path / "test.jsonl")}})
    found = models_of(current.benchmark)
    score_model(current, found["EW"], "test")
    score_model(current, found["base"], "val")
    reported = ["a cat on a mat" in question for _, question in asked]
    assert reported == [True] * 4 + [False] * 4


def test_another_judge_is_another_score(tmp_path):
    current, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", judge={"judge-model": "n"})
    ew = models_of(current.benchmark)["EW"]
    assert scoring_settings(current.benchmark, ew, "test") != scoring_settings(other.benchmark, ew, "test")
