"""The output folder of a run: owner, lock, and which checkpoint it resumes from."""

import json
import shutil

import pytest
from tiny import TASKS

from llava.train.arguments import parse_arguments
from llava.train.run_folder import RunFolder, fingerprint
from visatb.errors import InputError

SETTINGS = {"lr": 1}


def opened(folder, settings=SETTINGS, **options):
    run = RunFolder(str(folder), settings)
    run.finished = run.open(**options)
    return run


def run_once(folder, settings):
    """A run that began and ended without finishing."""
    run = opened(folder, settings)
    run.begin()
    run.close()


def test_a_start_that_failed_before_the_model_was_there_claims_nothing(tmp_path):
    opened(tmp_path, {"model": "typo"}).close()
    assert not opened(tmp_path, {"model": "right"}).finished


def test_a_start_that_was_refused_leaves_nothing_but_what_was_there(tmp_path):
    opened(tmp_path / "new").leave()
    opened(tmp_path).leave()
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())
    run_once(tmp_path, SETTINGS)
    before = sorted(tmp_path.iterdir())
    opened(tmp_path).leave()
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="has other content"):
        opened(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_run_is_refused_with_the_keys_that_differ(tmp_path):
    run_once(tmp_path, {"lr": 1, "seed": 0})
    with pytest.raises(InputError, match=r"\(lr 1 -> 2; tasks None -> 3\)"):
        opened(tmp_path, {"lr": 2, "seed": 0, "tasks": 3})


def test_other_files_behind_the_same_names_are_reported_without_hashes(tmp_path):
    run_once(tmp_path, {"vision_tower_content": {"config.json": "46783b"}, "data": "aa"})
    with pytest.raises(InputError, match=r"\(the records of data_path; the files of vision_tower\)"):
        opened(tmp_path, {"vision_tower_content": {"config.json": "b1"}, "data": "bb"})


@pytest.mark.parametrize("content", ["[]", "{}", '{"fingerprint": 1}', "", "{"])
def test_a_torn_run_file_is_refused_in_a_line(tmp_path, content):
    (tmp_path / "visatb_run.json").write_text(content)
    with pytest.raises(InputError, match="visatb_run.json"):
        opened(tmp_path)
    assert not opened(tmp_path, overwrite=True).finished


def test_overwriting_forgets_the_other_run(tmp_path):
    run_once(tmp_path, {"lr": 1})
    for name in ("checkpoint-5", "damaged-checkpoint-3"):
        (tmp_path / name).mkdir()
    for name in ("model.safetensors", "train_log.jsonl", "mm_projector.bin", "adapter_model.safetensors"):
        (tmp_path / name).write_text("of the other run")
    folder = opened(tmp_path, {"lr": 2}, overwrite=True)
    assert folder.newest_checkpoint() is None and not folder.finished
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_kill_while_overwriting_leaves_no_finished_run_without_model(tmp_path, monkeypatch):
    first = opened(tmp_path)
    first.finish()
    first.close()
    (tmp_path / "checkpoint-5").mkdir()

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, overwrite=True)
    monkeypatch.undo()
    assert not opened(tmp_path).finished


def test_what_a_kill_left_half_written_goes(tmp_path):
    run_once(tmp_path, SETTINGS)
    for name in (".visatb_run.json.abc.part", "train_log.jsonl.part"):
        (tmp_path / name).touch()
    (tmp_path / ".saving" / "checkpoint-4").mkdir(parents=True)
    opened(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "visatb_run.json"}


def test_a_kill_before_the_first_write_leaves_the_folder_usable(tmp_path):
    for name in (".lock", ".visatb_run.json.abc.part"):
        (tmp_path / name).write_text("")
    assert not opened(tmp_path).finished


def test_a_finished_run_is_known_as_finished(tmp_path):
    folder = opened(tmp_path)
    folder.finish(steps=3)
    folder.close()
    assert opened(tmp_path).finished


def test_two_processes_do_not_write_one_folder(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(InputError, match="another process is training into this folder"):
        opened(tmp_path)
    first.close()


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="output_dir must be a folder"):
        opened(tmp_path / "file")


