"""inference_visatb.py as a user runs it: whole files or none, the same bytes however often it was interrupted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked, run_ranks
from inference_calls import FLAGS, final, no_model
from waiting import until

from llava.generate.llava_engine import LlavaEngine
from visatb.errors import InputError


def edited(tiny_dataset: Path, tmp_path: Path, change) -> Path:
    records = json.loads(tiny_dataset.read_text())
    change(records)
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(records))
    return file


def test_answers_are_the_records_with_two_more_fields(expected, tiny_dataset):
    answers = json.loads(expected)
    for answer in answers:
        assert answer.pop("generator") == "llava-tiny"
        assert isinstance(answer["conversations"][1].pop("generative_value"), str)
    assert answers == json.loads(tiny_dataset.read_text())
    assert any("image" not in answer for answer in answers), "text-only records are asked too"


@pytest.mark.parametrize("batch_size", [1, 16])
def test_batch_size_changes_no_byte(infer, expected, tmp_path, batch_size):
    assert infer("--batch_size", batch_size) == 0
    assert final(tmp_path).read_bytes() == expected


@pytest.mark.parametrize("chunks", [2, 3, 7, 30])
def test_chunks_in_any_order_merge_to_the_same_file(infer, expected, tmp_path, chunks):
    for chunk in (*reversed(range(chunks - 1)), chunks - 1):  # the last part is never empty
        assert not final(tmp_path).exists(), "merging demands all chunks"
        assert infer("--num-chunks", chunks, "--chunk-idx", chunk) == 0
    assert final(tmp_path).read_bytes() == expected


def test_a_finished_run_loads_nothing(infer, expected, tmp_path, monkeypatch, capsys):
    assert infer() == 0
    no_model(monkeypatch)
    assert infer("--batch-size", 2) == 0
    assert "already complete" in capsys.readouterr().out
    assert final(tmp_path).read_bytes() == expected


def test_a_lost_answer_file_is_written_again_from_the_work_folder(infer, expected, tmp_path, monkeypatch):
    assert infer() == 0
    final(tmp_path).unlink()
    no_model(monkeypatch)
    assert infer() == 0
    assert final(tmp_path).read_bytes() == expected


def test_a_run_that_breaks_after_any_batch_resumes(infer, expected, tmp_path, monkeypatch):
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
            infer()
        assert not final(tmp_path).exists()
        monkeypatch.setattr(Writer, "append", append)
    assert infer() == 0
    assert final(tmp_path).read_bytes() == expected


def test_a_killed_process_resumes_and_writes_the_same_bytes(
    infer, expected, tiny_checkpoint, tiny_dataset, tmp_path, repository
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
    assert infer("--batch-size", 1) == 0
    assert final(tmp_path).read_bytes() == expected


def test_two_ranks_write_the_file_of_one(expected, tiny_checkpoint, tiny_dataset, tmp_path, repository):
    command = [str(repository / "inference_visatb.py"), *FLAGS, "--model_path", str(tiny_checkpoint / "llava-tiny")]
    command += ["--question_file", str(tiny_dataset), "--image_folder", str(tiny_dataset.parent / "images")]
    command += ["--answers_folder", str(tmp_path / "answers")]
    codes, err = run_ranks(command, 2, os.environ, repository)
    assert codes == [0, 0], err
    assert final(tmp_path).read_bytes() == expected


def test_several_question_files_need_one_model_load(infer, expected, tiny_dataset, tmp_path, monkeypatch):
    loads = []
    real = LlavaEngine.load
    monkeypatch.setattr(LlavaEngine, "load", lambda *a, **k: loads.append(1) or real(*a, **k))
    text_only = tmp_path / "text_only.jsonl"
    text_only.write_text('{"conversations": [{"from": "human", "value": "Name a colour."}]}\n')
    assert infer(questions=[tiny_dataset, text_only]) == 0
    assert len(loads) == 1
    assert final(tmp_path).read_bytes() == expected
    (answer,) = json.loads((tmp_path / "answers" / "text-only_llava-tiny.json").read_text())
    assert answer["conversations"][1]["generative_value"] is not None


def test_another_model_of_the_same_name_is_not_mistaken_for_this_one(infer, expected, tmp_path):
    from tiny import make_tiny_checkpoint

    assert infer() == 0
    other = make_tiny_checkpoint(tmp_path / "other", seed=5) / "llava-tiny"
    with pytest.raises(InputError, match="differs in: model"):
        infer(model=other)
    assert final(tmp_path).read_bytes() == expected
    assert infer("--overwrite", model=other) == 0
    assert final(tmp_path).read_bytes() != expected


def test_work_of_another_model_or_file_of_the_same_name_is_not_continued(infer, expected, tiny_dataset, tmp_path):
    """The other's unfinished work lies in the same folder under the same names."""
    from tiny import make_tiny_checkpoint

    other = make_tiny_checkpoint(tmp_path / "other", seed=5) / "llava-tiny"
    assert infer("--num-chunks", 2, model=other) == 0
    same_name = tmp_path / tiny_dataset.name
    records = json.loads(tiny_dataset.read_text())
    for record in records:
        record["conversations"][0]["value"] += " Really?"
    same_name.write_text(json.dumps(records))
    assert infer("--num-chunks", 2, questions=[same_name]) == 0
    assert infer() == 0
    assert final(tmp_path).read_bytes() == expected


