"""Benchmark files: one definition of tasks, checked."""

import sys
from pathlib import Path

import pytest
import yaml

from visatb.benchmark import load_benchmark
from visatb.errors import InputError

FILES = {"train": "a.json", "val": "b.json", "test": "c.json"}
GOOD = {
    "name": "mix",
    "data_folder": "d",
    "image_folder": "i",
    "mini_rate": 0.1,
    "tasks": [
        {"name": "A", "metric": "cider", "files": FILES},
        {"name": "Chat", "weight": 1.0, "files": {"train": "chat.json"}},
        {"name": "B", "metric": "iou", "files": FILES},
    ],
}


def write(folder: Path, **changes) -> Path:
    content = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    (folder / "mix.yaml").write_text(yaml.safe_dump(content))
    return folder / "mix.yaml"


def test_tasks_keep_their_order_and_fixed_weights_stay_out_of_the_measured_ones(tmp_path):
    benchmark = load_benchmark(write(tmp_path))
    assert benchmark.task_names == ["A", "Chat", "B"]
    assert [task.name for task in benchmark.measured] == ["A", "B"]
    assert benchmark.task("Chat").weight == 1.0
    assert benchmark.alpha == (0.25, 0.25, 0.5) and benchmark.temperature == 0.5


TASK = GOOD["tasks"][0]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"tasks": ...}, "tasks must be a list"),
        ({"tasks": [TASK, TASK]}, "task 'A' is listed twice"),
        ({"tasks": [TASK | {"metric": "bleurt"}]}, r"tasks\[0\].metric must be one of"),
        ({"tasks": [TASK | {"weight": 1.0}]}, "a metric or a fixed weight"),
        ({"tasks": [{"name": "A", "files": FILES}]}, "a metric or a fixed weight"),
        ({"tasks": [TASK | {"files": {"train": "x"}}]}, "lacks val, test"),
        ({"tasks": [TASK | {"name": "../A"}]}, "name must be letters"),
        ({"tasks": [TASK | {"metrc": "cider"}]}, r"unknown key tasks\[0\].metrc"),
        ({"tasks": [{"name": "A", "weight": -1, "files": FILES}]}, "weight must be a number > 0"),
        ({"tasks": [TASK | {"group": 3}]}, "group must be text"),
        ({"tasks": [TASK | {"group": "../G"}]}, r"tasks\[0\].group must be letters"),
        ({"tasks": [TASK | {"name": ".."}]}, "name must be letters"),
        ({"tasks": [TASK | {"name": "mini"}]}, "'mini' is the name of a common model"),
        ({"tasks": [TASK | {"group": "base"}]}, "'base' is the name of a common model"),
        ({"tasks": [TASK | {"metric": "bleu"}]}, "bootstrap must be 0: A's BLEU"),
        ({"name": "a/b"}, "name must be letters"),
        ({"prepare": ["make", "data"]}, "prepare must be text"),
        ({"training": {"environment": ["A=1"]}}, "training.environment must be a mapping"),
        ({"training": {"enviroment": {}}}, "unknown key training.enviroment. Known: environment, gpus"),
        ({"training": {"launcher": "srun"}}, "unknown key training.launcher"),
        ({"training": {"keep_models": "false"}}, "training.keep_models must be true or false"),
        ({"inference": {"batchsize": 4}}, "unknown key inference.batchsize. Known: batch-size, conv-mode"),
        ({"inference": {"model-path": "x"}}, "unknown key inference.model-path"),
        ({"inference": {1: 2}}, "unknown key inference.1"),
        ({"zero_shot": {"benchmark": "pope"}}, "unknown key zero_shot.benchmark. Known: batch-size, benchmarks"),
        ({"baselines": ["TLAA"]}, "baselines must be of EW, .*UW or file.py:Class, got 'TLAA'"),
        ({"mini_rate": 10**400}, "mini_rate must be a number > 0"),
        ({"tasks": [TASK, TASK | {"name": "B", "group": "A"}]}, "names a task and a group"),
        ({"tasks": [TASK | {"files": "x"}]}, "files must be a mapping"),
        ({"tasks": [TASK | {"also": ["cider"]}]}, "also must add to metric"),
        ({"tasks": [TASK | {"also": ["bleurt"]}]}, r"tasks\[0\].also must be one of"),
        ({"tasks": [TASK | {"also": "gleu"}]}, "also must be a list of names"),
        ({"tasks": [TASK | {"metric": "judge"}]}, "judge must name a judge-model"),
        ({"form": "short"}, "form must be one of standard, simpler, precise"),
        ({"on_failed": "ignore"}, "on_failed must be one of fail, exclude, clip"),
        ({"baselines": ["TLA", "TLA"]}, "baselines names one twice"),
        ({"baselines": "TLA"}, "baselines must be a list of names"),
        ({"ablations": {"a": 1}}, "ablations must be a list of mappings"),
        ({"ablations": [{"name": "a", "T": 1}]}, r"unknown key ablations\[0\].T"),
        ({"ablations": [{"name": "a", "alpha": [1, 1, 0]}]}, r"ablations\[0\].alpha must sum to 1"),
        ({"ablations": [{"name": "a"}, {"name": "a"}]}, r"ablations\[1\].name must be"),
        ({"ablations": [{"name": "a", "form": "short"}]}, r"ablations\[0\].form must be one of standard"),
        ({"judge": {"judge-model": "m", "juge-url": "x"}}, "unknown key judge.juge-url"),
        ({"bootstrap": -1}, "bootstrap must be a whole number >= 0"),
        ({"mini_rate": 0}, "mini_rate must be a number > 0"),
        ({"mini_rate": 1.5}, "mini_rate must be at most 1"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"alpha": [0.5, 0.5, 0.5]}, "alpha must sum to 1"),
        ({"alpha": [1, 0]}, "alpha must be three numbers"),
        ({"temprature": 1}, "unknown key temprature"),
        ({"name": ...}, "name must be text"),
        ({"seed": 1.5}, "seed must be a whole number"),
    ],
)
def test_mistakes_are_refused_by_file_and_key(tmp_path, changes, told):
    with pytest.raises(InputError, match=told) as error:
        load_benchmark(write(tmp_path, **changes))
    assert "mix.yaml" in str(error.value)


