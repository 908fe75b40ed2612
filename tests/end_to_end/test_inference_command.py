"""inference_visatb.py as a user runs it: whole files or none, the same bytes however often it was interrupted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked, run_ranks
from waiting import until

import inference_visatb
from llava.generate.llava_engine import LlavaEngine
from visatb.errors import InputError

FLAGS = ["--max_new_tokens", "6", "--batch-size", "4"]


@pytest.fixture
def run(tiny_checkpoint, tiny_dataset, tmp_path):
    """Runs the command in this process on the tiny model; returns its exit code."""

    def command(*extra, questions=(tiny_dataset,), model=tiny_checkpoint / "llava-tiny", answers=tmp_path / "answers"):
        argv = ["--model-path", str(model), "--image-folder", str(tiny_dataset.parent / "images"), *FLAGS]
        argv += ["--question-file", *map(str, questions), "--answers-folder", str(answers), *map(str, extra)]
        return inference_visatb.main(argv)

    return command


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, tiny_dataset, tmp_path_factory) -> bytes:
    """The answer file of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("expected")
    code = inference_visatb.main(
        ["--model-path", str(tiny_checkpoint / "llava-tiny"), "--image-folder", str(tiny_dataset.parent / "images")]
        + [*FLAGS, "--question-file", str(tiny_dataset), "--answers-folder", str(folder)]
    )
    assert code == 0
    return (folder / "tiny-train-1k_llava-tiny.json").read_bytes()


def final(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "tiny-train-1k_llava-tiny.json"


def edited(tiny_dataset: Path, tmp_path: Path, change) -> Path:
    records = json.loads(tiny_dataset.read_text())
    change(records)
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(records))
    return file


