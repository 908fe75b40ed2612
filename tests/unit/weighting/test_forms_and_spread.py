"""The simpler and the precise form, several runs, and intervals from resampled records."""

import json
import shutil
import sys

import numpy as np
import pytest

import weighting_visatb as w
from visatb.errors import InputError
from visatb.weighting.matrix import score_matrix, with_single_task_scores
from visatb.weighting.tables import ScoreTable, read_score_table
from visatb.weighting.uncertainty import QUANTITIES, bootstrap, read_record_scores

TASKS = ("A", "B", "C")
SINGLE = {"mini": {"A": 0.4, "B": 10.0, "C": 0.2}, "full": {"A": 0.8, "B": 50.0, "C": 0.4}}


@pytest.fixture
def call(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["weighting_visatb.py", *map(str, arguments)])
        return w.main()

    return call


def content_of(path):
    return json.loads(path.read_text())


def test_the_precise_difficulty_comes_from_single_task_models_alone(rows, write_scores, tmp_path, call):
    scores, single = write_scores(rows), write_scores(SINGLE, name="single.csv")
    call("--scores", scores, "--output", tmp_path / "standard.json")
    call("--scores", scores, "--form", "precise", "--single-scores", single, "--output", tmp_path / "precise.json")
    standard, precise = content_of(tmp_path / "standard.json"), content_of(tmp_path / "precise.json")
    assert precise["difficulty"] == pytest.approx([0.5, 0.8, 0.5])
    assert precise["contributions"] == standard["contributions"] and precise["form"] == "precise"
    assert precise["weight_difficulty"] != standard["weight_difficulty"]


def test_the_simpler_form_is_equations_10_and_11(rows, write_scores, tmp_path, call):
    base = {"base": rows.pop("mini"), **rows}
    single = write_scores({"mini": SINGLE["mini"]}, name="single.csv")
    call(
        "--scores", write_scores(base), "--form", "simpler", "--single-scores", single, "--output", tmp_path / "w.json"
    )
    found = content_of(tmp_path / "w.json")
    gain_B_to_A = (rows["B"]["A"] - base["base"]["A"]) / (rows["A"]["A"] - base["base"]["A"])
    assert found["contributions"][1][0] == pytest.approx(gain_B_to_A)
    assert found["difficulty"] == pytest.approx([1 - SINGLE["mini"][task] / rows[task][task] for task in TASKS])


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--form", "precise"], "--single-scores goes with"),
        (["--single-scores", "SINGLE"], "--single-scores goes with"),
        (["--form", "simpler", "--single-scores", "SINGLE"], "row 'base' is missing|no known model"),
        (["--bootstrap", "100"], "--per-record"),
        (["--bootstrap", "1", "--per-record", "."], "at least 2 resamples"),
        (["--bootstrap", "9", "--per-record", ".", "--bootstrap-seed", "-1"], "--bootstrap-seed >= 0"),
    ],
)
def test_forms_without_what_they_need_are_refused(rows, write_scores, call, flags, expected):
    single = write_scores(SINGLE, name="single.csv")
    with pytest.raises(InputError, match=expected):
        call("--scores", write_scores(rows), *[single if flag == "SINGLE" else flag for flag in flags])


def test_single_task_tables_that_do_not_fit_are_refused(rows, write_scores):
    matrix = score_matrix(read_score_table(write_scores(rows)))
    for change, expected in (
        ({"full": {"A": 1.0, "B": 1.0}}, "full, C: the single-task score is missing"),
        ({"full": {**SINGLE["full"], "C": 0.0}}, "full, C: must be above 0"),
        ({"STL": SINGLE["full"]}, "row 'STL' must be mini or full"),
    ):
        with pytest.raises(InputError, match=expected):
            with_single_task_scores(matrix, ScoreTable("single.csv", TASKS, {**SINGLE, **change}))


@pytest.fixture
def measured(tmp_path):
    """A folder of per-record scores and the matrix of their means; records are hits or misses."""
    draw = np.random.default_rng(3)
    chance = {"mini": (0.3, 0.4, 0.2), "A": (0.7, 0.45, 0.2), "B": (0.35, 0.8, 0.3), "C": (0.3, 0.4, 0.75)}
    rows = {}
    for model, chances in chance.items():
        folder = tmp_path / "metrics" / (f"{model}_val" if model == "mini" else f"{model}-plus-mini_val")
        folder.mkdir(parents=True)
        rows[model] = {}
        for task, share in zip(TASKS, chances, strict=True):
            hits = (draw.random(300) < share).astype(float)
            lines = [json.dumps({"position": n, "id": str(n), "score": hit}) for n, hit in enumerate(hits)]
            (folder / f"{task}.per_record.jsonl").write_text("\n".join(lines) + "\n")
            rows[model][task] = float(hits.mean())
    return tmp_path / "metrics", rows


def test_bootstrap_intervals_hold_the_weights_and_shrink_with_more_records(measured, write_scores, tmp_path, call):
    folder, rows = measured
    scores = write_scores(rows)
    flags = ("--bootstrap", "200", "--per-record", folder)
    call("--scores", scores, *flags, "--output", tmp_path / "one.json")
    call("--scores", scores, *flags, "--output", tmp_path / "again.json")
    found = content_of(tmp_path / "one.json")
    assert found == content_of(tmp_path / "again.json")
    low, high = (np.array(found["spread"][end]["weight"]) for end in ("low", "high"))
    assert (low < high).all() and (low <= list(found["weights"].values())).all()
    assert set(found["spread"]["low"]) == set(QUANTITIES)

    matrix = score_matrix(read_score_table(scores))
    records = read_record_scores(folder, matrix)
    many = bootstrap(matrix, [np.tile(s, 25) for s in records], w.weigh, 200)
    assert ((many.high["weight"] - many.low["weight"]) < 0.5 * (high - low)).all()


