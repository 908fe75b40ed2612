"""Names, settings and environment that the graph hands to each step."""

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inference_visatb import build_parser as inference_parser
from llava.eval.suite import build_parser as suite_parser
from scripts_visatb.workflow import graph, models, places, plan, sources
from scripts_visatb.workflow.infer import asked_model, inference_command
from scripts_visatb.workflow.train import (
    _move_aside,
    discard,
    fingerprint,
    is_current,
    train,
    training_environment,
)
from transformers_patch.strategies import OTHER_NAMES, STRATEGIES
from visatb.benchmark import METHODS, ZERO_SHOT_KINDS, Ablation, Benchmark, Task
from visatb.errors import InputError
from visatb.inference_section import INFERENCE_KINDS
from visatb.training_section import LAUNCH_KINDS, OWN_VARIABLES, RECIPE_VARIABLES, variables_of

SERVER, HOW = {"server-url", "server-model"}, {"concurrency", "retries", "timeout"}
CHUNKS = {"num-chunks", "chunk-idx"}  # a job of the graph answers all; a launcher shares them out
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
    current = places.Run(benchmark(), tmp_path, 3)
    current.subsets.mkdir(parents=True)
    keys = ["mini", "entire", "plus_mini/A", "plus_mini/B", "single/A", "single/B"]
    entries = {key: {"file": key.replace("/", "-") + ".json", "sha256": key} for key in keys}
    (current.subsets / "subsets.json").write_text(json.dumps({"files": entries}))
    return current


def model(current: places.Run, name: str) -> models.Model:
    return models.models_of(current.benchmark)[name]


def trained_by(given: Benchmark, name: str = "mini") -> str:
    return graph.training_settings(given, models.models_of(given)[name], {})


def environment(current: places.Run, name: str) -> dict[str, str]:
    return training_environment(current, model(current, name))


def command(current: places.Run, name: str, split: str) -> list[str]:
    with asked_model(current, model(current, name), split) as asked:
        return inference_command(current, model(current, name), split, asked)


def test_models_are_mini_one_per_measured_task_and_the_final_ones():
    assert models.preparation_models(benchmark()) == ["mini", "A-plus-mini", "B-plus-mini"]
    assert models.final_models(benchmark()) == ["VisATB", "EW", "STL-A", "STL-B"]
    found = models.models_of(benchmark())
    assert list(found) == ["mini", "A-plus-mini", "B-plus-mini", "STL-A", "STL-B", "EW", "VisATB"]
    data = [found[name].data for name in ("mini", "A-plus-mini", "VisATB", "EW", "STL-B")]
    assert data == ["mini", "plus_mini/A", "entire", "entire", "single/B"]
    assert [task.name for task in found["STL-B"].test] == ["B"] and not found["STL-B"].val
    assert [task.name for task in found["mini"].val] == ["A", "B"] and not found["mini"].test


def test_simpler_form_measures_base_and_single_models_and_trains_no_mix():
    found = models.models_of(benchmark(form="simpler"))
    assert list(found) == ["base", "STL-A", "mini-STL-A", "STL-B", "mini-STL-B", "EW", "VisATB"]
    assert found["base"].data is None and found["mini-STL-B"].data == "mini_single/B"
    assert [task.name for task in found["STL-A"].val] == ["A", "B"]
    assert [task.name for task in found["mini-STL-A"].val] == ["A"]
    assert models.tables_of("simpler") == ("scores_simpler", "single_scores")
    rows = models.table_rows(benchmark(form="simpler"), "scores_simpler")
    assert rows["base"] == {"A": "base", "B": "base"} and rows["A"] == {"A": "STL-A", "B": "STL-A"}


def test_precise_form_adds_single_task_models_scored_on_their_own_task():
    found = models.models_of(benchmark(form="precise"))
    assert [name for name, m in found.items() if m.val] == [
        *("mini", "A-plus-mini", "B-plus-mini", "STL-A", "mini-STL-A", "STL-B", "mini-STL-B")
    ]
    assert [task.name for task in found["STL-A"].val] == ["A"]
    rows = models.table_rows(benchmark(form="precise"), "single_scores")
    assert rows == {"mini": {"A": "mini-STL-A", "B": "mini-STL-B"}, "full": {"A": "STL-A", "B": "STL-B"}}


