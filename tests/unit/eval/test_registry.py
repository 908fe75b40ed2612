"""The registry of metrics: what a benchmark file may name, and where each is computed."""

import importlib
import re
import subprocess
import sys

import pytest

from eval.registry import JUDGE, REFERENCE_LISTS, all_metrics, find_metric
from visatb.benchmark import METRICS


def test_benchmark_names_are_those_of_the_decorated_functions(repository):
    declared = [
        name
        for file in (repository / "eval").glob("*.py")
        for name in re.findall(r'^@metric\("(\w+)"', file.read_text(), re.MULTILINE)
    ]
    assert sorted(declared) == sorted(METRICS)
    assert [metric.name for metric in all_metrics()] == list(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_the_score_function_of_its_module(name):
    metric = find_metric(name)
    module = importlib.import_module(metric.score.__module__)
    assert module.score is metric.score and callable(module.main)
    assert metric.range[0] < metric.range[1] and not metric.lower_is_better


def test_needs_are_declared():
    needs = {metric.name: metric.needs for metric in all_metrics() if metric.needs}
    assert needs == {"cider_list": REFERENCE_LISTS, "judge": JUDGE}


def test_the_registry_loads_no_package_of_a_metric(repository):
    code = (
        "import sys; from eval.registry import all_metrics; all_metrics()\n"
        "print(*sorted({'torch', 'nltk', 'pycocoevalcap', 'sacrebleu', 'requests', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [], done.stderr
