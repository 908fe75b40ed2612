"""Boxes to LLaVA's convention: against painting the box on the padded image, and what is refused."""

import json
from argparse import Namespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from llava.data.images import expand2square
from scripts_visatb.data.boxes import NOTATIONS, convert_file, to_square
from visatb.errors import InputError
from visatb.records import read_records


@st.composite
def boxed_images(draw):
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return width, height, (x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))


@given(boxed_images())
def test_all_notations_of_a_box_meet_where_it_is_on_the_padded_image(case):
    width, height, (x1, y1, x2, y2) = case
    picture = Image.new("L", (width, height), 1)
    ImageDraw.Draw(picture).rectangle((x1, y1, x2 - 1, y2 - 1), fill=255)
    square = np.asarray(expand2square(picture, 0)) == 255
    (rows, columns), side = np.nonzero(square), len(square)
    painted = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / side
    same = {
        "pixel-xyxy": (x1, y1, x2, y2),
        "pixel-xywh": (x1, y1, x2 - x1, y2 - y1),
        "image-xyxy": (x1 / width, y1 / height, x2 / width, y2 / height),
        "image-xywh": (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height),
    }
    assert set(same) == set(NOTATIONS)
    for notation, box in same.items():
        np.testing.assert_allclose(to_square(box, width, height, notation), painted, atol=1e-9)


@pytest.mark.parametrize("box", [(0, 0, 9, 5), (3, 3, 3, 4), (4, 3, 3, 4), (-2, 0, 3, 3), (0, 0, 3, 9)])
def test_boxes_that_are_empty_or_elsewhere_are_refused(box):
    with pytest.raises(InputError, match="outside the image of 6x4|swapped or empty"):
        to_square(box, 6, 4, "pixel-xyxy")


def test_a_pixel_beyond_the_edge_is_rounding_and_cut():
    assert to_square((-0.6, 0, 6.4, 4), 6, 4, "pixel-xyxy") == (0, 1 / 6, 1, 5 / 6)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.jpg")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.new("RGB", (100, 200)).save(tmp_path / "turned.jpg", exif=sideways)  # upright it is 200x100
    return tmp_path


def record(question: str, answer: str | list, image: str | None = "wide.jpg", task: str = "bbox") -> dict:
    fields = {"image": image} if image else {}
    turns = [
        {"from": "human", "value": ("<image>\n" if image else "") + question},
        {"from": "gpt", "value": answer},
    ]
    return {"id": 1, "task": task} | fields | {"conversations": turns}


def convert(folder, *records, **flags):
    (folder / "in.json").write_text(json.dumps([r | {"id": n} for n, r in enumerate(records)]))
    start = {"input": folder / "in.json", "output": folder / "out.json", "image_folder": folder, "tasks": []}
    start |= {"notation": "pixel-xyxy", "where": ["questions", "answers"], "digits": 2}
    start |= {"leave_others": False}
    *counts, _ = convert_file(Namespace(**start | flags))
    return [[turn["value"] for turn in r["conversations"]] for r in read_records(folder / "out.json")], counts


def test_boxes_in_questions_answers_and_references_are_converted(folder):
    texts, (records, boxes) = convert(
        folder,
        record("Where is [the dog]?", "At [20, 10, 100,50] and [ 0,0,200.0, 1e2 ], [1, 2, 3]."),
        record("What is in [20, 10, 100, 50]?", ["a dog", "not [0, 0, 200, 100]"], task="caption"),
        record("No box [1, 2, 3, 4] without image", "yes", image=None, task="chat"),
        tasks=["bbox", "caption"],
    )
    assert texts[0] == [
        "<image>\nWhere is [the dog]?",
        "At [0.1, 0.3, 0.5, 0.5] and [0.0, 0.25, 1.0, 0.75], [1, 2, 3].",
    ]
    assert texts[1] == ["<image>\nWhat is in [0.1, 0.3, 0.5, 0.5]?", ["a dog", "not [0.0, 0.25, 1.0, 0.75]"]]
    assert texts[2][0] == "No box [1, 2, 3, 4] without image"
    assert (records["bbox"], boxes["bbox"], boxes["caption"]) == (1, 2, 2)


def test_orientation_of_the_camera_counts(folder):
    texts, _ = convert(folder, record("a", "[20, 10, 100, 50]", "turned.jpg"), record("a", "[20, 10, 100, 50]"))
    assert texts[0] == texts[1]


