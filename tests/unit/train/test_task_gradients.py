"""`visatb gradients`: contributions at a tiny model, resumed from sketches, and weighed."""

import json
import sys

import numpy as np
import pytest
from tiny import make_tiny_checkpoint, make_tiny_dataset

import weighting_visatb
from llava.train import contributions, task_gradients
from visatb.errors import InputError

TASKS = ("SceneCaption", "ShapeVQA", "Grounding")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("gradients"))
    make_tiny_dataset(folder, 48, "mix.json")
    records = json.loads((folder / "mix.json").read_text())
    tasks = []
    for name in TASKS:
        own = [record for record in records if record["task"] == name]
        for split in ("train", "val", "test"):  # the same records: their own gradient lowers their loss
            (folder / f"{name}-{split}.json").write_text(json.dumps(own))
        metric = "cider" if name == "SceneCaption" else "exact_match"
        files = {split: f"{name}-{split}.json" for split in ("train", "val", "test")}
        tasks.append({"name": name, "metric": metric, "files": files})
    tasks.append({"name": "Chat", "weight": 1.0, "files": {"train": "mix.json"}})
    content = {"name": "tiny", "data_folder": str(folder), "image_folder": str(folder / "images"), "tasks": tasks}
    (folder / "tiny.yaml").write_text(json.dumps(content | {"mini_rate": 0.5, "large_rate": 1.0}))  # JSON is YAML
    return folder


@pytest.fixture
def call(place, tmp_path, monkeypatch):
    def call(*flags, output="out.json"):
        words = ["--model-path", place / "llava-tiny", "--benchmark", place / "tiny.yaml"]
        words += ["--data_path", place / "mix.json", "--output", tmp_path / output, "--device", "cpu", "--steps", "2"]
        words += ["--step_size", "8", "--samples_per_task", "6", "--model_max_length", "256", *flags]
        monkeypatch.setattr(sys, "argv", ["gradients", *map(str, words)])
        contributions.main()
        return json.loads((tmp_path / output).read_text())

    return call


def test_contributions_do_not_depend_on_batches_and_are_the_same_again(call, recwarn):
    one = call("--batch_size", "6", output="one.json")
    other = call("--batch_size", "2", output="other.json")
    C_NN = np.array(one["contributions"])
    assert one["tasks"] == one["units"] == list(TASKS) and C_NN.shape == (3, 3)
    assert np.diagonal(C_NN).tolist() == [1.0] * 3 and min(one["gain"]) > 0
    np.testing.assert_allclose(C_NN, other["contributions"], rtol=1e-3, atol=1e-4)
    assert "approximation" in one["about"]
    assert not [warning for warning in recwarn if "use_reentrant" in str(warning.message)]


def test_an_interrupted_measurement_resumes_from_its_sketches(call, tmp_path, monkeypatch):
    whole = call(output="whole.json")
    first_order = task_gradients.first_order_contributions
    monkeypatch.setattr(task_gradients, "first_order_contributions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call()
    assert len(list((tmp_path / "out.json.parts").glob("*/*.npy"))) == 6 and not (tmp_path / "out.json").exists()
    monkeypatch.setattr(task_gradients, "first_order_contributions", first_order)
    monkeypatch.setattr(task_gradients, "load_pretrained_model", None)  # not needed: all sketches are there
    assert call() == whole
    assert not (tmp_path / "out.json.parts").exists()
    with pytest.raises(TypeError):  # another setting does not reuse them
        call("--seed", "1")


def test_weights_come_from_the_file_and_difficulties_from_scores(call, tmp_path, monkeypatch, capsys):
    content = call()
    (tmp_path / "scores.csv").write_text("model,SceneCaption,ShapeVQA,Grounding\nbase,0,0.1,0\nmini,0.4,0.2,0.1\n")
    words = ["--contributions", tmp_path / "out.json", "--scores", tmp_path / "scores.csv", "--output", tmp_path / "w"]
    monkeypatch.setattr(sys, "argv", ["weigh", *map(str, words)])
    weighting_visatb.main()
    found = json.loads((tmp_path / "w").read_text())
    np.testing.assert_allclose(found["contributions"], content["contributions"], rtol=1e-12)
    assert found["difficulty"] == pytest.approx([1.0, 0.5, 1.0]) and found["form"] == "gradient"
    assert "approximation" in found["notes"][0] and "base model and mini" in found["notes"][0]
    assert "approximation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "scores", "expected"),
    [
        ({}, "model,A,B\nbase,0,0\nmini,1,1\n", "mini, SceneCaption: the score is missing|base, SceneCaption"),
        ({}, "model,SceneCaption,ShapeVQA,Grounding\nmini,1,1,1\n", "must have the rows base and mini"),
        ({"contributions": [[1, 2], [0, 1]]}, None, "3 rows of 3 finite numbers"),
        ({"unit_of_task": [0, 1, 7]}, None, "3 rows of 3 finite numbers"),
        ({"tasks": "all"}, None, "tasks must be a list"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch, change, scores, expected):
    content = {"tasks": list(TASKS), "units": list(TASKS), "unit_of_task": [0, 1, 2]}
    content |= {"contributions": np.eye(3).tolist()} | change
    (tmp_path / "c.json").write_text(json.dumps(content))
    whole = "model,SceneCaption,ShapeVQA,Grounding\nbase,0,0,0\nmini,1,1,1\n"
    (tmp_path / "scores.csv").write_text(scores or whole)
    words = ["weigh", "--contributions", str(tmp_path / "c.json"), "--scores", str(tmp_path / "scores.csv")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(InputError, match=expected):
        weighting_visatb.main()


def test_a_missing_model_or_file_is_refused_before_anything_is_computed(call, place, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        call("--model-path", tmp_path / "nowhere")
    with pytest.raises(InputError, match="absent.json: no such file"):
        call("--data_path", place / "absent.json")
    with pytest.raises(InputError, match="--samples_per_task must be at least 1"):
        call("--samples_per_task", "0")
    assert not list(tmp_path.iterdir())
