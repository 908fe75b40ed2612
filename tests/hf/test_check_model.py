"""`visatb check --model`: what a training would find, before it."""

import json

import pytest

from tests.hf.tiny_llava import save_data, save_model
from visatb.errors import InputError
from visatb_hf import check


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    save_data(folder / "data")
    save_model(folder / "model")
    return folder


def words(base, *more):
    given = ["--model_name_or_path", base / "model", "--data_path", base / "data" / "train.json", "--image_folder"]
    given += [base / "data" / "images", "--benchmark", base / "data" / "tiny.yaml", "--quiet"]
    return [str(word) for word in [*given, *more]]


def test_lengths_cut_and_unsupervised_samples_are_counted_by_task(base, tmp_path, capsys):
    assert check.main(words(base, "--output", tmp_path / "report.json")) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    records = json.loads((base / "data" / "train.json").read_text())
    assert report["errors"] == []
    for name, task in report["tasks"].items():
        assert task["records"] == task["tried"] == sum(record["task"] == name for record in records) > 0
        assert task["mean_length"] > task["mean_supervised_tokens"] > 0
        assert task["cut"] == task["unsupervised"] == 0
    assert "colour" in capsys.readouterr().out
    longest = max(task["longest"] for task in report["tasks"].values())
    check.main(words(base, "--output", tmp_path / "short.json", "--model_max_length", longest - 1))
    short = json.loads((tmp_path / "short.json").read_text())["tasks"]
    assert sum(task["cut"] for task in short.values()) > 0
    check.main(words(base, "--output", tmp_path / "few.json", "--sample", 3))
    assert {task["tried"] for task in json.loads((tmp_path / "few.json").read_text())["tasks"].values()} == {3}


def test_a_record_that_the_template_refuses_is_listed(base, tmp_path, capsys):
    records = json.loads((base / "data" / "train.json").read_text())
    records[1]["conversations"][1]["value"] += "<|im_end|>"
    file = tmp_path / "train.json"
    file.write_text(json.dumps(records))
    with pytest.raises(InputError, match="training would refuse 1 of the records tried"):
        check.main(words(base, "--data_path", file))
    assert str(records[1]["id"]) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sample", "0"), "sample must be at least 1"),
        (("--image_folder", "/nowhere"), "no such folder"),
        (("--model_name_or_path", "/nowhere/model"), "processor cannot be loaded"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(base, more, message):
    with pytest.raises(InputError, match=message):
        check.main(words(base, *more))


def test_a_processor_that_needs_a_missing_package_is_refused_in_one_line(base, monkeypatch):
    def read(*_, **__):
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library\nbut it was not found.")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", read)
    with pytest.raises(InputError, match="its processor needs a missing package: Qwen2VL.*Torchvision") as refused:
        check.main(words(base))
    assert "\n" not in str(refused.value)