def test_only_the_turns_asked_for(folder):
    texts, _ = convert(folder, record("[20, 10, 100, 50]", "[20, 10, 100, 50]"), where=["answers"], digits=3)
    assert texts == [["<image>\n[20, 10, 100, 50]", "[0.1, 0.3, 0.5, 0.5]"]]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (record("a", "[20, 10, 300, 50]"), r"conversations\[1\]: box \[20, 10, 300, 50\] lies outside .* 200x100"),
        (record("a", "[20, 10, 21, 11]"), "is empty at 2 digits. Raise --digits"),
        (record("a", "[20, 10, 30, 50]", image=None), "a box with 0 images"),
        (record("a", "[20, 10, 30, 50]", image="none.jpg"), "image 'none.jpg' not found"),
        (record("a", "[20, 10, 30, 50]", image="in.json"), "in.json: cannot be read"),
        (record("a", "no box"), "no box .* found"),
        ({"id": 1, "conversations": []}, "conversations must be a list of turns"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_record(folder, shape, message):
    with pytest.raises(InputError, match=message) as refusal:
        convert(folder, shape)
    assert str(refusal.value).count("in.json") <= 2
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize(
    ("answer", "fitting"),
    [
        ("[0.1, 0.2, 0.5, 0.6]", "image-xyxy or image-xywh"),
        ("[0.5, 0.5, 0.6, 0.7]", "image-xyxy"),
        ("[0.5, 0.5, 0.4, 0.3]", "image-xywh"),
        ("[0.0, 0.0, 1.0, 1.0]", "image-xyxy or image-xywh"),
    ],
)
@pytest.mark.parametrize("notation", ["pixel-xyxy", "pixel-xywh"])
@pytest.mark.parametrize("digits", [2, 4])
def test_normalised_boxes_are_no_pixels_and_the_flag_that_fits_is_named(folder, answer, fitting, notation, digits):
    with pytest.raises(InputError) as refusal:
        convert(folder, record("where", answer), notation=notation, digits=digits)
    assert f"box {answer} is already normalised" in str(refusal.value)
    assert f"--from {fitting}; boxes relative to the padded square need no conversion" in str(refusal.value)
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize(
    ("answer", "notation", "message"),
    [
        ("[20, 10, 100, 50]", "image-xyxy", "--from pixel-xyxy or pixel-xywh fits it"),
        ("[120, 40, 60, 50]", "pixel-xyxy", "--from pixel-xywh fits it"),
        ("[120, 40, 150, 90]", "pixel-xywh", "--from pixel-xyxy fits it"),
        ("[120, 400, 800, 900]", "pixel-xyxy", "divide coordinates in 0..1000 by 1000"),
    ],
)
def test_a_box_outside_the_image_is_refused_with_the_flag_that_fits(folder, answer, notation, message):
    with pytest.raises(InputError, match=r"record 0 \(id 0\): conversations\[1\]: box") as refusal:
        convert(folder, record("where", answer), notation=notation)
    assert message in str(refusal.value)


OTHERS = [
    "(3,4),(20,20)", "[3 4 20 20]", "(3, 4, 20, 20)", "<box>(3,4),(20,20)</box>", "<box>3,4,20,20</box>",
    "[[3, 4], [20, 20]]", "{3; 4; 20; 20}", "<loc_3><loc_4><loc_20><loc_20>", "<|box_start|>(3,4),(20,20)<|box_end|>",
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_boxes_in_other_notations_end_the_command_unless_they_may_stay(folder, other):
    records = [record("where", "[20, 10, 100, 50]"), record("where", f"At {other}.")]
    with pytest.raises(InputError, match=r"1 in another notation .* record 1 \(id 1\): conversations\[1\] '"):
        convert(folder, *records)
    assert not (folder / "out.json").exists()
    texts, _ = convert(folder, *records, leave_others=True)
    assert [answer for _, answer in texts] == ["[0.1, 0.3, 0.5, 0.5]", f"At {other}."]


def test_the_first_of_many_other_boxes_are_listed_and_all_are_counted(folder):
    with pytest.raises(InputError) as refusal:
        convert(folder, *[record("where", "(3,4),(20,20)")] * 9)
    assert "9 in another notation" in str(refusal.value) and "record 4 (id 4)" in str(refusal.value)
    assert "; and 4 more. Rewrite them" in str(refusal.value)


def test_numbers_that_are_no_boxes_are_not_listed(folder):
    words = "in (2019, 2020), (1, 2, 3, 4, 5), [1, 2], a 3 4 20 20 b, 1, 2, 3, 4"
    texts, _ = convert(folder, record("where", f"[20, 10, 100, 50] {words}"))
    assert texts[0][1] == f"[0.1, 0.3, 0.5, 0.5] {words}"
