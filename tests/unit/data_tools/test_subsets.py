"""Sub-datasets: what is drawn, how files are named, what is refused before anything is written."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from waiting import PATIENCE

from scripts_visatb.data import subsets
from scripts_visatb.data.mixes import MANIFEST, read_manifest, size_label
from scripts_visatb.data.subsets import draw, make_subsets
from visatb.benchmark import load_benchmark
from visatb.errors import InputError
from visatb.overlap import find_overlaps

TASKS = {"Caption": ("cider", 1200), "Vqa": ("exact_match", 80), "Chat": (None, 16)}


def record(task: str, split: str, n: int, **changes) -> dict:
    image = {"image": f"{split}.png"} if task != "Chat" else {}
    question = f"{task} {split} {n}?" + ("\n<image>" if image else "")
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "yes"}]
    return {"id": n, "task": task, "conversations": turns} | image | changes


@pytest.fixture
def folder(tmp_path):
    """A benchmark file with data and images."""
    (tmp_path / "images").mkdir()
    tasks = []
    for task, (metric, count) in TASKS.items():
        splits = ("train", "val", "test") if metric else ("train",)
        files = {split: f"{task}_{split}.json" for split in splits}
        for split in splits:
            Image.new("RGB", (2, 2)).save(tmp_path / "images" / f"{split}.png")
            records = [record(task, split, n) for n in range(count if split == "train" else 8)]
            (tmp_path / files[split]).write_text(json.dumps(records))
        tasks.append({"name": task, "files": files} | ({"metric": metric} if metric else {"weight": 1.0}))
    write(tmp_path, tasks=tasks)
    return tmp_path


def write(folder, **changes) -> None:
    path = folder / "b.yaml"
    start = {"name": "toy", "data_folder": ".", "image_folder": "images", "mini_rate": 0.125, "large_rate": 0.5}
    content = yaml.safe_load(path.read_text()) if path.exists() else start
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))


def make(folder, output="out", seed=0, forms=("standard",)):
    benchmark = load_benchmark(folder / "b.yaml")
    return make_subsets(benchmark, folder / output, seed, folder, folder / "images", forms)


def content(folder, manifest, key, output="out") -> list[dict]:
    return json.loads((folder / output / manifest["files"][key]["file"]).read_text())


def change(folder, file, edit) -> None:
    records = json.loads((folder / file).read_text())
    edit(records)
    (folder / file).write_text(json.dumps(records))


@pytest.mark.parametrize(("count", "label"), [(998, "998"), (1000, "1k"), (2400, "2k"), (475_123, "475k")])
def test_size_label_is_that_of_the_documented_names(count, label):
    assert size_label(count) == label


@given(st.integers(1, 400), st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 9))
def test_a_smaller_rate_draws_inside_a_larger_one(count, one, other, seed):
    small, large = sorted((one, other))
    drawn = draw(count, small, seed, "t").tolist()
    assert set(drawn) <= set(draw(count, large, seed, "t").tolist())
    assert drawn == sorted(drawn)
    assert len(drawn) == max(1, round(small * count))


def test_another_seed_or_task_draws_other_records():
    drawn = [tuple(draw(200, 0.2, seed, task).tolist()) for seed in (0, 1) for task in ("a", "b")]
    assert len(set(drawn)) == 4


def test_files_have_documented_names_and_the_right_records(folder):
    manifest = make(folder)
    names = {key: entry["file"] for key, entry in manifest["files"].items()}
    assert names == {
        "mini": "toy-mini_train-162.json",
        "entire": "toy_train-1k.json",
        "plus_mini/Caption": "Caption-plus-mini_train-612.json",
        "plus_mini/Vqa": "Vqa-plus-mini_train-192.json",
        "single/Caption": "Caption_train-1k.json",
        "single/Vqa": "Vqa_train-80.json",
    }
    assert manifest["files"]["mini"]["tasks"] == {"Caption": 150, "Vqa": 10, "Chat": 2}
    assert manifest["files"]["plus_mini/Vqa"]["tasks"] == {"Caption": 150, "Vqa": 40, "Chat": 2}
    for key, entry in manifest["files"].items():
        data = (folder / "out" / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert len(content(folder, manifest, key)) == entry["records"]
    assert read_manifest(folder / "out") == manifest


def test_minis_are_the_same_in_every_file_and_inside_the_large_subset(folder):
    manifest = make(folder)

    def of(key, task):
        return [r["conversations"][0]["value"] for r in content(folder, manifest, key) if r["task"] == task]

    assert of("mini", "Caption") == of("plus_mini/Vqa", "Caption")
    assert of("mini", "Chat") == of("plus_mini/Caption", "Chat")
    assert set(of("mini", "Vqa")) < set(of("plus_mini/Vqa", "Vqa")) < set(of("single/Vqa", "Vqa"))


def test_same_seed_gives_the_same_bytes_and_another_does_not(folder):
    first, again, other = make(folder), make(folder, "again"), make(folder, "other", seed=1)
    assert first["files"] == again["files"]
    assert first["files"]["mini"]["sha256"] != other["files"]["mini"]["sha256"]
    assert first["files"]["entire"]["sha256"] == other["files"]["entire"]["sha256"]


def test_ids_that_tasks_share_become_distinct_in_a_mixed_file(folder):
    ids = [r["id"] for r in content(folder, make(folder), "entire")]
    assert len(set(ids)) == len(ids)
    assert {"Vqa/3", "Chat/3", 700} < set(ids)


def test_groups_are_balanced_as_one(folder):
    tasks = yaml.safe_load((folder / "b.yaml").read_text())["tasks"]
    write(folder, tasks=[task | ({"group": "all"} if "metric" in task else {}) for task in tasks])
    manifest = make(folder)
    assert manifest["files"]["plus_mini/all"]["tasks"] == {"Caption": 600, "Vqa": 40, "Chat": 2}
    assert "plus_mini/Vqa" not in manifest["files"]


@pytest.mark.parametrize(
    ("forms", "kinds"),
    [
        (("simpler",), ["entire", "single", "mini_single"]),
        (("precise",), ["mini", "entire", "plus_mini", "single", "mini_single"]),
        (("simpler", "standard"), ["mini", "entire", "plus_mini", "single", "mini_single"]),
    ],
)
def test_each_form_of_the_weights_gets_its_files(folder, forms, kinds):
    manifest = make(folder, forms=forms)
    assert list(dict.fromkeys(key.partition("/")[0] for key in manifest["files"])) == kinds
    assert manifest["files"]["mini_single/Vqa"]["file"] == "Vqa-mini_train-10.json"
    assert "mini_single/Chat" not in manifest["files"], "Chat is not measured"
    # what the forms have in common is the same
    standard = make(folder, "standard")["files"]
    for key in standard.keys() & manifest["files"].keys():
        assert standard[key]["sha256"] == manifest["files"][key]["sha256"]


def test_single_minis_equal_the_union_and_are_in_the_large_subsets(folder):
    manifest = make(folder, forms=("precise",))
    union = content(folder, manifest, "mini")
    for task in ("Caption", "Vqa"):
        alone = content(folder, manifest, f"mini_single/{task}")
        assert alone == [r for r in union if r["task"] == task]
        assert all(r in content(folder, manifest, f"plus_mini/{task}") for r in alone)


def test_groups_get_single_files_in_the_simpler_form(folder):
    tasks = yaml.safe_load((folder / "b.yaml").read_text())["tasks"]
    write(folder, tasks=[task | ({"group": "all"} if "metric" in task else {}) for task in tasks])
    files = make(folder, forms=("simpler",))["files"]
    assert files["single/all"]["tasks"] == {"Caption": 1200, "Vqa": 80}
    assert "mini_single/Vqa" in files


def test_files_of_one_name_are_refused(folder):
    tasks = yaml.safe_load((folder / "b.yaml").read_text())["tasks"]
    write(folder, name="Vqa", tasks=tasks[1:2])
    with pytest.raises(InputError, match="Vqa_train-80.json would be the name of single/Vqa and of another file"):
        make(folder)
    assert not (folder / "out").exists()


def test_tasks_in_one_file_or_one_file_per_task_give_the_same_bytes(folder):
    files = [f"{task}_train.json" for task in TASKS]
    parts = [json.loads((folder / file).read_text()) for file in files]
    # ids that tasks share would be refused within one file
    merged = [r | {"id": f"{r['task']}/{r['id']}"} if r["id"] < 80 else r for part in parts for r in part]
    mixed = sorted(merged, key=lambda r: (r["conversations"][0]["value"].split()[2], r["task"]))
    order = {task: [r for r in mixed if r["task"] == task] for task in TASKS}
    for task, file in zip(TASKS, files, strict=True):
        (folder / file).write_text(json.dumps(order[task]))
    apart = make(folder)["files"]
    (folder / "mixed.json").write_text(json.dumps(mixed, indent=1))
    tasks = yaml.safe_load((folder / "b.yaml").read_text())["tasks"]
    for task in tasks:
        task["files"]["train"] = "mixed.json"
    write(folder, tasks=tasks)
    assert make(folder, "other")["files"] == apart


def test_tasks_may_share_a_file(folder):
    records = json.loads((folder / "Caption_train.json").read_text())
    records += [record("Vqa", "train", 5000 + n) for n in range(16)]
    (folder / "both.json").write_text(json.dumps(records))
    tasks = yaml.safe_load((folder / "b.yaml").read_text())["tasks"]
    for task in tasks[:2]:
        task["files"]["train"] = "both.json"
    write(folder, tasks=tasks)
    assert make(folder)["files"]["single/Vqa"]["records"] == 16


def test_changed_rate_removes_the_files_it_replaces(folder):
    make(folder)
    (folder / "out" / "mine.txt").write_text("kept")
    write(folder, mini_rate=0.25)
    manifest = make(folder)
    kept = {entry["file"] for entry in manifest["files"].values()} | {MANIFEST, "mine.txt"}
    assert {path.name for path in (folder / "out").iterdir()} == kept


def _drop_answers(records):
    del records[2]["conversations"][1]


def _other_task(records):
    records[1]["task"] = "Grounding"


def _lost_image(records):
    records[3]["image"] = "lost.png"


def _outside_image(records):
    records[3]["image"] = "../b.yaml"


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("Vqa_train.json", _drop_answers, r"Vqa_train.json: record 2 \(id 2\): the last question has no answer"),
        ("Vqa_train.json", _other_task, r"record 1 \(id 1\): task must be one of Vqa, got 'Grounding'"),
        ("Vqa_val.json", _lost_image, r"Vqa_val.json: record 3 \(id 3\): image 'lost.png' not found"),
        ("Vqa_test.json", _outside_image, "leaves the image folder"),
        ("Chat_train.json", list.clear, "Chat_train.json: has no records"),
    ],
)
def test_bad_data_is_refused_before_anything_is_written(folder, file, edit, message):
    change(folder, file, edit)
    with pytest.raises(InputError, match=message):
        make(folder)
    assert not (folder / "out").exists()


def test_task_without_a_record_in_a_shared_file_is_refused(folder):
    tasks = yaml.safe_load((folder / "b.yaml").read_text())["tasks"]
    tasks[1]["files"]["train"] = "Caption_train.json"
    write(folder, tasks=tasks)
    with pytest.raises(InputError, match="no record of task 'Vqa'"):
        make(folder)


def test_mini_larger_than_large_is_refused(folder):
    write(folder, mini_rate=0.9)
    with pytest.raises(InputError, match="mini_rate must be at most large_rate"):
        make(folder)


def test_training_on_a_test_sample_is_refused(folder):
    leaked = record("Vqa", "test", 3)
    change(folder, "Vqa_train.json", lambda records: records.append(leaked | {"id": "new"}))
    with pytest.raises(InputError, match="Vqa: train and test share 1 samples, e.g. id 3. Remove them"):
        make(folder)


def test_shared_ids_and_images_are_warnings(folder):
    # the fixture counts ids from 0 in every file
    assert any("Vqa: train and val share 8 ids" in warning for warning in make(folder)["warnings"])
    same_image = {split: [record("Vqa", split, n, image="a.png", id=split)] for n, split in enumerate(("train", "val"))}
    (found,) = find_overlaps("Vqa", same_image)
    assert str(found) == "Vqa: train and val share 1 images, e.g. 'a.png'"


def test_command_writes_the_files_and_refuses_in_one_line(folder, repository):
    command = [sys.executable, "-m", "scripts_visatb.data.subsets", "--benchmark", str(folder / "b.yaml")]
    command += ["--output", str(folder / "out"), "--data_folder", str(folder), "--image-folder"]

    def call(images):
        words = [*command, str(images)]
        return subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False, timeout=PATIENCE)

    done = call(folder / "images")
    assert done.returncode == 0, done.stderr
    assert "toy-mini_train-162.json" in done.stdout
    refused = call(folder)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in refused.stderr


def test_what_a_killed_run_left_is_removed_by_the_next(folder, monkeypatch):
    def killed(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        monkeypatch.setattr(subsets, "writing_records", killed)
        make(folder)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [path for path in (folder / "out").iterdir() if path.name.startswith(".subsets.")]
    manifest = make(folder)
    files = {entry["file"] for entry in manifest["files"].values()}
    assert {path.name for path in (folder / "out").iterdir()} == files | {"subsets.json"}


def test_short_cuts_the_large_subsets_alone_and_keeps_the_minis_inside(folder):
    write(folder, measure={"short": {"samples_per_task": 300}})
    manifest = make(folder, forms=("standard", "precise"))
    files = manifest["files"]
    assert files["short/plus_mini/Caption"]["tasks"] == {"Caption": 300, "Vqa": 10, "Chat": 2}
    assert files["short/plus_mini/Vqa"]["tasks"] == files["plus_mini/Vqa"]["tasks"], "fewer than the cut"
    assert files["short/single/Caption"]["tasks"] == {"Caption": 300}
    assert files["plus_mini/Caption"]["tasks"]["Caption"] == 600
    ids = {
        key: {record["id"] for record in content(folder, manifest, key) if record["task"] == "Caption"}
        for key in ("mini", "short/plus_mini/Caption", "plus_mini/Caption", "short/single/Caption")
    }
    assert ids["mini"] < ids["short/plus_mini/Caption"] < ids["plus_mini/Caption"]
    assert ids["short/single/Caption"] == ids["short/plus_mini/Caption"]
    assert files["short/plus_mini/Caption"]["file"] == "short-Caption-plus-mini_train-312.json"


def test_a_cut_within_the_mini_subset_is_refused_before_anything_is_written(folder):
    write(folder, measure={"short": {"samples_per_task": 150}})
    with pytest.raises(InputError, match="samples_per_task must be more than the 150 samples of Caption's mini subset"):
        make(folder)
    assert not (folder / "out").exists()
