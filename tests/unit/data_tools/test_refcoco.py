"""Annotation files from RefCOCO's refs and instances, and a pickle that cannot run code."""

import json
import pickle
import pickletools
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.caption_list import main as score_captions
from scripts_visatb.data import refcoco
from visatb.errors import InputError

IMAGES = [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 400, "height": 200},
          {"id": 8, "file_name": "COCO_train2014_000000000008.jpg", "width": 100, "height": 100}]  # fmt: skip
ANNOTATIONS = [{"id": 70, "image_id": 7, "bbox": [100.0, 50.0, 200.0, 100.0], "segmentation": [[1, 2, 3, 4]]},
               {"id": 80, "image_id": 8, "bbox": [0, 0, 50, 100]}]  # fmt: skip


def region(number, image, split, *texts):
    sentences = [{"sent_id": n, "sent": text, "raw": text, "tokens": text.split()} for n, text in enumerate(texts)]
    name = f"COCO_train2014_{image:012d}_{number}.jpg"
    shared = {"ref_id": number, "ann_id": number * 10, "image_id": image, "file_name": name, "category_id": 1}
    return shared | {"split": split, "sentences": sentences, "sent_ids": list(range(len(texts)))}


REFS = [region(7, 7, "val", "left man", "man on the left", "left man"), region(8, 8, "train", "red dog", "dog")]


@pytest.fixture
def call(tmp_path, monkeypatch):
    def call(*flags, refs=REFS, instances=None, protocol=2):
        content = {"images": IMAGES, "annotations": ANNOTATIONS} if instances is None else instances
        (tmp_path / "instances.json").write_text(json.dumps(content))
        (tmp_path / "refs(unc).p").write_bytes(refs if isinstance(refs, bytes) else pickle.dumps(refs, protocol))
        words = ["--refs", tmp_path / "refs(unc).p", "--instances", tmp_path / "instances.json", "--task", "RefCOCO"]
        words += ["--output", tmp_path / "out.json", *(flags or ("--kind", "caption", "--split", "val"))]
        monkeypatch.setattr(sys, "argv", ["refcoco", *map(str, words)])
        refcoco.main()
        return json.loads((tmp_path / "out.json").read_text())

    return call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_region_has_the_list_of_its_different_sentences(call, protocol):
    (record,) = call(protocol=protocol)
    question, answer = (turn["value"] for turn in record["conversations"])
    # 400 x 200 pads to 400 x 400: 100 pixels above.
    assert question == "<image>\n[0.25, 0.38, 0.75, 0.62]\nProvide a short description for this region."
    assert answer == ["left man", "man on the left"]
    assert record["image"] == "coco/train2014/COCO_train2014_000000000007.jpg"
    assert record["task"] == "RefCOCO" and record["id"] == "RefCOCO-7"


def test_grounding_and_training_have_a_record_per_sentence(call):
    boxes = call("--kind", "grounding", "--split", "train", "val", "--image", "coco/train2017/{image_id:012d}.jpg")
    assert [record["conversations"][1]["value"] for record in boxes] == ["[0.25, 0.38, 0.75, 0.62]"] * 2 + [
        "[0.0, 0.0, 0.5, 1.0]"
    ] * 2
    assert boxes[2]["conversations"][0]["value"].startswith("<image>\nred dog\n")
    assert boxes[0]["image"] == "coco/train2017/000000000007.jpg"
    captions = call("--kind", "caption", "--split", "train")
    assert [record["conversations"][1]["value"] for record in captions] == ["red dog", "dog"]
    assert len({record["id"] for record in captions + boxes}) == 4


def test_reference_lists_are_what_cider_list_scores(call, tmp_path, monkeypatch):
    records = call(refs=[*REFS, region(8, 8, "val", "brown dog", "the dog")])
    for record in records:
        record["conversations"][1]["generative_value"] = record["conversations"][1]["value"][0]
    (tmp_path / "answers.json").write_text(json.dumps(records))
    words = ["caption_list.py", "-a", str(tmp_path / "answers.json"), "--output", str(tmp_path / "metric.json")]
    monkeypatch.setattr(sys, "argv", words)
    score_captions()
    assert json.loads((tmp_path / "metric.json").read_text())["score"] > 1


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_that_would_run_code_is_refused(call, tmp_path):
    for protocol in range(6):
        with pytest.raises(InputError, match="must hold plain lists and texts, got the instruction"):
            call(refs=pickle.dumps([_Runs(tmp_path / "ran")], protocol))
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out.json").exists()


def test_a_pickle_that_allocates_what_it_does_not_hold_is_refused(call):
    with pytest.raises(InputError, match="beyond what the file holds"):
        call(refs=b"\x80\x02]r\xff\xff\xff\x7f.")
    for content in (b"", b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", b"\x80\x02]q\x00", b"not a pickle"):
        with pytest.raises(InputError, match="is not a pickle, or damaged"):
            call(refs=content)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(PLAIN, st.integers(0, 5))
def test_every_plain_value_is_read_as_pickle_reads_it(tmp_path_factory, value, protocol):
    path = tmp_path_factory.mktemp("plain") / "refs.p"
    path.write_bytes(pickle.dumps(value, protocol))
    assert refcoco.read_plain_pickle(path) == value


def test_the_list_of_opcodes_has_only_known_ones():
    known = {opcode.name for opcode in pickletools.opcodes}
    assert known > refcoco._PLAIN
    assert not refcoco._PLAIN & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX",
                                 "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "BYTEARRAY8"}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"refs": {"no": "list"}}, "must hold a list of regions"),
        ({"refs": [*REFS, 3]}, r"refs\[2\]: must have a split and sentences, got 3"),
        ({"refs": REFS[1:]}, "no region of the split 'val'; there are train"),
        ({"refs": [region(9, 7, "val", "x")]}, "has no annotation 90"),
        ({"refs": [region(7, 9, "val", "x")]}, "has no image 9"),
        ({"refs": [region(7, 7, "val")]}, r"refs\[0\]: sentences must each have a text"),
        ({"refs": [REFS[0], REFS[0]]}, r"refs\[1\]: the region occurs twice"),
        ({"instances": []}, "images must be a list of entries with an id"),
        ({"instances": {"images": IMAGES, "annotations": [{"id": 70, "bbox": [1, 2]}]}}, "bbox must be 4 numbers"),
        ({"instances": {"images": IMAGES, "annotations": [{"id": 70, "bbox": [390, 0, 50, 10]}]}}, "lies outside"),
        ({"instances": {"images": [{"id": 7}], "annotations": ANNOTATIONS}}, "image 7 must have file_name"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_region(call, tmp_path, change, expected):
    with pytest.raises(InputError, match=expected):
        call(**change)
    assert not (tmp_path / "out.json").exists()


def test_a_template_with_another_field_is_refused(call):
    with pytest.raises(InputError, match="--image has {file_name} and {image_id} only"):
        call("--kind", "caption", "--split", "val", "--image", "{file_name.__class__}/{x}")