def test_groups_of_the_simpler_form_have_models_of_their_own():
    a, talk, b = benchmark().tasks
    tasks = (replace(a, group="words"), talk, replace(b, group="boxes"))
    found = models.models_of(benchmark(form="simpler", tasks=tasks))
    assert [task.name for task in found["STL-words"].val] == ["A", "B"]
    assert found["STL-words"].data == "single/words" and not found["STL-words"].test
    assert [task.name for task in found["STL-A"].val] == ["A"]


def test_baselines_and_ablations_are_models_of_the_whole_mix():
    ablations = (Ablation("T-2", "standard", 2.0, (0.25, 0.25, 0.5)), Ablation("exact", "precise", 0.5, (0, 0, 1)))
    toy = benchmark(baselines=("TLA", "mine.py:Mine"), ablations=ablations)
    found = models.models_of(toy)
    assert models.baseline_models(toy) == ["TLA", "Mine"] and models.ablation_models(toy) == ["T-2", "exact"]
    assert (found["Mine"].method, found["Mine"].data) == ("mine.py:Mine", "entire")
    assert found["T-2"].weighting.temperature == 2.0 and found["T-2"].method == "EW"
    assert models.forms_of(toy) == ("standard", "precise") and "mini-STL-A" in found
    assert graph.weighting_flags(toy, ablations[1]).startswith("--form precise --temperature 0.5 --alpha 0 0 1")
    assert graph.bootstrap_flags(toy, "h") == "--bootstrap 1000 --per-record h/metrics"
    assert graph.bootstrap_flags(benchmark(bootstrap=0), "h") == ""


def test_visatb_gets_its_weights_at_their_ids_and_all_others_equal_ones(run):
    run.weights().write_text(json.dumps({"weights": {"B": 1.25, "A": 0.75, "Talk": 9.0}}))
    assert environment(run, "VisATB")["VISATB_WEIGHTS"] == "0.75 0.7 1.25"
    assert environment(run, "EW")["VISATB_WEIGHTS"] == "1.0 1.0 1.0"
    assert environment(run, "A-plus-mini")["DATA_PATH"] == str(run.subsets / "plus_mini-A.json")


def test_baselines_get_their_method_and_ablations_their_own_weights(run):
    ablations = (Ablation("T-2", "standard", 2.0, (0.25, 0.25, 0.5)),)
    other = places.Run(benchmark(baselines=("DWA",), ablations=ablations), run.folder, 3)
    baseline = environment(other, "DWA")
    assert (baseline["WEIGHT_METHOD"], baseline["VISATB_WEIGHTS"]) == ("DWA", "")
    other.weights("T-2").write_text(json.dumps({"weights": {"A": 2.0, "B": 3.0}}))
    assert other.weights("T-2").name == "weights_T-2.json"
    assert environment(other, "T-2")["VISATB_WEIGHTS"] == "2.0 0.7 3.0"


def test_sampling_baselines_draw_tasks_and_one_of_them_by_the_weights(run):
    methods = ("sampling:sqrt", "sampling:temperature:2", "sampling:weights")
    given = replace(run, benchmark=benchmark(baselines=methods))
    names = ["sampling-sqrt", "sampling-temperature-2", "sampling-weights"]
    assert models.baseline_models(given.benchmark) == names
    given.weights("sampling-weights").parent.mkdir(parents=True, exist_ok=True)
    given.weights("sampling-weights").write_text(json.dumps({"weights": {"A": 1.5, "B": 0.5}}))
    found = [environment(given, name) for name in names]
    assert [one["TASK_SAMPLING"] for one in found] == ["sqrt", "temperature:2", "weights"]
    assert [one["VISATB_WEIGHTS"] for one in found] == ["1.0 1.0 1.0", "1.0 1.0 1.0", "1.5 0.7 0.5"]
    assert "TASK_SAMPLING" not in environment(given, "EW")
    assert len({trained_by(given.benchmark, name) for name in ("EW", *names)}) == 4
    assert fingerprint(given, model(given, "sampling-sqrt"))["sampling"] == "sqrt"
    own, rival = (model(given, name).weighting for name in ("VisATB", "sampling-weights"))
    assert rival == replace(own, name="sampling-weights")


