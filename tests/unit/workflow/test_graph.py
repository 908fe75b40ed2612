"""Names, settings and environment that the graph hands to each step."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from scripts_visatb.workflow import graph
from scripts_visatb.workflow.infer import inference_command
from scripts_visatb.workflow.train import OWN_VARIABLES, RECIPE_VARIABLES, _move_aside, training_environment
from visatb.benchmark import Benchmark, Task
from visatb.errors import InputError

FILES = {"train": "x_train-9.json", "val": "x_val-9.json", "test": "my_x_test-9.json"}


def benchmark(**changes) -> Benchmark:
    settings = {
        "path": Path("b.yaml"),
        "name": "toy",
        "tasks": (
            Task("A", "cider", FILES, max_new_tokens=64),
            Task("Talk", None, {"train": "t.json"}, weight=0.7),
            Task("B", "iou", FILES, max_new_tokens=24),
        ),
        "mini_rate": 0.1,
        "large_rate": 1.0,
        "temperature": 0.5,
        "alpha": (0.25, 0.25, 0.5),
        "data_folder": "data",
        "image_folder": "images",
        "training": {"script": "train.sh", "environment": {"LEARNING_RATE": 1e-3, "FREEZE": True}},
        "inference": {"batch_size": 8, "launcher": "torchrun --nproc_per_node 2", "threads": 4, "overwrite_all": False},
    }
    return Benchmark(**(settings | changes))


@pytest.fixture
def run(tmp_path):
    current = graph.Run(benchmark(), tmp_path, 3)
    current.subsets.mkdir(parents=True)
    keys = ["mini", "entire", "plus_mini/A", "plus_mini/B", "single/A", "single/B"]
    entries = {key: {"file": key.replace("/", "-") + ".json", "sha256": key} for key in keys}
    (current.subsets / "subsets.json").write_text(json.dumps({"files": entries}))
    return current


def test_models_are_mini_one_per_measured_task_and_the_final_ones():
    assert graph.preparation_models(benchmark()) == ["mini", "A-plus-mini", "B-plus-mini"]
    assert graph.final_models(benchmark()) == ["VisATB", "EW", "STL-A", "STL-B"]
    data = [graph.training_data(m) for m in ("mini", "A-plus-mini", "VisATB", "EW", "STL-B")]
    assert data == ["mini", "plus_mini/A", "entire", "entire", "single/B"]


def test_visatb_gets_its_weights_at_their_ids_and_all_others_equal_ones(run):
    run.weights.write_text(json.dumps({"weights": {"B": 1.25, "A": 0.75, "Talk": 9.0}}))
    assert training_environment(run, "VisATB")["VISATB_WEIGHTS"] == "0.75 0.7 1.25"
    assert training_environment(run, "EW")["VISATB_WEIGHTS"] == "1.0 1.0 1.0"
    assert training_environment(run, "A-plus-mini")["DATA_PATH"] == str(run.subsets / "plus_mini-A.json")


def test_training_environment_has_the_benchmarks_variables_as_text(run):
    environment = training_environment(run, "mini")
    assert environment["LEARNING_RATE"] == "0.001"
    assert environment["FREEZE"] == "True"
    assert environment["SEED"] == "3"
    assert environment["OUTPUT_DIR"] == str(run.model("mini"))


def test_a_variable_that_the_graph_sets_is_refused_in_the_benchmark(run):
    other = graph.Run(benchmark(training={"script": "x", "environment": {"SEED": 1}}), run.folder, 3)
    with pytest.raises(InputError, match="training.environment.SEED is set by the run graph"):
        training_environment(other, "mini")


def test_weights_that_lack_a_task_are_refused():
    with pytest.raises(InputError, match=r"lack the task\(s\) B"):
        graph.task_weights(benchmark(), {"A": 1.0})


def test_inference_command_asks_all_tasks_at_once_and_leaves_placement_out(run):
    command = inference_command(run, "mini", "test")
    assert command[:2] == ["torchrun", "--nproc_per_node"]
    assert "--threads" not in command
    assert command[command.index("--question-file") + 1 :][:2] == ["data/my_x_test-9.json"] * 2
    assert command[command.index("--max_new_tokens") + 1] == "64"
    assert command[command.index("--batch_size") + 1] == "8"
    assert "--overwrite_all" not in command
    single = inference_command(run, "STL-B", "test")
    assert single[single.index("--max_new_tokens") + 1] == "24"
    path = run.answer_file("STL-B", "test", run.benchmark.task("B"))
    assert path.name == "my-x-test-9_STL-B.json"


def test_a_lora_model_is_asked_on_the_base_of_its_recipe_or_of_its_adapter(run):
    assert "--model-base" not in inference_command(run, "mini", "val")
    run.model("mini").mkdir(parents=True)
    note = run.model("mini") / "adapter_config.json"
    note.write_text(json.dumps({"base_model_name_or_path": "lmsys/vicuna-7b-v1.5"}))
    command = inference_command(run, "mini", "val")
    assert command[command.index("--model-base") + 1] == "lmsys/vicuna-7b-v1.5"
    recipe = {"script": "finetune_lora.sh", "environment": {"BASE_MODEL_PATH": "bases/vicuna"}}
    other = graph.Run(benchmark(training=recipe), run.folder, 3)
    assert graph.base_model(other, "mini") == "bases/vicuna"
    note.write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="no base model. Set training.environment.BASE_MODEL_PATH"):
        graph.base_model(run, "mini")


def test_where_a_job_runs_is_no_setting_that_repeats_it():
    plain = graph.training_settings(benchmark())
    moved = {"script": "train.sh", "threads": 64, "gpus": 8}
    moved["environment"] = {"LEARNING_RATE": 1e-3, "FREEZE": True, "LOGGING_STEPS": 50}
    assert graph.training_settings(benchmark(training=moved)) == plain
    moved["environment"]["LEARNING_RATE"] = 2e-3
    assert graph.training_settings(benchmark(training=moved)) != plain


def test_a_fixed_weight_is_a_setting_of_the_weighting_only():
    first, talk, last = benchmark().tasks
    other = benchmark(tasks=(first, replace(talk, weight=2.0), last))
    assert graph.subset_settings(other) == graph.subset_settings(benchmark())
    assert graph.training_settings(other) == graph.training_settings(benchmark())
    assert graph.weighting_settings(other) != graph.weighting_settings(benchmark())


def test_annotation_files_are_watched_unless_prepare_makes_them(tmp_path):
    given = benchmark(data_folder=str(tmp_path))
    assert graph.data_inputs(given) == []
    for name in ("x_train-9.json", "x_val-9.json", "other.json"):
        (tmp_path / name).touch()
    assert graph.data_inputs(given) == [str(tmp_path / "x_train-9.json"), str(tmp_path / "x_val-9.json")]
    assert graph.data_inputs(replace(given, prepare="make it")) == []


@pytest.mark.parametrize(
    ("variable", "value"), [("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1"), ("NUM_GPUS", "0")]
)
def test_hidden_gpus_are_not_counted_on(variable, value, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "NUM_GPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "glob", lambda *_: [Path("/dev/nvidia0")])
    assert graph.gpus_visible()
    monkeypatch.setenv(variable, value)
    assert not graph.gpus_visible()


def test_models_of_other_settings_are_kept_side_by_side(tmp_path):
    for content in "abc":
        (tmp_path / "VisATB").mkdir()
        (tmp_path / "VisATB" / content).touch()
        _move_aside(tmp_path / "VisATB")
        if content == "b":
            shutil.rmtree(tmp_path / "superseded" / "VisATB.1")  # to make room
    kept = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("superseded/*/*")}
    assert kept == {"superseded/VisATB.1/c", "superseded/VisATB.2/b"}


@pytest.mark.parametrize(("given", "seeds"), [({}, [0]), ({"seeds": 2}, [2]), ({"seeds": ["0", "1"]}, [0, 1])])
def test_seeds_are_read_as_snakemake_gives_them(given, seeds):
    assert graph.seeds_of(given, benchmark()) == seeds


@pytest.mark.parametrize("seeds", [[], [0, 0], ["a"], [-1], [True], [1.5]])
def test_bad_seeds_are_refused(seeds):
    with pytest.raises(InputError, match="seeds must be distinct whole numbers"):
        graph.seeds_of({"seeds": seeds}, benchmark())


def test_braces_in_settings_and_commands_are_no_snakemake_placeholders():
    assert "{" not in graph.settings_key({"a": "{seed}"})
    assert graph.shell_word("echo '{x}'").count("{{") == 1


def test_every_recipe_variable_of_the_finetune_script_comes_from_the_benchmark_file_alone(repository):
    scripts = [repository / "scripts_visatb" / f"finetune{name}.sh" for name in ("", "_lora", "_qlora")]
    read = set(re.findall(r"\$\{([A-Z_]+):", "".join(script.read_text() for script in scripts)))
    assert read - {"DEEPSPEED_CONFIG"} == RECIPE_VARIABLES | set(OWN_VARIABLES)  # launch.sh's: where it runs
