"""The registry of metrics: what a benchmark file may name, and where each is computed."""

import importlib
import re
import subprocess
import sys

import pytest

from eval.registry import JUDGE, REFERENCE_LISTS, all_metrics, find_metric, metric
from visatb.benchmark import METRICS


def test_benchmark_names_are_those_of_the_decorated_functions(repository):
    declared = [
        name
        for file in (repository / "eval").glob("*.py")
        for name in re.findall(r'^@metric\("(\w+)"', file.read_text(), re.MULTILINE)
    ]
    assert sorted(declared) == sorted(METRICS)
    assert [one.name for one in all_metrics()] == list(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_the_score_function_of_its_module(name):
    found = find_metric(name)
    module = importlib.import_module(found.score.__module__)
    assert module.score is found.score and callable(module.main)
    assert found.range[0] < found.range[1] and not found.lower_is_better


def test_reports_show_a_title_that_a_new_metric_need_not_declare():
    titles = {one.name: one.title for one in all_metrics()}
    assert titles["exact_match"] == "exact match" and titles["iou"] == "IoU > 0.5" and all(titles.values())

    @metric("token_recall", "token_recall")
    def score(answers): ...

    assert score.metric.title == "token recall"


def test_needs_are_declared():
    needs = {one.name: one.needs for one in all_metrics() if one.needs}
    assert needs == {"cider_list": REFERENCE_LISTS, "judge": JUDGE}


def test_the_registry_loads_no_package_of_a_metric(repository):
    code = (
        "import sys; from eval.registry import all_metrics; all_metrics()\n"
        "print(*sorted({'torch', 'nltk', 'pycocoevalcap', 'sacrebleu', 'requests', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [], done.stderr
