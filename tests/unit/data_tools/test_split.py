"""Random splits: sizes, names, nothing on two sides, the same bytes for the same seed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts_visatb.data.split import LEFT_OUT, Units, Wanted, assign, split_file
from visatb.errors import InputError
from visatb.records import check_records, image_names, read_records

SIZES = {"test": Wanted(10, {"B": 0.1, "Chat": 0}), "val": Wanted(20, {"Chat": 0})}


def record(task: str, n: int, image: str | list | None) -> dict:
    names = image_names({"image": image})
    question = {"from": "human", "value": "<image>\n" * len(names) + f"{task} {n}?"}
    fields = {"image": image} if image else {}
    return {"id": f"{task}-{n}", "task": task} | fields | {"conversations": [question, {"from": "gpt", "value": "yes"}]}


@pytest.fixture
def source(tmp_path):
    """Tasks A and B with 3 and 2 records an image, partly of the same images, and a text-only one."""
    records = [record("A", n, f"i/{n // 3}.jpg") for n in range(300)]
    records += [record("B", n, f"i/{50 + n // 2}.jpg") for n in range(200)]
    records += [record("Chat", n, None) for n in range(30)]
    (tmp_path / "mix.json").write_text(json.dumps(records[::-1]))
    return tmp_path / "mix.json"


def split(source, output="out", seed=0, wanted=SIZES, by="image", across_tasks=False, task=None):
    paths, left_out = split_file(source, source.parent / output, seed, wanted, by, across_tasks, task)
    return {key: read_records(path) for key, path in paths.items()}, left_out


def test_files_have_documented_names_the_wanted_sizes_and_are_sound(source):
    parts, left_out = split(source, by="record")
    names = {path.name for path in (source.parent / "out").iterdir()}
    assert names == {
        *("A_train-270.json", "A_val-20.json", "A_test-10.json"),
        *("B_train-160.json", "B_val-20.json", "B_test-20.json"),
        "Chat_train-30.json",
    }
    assert not left_out
    for (task, _), records in parts.items():
        check_records(records, "x", tasks=[task])
    assert sorted(r["id"] for records in parts.values() for r in records) == sorted(
        r["id"] for r in read_records(source)
    )


@pytest.mark.parametrize("across_tasks", [False, True])
def test_no_image_is_on_two_sides(source, across_tasks):
    parts, left_out = split(source, across_tasks=across_tasks)
    sides: dict = {}
    for (task, side), records in parts.items():
        for r in records:
            for name in image_names(r):
                sides.setdefault(name if across_tasks else (task, name), set()).add(side)
    assert all(len(found) == 1 for found in sides.values())
    assert bool(left_out) == across_tasks
    # units of 3 and 2 fill up to the wanted size as far as they fit
    assert len(parts["A", "val"]) in (18, 19, 20)
    assert len(parts["B", "val"]) == 20
    assert sum(map(len, parts.values())) + left_out.total() == 530


def test_seed_decides_and_the_order_of_the_file_does_not(source):
    first, again, other = split(source), split(source, "again"), split(source, "other", seed=1)
    assert first == again
    assert first != other
    for name in {path.name for path in (source.parent / "out").iterdir()}:
        assert (source.parent / "out" / name).read_bytes() == (source.parent / "again" / name).read_bytes()
    source.write_text(json.dumps(read_records(source)[::-1]))
    shuffled = split(source, "shuffled")[0]
    for key, records in first[0].items():
        assert {r["id"] for r in records} == {r["id"] for r in shuffled[key]}


def test_images_that_a_record_shows_together_stay_together(source):
    records = [record("A", n, [f"{n}.jpg", f"{n + 1}.jpg"] if n < 40 else f"{n}.jpg") for n in range(100)]
    source.write_text(json.dumps(records))
    parts, _ = split(source, wanted={"test": Wanted(0.2), "val": Wanted(0)})
    # 41 images hang together, more than the test has room for
    assert {n for r in parts["A", "train"] for n in image_names(r)} >= {f"{n}.jpg" for n in range(41)}
    assert len(parts["A", "test"]) == 20


def test_evaluation_records_begin_with_the_question(source):
    records = [record("A", n, None) for n in range(10)]
    for r in records:
        r["conversations"].insert(0, {"from": "gpt", "value": "Hello"})
    source.write_text(json.dumps(records))
    parts, _ = split(source, wanted={"test": Wanted(2), "val": Wanted(0)})
    check_records(parts["A", "test"], "x", training=False)
    assert len(parts["A", "train"][0]["conversations"]) == 3


def test_records_without_a_task_take_the_one_given(source):
    source.write_text(json.dumps([{k: v for k, v in record("A", n, None).items() if k != "task"} for n in range(9)]))
    with pytest.raises(InputError, match="record 0 .*task must be a name .*--task"):
        split(source)
    parts, _ = split(source, wanted={"test": Wanted(2), "val": Wanted(0)}, task="Mine")
    assert {r["task"] for records in parts.values() for r in records} == {"Mine"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"test": Wanted(0, {"C": 1}), "val": Wanted()}, "--test: no record of task 'C'; the file has Chat, B, A"),
        ({"test": Wanted(100), "val": Wanted(250)}, "are not available. Request fewer"),
        ({"test": Wanted(0), "val": Wanted(30)}, "Chat: val and test take all of its 30 records"),
        (
            {"test": Wanted(0), "val": Wanted(1, {"Chat": 0, "B": 0})},
            "--val: 1 of the 300 records of A are not available",
        ),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_written(source, wanted, message):
    with pytest.raises(InputError, match=message):
        split(source, wanted=wanted)
    assert not (source.parent / "out").exists()


@pytest.mark.parametrize("words", [["x"], ["-1"], ["1.5"], ["=3"], ["A="], ["3", "4"], ["A=1", "A=2"], ["nan"]])
def test_sizes_that_are_none_are_refused(words):
    with pytest.raises(InputError, match="--val"):
        Wanted.parse(words, "--val")


def test_sizes_are_numbers_or_shares():
    wanted = Wanted.parse(["2000", "A=0.01", "B=C=3"], "--val")
    assert [wanted.count(task, 500) for task in ("A", "X", "B=C")] == [5, 2000, 3]


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 30)), min_size=30, max_size=90),
    st.booleans(),
    st.integers(0, 3),
)
def test_units_are_never_divided_and_sizes_never_exceeded(rows, across_tasks, seed):
    units = Units()
    for n, (task, image) in enumerate(rows):
        units.add(record(task, n, f"{image}.jpg"), task, "image", across_tasks)
    wanted = {"test": Wanted(2), "val": Wanted(0.1)}
    try:
        found = assign(units, seed, wanted)
    except InputError:
        return
    sides: dict = {}
    for (task, image), side in zip(rows, found.tolist(), strict=True):
        if side != LEFT_OUT:
            sides.setdefault(image if across_tasks else (task, image), set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    if not across_tasks:
        assert LEFT_OUT not in found
    for task in "ABC":
        of_task = [side for (name, _), side in zip(rows, found.tolist(), strict=True) if name == task]
        if of_task:
            assert of_task.count(2) <= 2
            assert of_task.count(1) <= round(0.1 * len(of_task))