def test_a_base_model_trained_anew_at_the_same_path_is_noticed(run, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"a" * 3_000_000)
    recipe = {"script": "train.sh", "environment": {"BASE_MODEL_PATH": str(base), "VISION_TOWER": "on/the-hub"}}
    other = places.Run(benchmark(training=recipe), run.folder, 3)
    planned, trained = trained_by(other.benchmark), fingerprint(other, model(other, "mini"))
    assert list(trained["base"]) == ["BASE_MODEL_PATH"]
    (base / "model.safetensors").write_bytes(b"a" * 2_999_999 + b"b")
    assert trained_by(other.benchmark) != planned
    assert fingerprint(other, model(other, "mini")) != trained
    made = benchmark(training=recipe, prepare="make it")
    before = trained_by(made)
    (base / "model.safetensors").write_bytes(b"c")
    assert trained_by(made) == before, "a plan made before `prepare` has run would repeat all trainings"


def test_a_model_is_current_until_its_settings_change(run):
    ew = model(run, "EW")
    assert not is_current(run, ew)
    note = run.model("EW").with_name("EW.settings.json")
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"settings": fingerprint(run, ew), "finished": True}))
    assert is_current(run, ew)
    recipe = {"script": "train.sh", "environment": {"LEARNING_RATE": 2e-3, "FREEZE": True}}
    assert not is_current(places.Run(benchmark(training=recipe), run.folder, 3), ew)


def test_a_deleted_model_keeps_its_training_log_alone(run):
    folder = run.model("mini")
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "train_log.jsonl", "deep/er/file"):
        (folder / name).touch()
    discard(run, "mini")
    assert [path.name for path in folder.iterdir()] == ["train_log.jsonl"]
    discard(run, "never-trained")


def test_a_deleted_model_is_trained_from_the_start_when_it_is_needed_again(run, tmp_path, capfd):
    script = tmp_path / "train.sh"
    made = '"$OUTPUT_DIR"/config.json "$OUTPUT_DIR"/train_log.jsonl'
    script.write_text(f'mkdir -p "$OUTPUT_DIR"; ls "$OUTPUT_DIR"; touch {made}')
    other = places.Run(benchmark(training={"script": str(script)}), run.folder, 3)
    mini = model(other, "mini")
    assert train(other, mini) == 0
    discard(other, "mini")
    assert train(other, mini) == 0
    assert not capfd.readouterr().out, "the second training found the log of the first in its folder"
    assert train(other, mini) == 0
    assert "already trained" in capfd.readouterr().out


def test_missing_data_is_reported_unless_prepare_makes_it(tmp_path):
    recipe = {"environment": {"PRETRAIN_MM_MLP_ADAPTER": str(tmp_path / "p.bin"), "BASE_MODEL_PATH": "on/hub"}}
    toy = benchmark(data_folder=str(tmp_path), image_folder=str(tmp_path / "images"), training=recipe)
    reported = sources.missing(toy)
    assert len(reported) == 3 and "my_x_test-9.json" in reported[0] and "and 1 more" in reported[0]
    for name in ("x_train-9.json", "x_val-9.json", "my_x_test-9.json", "t.json", "p.bin"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    assert sources.missing(toy) == []
    assert sources.missing(benchmark(prepare="make it")) == []


def test_training_environment_has_the_benchmarks_variables_as_text(run):
    found = environment(run, "mini")
    assert found["LEARNING_RATE"] == "0.001"
    assert found["FREEZE"] == "True"
    assert found["SEED"] == "3"
    assert found["OUTPUT_DIR"] == str(run.model("mini"))


def test_weights_that_lack_a_task_are_refused():
    with pytest.raises(InputError, match=r"lack the task\(s\) B"):
        graph.task_weights(benchmark(), {"A": 1.0})


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


def test_weights_from_the_mean_need_several_seeds():
    toy = benchmark(weights_from="mean")
    assert graph.seeds_of({"seeds": [0, 1]}, toy) == [0, 1]
    with pytest.raises(InputError, match="weights_from: mean needs several seeds, got"):
        graph.seeds_of({}, toy)


def test_final_models_get_the_weights_that_weights_from_names(run):
    toy = replace(run, benchmark=benchmark(weights_from="mean", baselines=("sampling:weights",)))
    for name in ("VisATB", "sampling-weights"):
        run.weights(name).write_text(json.dumps({"weights": {"A": 0.5, "B": 1.5}}))
        toy.training_weights(name).write_text(json.dumps({"weights": {"A": 0.75, "B": 1.25}}))
        assert environment(toy, name)["VISATB_WEIGHTS"] == "0.75 0.7 1.25"
    assert environment(run, "VisATB")["VISATB_WEIGHTS"] == "0.5 0.7 1.5"


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


def test_baselines_that_a_benchmark_may_name_are_the_weight_methods():
    assert set(METHODS) == {*STRATEGIES, *OTHER_NAMES}
