"""The data commands one after the other, as a user runs them: from a public mix to the files of a benchmark."""

import base64
import io
import json
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from waiting import PATIENCE

from visatb.records import check_records, read_records

SHORT = "\nAnswer the question using a single word or phrase."
REGION = "Please provide a short description for this region: [0.1, 0.2, 0.5, 0.6]."
BOX = "Please provide the bounding box coordinate of the region this sentence describes: thing {}."
COMMANDS = ("label_tasks", "split", "subsets", "m3it", "boxes", "refcoco")


@pytest.fixture(scope="module")
def data(repository):
    """Runs a command of scripts_visatb.data."""

    def call(name, *arguments, code=0):
        words = [sys.executable, "-m", f"scripts_visatb.data.{name}", *map(str, arguments)]
        done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, and a mix in LLaVA's format: 60 records each of VQAv2 (2 turns), RefCOCO (both kinds), and ShareGPT."""
    folder = tmp_path_factory.mktemp("data")
    images = folder / "images" / "coco" / "train2017"
    images.mkdir(parents=True)
    records = []
    for n in range(60):
        Image.new("RGB", (20, 10), (n, 0, 0)).save(images / f"{n:012}.jpg")
        name = {"id": f"{n:012}", "image": f"coco/train2017/{n:012}.jpg"}
        vqa = ["<image>\n" + f"What is {n}?" + SHORT, "a word", "And then?", "no"]
        region = ["<image>\n" + REGION, f"thing {n}", BOX.format(n), "[0.1, 0.3, 0.5, 0.5]"]
        talk = [f"Describe {n}.", "A long story."]
        for texts, fields in ((vqa, name), (region, name), (talk, {"id": f"talk{n}"})):
            turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
            records.append(fields | {"conversations": turns})
    (folder / "mix.json").write_text(json.dumps(records))
    return folder


def test_from_a_public_mix_to_the_sub_datasets_of_a_benchmark(folder, data):
    labelled = data("label_tasks", "--input", folder / "mix.json", "--output", folder / "tasks.json", "--split-turns")
    table = {line.split()[0]: line.split()[1:4] for line in labelled.stdout.splitlines()[1:5]}
    assert table["VQAv2"] == ["60", "25.0%", "180"]
    assert table["RefCOCO-bbox"] == ["60", "25.0%", "240"]
    assert "60 records have questions of several tasks: split into one record per task" in labelled.stdout

    sizes = ("--val", "8", "ShareGPT=0", "--test", "0.2", "ShareGPT=0")
    parts = data("split", "--input", folder / "tasks.json", "--output", folder / "parts", *sizes, "--across-tasks")
    assert "omitted" not in parts.stdout, "the tasks that want val and test show the same images"
    tasks = []
    for name, metric in (("VQAv2", "exact_match"), ("RefCOCO-caption", "cider"), ("RefCOCO-bbox", "iou")):
        files = {"train": f"{name}_train-40.json", "val": f"{name}_val-8.json", "test": f"{name}_test-12.json"}
        assert all((folder / "parts" / file).is_file() for file in files.values())
        tasks.append({"name": name, "metric": metric, "files": files})
    tasks.append({"name": "ShareGPT", "weight": 1.0, "files": {"train": "ShareGPT_train-60.json"}})
    settings = {"name": "mine", "data_folder": str(folder / "parts"), "image_folder": str(folder / "images")}
    settings |= {"mini_rate": 0.25, "tasks": tasks}
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))

    forms = ("--forms", "standard", "simpler", "precise")
    data("subsets", "--benchmark", folder / "mine.yaml", "--output", folder / "subsets", *forms)
    files = json.loads((folder / "subsets" / "subsets.json").read_text())["files"]
    assert files["mini"]["tasks"] == {"VQAv2": 10, "RefCOCO-caption": 10, "RefCOCO-bbox": 10, "ShareGPT": 15}
    assert files["mini_single/VQAv2"]["file"] == "VQAv2-mini_train-10.json"
    for entry in files.values():
        check_records(read_records(folder / "subsets" / entry["file"]), entry["file"], tasks=list(entry["tasks"]))


def test_m3it_becomes_training_data(tmp_path, data):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    row = {"instruction": "Name the colour.", "inputs": "", "outputs": "Red."}
    row["image_base64_str"] = [base64.b64encode(stream.getvalue()).decode()]
    (tmp_path / "train.jsonl").write_text((json.dumps(row) + "\n") * 3)
    words = ("--task", "colours", "--output", tmp_path / "out.json", "--image-folder", tmp_path / "images")
    done = data("m3it", "--input", tmp_path / "train.jsonl", *words)
    assert done.stdout.startswith("3 records")
    check_records(read_records(tmp_path / "out.json"), "out.json", tasks=["colours"])
    row["image_base64_str"] = ["?"]
    (tmp_path / "more.jsonl").write_text(json.dumps(row))
    refused = data("m3it", "--input", tmp_path / "train.jsonl", tmp_path / "more.jsonl", *words, code=2)
    assert "more.jsonl: row 0: the image must be base64 text" in refused.stderr.splitlines()[-1]


def test_boxes_in_pixels_become_boxes_of_the_padded_square(folder, data):
    record = json.loads((folder / "mix.json").read_text())[1]
    record["conversations"][1:] = [{"from": "gpt", "value": "[2, 0, 8, 4]"}]
    (folder / "pixels.json").write_text(json.dumps([record]))
    words = ("--output", folder / "square.json", "--image-folder", folder / "images", "--where", "answers")
    data("boxes", "--input", folder / "pixels.json", *words, "--from", "pixel-xywh")
    (converted,) = read_records(folder / "square.json")
    assert converted["conversations"][1]["value"] == "[0.1, 0.25, 0.5, 0.45]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(data, name):
    text = data(name, "--help").stdout
    assert f"python -m scripts_visatb.data.{name}" in text
    assert "--output" in text


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("label_tasks", ("--input", "{0}/none.json", "--output", "{0}/o.json")),
        ("label_tasks", ("--input", "{0}/mix.json", "--output", "{0}/mix.json")),
        ("label_tasks", ("--input", "{0}/mix.json", "--output", "{0}/o.json", "--rules", "{0}/mix.json")),
        ("split", ("--input", "{0}/mix.json", "--output", "{0}/o", "--val", "5")),
        ("split", ("--input", "{0}/mix.json", "--output", "{0}/o", "--val", "many")),
        ("m3it", ("--input", "{0}/mix.json", "--output", "{0}/o.json", "--image-folder", "{0}/o", "--task", "a/b")),
        ("subsets", ("--benchmark", "{0}/mix.json", "--output", "{0}/o")),
    ],
)
def test_bad_input_is_reported_in_one_line_and_nothing_is_written(folder, data, name, arguments):
    before = (folder / "mix.json").read_bytes()
    refused = data(name, *(word.format(folder) for word in arguments), code=2)
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert sum(line.startswith("error") for line in refused.stderr.splitlines()) == 1
    assert not list(folder.glob("o*"))
    assert (folder / "mix.json").read_bytes() == before
