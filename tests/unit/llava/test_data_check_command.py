"""The data check's command: one record shown as it is learned, and refusals in one line."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
from forked import run_forked

import llava.data.check as command
from llava.data.check import main
from visatb.errors import InputError


def show(tiny_checkpoint, path, identifier, *flags):
    main(["--data_path", str(path), "--tokenizer", str(tiny_checkpoint / "llama"), "--show", identifier, *flags])


def test_a_shown_record_has_its_answers_marked(tiny_checkpoint, tiny_dataset, capsys):
    show(tiny_checkpoint, tiny_dataset, "tiny-1", "--patches_per_image", "16")
    shown = capsys.readouterr().out
    assert "record 1 (id 'tiny-1'), task 'ShapeVQA'" in shown
    assert "<image 001.png: 16 positions>" in shown
    assert "ASSISTANT:【 green</s>】 USER: And its shape? ASSISTANT:【 circle</s>】" in shown
    assert "USER: " in shown and "cut at" not in shown and shown.count("【") == 2


def test_a_shown_record_marks_where_it_is_truncated(tiny_checkpoint, tiny_dataset, capsys):
    show(tiny_checkpoint, tiny_dataset, "tiny-1", "--patches_per_image", "16", "--model_max_length", "200")
    before, _, after = capsys.readouterr().out.partition("--- cut at --model_max_length 200")
    assert before.count("【") == 1 and "【" not in after and "circle</s>" in after


def test_showing_escapes_what_a_terminal_would_act_on_and_joins_bytes(tiny_checkpoint, tmp_path, capsys):
    turns = [{"from": "human", "value": "Say \x1b[31mé"}, {"from": "gpt", "value": "雪 <0x41>\n"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 7, "conversations": turns}))
    show(tiny_checkpoint, tmp_path / "a.jsonl", "7")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "Say \\x1b[31mé" in shown and "【 雪 <0x41>\n</s>】" in shown


def test_a_record_without_an_id_is_shown_by_its_position(tiny_checkpoint, tmp_path, capsys):
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    (tmp_path / "a.json").write_text(json.dumps([{"id": 1, "conversations": []}, {"conversations": turns}] * 2))
    with pytest.raises(InputError, match="record 0 "):
        show(tiny_checkpoint, tmp_path / "a.json", "1")
    show(tiny_checkpoint, tmp_path / "a.json", "3")
    assert "record 3, task None" in capsys.readouterr().out


def test_a_record_that_cannot_be_shown_is_named(tiny_checkpoint, tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="no record has the id 'nobody'"):
        show(tiny_checkpoint, tiny_dataset, "nobody")
    (tmp_path / "a.json").write_text('[{"id": 7, "conversations": []}]')
    with pytest.raises(InputError, match="record 0 .*conversations must be a list"):
        show(tiny_checkpoint, tmp_path / "a.json", "7")
    with pytest.raises(InputError, match="--show needs --tokenizer"):
        main(["--data_path", str(tiny_dataset), "--show", "tiny-1"])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model_max_length", "0"], "model_max_length must be at least 1"),
        (["--num_train_epochs", "nan"], "num_train_epochs must be above 0"),
        (["--version", "v9"], "--version must be one of"),
        (["--tokenizer", "{folder}"], "has no tokenizer.model"),
        (["--vision_tower", "{folder}"], "vision tower .*cannot be read"),
        (["--benchmark", "{folder}/none.yaml"], "no such file"),
        (["--against", "{data}"], "is given twice"),
        (["--output", "{data}"], "would be overwritten"),
        (["--against", "{folder}/none.json"], "no such file"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(tiny_dataset, tmp_path, flags, message):
    words = [word.format(folder=tmp_path, data=tiny_dataset) for word in flags]
    with pytest.raises(InputError, match=message) as error:
        main(["--data_path", str(tiny_dataset), "--no_images", *words])
    assert "\n" not in str(error.value)


def test_a_missing_image_folder_is_reported_once(tiny_dataset, tmp_path):
    words = ["--data_path", str(tiny_dataset), "--image_folder", str(tmp_path / "none")]
    with pytest.raises(InputError, match="none: no such folder. Check --image_folder"):
        main(words)
    assert main([*words, "--no_images"]) == 0


@pytest.mark.parametrize("content, code", [("[", 2), ('[{"conversations": 1}]', 2)])
def test_the_command_ends_with_code_2_and_one_line(tmp_path, repository, content, code):
    (tmp_path / "a.json").write_text(content)
    done = run_forked(["-m", "llava.data.check", "--data-path", str(tmp_path / "a.json")], os.environ, repository)
    assert done.returncode == code and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_a_current_model_is_checked_in_its_own_environment(monkeypatch):
    called = []
    ended = SimpleNamespace(returncode=2)
    monkeypatch.setattr(command.subprocess, "run", lambda words, **_: called.append(words) or ended)
    monkeypatch.setenv("PYTHON_HF", sys.executable)
    assert main(["--model=x", "--data_path", "d", "--model_max_length", "9"]) == 2
    expected = ["--model_name_or_path=x", "--data_path", "d", "--model_max_length", "9"]
    assert called == [[sys.executable, "-m", "visatb_hf.check", *expected]]
