"""The evaluation and weighting commands as a user types them."""

import json
import os
import shlex
import subprocess
import sys

import pytest


@pytest.fixture
def run(repository):
    """Runs a command line in the checkout and returns the finished process."""

    def run(command, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        words = [sys.executable, *shlex.split(command), *map(str, arguments)]
        return subprocess.run(words, cwd=repository, env=environment, capture_output=True, text=True, check=False)

    return run


def refused(done) -> bool:
    """Exit code 2, nothing printed, one line on stderr."""
    return done.returncode == 2 and not done.stdout and len(done.stderr.splitlines()) == 1


def answers(truth, said, name="model"):
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": truth, "generative_value": said}]
    return {"id": truth if isinstance(truth, str) else truth[0], "task": "T", "conversations": turns, "generator": name}


@pytest.mark.parametrize(
    ("script", "records", "printed"),
    [
        ("qa", [answers("two", "Two."), answers("three", "four")], "1 / 2 = 0.5"),
        ("grounding", [answers("[0, 0, 1, 1]", "[0, 0, 1, 0.9]")], "1 / 1 = 1.0"),
        ("grounding_bbox", [answers("[0, 0, 1, 1]", "none")], "0 / 1 = 0.0"),
        ("caption", [answers("a red ring", "no"), answers("two blue stars", "one")], "CIDEr:  0.0"),
        ("caption_list", [answers(["a red ring", "b"], "no"), answers(["two blue stars"], "one")], "CIDEr:  0.0"),
    ],
)
def test_an_evaluator_prints_the_references_line_and_refuses_in_one(run, tmp_path, script, records, printed):
    path, metrics = tmp_path / "answers.json", tmp_path / "metrics.json"
    path.write_text(json.dumps(records))
    done = run(f"eval/{script}.py", "-a", path, "--output", metrics)
    assert (done.returncode, done.stdout) == (0, printed + "\n"), done.stderr
    assert json.loads(metrics.read_text())["n"] == len(records)
    path.write_text("[")
    metrics.unlink()
    done = run(f"eval/{script}.py", "-a", path, "--output", metrics)
    assert refused(done), done.stderr
    assert "line 1 column 2" in done.stderr
    assert not metrics.exists()


def test_scores_become_weights_that_a_shell_can_pass_on(run, tmp_path):
    scores, weights = tmp_path / "scores.csv", tmp_path / "weights.json"
    scores.write_text("model,A,B\nB,0.4,0.9\nmini,0.3,0.2\nA,0.8,0.3\n")
    done = run("weighting_visatb.py --temperature 0.5 --alpha 0.25 0.25 0.5", "--scores", scores, "--output", weights)
    assert done.returncode == 0, done.stderr
    assert "C_out" in done.stdout
    vector = run("weighting_visatb.py --print-weights", "--scores", scores).stdout
    assert [float(word) for word in vector.split()] == list(json.loads(weights.read_text())["weights"].values())


def test_weighting_without_arguments_or_with_a_failed_task_is_refused(run, tmp_path):
    done = run("weighting_visatb.py")
    assert refused(done), done.stderr
    assert "python weighting_visatb.py --scores scores.csv" in done.stderr
    scores = tmp_path / "scores.csv"
    scores.write_text("model,A,B\nmini,0.3,0.2\nA,0.3,0.3\nB,0.4,0.9\n")
    done = run("weighting_visatb.py", "--scores", scores, "--output", tmp_path / "weights.json")
    assert refused(done), done.stderr
    assert "1 task(s) failed: A scores 0.3" in done.stderr
    assert not (tmp_path / "weights.json").exists()


def test_overall_metrics_are_printed_from_two_tables(run, tmp_path):
    (tmp_path / "stl.csv").write_text("model,A,B\nSTL,10,0.5\n")
    (tmp_path / "ours.csv").write_text("model,A,B\nVisATB,12,0.4\n")
    done = run("eval/overall.py", "--baseline", tmp_path / "stl.csv", "--results", tmp_path / "ours.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[-2:] == ["0.00", "10.00"]


@pytest.mark.parametrize("script", ["eval/qa.py", "eval/overall.py", "weighting_visatb.py"])
def test_help_shows_an_example(run, script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert f"example:\n  python {script}" in done.stdout