def no_model(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the model must not be loaded")

    monkeypatch.setattr(LlavaEngine, "load", load)


def test_answers_are_the_records_with_two_more_fields(expected, tiny_dataset):
    answers = json.loads(expected)
    for answer in answers:
        assert answer.pop("generator") == "llava-tiny"
        assert isinstance(answer["conversations"][1].pop("generative_value"), str)
    assert answers == json.loads(tiny_dataset.read_text())
    assert any("image" not in answer for answer in answers), "text-only records are asked too"


@pytest.mark.parametrize("batch_size", [1, 16])
def test_batch_size_changes_no_byte(run, expected, tmp_path, batch_size):
    assert run("--batch_size", batch_size) == 0
    assert final(tmp_path).read_bytes() == expected


@pytest.mark.parametrize("chunks", [2, 3, 7, 30])
def test_chunks_in_any_order_merge_to_the_same_file(run, expected, tmp_path, chunks):
    for chunk in (*reversed(range(chunks - 1)), chunks - 1):  # the last part is never empty
        assert not final(tmp_path).exists(), "merging demands all chunks"
        assert run("--num-chunks", chunks, "--chunk-idx", chunk) == 0
    assert final(tmp_path).read_bytes() == expected


def test_a_finished_run_loads_nothing(run, expected, tmp_path, monkeypatch, capsys):
    assert run() == 0
    no_model(monkeypatch)
    assert run("--batch-size", 2) == 0
    assert "already complete" in capsys.readouterr().out
    assert final(tmp_path).read_bytes() == expected


def test_a_lost_answer_file_is_written_again_from_the_work_folder(run, expected, tmp_path, monkeypatch):
    assert run() == 0
    final(tmp_path).unlink()
    no_model(monkeypatch)
    assert run() == 0
    assert final(tmp_path).read_bytes() == expected


def test_a_run_that_breaks_after_any_batch_resumes(run, expected, tmp_path, monkeypatch):
    """Every batch's append is interrupted once, half written; each time only what is missing is asked."""
    from llava.generate.work import Writer

    append = Writer.append

    def torn(self, answers):
        answers = list(answers)
        append(self, answers[:-1])
        self._stream.write(answers[-1].line().encode()[:-5])
        self._stream.flush()
        raise KeyboardInterrupt

    for _ in range(6):
        monkeypatch.setattr(Writer, "append", torn)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert not final(tmp_path).exists()
        monkeypatch.setattr(Writer, "append", append)
    assert run() == 0
    assert final(tmp_path).read_bytes() == expected


def test_a_killed_process_resumes_and_writes_the_same_bytes(
    run, expected, tiny_checkpoint, tiny_dataset, tmp_path, repository
):
    command = [str(repository / "inference_visatb.py"), *FLAGS, "--batch-size", "1"]
    command += ["--model-path", str(tiny_checkpoint / "llava-tiny"), "--question-file", str(tiny_dataset)]
    command += ["--image-folder", str(tiny_dataset.parent / "images"), "--answers-folder", str(tmp_path / "answers")]
    process = Forked(command, os.environ, repository)
    parts = tmp_path / "answers" / "work"
    until(lambda: any(part.stat().st_size > 200 for part in parts.glob("*/*.jsonl")), process, 0.002)
    process.kill()
    process.communicate()
    assert not final(tmp_path).exists()
    assert run("--batch-size", 1) == 0
    assert final(tmp_path).read_bytes() == expected


def test_two_ranks_write_the_file_of_one(expected, tiny_checkpoint, tiny_dataset, tmp_path, repository):
    command = [str(repository / "inference_visatb.py"), *FLAGS, "--model_path", str(tiny_checkpoint / "llava-tiny")]
    command += ["--question_file", str(tiny_dataset), "--image_folder", str(tiny_dataset.parent / "images")]
    command += ["--answers_folder", str(tmp_path / "answers")]
    codes, err = run_ranks(command, 2, os.environ, repository)
    assert codes == [0, 0], err
    assert final(tmp_path).read_bytes() == expected


def test_several_question_files_need_one_model_load(run, expected, tiny_dataset, tmp_path, monkeypatch):
    loads = []
    real = LlavaEngine.load
    monkeypatch.setattr(LlavaEngine, "load", lambda *a, **k: loads.append(1) or real(*a, **k))
    text_only = tmp_path / "text_only.jsonl"
    text_only.write_text('{"conversations": [{"from": "human", "value": "Name a colour."}]}\n')
    assert run(questions=[tiny_dataset, text_only]) == 0
    assert len(loads) == 1
    assert final(tmp_path).read_bytes() == expected
    (answer,) = json.loads((tmp_path / "answers" / "text-only_llava-tiny.json").read_text())
    assert answer["conversations"][1]["generative_value"] is not None


def test_another_model_of_the_same_name_is_not_mistaken_for_this_one(run, expected, tmp_path):
    from tiny import make_tiny_checkpoint

    assert run() == 0
    other = make_tiny_checkpoint(tmp_path / "other", seed=5) / "llava-tiny"
    with pytest.raises(InputError, match="differs in: model"):
        run(model=other)
    assert final(tmp_path).read_bytes() == expected
    assert run("--overwrite", model=other) == 0
    assert final(tmp_path).read_bytes() != expected


def test_work_of_another_model_or_file_of_the_same_name_is_not_continued(run, expected, tiny_dataset, tmp_path):
    """The other's unfinished work lies in the same folder under the same names."""
    from tiny import make_tiny_checkpoint

    other = make_tiny_checkpoint(tmp_path / "other", seed=5) / "llava-tiny"
    assert run("--num-chunks", 2, model=other) == 0
    same_name = tmp_path / tiny_dataset.name
    records = json.loads(tiny_dataset.read_text())
    for record in records:
        record["conversations"][0]["value"] += " Really?"
    same_name.write_text(json.dumps(records))
    assert run("--num-chunks", 2, questions=[same_name]) == 0
    assert run() == 0
    assert final(tmp_path).read_bytes() == expected


def test_changed_settings_are_refused_and_named(run, tmp_path):
    assert run() == 0
    with pytest.raises(InputError, match="differs in: max_new_tokens"):
        run("--max_new_tokens", 5)


def test_precision_is_chosen_and_never_mixed(run, tmp_path):
    assert run("--dtype", "bf16") == 0
    with pytest.raises(InputError, match="differs in: dtype"):
        run("--dtype", "fp32")


def test_a_model_name_names_the_file_and_the_generator(run, tmp_path):
    assert run("--model-name", "a_b+mini") == 0
    answers = json.loads((tmp_path / "answers" / "tiny-train-1k_a-b+mini.json").read_text())
    assert {answer["generator"] for answer in answers} == {"a_b+mini"}
    with pytest.raises(InputError, match="--model-name"):
        run("--model-name", "../x")


@pytest.fixture
def bad_image(tiny_dataset, tmp_path) -> Path:
    """An image folder in which 003.png is damaged."""
    folder = tmp_path / "images"
    shutil.copytree(tiny_dataset.parent / "images", folder)
    (folder / "003.png").write_bytes((folder / "003.png").read_bytes()[:60])
    return folder


def test_an_unreadable_image_is_an_error_that_names_it_and_keeps_the_rest(run, bad_image, tmp_path, capsys):
    assert run("--image-folder", bad_image) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "tiny_train-1k.json: record 3 (id 'tiny-3')" in error and "003.png" in error
    assert not final(tmp_path).exists()


def test_an_unreadable_image_may_be_left_out_counted_and_listed(
    run, bad_image, expected, tmp_path, capsys, monkeypatch
):
    assert run("--image-folder", bad_image) == 2
    assert run("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    whole = json.loads(expected)
    assert json.loads(final(tmp_path).read_text()) == [answer for answer in whole if answer["id"] != "tiny-3"]
    assert "23 answers, 1 omitted" in capsys.readouterr().out
    (omitted,) = map(json.loads, final(tmp_path).with_suffix(".omitted.jsonl").read_text().splitlines())
    assert (omitted["position"], omitted["id"], omitted["image"]) == (3, "tiny-3", "003.png")
    no_model(monkeypatch)
    assert run("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    with pytest.raises(InputError, match="omitted.jsonl"):
        run("--image-folder", bad_image)


def test_a_missing_image_is_found_before_the_model_is_loaded(run, bad_image, tmp_path, monkeypatch):
    (bad_image / "004.png").unlink()
    with monkeypatch.context() as patch:
        no_model(patch)
        with pytest.raises(InputError, match=r"record 4 \(id 'tiny-4'\): image '004.png' not found"):
            run("--image-folder", bad_image)
        assert not (tmp_path / "answers").exists()


def test_more_bad_images_than_training_accepts_are_refused_and_resumed(
    run, bad_image, expected, tiny_dataset, tmp_path, capsys, monkeypatch
):
    damaged = (bad_image / "003.png").read_bytes()
    (bad_image / "004.png").write_bytes(damaged)
    assert run("--image-folder", bad_image, "--on-bad-image", "skip") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 24 records have images that cannot be read" in error and "leaves out 1 here" in error
    assert "tiny-3" in error and "resumes" in error and not final(tmp_path).exists()
    kept = len((work_file(tmp_path)).read_text().splitlines())
    assert run("--image-folder", bad_image, "--on-bad-image", "skip") == 2, "they are tried again"
    assert len(work_file(tmp_path).read_text().splitlines()) >= kept
    (bad_image / "004.png").unlink()
    (bad_image / "003.png").unlink()
    no_model(monkeypatch)
    with pytest.raises(InputError, match=r"2 of 24 records have images .*'003.png' not found"):
        run("--image-folder", bad_image, "--on-bad-image", "skip")


def work_file(tmp_path) -> Path:
    (file,) = (tmp_path / "answers" / "work").glob("*/*.jsonl")
    return file


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_missing_image_folder_is_no_bad_image(run, tmp_path, monkeypatch, policy):
    no_model(monkeypatch)
    with pytest.raises(InputError, match=r"nowhere: no such folder\. Check --image_folder"):
        run("--image-folder", tmp_path / "nowhere", "--on-bad-image", policy)
    with pytest.raises(InputError, match=r"record 0 .* has an image\. Set --image-folder"):
        run("--image-folder", "", "--on-bad-image", policy)


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_broken_image_processor_is_no_bad_image(run, tiny_checkpoint, tmp_path, policy):
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
        run("--on-bad-image", policy, model=model)


def test_a_fixed_image_is_asked_again(run, bad_image, expected, tiny_dataset, tmp_path):
    assert run("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    shutil.copy(tiny_dataset.parent / "images" / "003.png", bad_image / "003.png")
    with pytest.raises(InputError, match="differs in: images"):
        run("--image-folder", bad_image)
    assert run("--image-folder", bad_image, "--overwrite") == 0
    assert final(tmp_path).read_bytes() == expected
    assert not final(tmp_path).with_suffix(".omitted.jsonl").exists()


def test_a_question_the_model_fails_on_is_reported_and_asked_again(run, expected, tmp_path, monkeypatch, capsys):
    real = LlavaEngine.texts

    def failing(self, prompts, images, keys):
        if any(key.startswith("7\n") for key in keys):
            raise RuntimeError("out of memory")
        return real(self, prompts, images, keys)

    with monkeypatch.context() as patch:
        patch.setattr(LlavaEngine, "texts", failing)
        assert run() == 1
    assert "record 7" in capsys.readouterr().err
    assert not final(tmp_path).exists()
    assert len(list((tmp_path / "answers" / "work").glob("*/*.jsonl"))) == 1
    assert run() == 0
    assert final(tmp_path).read_bytes() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.clear(), "has no records"),
        (lambda r: r[2].pop("conversations"), "record 2 .*conversations"),
        (lambda r: r[1].update(id=r[0]["id"]), "id occurs twice"),
        (lambda r: r[0].update(image="../../etc/passwd"), "leaves the image folder"),
        (lambda r: r[0].pop("image"), "<image>"),
        (lambda r: r[0]["conversations"].reverse(), "must be 'human'"),
    ],
)
def test_bad_question_files_are_refused_before_anything_is_loaded(
    run, tiny_dataset, tmp_path, monkeypatch, change, message
):
    no_model(monkeypatch)
    with pytest.raises(InputError, match=message):
        run(questions=[tiny_dataset, edited(tiny_dataset, tmp_path, change)])
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-chunks", "0"], "--num-chunks"),
        (["--num-chunks", "2", "--chunk-idx", "2"], "--chunk-idx"),
        (["--batch-size", "0"], "--batch-size"),
        (["--conv-mode", "nonesuch"], "--conv-mode"),
        (["--image-folder", ""], "--image-folder"),
        (["--model-path", "nowhere/at/all"], "no such folder"),
        (["--device", "cuda:9"], "--device"),
        (["--device", "toaster"], "--device must be cpu"),
        (["--answers-folder", ""], "--answers-folder"),
        (["--engine", "hf"], r"--engine hf needs transformers 5, found 4\.31\.0.*\(\.venv-hf\)"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_loaded(run, tmp_path, monkeypatch, flags, message):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    no_model(monkeypatch)
    with pytest.raises(InputError, match=message):
        run(*flags)
    assert not (tmp_path / "answers").exists()


def test_two_files_with_one_answer_file_are_refused(run, tiny_dataset, tmp_path):
    shutil.copy(tiny_dataset, tmp_path / "tiny-train-1k.json")
    with pytest.raises(InputError, match="both"):
        run(questions=[tiny_dataset, tmp_path / "tiny-train-1k.json"])


def test_mistakes_end_with_one_line_and_exit_code_2(tmp_path, repository):
    command = [sys.executable, str(repository / "inference_visatb.py"), "--model-path", str(tmp_path / "none")]
    command += ["--question-file", str(tmp_path / "none.json"), "--answers-folder", str(tmp_path / "a")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: ")
    assert not (tmp_path / "a").exists()


def test_a_text_model_is_refused_for_images_before_it_is_loaded(run, tiny_checkpoint, tmp_path, monkeypatch):
    no_model(monkeypatch)
    with pytest.raises(InputError, match=r"record 0 \(id 'tiny-0'\): has an image, and .*llama has no vision tower"):
        run(model=tiny_checkpoint / "llama")
    assert not (tmp_path / "answers").exists()


def test_a_model_in_hugging_face_layout_is_for_the_other_engine(run, tiny_checkpoint, tmp_path, monkeypatch):
    no_model(monkeypatch)
    model = tmp_path / "converted"
    shutil.copytree(tiny_checkpoint / "llava-tiny", model)
    (model / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": {}, "vision_config": {}}))
    with pytest.raises(InputError, match=r"in Hugging Face's layout \(model_type 'llava'\)\. Ask it with --engine hf"):
        run(model=model)
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_unwritable_answers_are_reported_before_the_model_is_loaded(run, tmp_path, monkeypatch, flags):
    no_model(monkeypatch)
    final(tmp_path).mkdir(parents=True)
    with pytest.raises(InputError, match="not a folder"):
        run(*flags)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder"):
        run(*flags, answers=tmp_path / "file" / "answers")


def test_answers_with_omitted_records_can_be_scored(run, bad_image, tiny_dataset, tmp_path):
    from eval.answers import read_answers

    assert run("--image-folder", bad_image, "--on-bad-image", "skip") == 0
    answers = read_answers(final(tmp_path), tiny_dataset)
    assert (len(answers.answers), answers.omitted) == (23, 1)
