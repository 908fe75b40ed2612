"""The models of the run graph, their weights, and what is kept of them."""

import json
import shutil
from dataclasses import replace

import pytest
from graph_example import benchmark, environment, model, trained_by

from scripts_visatb.workflow import graph, models, places, sources
from scripts_visatb.workflow.train import (
    _move_aside,
    discard,
    fingerprint,
    is_current,
    train,
)
from transformers_patch.strategies import OTHER_NAMES, STRATEGIES
from visatb.benchmark import METHODS, Ablation
from visatb.errors import InputError


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


def test_weights_that_lack_a_task_are_refused():
    with pytest.raises(InputError, match=r"lack the task\(s\) B"):
        graph.task_weights(benchmark(), {"A": 1.0})


def test_models_of_other_settings_are_kept_side_by_side(tmp_path):
    for content in "abc":
        (tmp_path / "VisATB").mkdir()
        (tmp_path / "VisATB" / content).touch()
        _move_aside(tmp_path / "VisATB")
        if content == "b":
            shutil.rmtree(tmp_path / "superseded" / "VisATB.1")  # to make room
    kept = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("superseded/*/*")}
    assert kept == {"superseded/VisATB.1/c", "superseded/VisATB.2/b"}


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


def test_baselines_that_a_benchmark_may_name_are_the_weight_methods():
    assert set(METHODS) == {*STRATEGIES, *OTHER_NAMES}
