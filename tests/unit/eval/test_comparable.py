"""Scores that are set side by side must be of one metric and of the same records."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighting_visatb
from eval import overall, registry
from eval.registry import Metric
from eval.scores import records_digest
from llava.eval.suite_report import zero_shot_line
from visatb.errors import InputError
from visatb.weighting.tables import read_score_table

METRIC = {"metric": "exact_match", "score": 0.5, "n": 400, "malformed": 0, "omitted": 0, "answers": "a.json"}


@pytest.fixture
def models(tmp_path):
    """Writes metric files: model -> task -> what differs from METRIC."""

    def write(contents):
        for model, tasks in contents.items():
            (tmp_path / model).mkdir(exist_ok=True)
            for task, changes in tasks.items():
                text = json.dumps(METRIC | {"task": task, "generator": model} | changes)
                (tmp_path / model / f"{task}.json").write_text(text)
        return tmp_path

    return write


def compared(monkeypatch, folder, *flags):
    words = ["--baseline", f"{folder}/ew", "--results", f"{folder}/vb", "--output", f"{folder}/o.json", *flags]
    monkeypatch.setattr(sys, "argv", ["overall.py", *words])
    overall.main()
    return json.loads((folder / "o.json").read_text())


DIFFERENT = [
    ({"n": 300, "omitted": 100}, "300 records scored and 100 omitted under vb, 400 records scored under ew"),
    ({"n": 399}, "399 records scored under vb, 400 records scored under ew"),
    ({"records": "b" * 16}, "other records under vb than under ew"),
    ({"answers": "VQAv2-test-400_m.json"}, "split test under vb, val under ew"),
]


@pytest.mark.parametrize(("changes", "expected"), DIFFERENT)
def test_other_records_are_refused_and_shown_where_asked_for(models, monkeypatch, capsys, changes, expected):
    plain = {"records": "a" * 16} if "records" in changes else {"answers": "VQAv2-val-400_m.json"}
    folder = models({"ew": {"VQAv2": plain}, "vb": {"VQAv2": plain | changes}})
    with pytest.raises(InputError, match=f"do not compare: VQAv2: {expected}.*--allow-different-records"):
        compared(monkeypatch, folder)
    assert not (folder / "o.json").exists()
    content = compared(monkeypatch, folder, "--allow-different-records", "--markdown", str(folder / "o.md"))
    assert expected in content["notes"][0]
    assert f"note: VQAv2: {expected}" in capsys.readouterr().out and expected in (folder / "o.md").read_text()


def test_another_metric_is_refused_even_where_other_records_are_allowed(models, monkeypatch):
    folder = models({"ew": {"Cap": {"metric": "CIDEr"}}, "vb": {"Cap": {}}})
    for flags in ((), ("--allow-different-records",)):
        with pytest.raises(InputError, match="vb/Cap.json: metric must be 'CIDEr' as in .*ew/Cap.json, got 'exact_mat"):
            compared(monkeypatch, folder, *flags)


def test_records_omitted_alike_are_compared_and_shown(models, monkeypatch):
    folder = models({"ew": {"Cap": {"n": 3, "omitted": 397}}, "vb": {"Cap": {"n": 3, "omitted": 397}}})
    assert compared(monkeypatch, folder)["notes"] == ["Cap: 3 records scored and 397 omitted under ew"]


def test_metric_files_without_counts_are_compared_as_far_as_they_say(models, monkeypatch):
    folder = models({"ew": {"Cap": {"n": None, "omitted": None}}, "vb": {"Cap": {}}})
    assert compared(monkeypatch, folder)["notes"] == []


@pytest.mark.parametrize("changes", [{"n": "x"}, {"n": 0}, {"n": True}, {"n": 2.5}, {"omitted": -1}, {"metric": 3}])
def test_a_metric_file_with_impossible_counts_is_refused(models, changes):
    folder = models({"ew": {"Cap": changes}})
    with pytest.raises(InputError, match=f"ew/Cap.json: {next(iter(changes))} must be"):
        read_score_table(folder / "ew")


@pytest.fixture
def weigh(monkeypatch):
    def weigh(*arguments):
        monkeypatch.setattr(sys, "argv", ["weighting_visatb.py", *map(str, arguments)])
        weighting_visatb.main()

    return weigh


def matrix_of(changes):
    scores = {"mini": (0.4, 0.4), "A": (0.6, 0.45), "B": (0.45, 0.6)}
    found = {model: {"A": {"score": a}, "B": {"score": b}} for model, (a, b) in scores.items()}
    found["B"]["A"] |= changes
    return found


def test_a_matrix_of_mixed_metrics_or_records_is_not_weighed(models, weigh, tmp_path, capsys):
    folder = models(matrix_of({"metric": "CIDEr"}))
    with pytest.raises(InputError, match="B/A.json: metric must be 'exact_match'"):
        weigh("--scores", folder)
    folder = models(matrix_of({"n": 3, "omitted": 397}))
    with pytest.raises(InputError, match="A: 3 records scored and 397 omitted under B, 400 records scored under A"):
        weigh("--scores", folder)
    output = tmp_path.parent / f"{tmp_path.name}.json"
    weigh("--scores", folder, "--allow-different-records", "--output", output)
    assert "3 records scored" in json.loads(output.read_text())["notes"][0]
    assert "note: A: 3 records scored" in capsys.readouterr().err


def test_scores_of_another_metric_than_the_benchmarks_are_not_weighed(models, weigh, tmp_path):
    folder = models(matrix_of({}))
    files = "files: {{train: a.json, val: {0}.json, test: {0}-t.json}}".format
    tasks = (
        f"tasks:\n  - {{name: A, metric: cider, {files('A')}}}\n  - {{name: B, metric: exact_match, {files('B')}}}\n"
    )
    benchmark = tmp_path.parent / f"{tmp_path.name}.yaml"
    benchmark.write_text("name: small\ndata_folder: d\nimage_folder: i\n" + tasks)
    with pytest.raises(InputError, match="metric must be 'CIDEr', the metric of A in the benchmark file, got 'exact_m"):
        weigh("--scores", folder, "--benchmark", benchmark)


def test_the_zero_shot_suite_compares_no_other_metric_or_records(models):
    folder = models({"ew": {"POPE": {"metric": "mean_f1"}}, "vb": {"POPE": {"metric": "mean_accuracy"}}})
    with pytest.raises(InputError, match="metric must be 'mean_f1'"):
        zero_shot_line(folder / "vb", str(folder / "ew"))
    models({"vb": {"POPE": {"metric": "mean_f1", "n": 10}}})
    with pytest.raises(InputError, match="10 records scored under vb"):
        zero_shot_line(folder / "vb", str(folder / "ew"))


ENTRIES = st.lists(st.fixed_dictionaries({"id": st.text() | st.integers(), "truth": st.text()}), min_size=1, max_size=9)


@given(ENTRIES, st.randoms())
def test_the_digest_of_records_sees_ids_and_truths_and_no_order(entries, chance):
    shuffled = [dict(entry, prediction="x", score=chance.random()) for entry in entries]
    chance.shuffle(shuffled)
    assert records_digest(shuffled) == records_digest(entries)
    changed = [dict(entries[0], truth=entries[0]["truth"] + "!"), *entries[1:]]
    assert records_digest(changed) != records_digest(entries)
    assert records_digest(entries[1:]) != records_digest(entries)


def test_the_direction_of_a_metric_is_the_registrys(models, monkeypatch):
    errors = Metric("edit_distance", "edit_distance", print, lower_is_better=True)
    monkeypatch.setattr(registry, "all_metrics", lambda: [errors])
    folder = models({m: {"A": {"metric": "edit_distance", "score": s}} for m, s in (("ew", 0.5), ("vb", 0.4))})
    found = compared(monkeypatch, folder)
    assert found["lower_is_better"] == ["A"]
    assert found["models"]["vb"]["dI_percent"] == pytest.approx(20)
