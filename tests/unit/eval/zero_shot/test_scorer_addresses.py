"""The addresses that scorers had before they moved to eval/zero_shot, and the table of benchmarks."""

import importlib
import subprocess
import sys

import pytest
from waiting import PATIENCE

from eval.zero_shot.answers import read_answers
from eval.zero_shot.definition import Place
from eval.zero_shot.table import BENCHMARKS, ZERO_SHOT_TASKS

NAMES = {
    "common": "AnswerLine Answers Scores by_id entry get in_order_of numbered outcome percent percent_by read_answers "
    "read_lines read_object",
    "gqa": "main prediction_of score",
    "llavabench": "main read_reviews score summarize table_lines",
    "mmbench": "main parse_option score submission",
    "mmbench_table": "LETTERS Row read_table",
    "mme": "COGNITION PERCEPTION main paired_answers parse_answer read_questions read_results score",
    "mmvet": "grades_of main score",
    "pope": "main parse_answer read_labels score",
    "scienceqa": "llava_results main parse_choice read_problems score",
    "seed": "main score",
    "submissions": "gqa_predictions main mmvet_answers mmvet_submission seed_submission vizwiz_submission "
    "vqav2_submission",
    "textvqa": "main question_of read_annotations score",
    "vizwiz": "main score",
    "vqa_text": "accuracy normalize normalize_m4c vqa_accuracy",
    "vqav2": "main read_annotations reference_answers score",
}


@pytest.mark.parametrize("module", NAMES)
def test_a_scorer_is_importable_at_its_former_address(module):
    found = importlib.import_module(f"llava.eval.scorers.{module}")
    lacking = [name for name in NAMES[module].split() if not hasattr(found, name)]
    assert not lacking, f"{module} lacks {', '.join(lacking)}"


def test_a_scorer_runs_at_its_former_address(bench):
    truth = bench.json("t.json", {"1": {"answer": "cat", "isBalanced": True}})
    words = ["--answers-file", str(bench.answers([("1", "cat")])), "--questions", str(truth)]
    done = subprocess.run(
        [sys.executable, "-m", "llava.eval.scorers.gqa", *words], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0 and done.stdout == "Accuracy: 100.00%\n", done.stderr


def test_the_table_of_benchmarks_is_at_its_former_address():
    from llava.eval import zero_shot

    assert zero_shot.BENCHMARKS is BENCHMARKS and zero_shot.ZERO_SHOT_TASKS is ZERO_SHOT_TASKS


def test_every_benchmark_has_a_script_and_every_paper_task_a_benchmark(repository):
    scripts = {file.stem for file in (repository / "scripts_visatb" / "eval").glob("*.sh")} - {"run"}
    assert scripts | {"vqav2_val", "vizwiz_val"} == set(BENCHMARKS)
    assert set(ZERO_SHOT_TASKS) <= {bench.task for bench in BENCHMARKS.values()}


def test_the_benchmark_of_the_architecture_page_is_declared_and_scored(repository, bench, capsys):
    page = (repository / "docs" / "architecture.md").read_text().partition("+++ b/eval/zero_shot/colours.py\n")[2]
    source = "\n".join(line[1:] for line in page.partition("\n--- ")[0].split("\n"))
    found = {"__name__": "colours", "__doc__": ""}
    exec(compile(source, "colours.py", "exec"), found)
    truth = bench.json("colours/colours.json", {"1": "red", "2": "blue"})
    answers = bench.answers([(1, "Red"), (2, "green")])
    assert found["main"](["--answers-file", str(answers), "--annotation-file", str(truth)]) == 0
    place = Place(truth.parent, bench.folder, "", "m", "Colours", answers, bench.folder / "m.json")
    (evaluation,) = found["BENCHMARKS"]["colours"].evaluate(place, read_answers(answers))
    assert evaluation.scores["score"] == 50 and capsys.readouterr().out == "Accuracy: 50.00%\n"
