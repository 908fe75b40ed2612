"""Annotation records: what is accepted, what is refused and how it is said."""

import copy
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visatb.errors import InputError
from visatb.records import check_records, image_names, read_records, resolve_image

GOOD = {
    "id": "q1",
    "image": "a.png",
    "task": "VQA",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Two."}],
}


def changed(**fields):
    record = copy.deepcopy(GOOD) | fields
    return {key: value for key, value in record.items() if value is not ...}


def turns(*values):
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]


@pytest.mark.parametrize(
    "record",
    [
        GOOD,
        changed(id=...),
        changed(id=7),
        changed(image=["a.png", "b.png"], conversations=turns("<image><image>?", "Two.", "Why?", "So.")),
        changed(image=..., conversations=turns("Hello", "Hi")),
        changed(conversations=[{"from": "gpt", "value": "Welcome."}, *GOOD["conversations"]]),
        changed(conversations=turns("<image>", "")),
    ],
)
def test_good_records_pass(record):
    check_records([record], "f.json", tasks=["VQA"])


@pytest.mark.parametrize(
    "record, message",
    [
        (changed(conversations=...), "conversations must be a list of turns, got null"),
        (changed(conversations=[]), "conversations must be a list"),
        (changed(conversations=["x"]), r"conversations\[0\] must be an object"),
        (changed(conversations=turns("<image>?")), "the last question has no answer"),
        (changed(conversations=[{"from": "gpt", "value": "Hi"}]), "the last question has no answer"),
        (changed(conversations=turns("<image>?", "a", "b")), "the last question has no answer"),
        (changed(conversations=[{"from": "gpt", "value": "a"}] * 2), r"\[1\].from must be 'human', got 'gpt'"),
        (changed(conversations=[{"from": "user", "value": "a"}] * 2), "must be 'human', got 'user'"),
        (changed(conversations=turns("<image>?", 2)), r"\[1\].value must be a string, got a number"),
        (changed(conversations=turns("<image>?", ["a"])), "must be a string, got a list"),
        (changed(task="Other"), r"task must be one of VQA, got 'Other'.* benchmark file .*\(--benchmark, BENCHMARK\)"),
        (changed(task=...), "task must be one of VQA, got None"),
        (changed(image=...), r"1 <image> token\(s\) for 0 image"),
        (changed(conversations=turns("What?", "Two.")), r"0 <image> token\(s\) for 1 image"),
        (changed(conversations=turns("<image><image>?", "Two.")), r"2 <image> token\(s\) for 1 image"),
        (changed(conversations=turns("<image>?", "an <image>")), "an answer contains <image>"),
        (changed(image=5), "image must be a path"),
        (changed(image=[""]), "image must be a path"),
        (changed(id=[1]), "id must be a string or an integer, got a list"),
    ],
)
def test_bad_records_are_refused_by_file_record_and_field(record, message):
    with pytest.raises(InputError, match=message) as error:
        check_records([changed(id="q0"), record], "f.json", tasks=["VQA"])
    assert str(error.value).startswith("f.json: record 1")


def test_duplicate_ids_are_refused_for_evaluation_only():
    check_records([GOOD, GOOD], "f.json")
    with pytest.raises(InputError, match="id occurs twice"):
        check_records([GOOD, GOOD], "f.json", training=False)


def test_reference_lists_are_for_questions_not_for_training():
    record = changed(conversations=turns("<image>?", ["a", "b"]))
    check_records([record], "f.json", training=False)
    with pytest.raises(InputError):
        check_records([record], "f.json", training=True)


def test_json_lines_and_lists_read_alike_and_name_the_broken_line(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD]))
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD) + "\n")
    assert read_records(tmp_path / "a.json") == read_records(tmp_path / "a.jsonl") == [GOOD, GOOD]
    (tmp_path / "b.jsonl").write_text(json.dumps(GOOD) + "\n{")
    with pytest.raises(InputError, match=r"b\.jsonl: broken JSON at line 2 column 2"):
        read_records(tmp_path / "b.jsonl")


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", '"x"'])
def test_files_that_hold_no_list_of_records_are_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_records(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "sub/../../secret.png", "out.png", "a\0.png"])
def test_image_paths_may_not_leave_the_image_folder(tmp_path, name):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.png").touch()
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="image"):
        resolve_image(folder, name, "f.json: record 0")


def test_images_are_regular_files_and_inner_links_are_followed(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to("a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert resolve_image(tmp_path, "b.png", "x").name == "a.png"
    with pytest.raises(InputError, match="not a regular file"):
        resolve_image(tmp_path, "pipe.png", "x")
    with pytest.raises(InputError, match="not found"):
        resolve_image(tmp_path, "c.png", "x")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["human", "gpt", "<image>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from", "value", "id", "image", "task", "conversations"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(list(GOOD)), min_size=1, max_size=2), JSON_VALUES, st.booleans())
def test_mutated_records_are_accepted_rightly_or_refused_cleanly(fields, value, training):
    record = changed(**dict.fromkeys(fields, value))
    try:
        check_records([record], "f.json", tasks=["VQA"], training=training)
    except InputError as error:
        assert str(error).startswith("f.json: record 0")
    else:
        assert record["task"] == "VQA" and record["conversations"][0]["from"] in ("human", "gpt")
        assert len(image_names(record)) == str(record["conversations"]).count("<image>")