@pytest.mark.parametrize("form", ["precise", "simpler"])
def test_bootstrap_takes_single_task_scores_from_models_of_their_own(measured, write_scores, tmp_path, call, form):
    folder, rows = measured
    draw = np.random.default_rng(4)
    single = {"mini": {}, "full": {}}
    for row, prefix, share in (("mini", "mini-STL-", 0.3), ("full", "STL-", 0.8)):
        for task in TASKS:
            hits = (draw.random(300) < share).astype(float)
            lines = [json.dumps({"position": n, "id": str(n), "score": hit}) for n, hit in enumerate(hits)]
            (folder / f"{prefix}{task}_val").mkdir()
            (folder / f"{prefix}{task}_val" / f"{task}.per_record.jsonl").write_text("\n".join(lines))
            single[row][task] = float(hits.mean())
    if form == "simpler":
        (folder / "mini_val").rename(folder / "base_val")
        for task in TASKS:  # the models of the other form stay beside: they are not to be read
            shutil.copytree(folder / f"{task}-plus-mini_val", folder / f"STL-{task}_val", dirs_exist_ok=True)
            single["full"][task] = rows[task][task]
            (folder / f"{task}-plus-mini_val" / f"{task}.per_record.jsonl").write_text("broken")
        rows = {"base" if model == "mini" else model: cells for model, cells in rows.items()}
    flags = ("--form", form, "--single-scores", write_scores(single, name="single.csv"))
    flags += ("--bootstrap", "100", "--per-record", folder, "--output", tmp_path / "w.json")
    call("--scores", write_scores(rows), *flags)
    found = content_of(tmp_path / "w.json")
    low, high = (np.array(found["spread"][end]["difficulty"]) for end in ("low", "high"))
    assert (low < found["difficulty"]).all() and (found["difficulty"] < high).all()
    (folder / "mini-STL-B_val").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="no folder mini-STL-B"):
        call("--scores", write_scores(rows), *flags)


def test_records_that_are_not_those_of_the_matrix_are_refused(measured, write_scores):
    folder, rows = measured
    matrix = score_matrix(read_score_table(write_scores(rows)))
    file = folder / "B-plus-mini_val" / "A.per_record.jsonl"
    lines = file.read_text().splitlines()
    for text, expected in (
        ("\n".join(lines[:-1]), "scores other records than"),
        ("\n".join([*lines[:-1], lines[0]]), "scored twice"),
        ("\n".join(line.replace("0.0", "1.0") for line in lines), "the matrix has"),
        ("{}", "must have a position and a score"),
        ("", "holds no record"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=expected):
            read_record_scores(folder, matrix)
    file.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_record_scores(folder, matrix)


def test_an_excluded_task_is_left_out_of_every_run_and_resample(measured, write_scores, tmp_path, call):
    folder, rows = measured
    # C's own data gains 5 records and loses 6: many resamples say that it helps.
    lost, gained = '"score": 1.0', '"score": 0.0'
    text = (folder / "mini_val" / "C.per_record.jsonl").read_text().replace(lost, "LOST", 6).replace(gained, lost, 5)
    (folder / "C-plus-mini_val" / "C.per_record.jsonl").write_text(text.replace("LOST", gained))
    rows["C"]["C"] = rows["mini"]["C"] - 1 / 300
    flags = ("--on-failed", "exclude", "--output", tmp_path / "w.json")
    call("--scores", write_scores(rows), "--bootstrap", "50", "--per-record", folder, *flags)
    spread = content_of(tmp_path / "w.json")["spread"]
    assert spread["failed"] == 0 and len(spread["low"]["weight"]) == 2

    helped = rows | {"C": rows["C"] | {"C": rows["mini"]["C"] + 0.01}}
    failed = rows | {"C": rows["C"] | {"C": rows["mini"]["C"] - 0.05}}
    files = [write_scores(run, name=f"{n}.csv") for n, run in enumerate((helped, helped, failed))]
    call("--scores", *files, *flags)
    found = content_of(tmp_path / "w.json")
    assert len(found["spread"]["low"]["weight"]) == 2 and found["weights"]["C"] == 1.0


def test_records_are_paired_by_position_whatever_their_order_in_a_file(measured, write_scores):
    folder, rows = measured
    matrix = score_matrix(read_score_table(write_scores(rows)))
    straight = read_record_scores(folder, matrix)
    file = folder / "B-plus-mini_val" / "A.per_record.jsonl"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    for one, other in zip(straight, read_record_scores(folder, matrix), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_measurement_that_is_noise_is_said_to_be_noise(measured, write_scores):
    folder, rows = measured
    matrix = score_matrix(read_score_table(write_scores(rows)))
    coin = np.random.default_rng(0).random((4, 20)).round()
    with pytest.raises(InputError, match="the weights are noise"):
        bootstrap(matrix, [coin, coin, coin], w.weigh, 50)