def test_changed_settings_are_refused_and_named(infer, tmp_path):
    assert infer() == 0
    with pytest.raises(InputError, match="differs in: max_new_tokens"):
        infer("--max_new_tokens", 5)


def test_precision_is_chosen_and_never_mixed(infer, tmp_path):
    assert infer("--dtype", "bf16") == 0
    with pytest.raises(InputError, match="differs in: dtype"):
        infer("--dtype", "fp32")


def test_a_model_name_names_the_file_and_the_generator(infer, tmp_path):
    assert infer("--model-name", "a_b+mini") == 0
    answers = json.loads((tmp_path / "answers" / "tiny-train-1k_a-b+mini.json").read_text())
    assert {answer["generator"] for answer in answers} == {"a_b+mini"}
    with pytest.raises(InputError, match="--model-name"):
        infer("--model-name", "../x")


def test_a_question_the_model_fails_on_is_reported_and_asked_again(infer, expected, tmp_path, monkeypatch, capsys):
    real = LlavaEngine.texts

    def failing(self, prompts, images, keys):
        if any(key.startswith("7\n") for key in keys):
            raise RuntimeError("out of memory")
        return real(self, prompts, images, keys)

    with monkeypatch.context() as patch:
        patch.setattr(LlavaEngine, "texts", failing)
        assert infer() == 1
    assert "record 7" in capsys.readouterr().err
    assert not final(tmp_path).exists()
    assert len(list((tmp_path / "answers" / "work").glob("*/*.jsonl"))) == 1
    assert infer() == 0
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
    infer, tiny_dataset, tmp_path, monkeypatch, change, message
):
    no_model(monkeypatch)
    with pytest.raises(InputError, match=message):
        infer(questions=[tiny_dataset, edited(tiny_dataset, tmp_path, change)])
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
def test_bad_flags_are_refused_before_anything_is_loaded(infer, tmp_path, monkeypatch, flags, message):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    no_model(monkeypatch)
    with pytest.raises(InputError, match=message):
        infer(*flags)
    assert not (tmp_path / "answers").exists()


def test_two_files_with_one_answer_file_are_refused(infer, tiny_dataset, tmp_path):
    shutil.copy(tiny_dataset, tmp_path / "tiny-train-1k.json")
    with pytest.raises(InputError, match="both"):
        infer(questions=[tiny_dataset, tmp_path / "tiny-train-1k.json"])


def test_mistakes_end_with_one_line_and_exit_code_2(tmp_path, repository):
    command = [sys.executable, str(repository / "inference_visatb.py"), "--model-path", str(tmp_path / "none")]
    command += ["--question-file", str(tmp_path / "none.json"), "--answers-folder", str(tmp_path / "a")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: ")
    assert not (tmp_path / "a").exists()


def test_a_text_model_is_refused_for_images_before_it_is_loaded(infer, tiny_checkpoint, tmp_path, monkeypatch):
    no_model(monkeypatch)
    with pytest.raises(InputError, match=r"record 0 \(id 'tiny-0'\): has an image, and .*llama has no vision tower"):
        infer(model=tiny_checkpoint / "llama")
    assert not (tmp_path / "answers").exists()


def test_a_model_in_hugging_face_layout_is_for_the_other_engine(infer, tiny_checkpoint, tmp_path, monkeypatch):
    no_model(monkeypatch)
    model = tmp_path / "converted"
    shutil.copytree(tiny_checkpoint / "llava-tiny", model)
    (model / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": {}, "vision_config": {}}))
    with pytest.raises(InputError, match=r"in Hugging Face's layout \(model_type 'llava'\)\. Ask it with --engine hf"):
        infer(model=model)
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_unwritable_answers_are_reported_before_the_model_is_loaded(infer, tmp_path, monkeypatch, flags):
    no_model(monkeypatch)
    final(tmp_path).mkdir(parents=True)
    with pytest.raises(InputError, match="not a folder"):
        infer(*flags)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder"):
        infer(*flags, answers=tmp_path / "file" / "answers")
