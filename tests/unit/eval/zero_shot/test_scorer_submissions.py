"""What the official servers take: exact contents of the files, through LLaVA's own commands."""

import json
import re
import runpy
import sys
import zipfile
from xml.etree import ElementTree

import pytest

from eval.zero_shot import mme, submissions
from eval.zero_shot.answers import read_answers
from eval.zero_shot.mmbench_table import workbook
from visatb.cli import run as run_command
from visatb.errors import InputError

LONG = "What?\nAnswer the question using a single word or phrase."
SPACE = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}


@pytest.fixture
def command(repository, monkeypatch, capsys):
    """Runs a script, or a module's main, with flags: (exit code, what it printed, what it complained)."""

    def run(program, *flags):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            if isinstance(program, str):
                runpy.run_path(str(repository / "scripts_visatb" / "eval" / program), run_name="__main__")
            else:
                run_command(program.main)
        reported = capsys.readouterr()
        return ended.value.code, reported.out, reported.err

    return run


def questions(*identifiers, **fields):
    return [{"question_id": i, "image": f"{i}.jpg", "text": LONG, "category": "default"} | fields for i in identifiers]


def sheet(path):
    """The rows of a workbook: text, numbers and None."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            ElementTree.fromstring(archive.read(name))
        root = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))

    def value(cell):
        text, number = cell.find("m:is/m:t", SPACE), cell.find("m:v", SPACE)
        return int(number.text) if number is not None else None if text is None else text.text or ""

    return [[value(cell) for cell in row.findall("m:c", SPACE)] for row in root.iter(f"{{{SPACE['m']}}}row")]


def test_vqav2_fills_what_was_not_asked_with_empty_answers(bench, command):
    bench.lines("dev.jsonl", questions(1, 2))
    bench.lines("llava_vqav2_mscoco_test2015.jsonl", questions(3, 2, 1))
    bench.answers([(2, "The two cats."), (1, "Yes")], "answers/dev/m/merge.jsonl")
    flags = ("--dir", bench.folder, "--split", "dev", "--ckpt", "m")
    assert command("convert_vqav2_for_submission.py", *flags)[0] == 0
    written = json.loads((bench.folder / "answers_upload/dev/m.json").read_text())
    expected = [(3, ""), (2, "2 cats"), (1, "yes")]
    assert written == [{"question_id": i, "answer": text} for i, text in expected]


def test_vqav2_refuses_an_inference_that_did_not_end(bench, command):
    bench.lines("dev.jsonl", questions(1, 2))
    bench.lines("llava_vqav2_mscoco_test2015.jsonl", questions(1, 2, 3))
    bench.answers([(1, "Yes")], "answers/dev/m/merge.jsonl")
    flags = ("--dir", bench.folder, "--split", "dev", "--ckpt", "m")
    code, _, reported = command("convert_vqav2_for_submission.py", *flags)
    assert code == 2 and "1 of 2 questions" in reported and not (bench.folder / "answers_upload").exists()


def test_vizwiz_names_images(bench, command):
    asked, given = bench.lines("q.jsonl", questions(0, 1)), bench.answers([(1, "Unanswerable"), (0, "A can.")])
    upload = bench.folder / "up/load.json"
    flags = ("--annotation-file", asked, "--result-file", given, "--result-upload-file", upload)
    assert command("convert_vizwiz_for_submission.py", *flags)[0] == 0
    expected = [{"image": "0.jpg", "answer": "can"}, {"image": "1.jpg", "answer": "unanswerable"}]
    assert json.loads(upload.read_text()) == expected


def test_gqa_and_mmvet(bench, command):
    given, upload = bench.answers([("201", "Yes."), ("202", "A Cat..")]), bench.folder / "up.json"
    assert command("convert_gqa_for_eval.py", "--src", given, "--dst", upload)[0] == 0
    expected = [{"questionId": "201", "prediction": "yes"}, {"questionId": "202", "prediction": "a cat"}]
    assert json.loads(upload.read_text()) == expected
    given = bench.answers([(0, "Long é answer"), (1, "")])
    assert command("convert_mmvet_for_eval.py", "--src", given, "--dst", upload)[0] == 0
    assert json.loads(upload.read_text()) == {"v1_0": "Long é answer", "v1_1": ""}


def test_a_question_answered_twice_is_not_submitted(bench, command):
    given, upload = bench.answers([(0, "a"), (0, "b")]), bench.folder / "up.json"
    code, _, reported = command("convert_mmvet_for_eval.py", "--src", given, "--dst", upload)
    assert code == 2 and "line 2: question_id 0 is answered twice" in reported and not upload.exists()


@pytest.mark.parametrize("benchmark", ["gqa", "mmvet", "vizwiz", "vqav2"])
def test_the_command_of_all_wants_exactly_the_questions(bench, command, benchmark):
    asked, upload = bench.lines("q.jsonl", questions(0, 1)), bench.folder / "up.json"
    flags = ("--question-file", asked, "--output", upload)
    given = bench.answers([(0, "a"), (1, "b")])
    assert command(submissions, benchmark, "--answers-file", given, *flags)[0] == 0
    assert len(json.loads(upload.read_text())) == 2
    upload.unlink()
    given = bench.answers([(0, "a")])
    code, _, reported = command(submissions, benchmark, "--answers-file", given, *flags)
    assert code == 2 and "1 of 2 questions" in reported and not upload.exists()


def test_seed_prints_accuracies_and_writes_lines(bench, command):
    rows = [{"question_id": str(n), "question_type_id": 1, "data_type": "image", "answer": "A"} for n in (7, 8)]
    data = bench.json("SEED-Bench.json", {"question_type": {"Scene": 1}, "questions": rows})
    given, upload = bench.answers([(8, "A"), (7, "B")]), bench.folder / "up.jsonl"
    flags = ("--annotation-file", data, "--result-file", given, "--result-upload-file", upload)
    code, printed, _ = command("convert_seed_for_submission.py", *flags)
    assert code == 0 and "Total accuracy: 50.00%" in printed
    lines = [json.loads(line) for line in upload.read_text().splitlines()]
    assert lines == [{"question_id": "7", "prediction": "B"}, {"question_id": "8", "prediction": "A"}]


def test_mmbench_workbook_has_llavas_columns(bench, command):
    header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit"
    rows = [
        [3, "What <is> & 'it'?", "hint", "cat", "1", "", "", "A", "ocr", "QUJD", "s", "l2", "", "dev"],
        [1000003, "What?", "", "1", "cat", "", "", "B", "ocr", "QUJD", "s", "l2", "", "dev"],
    ]
    table = bench.folder / "dev.tsv"
    table.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    bench.answers([(1000003, "B"), (3, "A. <cat>\n\x00")], "answers/m.jsonl", round_id=0)
    flags = ("--annotation-file", table, "--result-dir", bench.folder / "answers", "--experiment", "m")
    code, _, reported = command("convert_mmbench_for_submission.py", *flags, "--upload-dir", bench.folder / "up")
    assert code == 0, reported
    columns, *cells = sheet(bench.folder / "up" / "m.xlsx")
    assert columns == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert cells[0] == [3, "What <is> & 'it'?", "cat", "1", None, None, "A. <cat>\n", "A", "dev"]
    assert cells[1][0] == 1000003 and cells[1][6] == "B"


def test_the_workbook_is_the_same_bytes_every_time(tmp_path):
    for name in ("a.xlsx", "b.xlsx"):
        (tmp_path / name).write_bytes(workbook(["é"], [["  x\ty\r\n"], [3], [None]]))
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()
    assert sheet(tmp_path / "a.xlsx") == [["é"], ["  x\ty\r\n"], [3], [None]]


def test_mme_in_llavas_folders(bench, command):
    pairs = []
    for subtask in [*mme.PERCEPTION, *mme.COGNITION]:
        path = bench.folder / "MME_Benchmark_release_version" / subtask / "1.txt"
        path.parent.mkdir(parents=True)
        path.write_text("Q1? Please answer yes or no.\tYes\nQ2? Please answer yes or no.\tNo\n")
        pairs += [(f"{subtask}/1.png", "Yes", LONG.replace("What?", f"Q{n}?")) for n in (1, 2)]
    bench.answers(pairs, "answers/m.jsonl")
    script = "convert_answer_to_mme.py"
    code, printed, _ = command(script, "--dir", bench.folder, "--experiment", "m")
    assert code == 0 and "total score: 500.0" in printed
    row = (bench.folder / "eval_tool/answers/m/OCR.txt").read_text().splitlines()[1]
    assert row == "1.txt\tQ2? Please answer yes or no.\tNo\tYes"
    metric = bench.folder / "MME.json"
    flags = ("--results-dir", bench.folder / "eval_tool/answers/m", "--output", metric)
    assert command(mme, *flags)[0] == 0
    of_results = json.loads(metric.read_text())
    assert of_results["score"] == 500
    flags = ("--answers-file", bench.folder / "answers/m.jsonl", "--output", metric)
    assert command(mme, *flags, "--annotation-dir", bench.folder / "MME_Benchmark_release_version")[0] == 0
    assert json.loads(metric.read_text())["records"] == of_results["records"]


def test_answers_of_several_models_are_refused(bench):
    path = bench.answers([(0, "a")])
    path.write_text(path.read_text() + re.sub("my-model", "other", path.read_text()))
    with pytest.raises(InputError, match="line 2: model_id is 'other', but 'my-model' before"):
        read_answers(path)


@pytest.mark.parametrize("model", [["my-model"], {"name": "my-model"}, 3])
def test_a_model_id_that_is_no_text_is_refused(bench, model):
    with pytest.raises(InputError, match="line 1: model_id must be text, got"):
        read_answers(bench.answers([(0, "a")], model_id=model))