# What a run is: changed reuses of its folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reuse")
    names = ("data.json", "other.json", "zero2.json", "base/config.json", "base/model.safetensors", "tower/w.bin")
    for name in (*names, "proj.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "zero2.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    return folder


def shape(place, *changes):
    flags = {"model_name_or_path": "base", "vision_tower": "tower", "pretrain_mm_mlp_adapter": "proj.bin"}
    flags |= {"data_path": "data.json", "output_dir": "out"}
    given = [word for name, value in flags.items() for word in (f"--{name}", str(place / value))]
    given += ["--visatb_weights", "1", "2", "3", "4", "--per_device_train_batch_size", "8", "--no_cuda", "True"]
    *arguments, training = parse_arguments([*given, *changes])
    training.deepspeed = str(place / "zero2.json")  # given as a flag it would start DeepSpeed
    return fingerprint(*arguments, training, 1, list(TASKS))


@pytest.mark.parametrize(
    "flags",
    [
        ("--visatb_weights", "1", "2", "3", "5"),
        ("--weight_method", "RLW"),
        ("--loss_normalization", "batch"),
        ("--gradient_accumulation_steps", "2"),
        ("--learning_rate", "1e-4"),
        ("--num_train_epochs", "2"),
        ("--max_steps", "7"),
        ("--seed", "1"),
        ("--bf16", "True"),
        ("--model_max_length", "64"),
        ("--version", "v1"),
        ("--freeze_backbone", "True"),
        ("--weight_decay", "0.1"),
        ("--image_aspect_ratio", "pad"),
        ("--mm_vision_select_layer", "-2"),
        ("--lora_enable", "True"),
        ("--group_by_modality_length", "True"),
        ("--padded_batches", "True"),
    ],
    ids=lambda flags: flags[0],
)
def test_a_folder_is_not_reused_with_other_settings(place, tmp_path, flags):
    run_once(tmp_path, shape(place))
    with pytest.raises(InputError, match="belongs to a run with other settings"):
        opened(tmp_path, shape(place, *flags))


@pytest.mark.parametrize("choice", ["skip", "replace"])
def test_a_run_that_met_a_bad_image_resumes_with_another_rule(place, tmp_path, choice):
    strict = RunFolder(str(tmp_path), shape(place))
    strict.open()
    strict.begin()
    strict.close()
    lenient = RunFolder(str(tmp_path), shape(place, "--bad_image", choice))
    assert not lenient.open() and lenient.digest == strict.digest  # its checkpoints are this run's
    lenient.begin()
    lenient.close()
    with pytest.raises(InputError, match=f"bad_image '{choice}' -> 'fail'.*Restore them"):
        RunFolder(str(tmp_path), shape(place)).open()  # a record may have been substituted


def test_a_run_that_began_with_padding_resumes_only_with_it(place, tmp_path):
    before = shape(place)
    del before["padded_batches"]  # as it was before the flag was there
    run_once(tmp_path, before)
    assert not opened(tmp_path, shape(place, "--padded_batches", "True")).finished
    with pytest.raises(InputError, match=r"padded_batches True -> False"):
        opened(tmp_path, shape(place))


def test_a_folder_is_not_reused_when_a_launcher_brings_another_precision(place, tmp_path, monkeypatch):
    run_once(tmp_path, shape(place))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(InputError, match="mixed_precision 'no' -> 'bf16'"):
        opened(tmp_path, shape(place))


@pytest.mark.parametrize(
    "file, changed",
    [
        (file, "changed")
        for file in ("data.json", "base/config.json", "base/model.safetensors", "tower/w.bin", "proj.bin")
    ]
    + [("zero2.json", '{"zero_optimization": {"stage": 2}, "gradient_clipping": 1}')]
    + [("zero2.json", '{"zero_optimization": {"stage": 3}}')],
)
def test_a_folder_is_not_reused_when_a_file_has_changed(place, tmp_path, file, changed):
    run_once(tmp_path, shape(place))
    before = (place / file).read_bytes()
    (place / file).write_text(changed)
    try:
        with pytest.raises(InputError, match="belongs to a run with other settings"):
            opened(tmp_path, shape(place))
    finally:
        (place / file).write_bytes(before)


def test_a_run_that_ran_out_of_memory_resumes_with_offloading(place, tmp_path):
    run_once(tmp_path, shape(place))
    before = (place / "zero2.json").read_bytes()
    offload = {"device": "cpu", "pin_memory": True}
    (place / "zero2.json").write_text(json.dumps({"zero_optimization": {"stage": 2, "offload_optimizer": offload}}))
    try:
        assert not opened(tmp_path, shape(place)).finished
    finally:
        (place / "zero2.json").write_bytes(before)


def test_what_does_not_shape_the_result_may_change(place, tmp_path):
    run_once(tmp_path, shape(place))
    split = ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
    free = ("--save_steps", "3", "--save_minutes", "10", "--save_total_limit", "2", "--logging_steps", "7")
    assert not opened(tmp_path, shape(place, *split, *free)).finished
