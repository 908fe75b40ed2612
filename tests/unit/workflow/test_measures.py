"""The measures of a benchmark: which models each makes, how, and what it leaves as it is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava.train.contributions import build_parser as gradients_parser
from scripts_visatb.data.mixes import Cut
from scripts_visatb.workflow import graph, models, places, sources
from scripts_visatb.workflow.gradients import gradients_command
from scripts_visatb.workflow.infer import asked_model, inference_command
from scripts_visatb.workflow.train import training_environment
from visatb.benchmark import Ablation, Benchmark, Task
from visatb.errors import InputError
from visatb.measure_section import Measure, adapter_script, read_measure

FILES = {"train": "x_train-9.json", "val": "x_val-9.json", "test": "x_test-9.json"}
SCRIPT = "scripts_visatb/finetune_academic.sh"
RECIPE = {"BASE_MODEL_PATH": "llama", "PRETRAIN_MM_MLP_ADAPTER": "stage1/projector.bin", "LEARNING_RATE": 2e-5}
MEASURES = {
    "full": "full",
    "short": {"short": {"samples_per_task": 500}},
    "lora": {"lora": {"r": 8, "alpha": 16, "learning_rate": 2e-4}},
    "proxy": {"proxy": {"environment": {"BASE_MODEL_PATH": "small", "PRETRAIN_MM_MLP_ADAPTER": "small.bin"}}},
    "gradient": {"gradient": {"samples_per_task": 64}},
}
FINAL = ("EW", "VisATB", "STL-A", "STL-B")


def benchmark(measure="full", **changes) -> Benchmark:
    settings = {
        "path": Path("b.yaml"),
        "name": "toy",
        "tasks": (
            Task("A", "cider", FILES),
            Task("Talk", None, {"train": "t.json"}, weight=1.0),
            Task("B", "iou", FILES),
        ),
        "data_folder": "data",
        "image_folder": "images",
        "mini_rate": 0.1,
        "training": {"script": SCRIPT, "environment": RECIPE},
        "measure": read_measure(MEASURES[measure] if isinstance(measure, str) else measure),
    }
    return Benchmark(**(settings | changes))


@pytest.fixture
def run_of(tmp_path):
    def make(measure: str, **changes) -> places.Run:
        current = places.Run(benchmark(measure, **changes), tmp_path, 3)
        current.subsets.mkdir(parents=True, exist_ok=True)
        files = {key: {"file": f"{key.replace('/', '-')}.json"} for key in ("mini", "short/plus_mini/A", "plus_mini/A")}
        (current.subsets / "subsets.json").write_text(json.dumps({"files": files}))
        return current

    return make


def preparation(measure: str, form: str = "standard") -> list[str]:
    return models.preparation_models(benchmark(measure, form=form))


@pytest.mark.parametrize(
    ("measure", "form", "expected"),
    [
        ("full", "standard", ["mini", "A-plus-mini", "B-plus-mini"]),
        ("short", "standard", ["mini", "short-A-plus-mini", "short-B-plus-mini"]),
        ("lora", "standard", ["lora-mini", "lora-A-plus-mini", "lora-B-plus-mini"]),
        ("proxy", "standard", ["proxy-mini", "proxy-A-plus-mini", "proxy-B-plus-mini"]),
        ("gradient", "standard", ["base", "mini"]),
        ("short", "simpler", ["base", "short-STL-A", "short-STL-B", "mini-STL-A", "mini-STL-B"]),
        ("lora", "simpler", ["base", *(f"lora-{name}" for name in ("STL-A", "STL-B", "mini-STL-A", "mini-STL-B"))]),
        ("proxy", "simpler", [f"proxy-{name}" for name in ("base", "STL-A", "STL-B", "mini-STL-A", "mini-STL-B")]),
    ],
)
def test_what_a_measure_makes_otherwise_has_a_name_of_its_own(measure, form, expected):
    assert preparation(measure, form) == expected
    assert set(expected) <= set(models.models_of(benchmark(measure, form=form)))


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "full"])
def test_final_models_are_those_of_the_measure_full(measure):
    digests = {}
    for form in ("standard",) if measure == "gradient" else ("standard", "simpler", "precise"):
        full, other = benchmark(form=form), benchmark(measure, form=form)
        for name in FINAL:
            mine, theirs = models.models_of(other)[name], models.models_of(full)[name]
            assert replace(mine, val=theirs.val) == theirs
            settings = [graph.training_settings(one, model, digests) for one, model in ((other, mine), (full, theirs))]
            assert (settings[0] == settings[1]) == (name != "VisATB"), "only the weights come from another file"


@pytest.mark.parametrize("measure", ["short", "gradient"])
def test_mini_is_shared_with_the_measure_full(measure):
    full, other = models.models_of(benchmark())["mini"], models.models_of(benchmark(measure))["mini"]
    assert full == other
    assert graph.training_settings(benchmark(measure), other, {}) == graph.training_settings(benchmark(), full, {})


def test_weights_and_tables_of_two_measures_never_share_a_file(tmp_path):
    ablation = (Ablation("Flat", "standard", 9.0, (0.25, 0.25, 0.5)),)
    runs = [places.Run(benchmark(name, ablations=ablation), tmp_path, 0) for name in MEASURES]
    files = [
        file
        for one in runs
        for file in (one.weights(), one.weights("Flat"), *map(one.table, models.TABLES), one.training_weights())
    ]
    assert len(set(files)) == len(files) - len(runs)  # those of training are the seed's own
    assert runs[0].weights().name == "weights.json" and runs[2].weights("Flat").name == "weights_lora_Flat.json"


def test_short_trainings_are_cut_and_have_the_recipe_of_the_run(run_of):
    current = run_of("short")
    cut = models.models_of(current.benchmark)["short-A-plus-mini"]
    assert graph.mix_of(current.benchmark, cut) == {"A": Cut(1.0, 500), "Talk": 0.1, "B": 0.1}
    environment = training_environment(current, cut)
    assert environment["DATA_PATH"].endswith("short-plus_mini-A.json")
    assert environment["OUTPUT_DIR"].endswith("models/short-A-plus-mini")
    assert environment["LEARNING_RATE"] == "2e-05"
    larger = benchmark({"short": {"samples_per_task": 600}})
    keys = [graph.training_settings(one, models.models_of(one)[cut.name], {}) for one in (current.benchmark, larger)]
    assert keys[0] != keys[1]
    assert graph.subset_settings(current.benchmark, {}) != graph.subset_settings(larger, {})


def test_adapters_are_trained_by_the_script_for_them_with_their_variables(run_of):
    current = run_of("lora")
    made = models.models_of(current.benchmark)["lora-A-plus-mini"]
    training = made.measure.training(current.benchmark.training)
    assert training["script"] == "scripts_visatb/finetune_lora.sh"
    environment = training_environment(current, made)
    wanted = {"LORA_R": "8", "LORA_ALPHA": "16", "LEARNING_RATE": "0.0002", "BASE_MODEL_PATH": "llama"}
    assert wanted.items() <= environment.items()
    assert current.benchmark.training["environment"] == RECIPE


@pytest.mark.parametrize(
    ("script", "adapters"),
    [
        ("scripts_visatb/finetune_chat.sh", "scripts_visatb/finetune_lora.sh"),
        ("scripts_visatb/finetune_task.sh", "scripts_visatb/finetune_task_lora.sh"),
        ("scripts_visatb/finetune_qlora.sh", "scripts_visatb/finetune_qlora.sh"),
        ("scripts_visatb/finetune_hf.sh", "scripts_visatb/finetune_hf.sh"),
        ("mine.sh", None),
    ],
)
def test_every_shipped_script_has_one_that_trains_adapters(script, adapters, repository):
    assert adapter_script(script) == adapters
    assert adapters is None or (repository / adapters).is_file()


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        ("full", "full"),
        ("short", "short (samples_per_task 500)"),
        ("lora", "lora (LORA_R 8, LORA_ALPHA 16, LEARNING_RATE 0.0002)"),
        ("gradient", "gradient (samples_per_task 64)"),
    ],
)
def test_tables_name_a_measure_with_its_settings(measure, text):
    assert str(read_measure(MEASURES[measure])) == text


def test_adapters_do_not_take_the_learning_rate_of_whole_models():
    plain = read_measure("lora")
    assert "LEARNING_RATE" not in plain.training({"script": SCRIPT, "environment": RECIPE})["environment"]
    for training in (
        {"script": "scripts_visatb/finetune_lora.sh", "environment": RECIPE},
        {"script": "scripts_visatb/finetune_hf.sh", "environment": {"LORA_ENABLE": True, "LEARNING_RATE": 2e-5}},
    ):
        assert plain.training(training) == training, "adapters already"


def test_current_models_get_adapters_from_the_script_that_trains_them():
    measure = read_measure(MEASURES["lora"])
    training = measure.training({"script": "scripts_visatb/finetune_hf.sh", "environment": {"BASE_MODEL_PATH": "q"}})
    assert training["environment"]["LORA_ENABLE"] == "True"


def test_a_proxy_is_trained_scored_and_stamped_as_the_model_it_is(run_of, tmp_path):
    current = run_of("proxy", form="simpler")
    made = models.models_of(current.benchmark)
    assert (
        training_environment(run_of("proxy"), models.models_of(benchmark("proxy"))["proxy-mini"])["BASE_MODEL_PATH"]
        == "small"
    )
    assert places.model_place(current, made["proxy-base"]) == (".", "small")
    assert "base" not in made
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    training = {"environment": {"BASE_MODEL_PATH": str(tmp_path / "small")}}
    assert set(sources.base_stamps(training)) == {"BASE_MODEL_PATH"}


def test_merged_adapters_answer_without_their_base(run_of, monkeypatch):
    current = run_of({"lora": {"r": 8, "merge": True}})
    made = models.models_of(current.benchmark)["lora-mini"]
    current.model(made.name).mkdir(parents=True)
    (current.model(made.name) / "adapter_config.json").write_text("{}")
    seen = []
    monkeypatch.setattr("scripts_visatb.workflow.serve._checkpoint_tool", lambda *words: seen.append(words))
    with asked_model(current, made, "val") as asked:
        words = inference_command(current, made, "val", asked)
    assert "--model-base" not in words and words[words.index("--model-path") + 1].endswith("lora-mini_val/merged")
    assert seen[0][0] == "merge_lora_weights" and seen[0][-2:] == ("--model-base", "llama")
    plain = benchmark({"lora": {"r": 8}})
    settings = [
        graph.inference_settings(one, models.models_of(one)[made.name], "val", {}) for one in (current.benchmark, plain)
    ]
    assert settings[0] != settings[1]


def test_gradients_are_measured_at_mini_with_the_recipe_of_its_training(run_of):
    recipe = RECIPE | {"PER_DEVICE_TRAIN_BATCH_SIZE": 4, "GRADIENT_ACCUMULATION_STEPS": "2", "MODEL_MAX_LENGTH": 256}
    current = run_of("gradient", training={"script": SCRIPT, "environment": recipe, "gpus": 2})
    with pytest.raises(
        InputError, match="models/mini: no model: it was trained and then removed. Delete .*train_mini.json"
    ):
        gradients_command(current)
    current.model("mini").mkdir(parents=True)
    (current.model("mini") / "config.json").write_text("{}")
    words = gradients_command(current)
    options = gradients_parser().parse_args(words[3:])
    assert (options.samples_per_task, options.step_size, options.model_max_length) == (64, 16, 256)
    assert options.output == current.gradients and options.data_path == current.subsets / "mini.json"
    assert models.table_rows(current.benchmark, "scores") == {
        "base": {"A": "base", "B": "base"},
        "mini": {"A": "mini", "B": "mini"},
    }
    flags = graph.weighting_flags(current.benchmark, models.models_of(current.benchmark)["VisATB"].weighting)
    assert "--form" not in flags and graph.bootstrap_flags(current.benchmark, "x") == ""
    changed = benchmark({"gradient": {"samples_per_task": 65}})
    assert graph.gradient_settings(changed, {}) != graph.gradient_settings(current.benchmark, {})


def test_a_proxy_of_another_tokenizer_is_refused_by_both_names(tmp_path):
    for name, vocabulary in (("own", {"a": 0}), ("same", {"a": 0}), ("other", {"b": 0})):
        (tmp_path / name).mkdir()
        content = {"version": name, "model": {"vocab": vocabulary}}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(content))
    training = {"script": SCRIPT, "environment": {"BASE_MODEL_PATH": str(tmp_path / "own")}}
    for name in ("same", "hub/name"):
        proxy = Measure("proxy", environment={"BASE_MODEL_PATH": str(tmp_path / name)})
        sources.refuse_other_tokenizer(replace(benchmark(training=training), measure=proxy))
    proxy = Measure("proxy", environment={"BASE_MODEL_PATH": str(tmp_path / "other")})
    with pytest.raises(InputError, match=r"other has another tokenizer than .*own \(tokenizer.json differs\)"):
        sources.refuse_other_tokenizer(replace(benchmark(training=training), measure=proxy))
