"""Benchmark files: one definition of tasks, checked."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from visatb.benchmark import METRICS, json_schema, load_benchmark
from visatb.errors import InputError

FILES = {"train": "a.json", "val": "b.json", "test": "c.json"}
SHIPPED = "scripts_visatb/finetune_academic.sh"
ACADEMIC = {"script": SHIPPED, "environment": {"BASE_MODEL_PATH": "big", "PRETRAIN_MM_MLP_ADAPTER": "p.bin"}}
BARE = {"script": SHIPPED, "environment": {"BASE_MODEL_PATH": "big"}}
CURRENT = {"script": "scripts_visatb/finetune_hf.sh", "environment": {"BASE_MODEL_PATH": "big"}}
GOOD = {
    "name": "mix",
    "data_folder": "d",
    "image_folder": "i",
    "mini_rate": 0.1,
    "tasks": [
        {"name": "A", "metric": "cider", "files": FILES},
        {"name": "Chat", "weight": 1.0, "files": {"train": "chat.json"}},
        {"name": "B", "metric": "iou", "files": {"train": "a.json", "val": "b2.json", "test": "c2.json"}},
    ],
}


def write(folder: Path, **changes) -> Path:
    content = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    (folder / "mix.yaml").write_text(yaml.safe_dump(content))
    return folder / "mix.yaml"


def test_tasks_keep_order_and_fixed_weights_are_not_measured(tmp_path):
    benchmark = load_benchmark(write(tmp_path))
    assert benchmark.task_names == ["A", "Chat", "B"]
    assert [task.name for task in benchmark.measured] == ["A", "B"]
    assert benchmark.task("Chat").weight == 1.0
    assert benchmark.alpha == (0.25, 0.25, 0.5) and benchmark.temperature == 0.5


TASK, OTHER = GOOD["tasks"][0], GOOD["tasks"][2]


@pytest.mark.parametrize(
    "changes, message",
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
        ({"tasks": [TASK | {"name": "mini"}]}, "'mini' is the name of the mini mix"),
        ({"tasks": [TASK | {"group": "base"}]}, "'base' is the name of the base model"),
        ({"tasks": [{"name": "base", "weight": 1, "files": FILES}]}, "'base' is the name of the base model"),
        (
            {"tasks": [TASK, OTHER | {"name": "A-plus-mini"}]},
            "'A-plus-mini' is the name of the model of A and the minis",
        ),
        ({"tasks": [TASK, OTHER | {"name": "A-mini"}]}, "'A-mini' is the name of the mini subset of A"),
        ({"tasks": [TASK, OTHER | {"name": "STL-A"}]}, "'STL-A' is the name of the single-task model of A"),
        ({"tasks": [TASK | {"name": "EW"}]}, "'EW' is the name of equal weights"),
        ({"tasks": [TASK | {"name": "VisATB"}]}, "'VisATB' is the name of VisATB"),
        ({"tasks": [TASK | {"name": "full"}]}, "'full' is the name of a table or folder"),
        ({"tasks": [TASK | {"name": "model"}]}, "'model' is the name of a table or folder"),
        ({"tasks": [TASK | {"name": "TLA"}], "baselines": ["TLA"]}, "'TLA' is the name of a baseline"),
        ({"tasks": [TASK, OTHER | {"name": "mix-mini"}]}, "'mix-mini' is the name of the mini subset of mix"),
        (
            {"ablations": [{"name": "STL-A"}]},
            "'STL-A' would be the name of the single-task model of A and of an ablation",
        ),
        ({"ablations": [{"name": "superseded"}]}, "'superseded' would be the name of a table or folder"),
        ({"baselines": ["EW"]}, "'EW' would be the name of equal weights and of a baseline"),
        ({"baselines": ["mine.py:It's"]}, r"baselines must be of .*, got \"mine.py:It's\""),
        ({"tasks": [TASK | {"name": "-n"}]}, "no '.' or '-' first, at most 100 characters, got '-n'"),
        ({"tasks": [TASK | {"name": "n" * 101}]}, "at most 100 characters"),
        ({"tasks": [TASK | {"name": "it's"}]}, "name must be letters"),
        ({"tasks": [TASK | {"name": "{seed}"}]}, "name must be letters"),
        ({"name": 202411}, "name must be text, got 202411. Put it in quotes"),
        ({"tasks": [TASK | {"files": FILES | {"tset": "c.json"}}]}, r"unknown key tasks\[0\].files.tset"),
        ({"tasks": [{"name": "A", "weight": 1, "files": {"train": 5}}]}, r"tasks\[0\].files.train must be text"),
        ({"tasks": [{"name": "A", "weight": 1, "files": {"train": "a", "val": 5}}]}, r"files.val must be text"),
        ({"tasks": [TASK, OTHER | {"files": OTHER["files"] | {"val": "x/b.json"}}]}, "answer files of one name"),
        ({"training": {"script": 5}}, "training.script must be text"),
        ({"training": {"gpus": -1}}, "training.gpus must be a whole number >= 0"),
        ({"training": {"threads": "8"}}, "training.threads must be a whole number"),
        ({"inference": {"gpus": True}}, "inference.gpus must be a whole number"),
        ({"inference": {"launcher": ["torchrun"]}}, "inference.launcher must be text"),
        ({"inference": {"batch-size": "many"}}, "inference.batch-size must be a whole number >= 1, got 'many'"),
        ({"inference": {"engine": "vllm"}}, "inference.engine must be one of llava, hf, server, got 'vllm'"),
        ({"inference": {"engine": "hf", "conv_mode": "v1"}}, "inference.conv_mode is for engine llava, got engine hf"),
        ({"inference": {"concurrency": 4}}, "inference.concurrency is for engine server, got engine llava"),
        ({"inference": {"engine": "server"}}, "inference.start must be a command with {model} and {port}.*got ''"),
        ({"inference": {"engine": "server", "start": "vllm serve {model}"}}, "inference.start must be a command with"),
        (
            {"inference": {"engine": "server", "start": "x {model} {port}", "batch_size": 2}},
            "inference.batch_size is for engine llava and hf, got engine server",
        ),
        ({"inference": {"batch-size": 0}}, "inference.batch-size must be a whole number >= 1, got 0"),
        ({"inference": {"batch-size": 4, "batch_size": 8}}, "inference.batch_size is batch-size again"),
        ({"inference": {"script": "x.py", "speed": {"a": 1}}}, "inference.speed must be text, a number"),
        ({"zero_shot": {"num_beams": 1.5}}, "zero_shot.num_beams must be a whole number >= 1"),
        ({"judge": {"concurrency": "4"}}, "judge.concurrency must be a whole number >= 1, got '4'"),
        ({"judge": {"context-file": {"vla": "x"}}}, "unknown key judge.context-file.vla"),
        ({"ablations": ["a"]}, r"ablations\[0\] must be one of mappings"),
        ({"measure": "tiny"}, "measure must be one of full, short, lora, proxy, gradient, .*got 'tiny'"),
        ({"measure": {"short": {}, "lora": {}}}, "measure must be one of full"),
        ({"measure": {"short": 10}}, "measure.short must be a mapping, got 10"),
        ({"measure": {"short": {"samples_per_task": 0}}}, "measure.short.samples_per_task must be a whole number >= 1"),
        ({"measure": {"lora": {"rank": 8}}}, "unknown key measure.lora.rank. Known: alpha, dropout, learning_rate"),
        ({"measure": "proxy"}, "measure.proxy.environment must be a mapping with the smaller model as BASE_MODEL_PATH"),
        (
            {"measure": {"proxy": {"environment": {"BASE_MODEL_PATH": "s", "FOO": 1}}}, "training": BARE},
            "measure.proxy.environment.FOO is not a variable that .*finetune_academic.sh reads",
        ),
        (
            {"measure": {"proxy": {"environment": {"BASE_MODEL_PATH": "s"}}}, "training": ACADEMIC},
            "measure.proxy.environment must name PRETRAIN_MM_MLP_ADAPTER too",
        ),
        (
            {"measure": "lora", "training": {"script": "mine.sh"}},
            "measure.lora needs training.environment.BASE_MODEL_PATH",
        ),
        (
            {"measure": "lora", "training": ACADEMIC | {"script": "mine.sh"}},
            "measure.lora.script must name the script that trains adapters where mine.sh trains models",
        ),
        (
            {"measure": {"lora": {"r": 8, "script": SHIPPED}}, "training": ACADEMIC},
            "measure.lora.environment.LORA_R is not",
        ),
        (
            {"measure": {"lora": {"merge": True}}, "training": CURRENT},
            "measure.lora.merge is for LLaVA's own trainings",
        ),
        (
            {"measure": "lora", "training": CURRENT, "inference": {"engine": "server", "start": "x {model} {port}"}},
            "measure.lora trains adapters, which inference.engine server does not serve. Use engine hf",
        ),
        ({"measure": "gradient", "training": CURRENT}, "measure.gradient is for LLaVA's own trainings"),
        ({"measure": "gradient", "form": "precise"}, "form must be standard with measure: gradient, got 'precise'"),
        ({"measure": "gradient", "weights_from": "mean"}, "weights_from must be seed with measure: gradient, got mean"),
        ({"ablations": [{"name": "lora"}]}, r"ablations\[0\].name must not be that of a measure, got 'lora'"),
        ({"measure": "lora", "ablations": [{"name": "lora-mini"}]}, "'lora-mini' would be the name of the mini mix by"),
        ({"seed": 2**70}, "seed must be a whole number >= 0"),
        ({"tasks": [TASK | {"metric": "bleu"}]}, "bootstrap must be 0: A's bleu"),
        ({"name": "a/b"}, "name must be letters"),
        ({"prepare": ["make", "data"]}, "prepare must be text"),
        ({"training": {"environment": ["A=1"]}}, "training.environment must be a mapping"),
        ({"training": {"enviroment": {}}}, "unknown key training.enviroment. Known: environment, gpus"),
        ({"training": {"launcher": "srun"}}, "unknown key training.launcher"),
        ({"training": {"keep_models": "false"}}, "training.keep_models must be true or false"),
        ({"inference": {"batchsize": 4}}, "unknown key inference.batchsize. Known: batch-size, concurrency, conv-mode"),
        ({"inference": {"model-path": "x"}}, "unknown key inference.model-path"),
        ({"inference": {1: 2}}, "unknown key inference.1"),
        ({"zero_shot": {"benchmark": "pope"}}, "unknown key zero_shot.benchmark. Known: batch-size, benchmarks"),
        ({"baselines": ["TLAA"]}, "baselines must be of EW, .*UW, file.py:Class, or sampling:KIND, got 'TLAA'"),
        ({"mini_rate": 10**400}, "mini_rate must be a number > 0"),
        ({"tasks": [TASK, TASK | {"name": "B", "group": "A"}]}, "names a task and a group"),
        ({"tasks": [TASK | {"files": "x"}]}, "files must be a mapping"),
        ({"tasks": [TASK | {"also": ["cider"]}]}, "also must add to metric"),
        ({"tasks": [TASK | {"also": ["bleurt"]}]}, r"tasks\[0\].also must be one of"),
        ({"tasks": [TASK | {"also": "gleu"}]}, "also must be a list of names"),
        ({"tasks": [TASK | {"metric": "judge"}]}, "judge must name a judge-model"),
        ({"form": "short"}, "form must be one of standard, simpler, precise"),
        ({"on_failed": "ignore"}, "on_failed must be one of fail, exclude, clip"),
        ({"baselines": ["sampling:cubic"]}, "baselines: sampling:task_sampling must be proportional, sqrt"),
        ({"baselines": ["sampling:proportional"]}, "sampling:proportional is what EW does. Leave it out"),
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
def test_mistakes_are_refused_by_file_and_key(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        load_benchmark(write(tmp_path, **changes))
    assert "mix.yaml" in str(error.value)


SHIPPED = "scripts_visatb/finetune_academic.sh"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DATA_PATH", "x", "DATA_PATH is set by the run graph. Remove it"),
        ("VISATB_WEIGHTS", "1 1", "is set by the run graph"),
        ("PATH", "/bin", "is set by the run graph"),
        ("LEARNING_RATE", {"x": 1}, "LEARNING_RATE must be text, a number, true or false, got {'x': 1}"),
        ("LEARNING_RATE", None, "LEARNING_RATE has no value. Give it one, or remove it"),
        ("LEARNING_RATE", "fast", "LEARNING_RATE must be a number >= 0, got 'fast'"),
        ("LEARNING_RATE", [1e-3], "LEARNING_RATE must be one value"),
        ("LEARNING_RATE", float("nan"), "LEARNING_RATE must be text, a number"),
        ("LEARNING_RATE", "inf", "LEARNING_RATE must be a number >= 0"),
        ("PRETRAIN_MM_MLP_ADAPTER", 5, "PRETRAIN_MM_MLP_ADAPTER must be text, got 5. Put it in quotes"),
        ("BASE_MODEL_PATH", 2024.1, "BASE_MODEL_PATH must be text, got 2024.1. Put it in quotes"),
        ("PER_DEVICE_TRAIN_BATCH_SIZE", 0, "must be a whole number >= 1, got 0"),
        ("PER_DEVICE_TRAIN_BATCH_SIZE", 2.5, "must be a whole number >= 1, got 2.5"),
        ("GRADIENT_CHECKPOINTING", "maybe", "must be true or false"),
        ("LEARNING_RAET", 1e-3, f"LEARNING_RAET is not a variable that {SHIPPED} reads"),
        ("LORA_R", 8, f"LORA_R is not a variable that {SHIPPED} reads"),
        ("A B", 1, "A B must be the name of a variable"),
        (1, 1, "training.environment.1 must be the name of a variable"),
        ("X" * 500, "y", "not a variable that"),
        ("REPORT_TO", "a\0b", "REPORT_TO must be text"),
    ],
)
def test_a_variable_that_training_could_not_take_is_refused(tmp_path, name, value, message):
    path = write(tmp_path, training={"script": SHIPPED, "environment": {name: value}})
    with pytest.raises(InputError) as error:
        load_benchmark(path)
    assert message in str(error.value) and "training.environment." in str(error.value) and len(str(error.value)) < 500


def test_variables_of_scripts_libraries_and_of_ones_own_script_are_taken(tmp_path):
    given = {"LEARNING_RATE": "2e-5", "NUM_GPUS": 4, "NCCL_DEBUG": "INFO", "GRADIENT_CHECKPOINTING": False}
    training = {"script": SHIPPED, "environment": given}
    assert load_benchmark(write(tmp_path, training=training)).training == training
    lora = {"script": "/checkout/scripts_visatb/finetune_lora.sh", "environment": {"LORA_R": 8}}
    assert load_benchmark(write(tmp_path, training=lora)).training == lora
    own = {"script": "mine.sh", "environment": {"SPEED": "high", "LAYERS": [1, 2], "LEARNING_RATE": "cosine"}}
    assert load_benchmark(write(tmp_path, training=own)).training == own


def test_the_shipped_json_schema_is_that_of_the_classes(repository):
    folder = repository / "scripts_visatb/benchmarks"
    assert json.loads((folder / "benchmark.schema.json").read_text()) == json_schema()  # else: visatb schema
    for file in folder.glob("*.yaml"):
        assert file.read_text().startswith("# yaml-language-server: $schema=benchmark.schema.json\n"), file


def test_the_json_schema_knows_every_key_and_refuses_others(repository):
    schema = json_schema()
    assert schema["required"] == ["name", "tasks", "data_folder", "image_folder"]
    assert schema["additionalProperties"] is False and "path" not in schema["properties"]
    for file in (repository / "scripts_visatb/benchmarks").glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        assert content.keys() <= schema["properties"].keys(), file
        for task in content["tasks"]:
            assert task.keys() <= schema["$defs"]["Task"]["properties"].keys(), file
    assert schema["$defs"]["Task"]["properties"]["metric"]["enum"] == list(METRICS)


def test_a_key_of_the_reader_cannot_be_set(tmp_path):
    with pytest.raises(InputError, match="unknown key path. Known: ablations, alpha"):
        load_benchmark(write(tmp_path, path="elsewhere.yaml"))


def test_without_pydantic_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(InputError, match="pip install pydantic"):
        load_benchmark(write(tmp_path))


def test_no_message_prints_a_long_value(tmp_path):
    for changes in ({"name": ["x" * 5000]}, {"form": "x" * 5000}, {"k" * 5000: 1}, {"alpha": "y" * 5000}):
        with pytest.raises(InputError) as error:
            load_benchmark(write(tmp_path, **changes))
        assert len(str(error.value)) < 600


def test_a_doubled_key_is_refused_by_line(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "mini_rate: 0.5\n")
    last = len(path.read_text().splitlines())
    with pytest.raises(InputError, match=f"mix.yaml: line {last}: key 'mini_rate' occurs twice"):
        load_benchmark(path)


def test_flags_of_both_spellings_and_of_own_programs_are_accepted(tmp_path):
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
