"""The command line of the evaluators, in this process."""

import json
import subprocess
import sys

import pytest

from eval import caption, caption_list, grounding, qa
from visatb.errors import InputError

SCRIPTS = {"caption": caption, "caption_list": caption_list, "grounding": grounding, "qa": qa}
TRUTHS = {"caption": "a red ring", "caption_list": ["a red ring", "ring"], "grounding": "[0, 0, 1, 1]", "qa": "red"}


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    return module.main()


@pytest.fixture
def answer_file(make_record, write_answers):
    def write(script):
        truth = TRUTHS[script]
        said = truth[0] if isinstance(truth, list) else truth
        records = [make_record("a", truth, said), make_record("b", truth, 3), make_record("c", truth, said)]
        if script.startswith("caption"):
            records[2]["conversations"][1]["value"] = ["two stars"] if script == "caption_list" else "two stars"
        return write_answers(records)

    return write


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flags", [("--output", "--per-record"), ("--output", "--per_record")])
def test_metric_and_per_record_files_are_written(script, flags, answer_file, tmp_path, monkeypatch, capsys):
    answers, metrics, records = answer_file(script), tmp_path / "m.json", tmp_path / "r.jsonl"
    assert call(SCRIPTS[script], monkeypatch, "-a", answers, flags[0], metrics, flags[1], records) == 0
    content = json.loads(metrics.read_text())
    assert list(content) == ["metric", "score", "n", "malformed", "omitted", "records", "task", "generator", "answers"]
    assert (content["n"], content["malformed"], content["task"], content["generator"], content["answers"]) == (
        3, 1, "VQAv2", "some_model", answers.name,
    )  # fmt: skip
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert sum(line["score"] for line in lines) / 3 == pytest.approx(content["score"], abs=1e-12)
    assert [line["malformed"] for line in lines] == [False, True, False]
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert repr(content["score"]) in printed.out
    assert "1 of 3 predictions are malformed" in printed.err


@pytest.mark.parametrize("flag", ["-a", "--answers-file", "--answers_file", "--answer_file"])
def test_the_answer_file_has_the_references_flag_too(flag, answer_file, monkeypatch, capsys):
    call(qa, monkeypatch, flag, answer_file("qa"))
    assert capsys.readouterr().out == "2 / 3 = 0.6666666666666666\n"


def test_an_output_that_would_overwrite_the_answers_is_refused(answer_file, monkeypatch):
    answers = answer_file("qa")
    before = answers.read_bytes()
    with pytest.raises(InputError, match="overwritten"):
        call(qa, monkeypatch, "-a", answers, "--output", answers)
    assert answers.read_bytes() == before


def test_a_refusal_writes_nothing(answer_file, make_record, write_answers, tmp_path, monkeypatch):
    answers = write_answers([make_record("a", "red", "red"), make_record("a", "red", "red")])
    with pytest.raises(InputError):
        call(qa, monkeypatch, "-a", answers, "--output", tmp_path / "m.json", "--per-record", tmp_path / "r.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == [answers.name]


def test_an_output_that_cannot_be_written_leaves_the_other_unwritten_too(answer_file, tmp_path, monkeypatch):
    answers = answer_file("qa")
    with pytest.raises(InputError, match="not a folder"):
        call(qa, monkeypatch, "-a", answers, "--per-record", tmp_path / "r.jsonl", "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [answers.name]


def test_several_tasks_are_named(make_record, write_answers, monkeypatch, capsys):
    answers = write_answers([make_record("a", "red", "red"), make_record("b", "red", "red", task="GQA")])
    call(qa, monkeypatch, "-a", answers)
    assert "2 tasks (VQAv2, GQA)" in capsys.readouterr().err


def test_without_pycocoevalcap_the_message_says_what_to_install(answer_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(InputError, match="pip install pycocoevalcap"):
        call(caption, monkeypatch, "-a", answer_file("caption"))


def test_ptb_tokenisation_without_java_is_refused(answer_file, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="needs Java"):
        call(caption, monkeypatch, "-a", answer_file("caption"), "--tokenizer", "ptb")


def test_evaluators_import_without_torch_nltk_and_matplotlib(repository):
    code = (
        "import sys, eval.caption, eval.caption_list, eval.grounding_bbox, eval.qa, eval.overall, weighting_visatb\n"
        "heavy = {'torch', 'transformers', 'nltk', 'matplotlib', 'yaml', 'pycocoevalcap', 'shapely'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
