"""What the jobs of the run graph are given by a benchmark file, and which of its settings repeat them."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from graph_example import benchmark, command, environment, model, trained_by

from inference_visatb import build_parser as inference_parser
from llava.eval.suite import build_parser as suite_parser
from scripts_visatb.workflow import graph, models, places, plan, sources
from visatb.benchmark import ZERO_SHOT_KINDS
from visatb.errors import InputError
from visatb.inference_section import INFERENCE_KINDS
from visatb.training_section import LAUNCH_KINDS, OWN_VARIABLES, RECIPE_VARIABLES, variables_of

SERVER, HOW = {"server-url", "server-model"}, {"concurrency", "retries", "timeout"}
CHUNKS = {"num-chunks", "chunk-idx"}  # a job of the graph answers all; a launcher shares them out


def test_training_environment_has_the_benchmarks_variables_as_text(run):
    found = environment(run, "mini")
    assert found["LEARNING_RATE"] == "0.001"
    assert found["FREEZE"] == "True"
    assert found["SEED"] == "3"
    assert found["OUTPUT_DIR"] == str(run.model("mini"))


def test_inference_command_asks_all_tasks_at_once_and_leaves_placement_out(run):
    words = command(run, "EW", "test")
    assert words[:2] == ["torchrun", "--nproc_per_node"]
    assert "--threads" not in words
    # Both tasks share the file, which is asked once.
    assert words[words.index("--question-file") + 1 :][:2] == ["data/my_x_test-9.json", "--overwrite"]
    assert words[words.index("--max_new_tokens") + 1] == "64"
    assert words[words.index("--batch_size") + 1] == "8"
    assert "--overwrite_all" not in words
    single = command(run, "STL-B", "test")
    assert single[single.index("--max_new_tokens") + 1] == "24"
    path = run.answer_file("STL-B", "test", run.benchmark.task("B"))
    assert path.name == "my-x-test-9_STL-B.json"


def test_a_current_model_is_asked_by_the_interpreter_of_its_environment(run, tmp_path, monkeypatch):
    monkeypatch.setattr("visatb.environments.OWN", tmp_path / ".venv-hf" / "bin" / "python")
    monkeypatch.delenv("PYTHON_HF", raising=False)

    def asked(engine="hf", **environment):
        training = {"script": "train.sh", "environment": environment}
        given = replace(run, benchmark=benchmark(training=training, inference={"engine": engine}))
        words = command(given, "mini", "val")
        assert words[words.index("--engine") + 1] == engine
        return words[0]

    own = tmp_path / ".venv-hf" / "bin" / "python"
    assert asked() == sys.executable == asked("llava")
    own.parent.mkdir(parents=True)
    for place in (own, tmp_path / "other python", tmp_path / "third"):
        place.touch(mode=0o755)
    assert asked() == str(own) and asked("llava") == sys.executable
    monkeypatch.setenv("PYTHON_HF", str(tmp_path / "third"))
    assert asked() == str(tmp_path / "third")
    assert asked(PYTHON_HF=str(tmp_path / "other python")) == str(tmp_path / "other python")
    with pytest.raises(InputError, match="PYTHON_HF must be a Python interpreter, got 'nowhere'"):
        asked(PYTHON_HF="nowhere")


def test_a_lora_model_is_asked_on_the_base_of_its_recipe_or_of_its_adapter(run):
    assert "--model-base" not in command(run, "mini", "val")
    run.model("mini").mkdir(parents=True)
    note = run.model("mini") / "adapter_config.json"
    note.write_text(json.dumps({"base_model_name_or_path": "lmsys/vicuna-7b-v1.5"}))
    words = command(run, "mini", "val")
    assert words[words.index("--model-base") + 1] == "lmsys/vicuna-7b-v1.5"
    recipe = {"script": "finetune_lora.sh", "environment": {"BASE_MODEL_PATH": "bases/vicuna"}}
    other = places.Run(benchmark(training=recipe), run.folder, 3)
    assert places.model_place(other, model(other, "mini")) == (str(run.model("mini")), "bases/vicuna")
    note.write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="no base model. Set .*training.environment.BASE_MODEL_PATH"):
        places.model_place(run, model(run, "mini"))


def test_the_base_is_what_the_trainings_start_from(run):
    recipe = {"BASE_MODEL_PATH": "lmsys/vicuna", "PRETRAIN_MM_MLP_ADAPTER": "stage1/mm_projector.bin"}
    other = places.Run(benchmark(form="simpler", training={"environment": recipe}), run.folder, 3)
    words = command(other, "base", "val")
    assert words[words.index("--model-path") + 1] == "stage1"
    assert words[words.index("--model-base") + 1] == "lmsys/vicuna"
    whole = places.Run(benchmark(form="simpler", training={"environment": {"BASE_MODEL_PATH": "llava"}}), run.folder, 3)
    assert places.model_place(whole, models.Model("base", None)) == ("llava", None)
    with pytest.raises(InputError, match="BASE_MODEL_PATH must name the base model"):
        places.model_place(run, models.Model("base", None))


def test_where_a_job_runs_is_no_setting_that_repeats_it():
    plain = trained_by(benchmark())
    moved = {"script": "train.sh", "threads": 64, "gpus": 8}
    moved["environment"] = {"LEARNING_RATE": 1e-3, "FREEZE": True, "LOGGING_STEPS": 50}
    assert trained_by(benchmark(training=moved)) == plain
    moved["environment"]["LEARNING_RATE"] = 2e-3
    assert trained_by(benchmark(training=moved)) != plain


def test_a_fixed_weight_is_a_setting_of_the_weighting_only():
    first, talk, last = benchmark().tasks
    other = benchmark(tasks=(first, replace(talk, weight=2.0), last))
    assert graph.subset_settings(other, {}) == graph.subset_settings(benchmark(), {})
    assert trained_by(other) == trained_by(benchmark())
    own = models.models_of(benchmark())["VisATB"].weighting
    assert graph.weighting_settings(other, own) != graph.weighting_settings(benchmark(), own)


def test_annotation_files_are_known_by_content_unless_prepare_makes_them(tmp_path):
    given = benchmark(data_folder=str(tmp_path))
    assert sources.data_digests(given, tmp_path / "none.json") == {}
    for name in ("x_train-9.json", "x_val-9.json", "other.json"):
        (tmp_path / name).write_text(name)
    found = sources.data_digests(given, tmp_path / "none.json")
    assert [Path(path).name for path in found] == ["x_train-9.json", "x_val-9.json"]
    before = graph.inference_settings(given, models.models_of(given)["mini"], "val", found)
    (tmp_path / "cache.json").write_text(json.dumps(found))
    os.utime(tmp_path / "x_val-9.json", (1, 1))
    again = sources.data_digests(given, tmp_path / "cache.json")
    assert again != found and graph.inference_settings(given, models.models_of(given)["mini"], "val", again) == before
    (tmp_path / "x_val-9.json").write_text("other")
    changed = sources.data_digests(given, tmp_path / "cache.json")
    assert graph.inference_settings(given, models.models_of(given)["mini"], "val", changed) != before
    assert sources.data_digests(replace(given, prepare="make it"), tmp_path / "cache.json") == {}


def test_one_value_written_in_two_ways_is_one_setting():
    first = {"environment": {"LEARNING_RATE": 1e-3, "GRADIENT_CHECKPOINTING": False, "BASE_MODEL_PATH": "007"}}
    second = {"environment": {"LEARNING_RATE": "0.001", "GRADIENT_CHECKPOINTING": "False", "BASE_MODEL_PATH": "7"}}
    found, other = graph.result_settings(first)["environment"], graph.result_settings(second)["environment"]
    assert {name for name in found if found[name] != other[name]} == {"BASE_MODEL_PATH"}


def test_a_judges_rules_are_known_by_content(tmp_path):
    (tmp_path / "rules.json").write_text("{}")
    judged = tuple(replace(task, metric=task.metric and "judge") for task in benchmark().tasks)
    given = benchmark(tasks=judged, judge={"judge-model": "m", "rule-file": str(tmp_path / "rules.json")})
    before = graph.scoring_settings(given, models.models_of(given)["mini"], "val")
    faster = replace(given, judge=given.judge | {"concurrency": 9})
    assert graph.scoring_settings(faster, models.models_of(given)["mini"], "val") == before
    (tmp_path / "rules.json").write_text("[]")
    assert graph.scoring_settings(given, models.models_of(given)["mini"], "val") != before


@pytest.mark.parametrize("folder", [202411, 7, 1000.0, "", "a{b}", "-n", "a\nb", "it's", "a: b", "a #b"])
def test_a_runs_folder_that_a_run_could_not_hold_is_refused(folder):
    with pytest.raises(InputError, match="runs"):
        plan.runs_folder({"runs": folder})


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


def test_variables_of_the_recipe_come_from_the_benchmark_file_alone(repository):
    scripts = [repository / "scripts_visatb" / f"finetune{name}.sh" for name in ("", "_lora", "_qlora", "_hf")]
    read = set(re.findall(r"(?:\$\{|\brequire )([A-Z_]+)[: ]", "".join(script.read_text() for script in scripts)))
    assert read - {"DEEPSPEED_CONFIG", "PYTHON_HF"} == RECIPE_VARIABLES | set(
        OWN_VARIABLES
    )  # launch.sh's: where it runs
    launch = (repository / "scripts_visatb/launch.sh").read_text()
    assert all(re.search(rf"\$\{{?{name}\b", launch) for name in LAUNCH_KINDS)
    for name in ("finetune_academic", "finetune_lora", "finetune_qlora"):
        path = f"scripts_visatb/{name}.sh"
        own = set(re.findall(r"\$\{(LORA_[A-Z_]+|BITS)", (repository / path).read_text()))
        assert own <= variables_of(path).keys() and ("LORA_R" in variables_of(path)) == (name != "finetune_academic")


def test_a_benchmark_may_name_the_flags_that_the_graph_does_not_set():
    fixed = {"model-path", "model-base", "model-name", "overwrite"}
    graphs = {
        inference_parser: (
            INFERENCE_KINDS,
            fixed | {"question-file", "image-folder", "answers-folder"} | CHUNKS | SERVER,
        ),
        suite_parser: (ZERO_SHOT_KINDS, fixed | {"output", "metrics-folder", "baseline", "engine"} | SERVER | HOW),
    }
    for parser, (known, set_by_graph) in graphs.items():
        flags = {flag[2:] for flag in parser()._option_string_actions if flag.startswith("--")} - {"help"}
        assert set(known) - {"start"} == flags - set_by_graph
