"""From a score table to a checked matrix, with and without a benchmark."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import weighting_visatb as w
from visatb.benchmark import load_benchmark
from visatb.errors import InputError
from visatb.weighting.matrix import score_matrix
from visatb.weighting.tables import read_score_table


def matrix_of(path, benchmark=None):
    return score_matrix(read_score_table(path), None if benchmark is None else load_benchmark(benchmark))


@pytest.mark.parametrize("ending", ["", "+mini", "-plus-mini"])
def test_rows_may_stand_in_any_order_under_any_of_their_names(rows, write_scores, ending):
    plain = matrix_of(write_scores(rows))
    renamed = {model if model == "mini" else model + ending: rows[model] for model in reversed(rows)}
    other = matrix_of(write_scores(renamed))
    assert other.tasks == plain.tasks == ("A", "B", "C")
    np.testing.assert_array_equal(other.score_NJ, plain.score_NJ)
    np.testing.assert_array_equal(plain.own_scores(), [0.8, 40.0, 0.5])
    np.testing.assert_array_equal(plain.mini_J, [0.5, 20.0, 0.1])


def test_csv_json_and_folder_give_the_same_weights(rows, write_scores, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    for model, cells in rows.items():
        folder = tmp_path / "metrics" / (model if model == "mini" else f"{model}-plus-mini")
        folder.mkdir(parents=True)
        for task, score in cells.items():
            metric = {"metric": "m", "score": score, "task": task, "generator": f"llava-{model}"}
            (folder / f"{task}.json").write_text(json.dumps(metric))
    sources = (write_scores(rows), tmp_path / "scores.json", tmp_path / "metrics")
    csv, from_json, folder = (w.weigh(matrix_of(source)).weight for source in sources)
    np.testing.assert_array_equal(csv, from_json)
    np.testing.assert_array_equal(csv, folder)


@st.composite
def tables(draw):
    """Rows of 2 to 5 tasks, every own gain well above 0; scores as short as people write them and as long as floats."""
    tasks = [f"t{n}" for n in range(draw(st.integers(2, 5)))]
    cells = st.floats(0, 100) | st.integers(0, 100)
    table = {model: {task: draw(cells) for task in tasks} for model in ("mini", *tasks)}
    for task in tasks:
        table[task][task] = table["mini"][task] + draw(st.floats(1, 50))
    return table


@given(tables())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_csv_and_json_of_any_scores_give_the_same_weights(write_scores, tmp_path, table):
    csv = write_scores(table, list(table["mini"]))
    (tmp_path / "any.json").write_text(json.dumps(table))
    one, other = (w.weigh(matrix_of(source), 1.0) for source in (csv, tmp_path / "any.json"))
    assert one.tasks == other.tasks
    np.testing.assert_array_equal(one.weight, other.weight)


@given(tables())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_groups_of_one_task_weigh_as_the_tasks_do(write_scores, write_benchmark, table):
    tasks = list(table["mini"])
    path = write_benchmark({task: f"metric: iou, group: g-{task}" for task in tasks})
    grouped = {model if model == "mini" else f"g-{model}": cells for model, cells in table.items()}
    plain = w.weigh(matrix_of(write_scores(table, tasks)), 1.0)
    matrix = matrix_of(write_scores(grouped, tasks), path)
    weighting = w.weigh(matrix, 1.0)
    np.testing.assert_array_equal(weighting.contributions, plain.contributions)
    assert w.weights_by_task(weighting, matrix, load_benchmark(path)) == dict(
        zip(tasks, plain.weight.tolist(), strict=True)
    )


def test_an_unknown_row_is_refused(rows, write_scores):
    with pytest.raises(InputError, match="row 'D' is no known model. Rows are mini, A, B, C"):
        matrix_of(write_scores(rows | {"D": rows["A"]}))


def test_a_second_row_under_another_name_is_refused(rows, write_scores):
    with pytest.raises(InputError, match=r"row 'A\+mini' is the second of 'A'"):
        matrix_of(write_scores(rows | {"A+mini": rows["A"]}))


@pytest.mark.parametrize("model", ["mini", "B"])
def test_a_missing_row_is_refused(rows, write_scores, model):
    del rows[model]
    with pytest.raises(InputError, match=f"row '{model}' is missing"):
        matrix_of(write_scores(rows))


def test_a_missing_cell_is_refused(rows, tmp_path):
    del rows["B"]["C"]
    (tmp_path / "s.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="B, C: the score is missing"):
        matrix_of(tmp_path / "s.json")


def test_one_task_is_nothing_to_balance(write_scores):
    with pytest.raises(InputError, match="at least 2 tasks"):
        matrix_of(write_scores({"mini": {"A": 1}, "A": {"A": 2}}, ("A",)))


def test_a_task_named_mini_is_refused(write_scores):
    with pytest.raises(InputError, match="no task may be named 'mini'"):
        matrix_of(write_scores({"mini": {"A": 1, "mini": 1}, "A": {"A": 2, "mini": 2}}, ("A", "mini")))


def test_the_benchmark_sets_order_fixed_weights_and_ids(rows, write_scores, write_benchmark):
    path = write_benchmark(
        {"C": "metric: iou", "Chat": "weight: 2.5", "A": "metric: cider", "B": "metric: exact_match"}
    )
    benchmark = load_benchmark(path)
    matrix = matrix_of(write_scores(rows), path)
    assert matrix.tasks == ("C", "A", "B")
    weighting = w.weigh(matrix)
    weights = w.weights_by_task(weighting, matrix, benchmark)
    assert list(weights) == ["C", "Chat", "A", "B"]
    assert weights["Chat"] == 2.5
    plain = w.weigh(matrix_of(write_scores(rows)))
    np.testing.assert_allclose([weights[task] for task in "ABC"], plain.weight, rtol=1e-12)


def test_columns_must_be_the_measured_tasks_of_the_benchmark(rows, write_scores, write_benchmark):
    scores = write_scores(rows)
    more = write_benchmark({name: "metric: iou" for name in "ABCD"})
    with pytest.raises(InputError, match="column 'D' of .*small.yaml is missing"):
        matrix_of(scores, more)
    fixed = write_benchmark({"A": "metric: iou", "B": "metric: iou", "C": "weight: 1.0"})
    with pytest.raises(InputError, match="column 'C' has a fixed weight"):
        matrix_of(scores, fixed)
    fewer = write_benchmark({"A": "metric: iou", "B": "metric: iou"})
    with pytest.raises(InputError, match="column 'C' is no task"):
        matrix_of(scores, fewer)


def test_groups_average_their_tasks_and_share_a_weight(rows, write_scores, write_benchmark):
    path = write_benchmark({"A": "metric: iou, group: G", "B": "metric: iou, group: G", "C": "metric: iou"})
    grouped = {"mini": rows["mini"], "G": {"A": 0.8, "B": 40.0, "C": 0.2}, "C": rows["C"]}
    matrix = matrix_of(write_scores(grouped), path)
    weighting = w.weigh(matrix)
    assert weighting.tasks == ("G", "C")
    # C -> G: the mean of (0.5-0.5)/(0.8-0.5) and (19-20)/(40-20); G -> C: (0.2-0.1)/(0.5-0.1)
    np.testing.assert_allclose(weighting.contributions, [[1, 0.25], [-0.025, 1]])
    np.testing.assert_allclose(weighting.difficulty, [(1 - 0.5 / 0.8 + 1 - 20 / 40) / 2, 0.8])
    weights = w.weights_by_task(weighting, matrix, load_benchmark(path))
    assert weights["A"] == weights["B"] == weighting.weight[0]
    assert weights["C"] == weighting.weight[1]


def test_a_failed_task_of_a_group_is_excluded_alone(rows, write_scores, write_benchmark):
    path = write_benchmark({"A": "metric: iou, group: G", "B": "metric: iou, group: G", "C": "metric: iou"})
    grouped = {"mini": rows["mini"], "G": {"A": 0.8, "B": 10.0, "C": 0.2}, "C": rows["C"]}
    matrix = matrix_of(write_scores(grouped), path)
    weighting = w.weigh(matrix, on_failed="exclude")
    np.testing.assert_allclose(weighting.difficulty, [1 - 0.5 / 0.8, 0.8])
    weights = w.weights_by_task(weighting, matrix, load_benchmark(path))
    assert weights["A"] == weights["B"] == weighting.weight[0]
