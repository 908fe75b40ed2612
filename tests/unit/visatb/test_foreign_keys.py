"""Keys of other trainers' formats: what would change input or labels is refused, the rest is counted."""

import copy
import json
import os

import pytest
from forked import run_forked

from llava.data.check import main as check
from scripts_visatb.data.label_tasks import label_file, load_rules
from scripts_visatb.data.split import Wanted, split_file
from visatb.errors import InputError
from visatb.records import check_records

IMAGE, MEDIA, SYSTEM, LEARNED = (
    '"image": a path',
    "Only images",
    "system prompt is the template",
    "All answers are supervised",
)
TURNS = '"conversations": [{"from": "human"'
TEXT = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]}
OF_RECORDS = {
    IMAGE: {
        "images": ["a.png"],
        "Images": "a.png",
        "Image": "a.png",
        "image_path": "a.png",
        "image-files": ["a.png"],
        "img": "a",
        "imageUrl": "https://a/b",
        "pictures": ["a", "b"],
        "photo": "folder/a.JPG",
        "frames": ["1.webp"],
    },
    MEDIA: {"video": "a.mp4", "videos": ["a.mp4"], "Audio": "a.wav", "audios": ["a.wav"]},
    SYSTEM: {"system": "Answer in German.", "system_prompt": "x", "systemPrompt": "x", "tools": "[]"},
    LEARNED: {
        "loss": False,
        "loss_scale": 0.5,
        "train": False,
        "weight": 0.0,
        "sample_weight": 2,
        "weights": [1.0, 0.0],
        "mask": True,
        "loss-mask": [0, 1],
    },
    "Write the key as": {"Task": "VQA", "Conversations": [1]},
    TURNS: {"messages": [{"role": "user"}], "history": [["a", "b"]]},
}
OF_TURNS = {
    IMAGE: {"image": "a.png", "images": ["a.png"]},
    MEDIA: {"video": "a.mp4"},
    SYSTEM: {"system": "x"},
    LEARNED: {"loss": False, "train": False, "weight": 0, "loss_scale": "last", "mask": 0},
    TURNS: {"content": "What?", "role": "assistant"},
}


def cases(table):
    return [(key, value, message) for message, keys in table.items() for key, value in keys.items()]


@pytest.mark.parametrize("key, value, message", cases(OF_RECORDS))
def test_keys_of_records_that_would_change_the_training_are_refused(key, value, message):
    with pytest.raises(InputError) as error:
        check_records([TEXT, TEXT | {"id": "x", key: value}], "a.json")
    assert str(error.value).startswith(f"a.json: record 1 (id 'x'): {key}: {value!r} would be ignored. ")
    assert message in str(error.value)


@pytest.mark.parametrize("key, value, message", cases(OF_TURNS))
def test_keys_of_turns_that_would_change_the_training_are_refused(key, value, message):
    record = copy.deepcopy(TEXT)
    record["conversations"][1][key] = value
    with pytest.raises(InputError) as error:
        check_records([record], "a.json")
    assert str(error.value).startswith(f"a.json: record 0: conversations[1].{key}: {value!r} would be ignored. ")
    assert message in str(error.value)


def test_openai_messages_are_refused_with_the_shape_to_write():
    for record in (
        {"messages": [{"role": "user", "content": "x"}]},
        {"conversations": [{"role": "user", "content": "x"}]},
    ):
        with pytest.raises(InputError, match=r'Write "conversations": \[{"from": "human", "value"'):
            check_records([record], "a.json")
    turns = [{"from": "system", "value": "Be brief."}, *TEXT["conversations"]]
    with pytest.raises(InputError, match="drop the turn"):
        check_records([{"conversations": turns}], "a.json")
    with pytest.raises(InputError, match="Write human for user"):
        check_records([{"conversations": [{"from": "user", "value": "x"}]}], "a.json")


def test_keys_that_change_nothing_are_accepted():
    question = {"from": "human", "value": "What?", "loss": False, "train": 0, "weight": 0.0}
    answer = {"from": "gpt", "value": "red", "loss": True, "weight": 1.0, "images": []}
    empty = {"images": [], "system": "", "video": None, "weight": 1, "train": True, "tools": {}}
    other = {"source": "coco", "model": "", "width": 640, "annotator": "a.b", "score": 0.5}
    check_records([{"conversations": [question, answer]} | empty | other], "a.json")
    with_image = {"image": "a.png", "original": "b.png"} | copy.deepcopy(TEXT)
    with_image["conversations"][0]["value"] = "<image>"
    check_records([with_image], "a.json")


def test_what_only_labels_mean_is_no_fault_of_evaluation_records():
    check_records([TEXT | {"weight": 0.5}], "a.json", training=False)
    for key in ("images", "video", "system"):
        with pytest.raises(InputError, match=f"{key}: 'a.png' would be ignored"):
            check_records([TEXT | {key: "a.png"}], "a.json", training=False)


def test_every_reader_of_training_data_refuses_them(tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([TEXT, TEXT | {"images": ["a.png"]}]))
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{task: VQA}]")
    for command in (
        lambda: label_file(file, tmp_path / "out.json", load_rules(rules)),
        lambda: split_file(file, tmp_path / "out", 0, {"val": Wanted(1), "test": Wanted(0)}, "record", False, "VQA"),
        lambda: check(["--data_path", str(file), "--no_images"]),
    ):
        with pytest.raises(InputError) as error:
            command()
        assert "record 1: images: ['a.png'] would be ignored" in str(error.value) + capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "rules.yaml"]


def test_unknown_keys_are_counted_and_refused_ones_listed(tmp_path, capsys):
    records = [copy.deepcopy(TEXT) | {"source": "coco"} for _ in range(5)]
    records[3]["conversations"][0]["lang"] = records[3]["conversations"][1]["lang"] = "en"
    records += [TEXT | {key: value} for key, value, _ in cases(OF_RECORDS)[:6]]
    (tmp_path / "a.json").write_text(json.dumps(records))
    with pytest.raises(InputError, match=r"6 error\(s\) of 6 kind\(s\)"):
        check(["--data_path", str(tmp_path / "a.json"), "--no_images"])
    report = capsys.readouterr().out
    assert "unknown key 'source': 5 in" in report and "unknown key 'conversations[].lang': 1 in" in report
    assert "key of another format: 'imageUrl'" not in report and "key of another format: 'img': 1 in" in report
    assert report.count("unknown key") == 2


@pytest.mark.parametrize(
    "image",
    ["data:image/png;base64," + "iVBORw0KGgo" * 30_000, "https://host/a.png", "s3://a/b.png", "iVBORw0K" * 9000],
)
def test_an_image_that_is_no_file_gets_the_advice_to_save_it(image):
    record = copy.deepcopy(TEXT) | {"image": image}
    record["conversations"][0]["value"] = "<image>"
    with pytest.raises(InputError, match="Save the image as a file in the image folder") as error:
        check_records([record], "a.json")
    assert len(str(error.value)) < 350


def test_a_training_with_such_keys_ends_with_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([TEXT | {"system": "x"}]))
    argv = ["--model_name_or_path", "m", "--data_path", tmp_path / "a.json", "--output_dir", tmp_path / "o"]
    done = run_forked(["-m", "llava.train.train", *map(str, argv)], os.environ, tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "record 0: system: 'x' would be ignored" in done.stderr.splitlines()[-1]
