"""The start command of the run graph: flags, targets, plans."""

import re

import pytest

from scripts_visatb.workflow import graph
from scripts_visatb.workflow import run as run_command
from scripts_visatb.workflow.run import STEPS, snakemake_command, split_targets
from visatb.errors import InputError


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ("--resources gpus=8 all", ["all"]),
        ("-n weights main", ["weights", "main"]),
        ("weights -n", ["weights"]),
        ("--until train infer", []),
        ("--resources gpus=8 runs/toy/report.html", ["runs/toy/report.html"]),
        ("--retries 2 prepare -k all", ["prepare", "all"]),
        ("--workflow-profile main --jobname=x", []),
        ("-j 4 report", ["report"]),
    ],
)
def test_targets_stand_apart_from_flags_and_their_values(words, targets):
    flags, found = split_targets(words.split())
    assert found == targets
    assert sorted([*flags, *found]) == sorted(words.split())


@pytest.mark.parametrize("words", ["wieghts", "-n --resources gpus=8 wieghts", "-k wieghts all", "--retries 2 wieghts"])
def test_a_mistyped_target_is_refused_with_those_that_there_are(words):
    with pytest.raises(InputError, match="no target 'wieghts'. Use one of weights, main, .*zero_shot"):
        split_targets(words.split())


@pytest.mark.parametrize("words", ["--on-failed exclude", "weights --seedz=1", "-k --seedz 1"])
def test_a_mistyped_flag_is_refused_in_one_line(words):
    with pytest.raises(InputError, match="^unknown flag --(on-failed|seedz). See --help and snakemake --help.$"):
        split_targets(words.split())


def test_targets_come_last_behind_a_mark():
    command = snakemake_command("b.yaml", 2, None, "runs", ["--resources", "gpus=8"], ["weights"])
    assert command[-4:] == ["--resources", "gpus=8", "--", "weights"]
    assert "--" not in snakemake_command("b.yaml", 2, None, "runs", ["-n"], [])


def test_a_plan_asked_for_in_snakemakes_usual_way_is_not_taken_for_a_run(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(run_command, "show_plan", lambda words: commands.append(words) or 0)
    monkeypatch.setattr(run_command, "load_benchmark", lambda path: None)
    monkeypatch.setattr("sys.argv", ["run", "--benchmark", "b.yaml", "-np", "weights"])
    assert run_command.main() == 0
    assert commands[0][-3:] == ["-np", "--", "weights"] and "rules" not in commands[0]


def test_targets_and_steps_are_the_rules_of_the_graph(repository):
    snakefile = (repository / "scripts_visatb/workflow/Snakefile").read_text()
    rules = re.findall(r"^rule (\w+):\n(.*?)(?=^\S)", snakefile + "end", re.MULTILINE | re.DOTALL)
    assert {name for name, body in rules if "message:" not in body} == set(graph.TARGETS)
    seeded = {name for name, body in rules if re.search(r"seed\{\{|\{HOME\}", body)}
    assert {name for name, _ in rules} - seeded - set(graph.TARGETS) == set(STEPS)
