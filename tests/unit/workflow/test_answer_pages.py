"""The page of answers: which records it shows, where boxes lie, and how large it may become."""

import re

import pytest
from PIL import Image

from eval.answers import Answer
from scripts_visatb.workflow import answers as page_of_answers
from scripts_visatb.workflow.answers import Record, Said, TaskAnswers, chosen, clip, pictures, write_answers
from visatb.boxes import read_box


def record(n: int, outcome: str, gap: float = 0.0, text: str = "red", image: str | None = None, truth="blue") -> Record:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": truth}]
    content = {"id": f"r{n}", "conversations": turns} | ({"image": image} if image else {})
    said = tuple(Said(model, kind, text, 0.0, False) for model, kind in (("EW", "ew"), ("VisATB", "visatb")))
    return Record(Answer(n, f"r{n}", f"record {n}", truth, text, content), outcome, gap, said)


def test_both_directions_of_difference_and_some_agreement_are_shown():
    records = [record(n, "visatb", 1.0) for n in range(50)] + [record(n, "ew", -1.0) for n in range(50, 60)]
    records += [record(n, "right") for n in range(60, 90)] + [record(n, "wrong") for n in range(90, 100)]
    shown = [one.outcome for one in chosen(records, 40)]
    assert {key: shown.count(key) for key in set(shown)} == {"visatb": 20, "ew": 10, "wrong": 5, "right": 5}
    assert shown[:4] == ["visatb", "ew", "visatb", "ew"]
    assert len(chosen(records[:50], 40)) == 40 and len(chosen(records[60:], 40)) == 40
    assert len(chosen(records, 1000)) == 100


def test_larger_differences_come_first():
    gaps = [0.1, 3.0, 0.2, -2.0, -0.3, 0.0]
    records = [record(n, "visatb" if gap > 0 else "ew" if gap else "equal", gap) for n, gap in enumerate(gaps)]
    assert [one.gap for one in chosen(records, 6)] == [3.0, -2.0, 0.2, -0.3, 0.1, 0.0]


@pytest.mark.parametrize("size", [(100, 50), (50, 100), (64, 64)])
def test_a_box_of_the_padded_square_is_drawn_where_it_lies_in_the_picture(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    one = record(0, "ew", -1.0, "[0.25, 0.25, 0.75, 0.75]", "a.png", "[0.5, 0.5, 1.0, 1.0]")
    (picture,), lacking = pictures(one, str(tmp_path))
    scale = 300 / max(size)
    assert not lacking and (picture.width, picture.height) == (size[0] * scale, size[1] * scale)
    boxes = {kind: place for kind, *place in picture.boxes}
    side, (width, height) = 300, (picture.width, picture.height)
    # The middle half of the square, in each direction cut at the picture's edge.
    x, y = max(0.25 * side - (side - width) / 2, 0), max(0.25 * side - (side - height) / 2, 0)
    assert boxes["visatb"] == pytest.approx([x, y, min(150, width), min(150, height)])
    assert boxes["truth"][0] == pytest.approx(width / 2) and boxes["truth"][3] == pytest.approx(height / 2)


@pytest.mark.parametrize(
    "text", ["[10, 20, 300, 400]", "[0.9, 0.1, 0.2, 0.3]", "[nan, 0, 1, 1]", "[1e999, 0, 1, 1]", ""]
)
def test_a_box_that_lies_in_no_picture_is_not_drawn(tmp_path, text):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (picture,), _ = pictures(record(0, "ew", -1.0, text, "a.png"), str(tmp_path))
    assert picture.boxes == ()


@pytest.mark.parametrize(
    "image, reason", [("../secret.png", "leaves the image folder"), ("no.png", "not found"), ("bad.png", "image")]
)
def test_an_image_that_cannot_be_shown_costs_no_record(tmp_path, image, reason):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "images/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    shown, lacking = pictures(record(0, "ew", -1.0, image=image), str(tmp_path / "images"))
    assert shown == [] and reason in lacking
    found = [TaskAnswers("T", "exact match", {"ew": 1}, [record(0, "ew", -1.0, image=image)])]
    text = write_answers(found, "b", str(tmp_path / "images"), tmp_path / "answers.html").read_text()
    assert reason in text and text.count("<article") == 1


def test_a_page_that_grows_too_large_loses_the_last_records_of_every_task(tmp_path, monkeypatch):
    monkeypatch.setattr(page_of_answers, "PAGE_BYTES", 40_000)
    parts = [TaskAnswers(t, "m", {"ew": 20}, [record(n, "ew", -1.0, "x" * 900) for n in range(20)]) for t in "AB"]
    page = write_answers(parts, "b", str(tmp_path), tmp_path / "answers.html")
    first, second = page.read_text().split('<section data-task="B">')
    counts = [first.count("<article"), second.count("<article")]
    assert 2 <= counts[1] <= counts[0] <= counts[1] + 1 < 19
    assert page.stat().st_size < 40_000 + 30_000, "style and script"
    assert f"{counts[0]} of them are shown" in re.sub(r"\s+", " ", first)


def test_long_and_unprintable_texts_are_shortened_and_written():
    assert clip("a" * 5000) == "a" * 1500 + "... (5,000 characters)"
    assert clip("\ud800 \0 \u202e").encode()
    assert read_box(clip("[0.1, 0.2, 0.3, 0.4]")) == (0.1, 0.2, 0.3, 0.4)
