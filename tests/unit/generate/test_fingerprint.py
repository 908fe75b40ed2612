"""The fingerprint follows content, not names and dates."""

import os
import shutil

import pytest

from llava.generate.fingerprint import file_digest, folder_digest, images_digest, key_of, model_fingerprint
from visatb.errors import InputError


def test_a_copy_has_the_fingerprint_of_the_original(tiny_checkpoint, tmp_path):
    copy = tmp_path / "other-name"
    shutil.copytree(tiny_checkpoint / "llava-tiny", copy)
    os.utime(copy / "config.json", (1, 1))
    assert model_fingerprint(str(copy)) == model_fingerprint(str(tiny_checkpoint / "llava-tiny"))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.model"])
def test_a_changed_model_file_changes_the_fingerprint(tiny_checkpoint, tmp_path, file):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint / "llava-tiny", copy)
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(bytes(content))
    assert folder_digest(copy) != folder_digest(tiny_checkpoint / "llava-tiny")


def test_logs_and_trainer_states_do_not_count(tiny_checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint / "llava-tiny", copy)
    for name in ("trainer_state.json", "training_args.bin", "train_log.jsonl", "notes.txt"):
        (copy / name).write_text("x")
    assert folder_digest(copy) == folder_digest(tiny_checkpoint / "llava-tiny")


def test_the_vision_tower_and_the_base_count(tiny_checkpoint):
    model = str(tiny_checkpoint / "llava-tiny")
    plain = model_fingerprint(model)
    assert set(plain) == {"model", "vision_tower"}
    assert plain["vision_tower"] == folder_digest(tiny_checkpoint / "vision_tower"), "its content, not its path"
    assert model_fingerprint(model, str(tiny_checkpoint / "llama"))["base"]


def test_a_change_anywhere_in_large_weights_is_seen_when_it_is_wide(tmp_path):
    path = tmp_path / "model.bin"
    size = 20 * 1024 * 1024
    path.write_bytes(bytes(size))
    digest = file_digest(path)
    for start in (0, size // 2, size - 10):
        with open(path, "r+b") as stream:
            stream.seek(start)
            stream.write(b"\1" * min(1024 * 1024, size - start))
        changed = file_digest(path)
        assert changed != digest
        digest = changed
    path.write_bytes(bytes(size + 1))
    assert file_digest(path) != digest


def test_image_sizes_count_and_their_order_does_not(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"123")
    first = images_digest(tmp_path, ["a", "b", "gone"])
    assert images_digest(tmp_path, ["gone", "b", "a", "a"]) == first
    (tmp_path / "b").write_bytes(b"1234")
    assert images_digest(tmp_path, ["a", "b", "gone"]) != first


def test_missing_model_folders_are_refused_and_hub_names_are_not(tmp_path):
    for path in (str(tmp_path / "none"), "./none", "none"):
        with pytest.raises(InputError, match="no such folder"):
            model_fingerprint(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="config.json"):
        model_fingerprint(str(tmp_path / "empty"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be a folder"):
        model_fingerprint(str(tmp_path / "file"))
    assert model_fingerprint("liuhaotian/llava-v1.5-7b") == {"model": "hub:liuhaotian/llava-v1.5-7b"}


def test_the_key_depends_on_values_and_not_on_their_order():
    assert key_of({"a": 1, "b": "ä"}) == key_of({"b": "ä", "a": 1}) != key_of({"a": 1, "b": "b"})


def test_a_config_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="config.json: must be a JSON object"):
        model_fingerprint(str(tmp_path))
