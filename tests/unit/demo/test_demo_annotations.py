"""Annotations of the demo: the documented format, the same from the same seed, true of the pictures."""

import re

import pytest

from scripts_visatb.data.mixes import size_label
from scripts_visatb.demo import annotations, drawing
from visatb.benchmark import load_benchmark
from visatb.errors import InputError
from visatb.records import check_records

SMALL = {task: {split: 40 for split in splits} for task, splits in annotations.SIZES.items()}


@pytest.fixture(scope="module")
def made() -> dict:
    """(task, split) -> [(record, picture)]."""
    drawn: set = set()
    return {
        (task, split): list(annotations.make_records(task, split, count, 0, drawn))
        for task, splits in SMALL.items()
        for split, count in splits.items()
    }


def test_records_pass_the_check_of_every_other_part(made):
    for (task, split), pairs in made.items():
        records = [record for record, _ in pairs]
        check_records(records, f"{task}_{split}.json", tuple(SMALL), training=split == "train")
        assert all(record["task"] == task for record in records)


def test_same_seed_gives_the_same_records_and_another_seed_others(made):
    again = list(annotations.make_records("ShapeVQA", "train", 40, 0, set()))
    other = list(annotations.make_records("ShapeVQA", "train", 40, 1, set()))
    assert [record["conversations"] for record, _ in again] != [record["conversations"] for record, _ in other]
    fresh = list(annotations.make_records("ShapeVQA", "train", 40, 0, set()))
    assert again == fresh


def test_no_picture_is_shared_or_of_the_pretraining_half(made):
    pictures = [picture for pairs in made.values() for _, picture in pairs if picture is not None]
    assert len(pictures) == len(set(pictures))
    assert not any(map(drawing.is_for_pretraining, pictures))
    alignment = [picture for _, picture in annotations.make_alignment("Alignment", 50, 0)]
    assert all(map(drawing.is_for_pretraining, alignment))


def test_held_out_records_have_one_question_or_references(made):
    for (task, split), pairs in made.items():
        for record, _ in pairs:
            if split != "train":
                assert len(record["conversations"]) == 2
            answer = record["conversations"][1]["value"]
            is_list = task == "RegionCaption" and split != "train"
            assert isinstance(answer, list if is_list else str)
            if is_list:
                assert len(set(answer)) == 3


def test_grounding_answers_are_the_boxes_of_what_is_named(made):
    for record, scene in made["Grounding", "val"]:
        phrase = record["conversations"][0]["value"].split("\n")[1]
        assert phrase == scene.shape.name
        text = record["conversations"][1]["value"]
        assert re.fullmatch(r"\[\d\.\d\d, \d\.\d\d, \d\.\d\d, \d\.\d\d\]", text)
        box = [float(edge) for edge in text.strip("[]").split(",")]
        wanted = drawing.in_padded_square(scene.shape.box, scene.width, scene.height)
        assert all(abs(a - b) <= 0.005 + 1e-9 for a, b in zip(box, wanted, strict=True))
        assert 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1


def test_answers_of_shape_questions_are_true(made):
    for record, scene in made["ShapeVQA", "train"]:
        turns = record["conversations"]
        for asked, reported in zip(turns[::2], turns[1::2], strict=True):
            question, answer = asked["value"].removeprefix("<image>\n").split("\n")[0], reported["value"]
            assert asked["value"].endswith(annotations.SHORT_ANSWER) == (asked is turns[0])
            if question == "What color is the background?":
                assert answer == scene.background
            elif question.startswith("What color"):
                assert answer == scene.shape.color and scene.shape.kind in question
            elif question.startswith("What shape"):
                assert answer == scene.shape.kind and scene.shape.color in question
            else:
                assert question == f"Is the {scene.shape.kind} small or large?" and answer == scene.shape.size


def test_answers_about_characters_and_charts_are_true(made):
    for record, picture in made["TextChartQA", "train"]:
        turns = record["conversations"]
        for asked, reported in zip(turns[::2], turns[1::2], strict=True):
            question, answer = asked["value"].removeprefix("<image>\n").split("\n")[0], reported["value"]
            expected = (
                {
                    "What character is written in the image?": picture.character,
                    "What color is the character?": picture.color,
                }
                if isinstance(picture, drawing.Card)
                else {
                    "How many bars are in the chart?": str(len(picture.bars)),
                    "What is the value of the highest bar?": str(max(value for _, value, _ in picture.bars)),
                }
            )
            assert answer == expected[question]


