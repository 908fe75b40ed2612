"""Score tables from CSV, JSON, metric files and folders."""

import json

import pytest

from visatb.errors import InputError
from visatb.weighting.tables import read_score_table

ROWS = {"mini": {"A": 1.0, "B": 0.5}, "A": {"A": 2.0, "B": 0.25}}


def metric(score, task=None, generator=None):
    return json.dumps({"metric": "exact_match", "score": score, "n": 3, "malformed": 0, "task": task,
                       "generator": generator, "answers": "a.json"})  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "model,A,B\nmini,1,0.5\nA,2,.25\n",
        "\ufeffmodel, A ,B\r\nmini,1e0,+0.5\r\n\r\nA,2.,25e-2",
        '"model","A","B"\nmini,1,0.5\nA,2,0.25',
    ],
)
def test_csv_is_read_in_every_usual_dress(tmp_path, text):
    path = tmp_path / "s.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table = read_score_table(path)
    assert (table.columns, table.rows) == (("A", "B"), ROWS)


@pytest.mark.parametrize("content", [ROWS, [{"model": model, **cells} for model, cells in ROWS.items()]])
def test_json_holds_the_same_as_csv(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    table = read_score_table(path)
    assert (table.columns, table.rows) == (("A", "B"), ROWS)


def test_a_folder_of_metric_files_holds_the_same_as_csv(tmp_path):
    for model, cells in ROWS.items():
        (tmp_path / model).mkdir()
        for task, score in cells.items():
            (tmp_path / model / f"{task}.json").write_text(metric(score, task, f"llava-{model}"))
    assert read_score_table(tmp_path).rows == ROWS


def test_metric_files_of_one_model_and_a_single_one_are_read(tmp_path):
    (tmp_path / "A.json").write_text(metric(0.5, "A", "m"))
    assert read_score_table(tmp_path).rows == {tmp_path.name: {"A": 0.5}}
    assert read_score_table(tmp_path / "A.json").rows == {"m": {"A": 0.5}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header must be"),
        ("name,A,B\nmini,1,2\n", "header must be"),
        ("model\nmini\n", "no task column"),
        ("model,A,A\nmini,1,2\n", "column 'A' occurs twice"),
        ("model,A,\nmini,1,2\n", "must be a task name"),
        ("model,A,B\n", "has no row"),
        ("model,A,B\nmini,1\n", "must have 3 cells"),
        ("model,A,B\nmini,1,2,3\n", "must have 3 cells"),
        ("model,A,B\nmini,1,\n", r"row 1 \(mini\), B: the score is missing"),
        ("model,A,B\nmini,1,x\n", "must be a finite number, got 'x'"),
        ("model,A,B\nmini,1,nan\n", "must be a finite number"),
        ("model,A,B\nmini,1,inf\n", "must be a finite number"),
        ("model,A,B\nmini,1,1e999\n", "must be a finite number"),
        ("model,A,B\nmini,1,1_0\n", "must be a finite number"),
        ("model,A,B\nmini,1,50%\n", "must be a finite number"),
        ("model,A,B\nmini,1,-1\n", "must be >= 0"),
        ("model,A,B\nmini,1,2\nmini,1,2\n", "second row of this model"),
        ("model,A,B\n,1,2\n", "model must be a name"),
        ('model,A,B\n"mini,1,2\n', "s.csv"),
    ],
)
def test_a_broken_csv_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_score_table(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "3", '{"mini": 3}', '{"mini": {"A": null}}', '{"mini": {"A": "1"}}', '{"mini": {"A": true}}',
     '{"mini": {"A": NaN}}', '{"mini": {"A": -1}}', '{"mini": {"A": 1e999}}', '{"mini": {}}', '[{"A": 1}]',
     '[{"model": "m", "A": 1}, {"model": "m", "A": 1}]', '{"mini": {"A": 1}, "mini": {"A": 2}}',
     '{"mini": {"A": 1, "A": 2}}', '{"mini": {"": 1}}', '[{"model": ["m"], "A": 1}]', "{",
     '{"mini": {"A": 1' + "0" * 400 + "}}",
     '{"metric": "m", "score": 1}', '{"metric": "m", "score": "1", "task": "A"}'],
)  # fmt: skip
def test_a_broken_json_table_is_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"s\.json"):
        read_score_table(path)


def test_metric_files_in_the_wrong_place_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no metric file"):
        read_score_table(tmp_path)
    model = tmp_path / "mini"
    model.mkdir()
    (model / "A.json").write_text(metric(1, "B"))
    with pytest.raises(InputError, match="is the metric of task 'B'"):
        read_score_table(tmp_path)
    (model / "A.json").write_text(metric(1, "A", "m1"))
    (model / "B.json").write_text(metric(1, "B", "m2"))
    with pytest.raises(InputError, match="one model per folder"):
        read_score_table(tmp_path)
    (model / "B.json").write_text("[1]")
    with pytest.raises(InputError, match="must be a metric file"):
        read_score_table(tmp_path)
    (model / "B.json").write_text('{"score": 1}')
    with pytest.raises(InputError, match="must have the key 'metric'"):
        read_score_table(tmp_path)
    (tmp_path / "C.json").write_text(metric(1, "C"))
    with pytest.raises(InputError, match="both metric files and folders"):
        read_score_table(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_score_table(tmp_path / "none.csv")