def test_a_doubled_key_is_refused_by_line(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "mini_rate: 0.5\n")
    last = len(path.read_text().splitlines())
    with pytest.raises(InputError, match=f"mix.yaml: line {last}: key 'mini_rate' occurs twice"):
        load_benchmark(path)


def test_flags_are_taken_in_both_spellings_and_those_of_ones_own_program_are_not_looked_at(tmp_path):
    flags = {"batch-size": 4, "max_new_tokens": 9, "num-beams": 2, "launcher": "torchrun", "gpus": 2}
    assert load_benchmark(write(tmp_path, inference=flags)).inference == flags
    own = {"script": "mine.py", "speed": "high"}
    assert load_benchmark(write(tmp_path, inference=own)).inference == own
    methods = ["TLA", "mine/rule.py:Rule"]
    assert load_benchmark(write(tmp_path, baselines=methods)).baselines == tuple(methods)


def test_without_pyyaml_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InputError, match="pip install pyyaml"):
        load_benchmark(write(tmp_path))


def test_forms_baselines_ablations_and_an_automatic_temperature_are_read(tmp_path):
    ablations = [{"name": "T-2", "temperature": 2.0}, {"name": "out", "alpha": [1, 0, 0], "temperature": "auto"}]
    ablations.append({"name": "exact", "form": "precise"})
    task = TASK | {"metric": "judge", "also": ["gleu"]}
    changes = {"form": "simpler", "temperature": "auto", "on_failed": "clip", "baselines": ["TLA", "DWA"]}
    path = write(tmp_path, tasks=[task], judge={"judge-model": "m"}, ablations=ablations, **changes)
    benchmark = load_benchmark(path)
    assert (benchmark.form, benchmark.temperature, benchmark.on_failed) == ("simpler", None, "clip")
    assert benchmark.baselines == ("TLA", "DWA") and benchmark.task("A").also == ("gleu",)
    first, second, third = benchmark.ablations
    assert [ablation.form for ablation in benchmark.ablations] == ["simpler", "simpler", "precise"]
    assert (third.temperature, third.alpha) == (None, (0.25, 0.25, 0.5))
    assert benchmark.bootstrap == 1000
    assert (first.temperature, first.alpha) == (2.0, (0.25, 0.25, 0.5))
    assert (second.temperature, second.alpha) == (None, (1.0, 0.0, 0.0))
