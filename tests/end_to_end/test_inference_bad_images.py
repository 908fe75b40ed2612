"""inference_visatb.py on images that are missing or cannot be read: named, counted, left out on request."""

import json
import shutil
from pathlib import Path

import pytest
from inference_calls import final, no_model

from visatb.errors import InputError


def test_an_unreadable_image_is_an_error_that_names_it_and_keeps_the_rest(infer, bad_image, tmp_path, capsys):
    assert infer("--image-folder", bad_image) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "tiny_train-1k.json: record 3 (id 'tiny-3')" in error and "003.png" in error
    assert not final(tmp_path).exists()


def test_an_unreadable_image_may_be_left_out_counted_and_listed(
    infer, bad_image, expected, tmp_path, capsys, monkeypatch
):
    assert infer("--image-folder", bad_image) == 2
    assert infer("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    whole = json.loads(expected)
    assert json.loads(final(tmp_path).read_text()) == [answer for answer in whole if answer["id"] != "tiny-3"]
    assert "23 answers, 1 omitted" in capsys.readouterr().out
    (omitted,) = map(json.loads, final(tmp_path).with_suffix(".omitted.jsonl").read_text().splitlines())
    assert (omitted["position"], omitted["id"], omitted["image"]) == (3, "tiny-3", "003.png")
    no_model(monkeypatch)
    assert infer("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    with pytest.raises(InputError, match="omitted.jsonl"):
        infer("--image-folder", bad_image)


def test_a_missing_image_is_found_before_the_model_is_loaded(infer, bad_image, tmp_path, monkeypatch):
    (bad_image / "004.png").unlink()
    with monkeypatch.context() as patch:
        no_model(patch)
        with pytest.raises(InputError, match=r"record 4 \(id 'tiny-4'\): image '004.png' not found"):
            infer("--image-folder", bad_image)
        assert not (tmp_path / "answers").exists()


def test_more_bad_images_than_training_accepts_are_refused_and_resumed(
    infer, bad_image, expected, tiny_dataset, tmp_path, capsys, monkeypatch
):
    damaged = (bad_image / "003.png").read_bytes()
    (bad_image / "004.png").write_bytes(damaged)
    assert infer("--image-folder", bad_image, "--on-bad-image", "skip") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 24 records have images that cannot be read" in error and "leaves out 1 here" in error
    assert "tiny-3" in error and "resumes" in error and not final(tmp_path).exists()
    kept = len((work_file(tmp_path)).read_text().splitlines())
    assert infer("--image-folder", bad_image, "--on-bad-image", "skip") == 2, "they are tried again"
    assert len(work_file(tmp_path).read_text().splitlines()) >= kept
    (bad_image / "004.png").unlink()
    (bad_image / "003.png").unlink()
    no_model(monkeypatch)
    with pytest.raises(InputError, match=r"2 of 24 records have images .*'003.png' not found"):
        infer("--image-folder", bad_image, "--on-bad-image", "skip")


def work_file(tmp_path) -> Path:
    (file,) = (tmp_path / "answers" / "work").glob("*/*.jsonl")
    return file


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_missing_image_folder_is_no_bad_image(infer, tmp_path, monkeypatch, policy):
    no_model(monkeypatch)
    with pytest.raises(InputError, match=r"nowhere: no such folder\. Check --image_folder"):
        infer("--image-folder", tmp_path / "nowhere", "--on-bad-image", policy)
    with pytest.raises(InputError, match=r"record 0 .* has an image\. Set --image-folder"):
        infer("--image-folder", "", "--on-bad-image", policy)


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_broken_image_processor_is_no_bad_image(infer, tiny_checkpoint, tmp_path, policy):
    tower, model = tmp_path / "tower", tmp_path / "model"
    shutil.copytree(tiny_checkpoint / "vision_tower", tower)
    shutil.copytree(tiny_checkpoint / "llava-tiny", model)
    config = json.loads((model / "config.json").read_text()) | {"mm_vision_tower": str(tower)}
    (model / "config.json").write_text(json.dumps(config))
    file = tower / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_std": [0.26, 0.26]}))
    with pytest.raises(
        InputError, match=r"preprocessor_config\.json: image_std must be a list of 3 items, each a number"
    ):
        infer("--on-bad-image", policy, model=model)


def test_a_fixed_image_is_asked_again(infer, bad_image, expected, tiny_dataset, tmp_path):
    assert infer("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    shutil.copy(tiny_dataset.parent / "images" / "003.png", bad_image / "003.png")
    with pytest.raises(InputError, match="differs in: images"):
        infer("--image-folder", bad_image)
    assert infer("--image-folder", bad_image, "--overwrite") == 0
    assert final(tmp_path).read_bytes() == expected
    assert not final(tmp_path).with_suffix(".omitted.jsonl").exists()


def test_answers_with_omitted_records_can_be_scored(infer, bad_image, tiny_dataset, tmp_path):
    from eval.answers import read_answers

    assert infer("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    answers = read_answers(final(tmp_path), tiny_dataset)
    assert (len(answers.answers), answers.omitted) == (23, 1)
