"""M3IT to annotations and images: what a row becomes, images stored once and kept, what is refused."""

import base64
import io
import json
import struct
import zlib

import pytest
from PIL import Image

from scripts_visatb.data.m3it import convert_files
from visatb.errors import InputError
from visatb.records import check_records, read_records


def picture(colour: str, kind: str = "JPEG") -> str:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def bomb() -> str:
    """A PNG of a few bytes that asks for 243 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def row(**changes) -> dict:
    start = {"instruction": "Answer the question.", "inputs": "What colour is it?", "outputs": "Red."}
    return start | {"image_base64_str": [picture("red")]} | changes


@pytest.fixture
def convert(tmp_path):
    """Write rows as JSON Lines, convert them, return the records."""

    def run(*rows, **flags):
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        convert_files([tmp_path / "train.jsonl"], "vqa-v2", tmp_path / "out.json", tmp_path / "images", **flags)
        return read_records(tmp_path / "out.json")

    return run


def images(folder) -> list:
    return sorted(path for path in (folder / "images").rglob("*") if path.is_file())


def test_rows_become_records_with_their_images(convert, tmp_path):
    records = convert(
        row(),
        row(inputs="", image_str=picture("blue", "PNG"), image_base64_str=None),
        row(image_base64_str=[picture("red"), picture("green")]),
        row(image_base64_str=None),
    )
    check_records(records, "x", tasks=["vqa-v2"])
    assert [r["id"] for r in records] == [f"vqa-v2-{n}" for n in range(4)]
    assert records[0]["conversations"] == [
        {"from": "human", "value": "<image>\nAnswer the question.\nWhat colour is it?"},
        {"from": "gpt", "value": "Red."},
    ]
    assert records[1]["conversations"][0]["value"] == "<image>\nAnswer the question."
    assert records[1]["image"].endswith(".png")
    assert records[2]["image"][0] == records[0]["image"]
    assert "image" not in records[3]
    # the same image once, and its very bytes
    assert len(images(tmp_path)) == 3
    assert (tmp_path / "images" / records[0]["image"]).read_bytes() == base64.b64decode(picture("red"))


def test_a_second_run_keeps_the_images_and_writes_the_same(convert, tmp_path):
    rows = [row(), row(image_base64_str=[picture("blue")])]
    convert(*rows[:1])
    (kept,) = images(tmp_path)
    kept_since = kept.stat().st_mtime_ns
    first = convert(*rows)
    assert kept.stat().st_mtime_ns == kept_since
    assert convert(*rows) == first


def test_several_references_stay_a_list(convert):
    assert convert(row(outputs=["Red.", "A red one."]))[0]["conversations"][1]["value"] == ["Red.", "A red one."]


@pytest.mark.parametrize("outputs", [["red"], ["red", "red"], ["", "red"], "red"])
def test_one_answer_in_a_list_becomes_an_answer_that_training_takes(convert, outputs):
    records = convert(row(outputs=outputs))
    assert records[0]["conversations"][1]["value"] == "red"
    check_records(records, "out.json")


def test_an_evaluation_with_reference_lists_gets_lists_alone(convert):
    records = convert(row(outputs=["red", "ruby"]), row(outputs=["red"]), row(outputs="red"), references=True)
    assert [record["conversations"][1]["value"] for record in records] == [["red", "ruby"], ["red"], ["red"]]


def test_the_command_says_how_many_records_have_several_references(convert, tmp_path):
    convert(row(outputs=["Red.", "A red one."]), row(), row(outputs=["red"]))
    sources = [tmp_path / "train.jsonl"]
    assert convert_files(sources, "t", tmp_path / "b.json", tmp_path / "images") == (3, 1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_base64_str": ["not base64!"]}, "the image must be base64 text"),
        ({"image_base64_str": [base64.b64encode(b"GIF89a no").decode()]}, "the image: cannot be read"),
        ({"image_base64_str": [picture("red")[:400]]}, "the image: cannot be read"),
        ({"image_base64_str": [bomb()]}, "9000x9000 is larger than 8192 pixels a side"),
        ({"image_base64_str": [base64.b64encode(b"%!PS-Adobe-3.0 EPSF").decode()]}, "the image: cannot be read"),
        ({"image_base64_str": 5}, "image_base64_str must be a text or a list"),
        ({"instruction": None}, "instruction must be a text, got None"),
        ({"outputs": ""}, "outputs must be a text"),
        ({"outputs": []}, "outputs must be a text"),
        ({"outputs": [" "]}, "outputs must be a text"),
        ({"outputs": "<image>"}, "an answer contains <image>"),
    ],
)
def test_a_broken_row_is_named_and_leaves_no_file(convert, tmp_path, changes, message):
    with pytest.raises(InputError, match="train.jsonl: row 1") as refusal:
        convert(row(), row(**changes))
    assert message in str(refusal.value)
    assert not (tmp_path / "out.json").exists()
    assert len(images(tmp_path)) == 1  # of the sound row: the next run keeps it


@pytest.mark.parametrize("field", ["instruction", "inputs", "outputs"])
def test_a_row_without_a_field_is_reported_by_file_row_and_field(convert, field):
    lacking = {key: value for key, value in row().items() if key != field}
    with pytest.raises(InputError, match=f"train.jsonl: row 1: {field} must be a text, got no such field. Correct"):
        convert(row(), lacking)


def test_a_row_whose_text_has_an_image_token_too_many_is_named(convert):
    with pytest.raises(InputError, match=r"row 1: 2 <image> token\(s\) for 1 image"):
        convert(row(), row(inputs="What does <image> mean?"))


def test_broken_rows_may_be_left_out_and_are_listed(convert, tmp_path):
    records = convert(row(), row(image_base64_str=[bomb()]), row(inputs="Why?"), omit_broken=True)
    assert [r["id"] for r in records] == ["vqa-v2-0", "vqa-v2-2"]
    (listed,) = read_records(tmp_path / "out.omitted.jsonl")
    assert listed["position"] == 1
    assert "train.jsonl: row 1: the image: 9000x9000 is larger" in listed["reason"]
    with pytest.raises(InputError, match="no row is valid"):
        convert(row(outputs=""), omit_broken=True)
