"""`visatb export`: the files that ms-swift and LLaMA-Factory read, with the task weights in the form each has."""

import json

import pytest
import yaml
from PIL import Image

from scripts_visatb.data import export
from visatb.cli import run

WEIGHTS = {"caption": 0.5, "vqa": 2.0}


@pytest.fixture
def place(tmp_path):
    """Three tasks, of which Chat has a fixed weight and no image."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    records = []
    for n, (task, answer) in enumerate([("caption", "a" * 30), ("caption", "b" * 10), ("vqa", "yes"), ("Chat", "hi")]):
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": answer}]
        record = {"id": n, "task": task, "conversations": turns}
        if task != "Chat":
            turns[0]["value"] = "<image>\nWhat?"
            record["image"] = "a.png"
        records.append(record)
    records[2]["conversations"] += [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "so"}]
    (tmp_path / "train.json").write_text(json.dumps(records))
    files = {split: f"{split}.json" for split in ("train", "val", "test")}
    tasks = [{"name": name, "metric": "exact_match", "files": files} for name in WEIGHTS]
    tasks.append({"name": "Chat", "weight": 1.5, "files": {"train": "train.json"}})
    content = {"name": "mix", "data_folder": ".", "image_folder": ".", "tasks": tasks, "mini_rate": 0.5}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(content | {"large_rate": 1.0}))
    (tmp_path / "weights.json").write_text(json.dumps({"weights": WEIGHTS}))
    return tmp_path


def words(place, to):
    given = {"--to": to, "--weights": "weights.json", "--benchmark": "mix.yaml", "--data_path": "train.json"}
    given |= {"--image_folder": "images", "--output": "out"}
    return [word for flag, value in given.items() for word in (flag, value if flag == "--to" else str(place / value))]


def command(monkeypatch, argv):
    monkeypatch.setattr("sys.argv", ["visatb export", *argv])
    try:
        run(export.main)
    except SystemExit as end:
        return end.code
    return 0


def test_ms_swift_gets_a_scale_for_each_answer_with_mean_1(place, monkeypatch, capsys):
    assert not command(monkeypatch, words(place, "ms-swift"))
    rows = [json.loads(line) for line in (place / "out" / "train.jsonl").read_text().splitlines()]
    factor = 47 / (0.5 * 40 + 2.0 * 5 + 1.5 * 2)
    answers = [turn for row in rows for turn in row["messages"] if turn["role"] == "assistant"]
    expected = [0.5, 0.5, 2.0, 2.0, 1.5]
    assert [turn["loss_scale"] for turn in answers] == pytest.approx([factor * weight for weight in expected], abs=1e-6)
    mean = sum(turn["loss_scale"] * len(turn["content"]) for turn in answers) / 47
    assert mean == pytest.approx(1, abs=1e-5)
    assert all(turn.keys() == {"role", "content"} for row in rows for turn in row["messages"] if turn["role"] == "user")
    assert [row.get("images") for row in rows] == [[str(place / "images" / "a.png")]] * 3 + [None]
    assert rows[0]["messages"][0]["content"] == "<image>\nWhat?"
    assert "--is_binary_loss_scale false" in capsys.readouterr().out


def test_llama_factory_gets_a_data_set_per_task_and_its_rate(place, monkeypatch, capsys):
    assert not command(monkeypatch, words(place, "llama-factory"))
    out = place / "out"
    settings = yaml.safe_load((out / "data.yaml").read_text())
    rates = [float(rate) for rate in settings["interleave_probs"].split(",")]
    assert rates == pytest.approx([1.0 / 4.5, 2.0 / 4.5, 1.5 / 4.5], abs=1e-6)
    info = json.loads((out / "dataset_info.json").read_text())
    assert settings["dataset"] == "caption,vqa,Chat" and list(info) == ["caption", "vqa", "Chat"]
    counts = [len(json.loads((out / entry["file_name"]).read_text())) for entry in info.values()]
    assert counts == [2, 1, 1]
    assert all(set(turn) == {"role", "content"} for turn in json.loads((out / "vqa.json").read_text())[0]["messages"])
    assert "resampling" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("weights.json", {"weights": {"caption": 1.0}}, "task vqa must have a weight > 0, got none"),
        ("weights.json", {"weights": WEIGHTS | {"vqa": 0}}, "task vqa must have a weight > 0, got 0"),
        ("weights.json", [1], "has no task weights"),
        ("train.json", [{"id": 0, "task": "other", "conversations": []}], "other"),
    ],
)
def test_a_bad_file_is_refused_before_one_is_written(place, monkeypatch, capsys, file, content, message):
    (place / file).write_text(json.dumps(content))
    assert command(monkeypatch, words(place, "ms-swift")) == 2
    assert message in capsys.readouterr().err
    assert not (place / "out").exists()


def test_images_need_their_folder(place, monkeypatch, capsys):
    argv = words(place, "ms-swift")
    at = argv.index("--image_folder")
    assert command(monkeypatch, argv[:at] + argv[at + 2 :]) == 2
    assert "has an image. Set --image_folder" in capsys.readouterr().err
