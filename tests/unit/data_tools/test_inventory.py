"""`visatb data`: what of a benchmark's data is there, wherever it lies, and where the rest comes from."""

import json
import sys

import pytest
import yaml
from PIL import Image

from scripts_visatb.data.inventory import annotation_places, main
from scripts_visatb.data.sources import ANNOTATIONS, IMAGES, source_of
from scripts_visatb.workflow.cost import find_benchmark
from visatb.benchmark import load_benchmark
from visatb.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A benchmark of one task, whose files lie two folders deep, and its images."""
    monkeypatch.chdir(tmp_path)
    tasks = [
        {"name": "VQA", "metric": "exact_match", "files": {s: f"VQA_{s}-9.json" for s in ("train", "val", "test")}}
    ]
    settings = {"data_folder": "data/mine", "image_folder": "data", "mini_rate": 0.5, "temperature": 1.0}
    settings |= {"training": {"script": "train.sh"}, "inference": {"script": "infer.py"}}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"name": "b", "tasks": tasks} | settings))
    (tmp_path / "train.sh").touch()
    (tmp_path / "infer.py").touch()
    for split in ("train", "val", "test"):
        write(tmp_path / f"data/published/{split}/VQA_{split}-9.json", [f"coco/train2017/{n}.png" for n in range(3)])
    (tmp_path / "data/coco/train2017").mkdir(parents=True)
    for n in range(3):
        Image.new("RGB", (2, 2)).save(tmp_path / f"data/coco/train2017/{n}.png")
    return tmp_path / "data"


def write(path, images):
    path.parent.mkdir(parents=True, exist_ok=True)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Two."}]
    records = [{"id": n, "task": "VQA", "image": name, "conversations": turns} for n, name in enumerate(images)]
    path.write_text(json.dumps(records))


def call(monkeypatch, capsys, *words) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["data", *words])
    code = main()
    return code, capsys.readouterr().out


def test_files_below_the_folder_are_found_and_their_images_looked_up(folder, monkeypatch, capsys):
    code, text = call(monkeypatch, capsys, "b.yaml", "--check", "data")
    assert code == 0 and "b: 3 of 3 annotation files are there" in text and "MISSING" not in text
    assert "note: some are in data/published/train: set data_folder to it" in text
    assert text.splitlines()[-1].split() == ["coco/train2017", "9", "3", "3"]


def test_a_missing_file_and_images_are_named_with_where_they_come_from(folder, monkeypatch, capsys):
    (folder / "published/val/VQA_val-9.json").rename(folder / "published/val/vqa_val-2k.json")
    (folder / "coco/train2017/1.png").unlink()
    write(folder / "published/test/VQA_test-9.json", ["../secret.png", "/etc/hostname", "strange/x.png"])
    (folder.parent / "secret.png").touch()
    code, text = call(monkeypatch, capsys, "b.yaml", "--check", "data")
    assert code == 1 and "2 of 3 annotation files" in text
    assert "MISSING val of VQA: VQA_val-9.json; there is vqa_val-2k.json: name it in the benchmark file" in text
    line = next(line for line in text.splitlines() if line.startswith("MISSING coco/train2017"))
    assert "e.g. coco/train2017/1.png" in line and IMAGES["coco/train2017"].address in line
    assert all(f"MISSING {place}: e.g. " in text for place in ("..", "/etc", "strange"))


def test_every_image_is_looked_up_on_request(folder, monkeypatch, capsys):
    names = [f"coco/train2017/{n % 3}.png" for n in range(400)] + ["coco/train2017/lost.png"]
    write(folder / "published/train/VQA_train-9.json", names)
    assert call(monkeypatch, capsys, "b.yaml", "--check", "data")[0] == 0
    code, text = call(monkeypatch, capsys, "b.yaml", "--check", "data", "--every-image")
    assert code == 1 and "e.g. coco/train2017/lost.png" in text


def test_files_in_the_benchmarks_own_folder_come_first(folder, monkeypatch, capsys):
    write(folder / "mine/VQA_train-9.json", ["coco/train2017/0.png"])
    places = annotation_places(load_benchmark("b.yaml"), folder)
    assert {found.split: found.path.parent.name for found in places} == {"train": "mine", "val": "val", "test": "test"}
    with pytest.raises(InputError, match="nowhere: no such folder"):
        call(monkeypatch, capsys, "b.yaml", "--check", "nowhere")


def test_the_needs_of_a_benchmark_are_listed_with_their_source(monkeypatch, capsys):
    code, text = call(monkeypatch, capsys, "academic")
    assert code == 0 and ANNOTATIONS["academic"].address in text
    assert "ChartQA_train-18k.json" in text and "playground/data" in text


def test_every_address_stands_in_the_page_on_real_data(repository):
    page = (repository / "docs/real_data.md").read_text()
    sources = [*IMAGES.values(), *ANNOTATIONS.values()]
    assert not [source.address for source in sources if source.address not in page]
    assert source_of("vg/VG_100K_2") is IMAGES["vg/VG_100K_2"] and source_of("vg/other") is None


def test_the_benchmark_of_llavas_mix_has_the_tasks_that_labelling_gives(repository):
    benchmark = load_benchmark(find_benchmark("mix665k"))
    rules = yaml.safe_load((repository / "scripts_visatb/data/rules/llava_mix665k.yaml").read_text())["rules"]
    assert set(benchmark.task_names) == {rule["task"] for rule in rules}