def test_every_answer_of_a_two_way_question_occurs_often(made):
    answers = [turn["value"] for record, _ in made["ShapeVQA", "train"] for turn in record["conversations"][1::2]]
    counts = answers.count("small"), answers.count("large")
    assert min(counts) > 0.25 * sum(counts)


def test_scene_captions_name_shape_cell_and_background(made):
    for record, scene in made["SceneCaption", "test"]:
        caption = record["conversations"][1]["value"].lower()
        assert scene.shape.name in caption and f"{scene.background} background" in caption
        x1, y1, _, _ = drawing.in_padded_square(scene.shape.box, scene.width, scene.height)
        row, column = (annotations.ORDINALS[int(edge * drawing.GRID)] for edge in (y1, x1))
        assert f"in the {row} row and {column} column" in caption


def test_captions_of_stage_1_leave_column_background_and_character_to_the_tasks():
    for n, (record, picture) in enumerate(annotations.make_alignment("Alignment", 40, 0)):
        caption = record["conversations"][1]["value"]
        name, place = caption.split(" in the ")
        row, side = re.fullmatch(r"(\w+) row on the (left|right)", place).groups()
        assert isinstance(picture, drawing.Card) == (n % 5 == 0)
        assert name == (f"{picture.color} character" if n % 5 == 0 else picture.shape.name)
        box = picture.box if n % 5 == 0 else picture.shape.box
        x1, y1, _, _ = drawing.in_padded_square(box, picture.width, picture.height)
        assert annotations.ORDINALS[int(y1 * drawing.GRID)] == row and (side == "left") == (x1 < 0.5)
        # The language model alone is shown the rest.
        rest = picture.character if n % 5 == 0 else annotations.box_of(picture)
        assert annotations.full_caption(picture) == f"{caption} {rest}"


def test_benchmark_file_names_tasks_and_sizes_that_are_drawn(repository):
    benchmark = load_benchmark(repository / "scripts_visatb" / "benchmarks" / "demo.yaml")
    assert benchmark.task_names == list(annotations.SIZES)
    for task in benchmark.tasks:
        for split, name in task.files.items():
            assert name == f"{task.name}_{split}-{size_label(annotations.SIZES[task.name][split])}.json"


def test_cells_describe_what_covers_them():
    from scripts_visatb.demo.cells import QUESTIONS, answers_of_cells

    shape = drawing.Shape("circle", "red", "large", (20, 0, 30, 10))
    answers = answers_of_cells(drawing.Scene(40, 20, "black", shape, ((0, 1),)))
    place = 1 * drawing.GRID + 2  # the picture is padded by a row of cells
    for n, cell in enumerate(answers):
        said = {name: choices[k] for (name, choices), k in zip(QUESTIONS.items(), cell, strict=True) if k > 0}
        row, column = divmod(n, drawing.GRID)
        expected = {"column": str(column), "row": str(row)}
        if row in (1, 2):
            expected["ground"] = "black"
        if n == place:
            expected |= {"kind": "circle", "color": "red", "size": "large"}
        assert said == expected


def test_every_picture_of_the_benchmark_has_distinct_cells(made):
    from scripts_visatb.demo.cells import answers_of_cells

    for pairs in made.values():
        for _, picture in pairs:
            assert picture is None or answers_of_cells(picture).any()


def test_a_benchmark_file_with_other_tasks_is_refused(repository, tmp_path):
    from scripts_visatb.demo.dataset import check_sizes

    text = (repository / "scripts_visatb" / "benchmarks" / "demo.yaml").read_text()
    file = tmp_path / "other.yaml"
    file.write_text(text.replace("name: Grounding ", "name: Pointing "))
    with pytest.raises(InputError, match="other.yaml: the demo's tasks are SceneCaption"):
        check_sizes(load_benchmark(file), annotations.SIZES)
