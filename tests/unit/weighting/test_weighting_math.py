"""Eq. 3-8 by hand and as properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighting_visatb as w
from visatb.errors import InputError
from visatb.weighting.matrix import score_matrix
from visatb.weighting.tables import ScoreTable, read_score_table

VALUES = st.lists(st.floats(-3, 3), min_size=2, max_size=8)
ALPHAS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda p: (p[0] * p[1], p[0] * (1 - p[1]), 1 - p[0]))


@st.composite
def matrices(draw):
    """(mini [N], score [N, N]) with every own gain well above 0."""
    size = draw(st.integers(2, 6))
    cells = st.floats(0, 100).map(lambda x: round(x, 3))
    mini = np.array(draw(st.lists(cells, min_size=size, max_size=size)))
    score = np.array([draw(st.lists(cells, min_size=size, max_size=size)) for _ in range(size)])
    gain = np.array(draw(st.lists(st.floats(1, 50), min_size=size, max_size=size)))
    score[np.arange(size), np.arange(size)] = mini + gain
    return mini, score


def as_matrix(mini, score, source="scores"):
    tasks = tuple(f"t{n}" for n in range(len(mini)))
    rows = {"mini": dict(zip(tasks, map(float, mini), strict=True))}
    rows |= {task: dict(zip(tasks, map(float, row), strict=True)) for task, row in zip(tasks, score, strict=True)}
    return score_matrix(ScoreTable(source, tasks, rows))


def test_contributions_and_difficulties_by_hand():
    mini, score = np.array([1.0, 10.0]), np.array([[3.0, 11.0], [0.5, 14.0]])
    C = w.contributions(mini, score)
    np.testing.assert_allclose(C, [[1, 0.25], [-0.25, 1]])
    np.testing.assert_allclose(w.contribution_out(C), [0.25, -0.25])
    np.testing.assert_allclose(w.contribution_in(C), [-0.25, 0.25])
    np.testing.assert_allclose(w.difficulty(mini, np.diagonal(score)), [2 / 3, 2 / 7])


def test_means_leave_the_diagonal_out():
    C = np.array([[1.0, 0.2, 0.4], [0.6, 1.0, 0.0], [-0.2, 0.8, 1.0]])
    np.testing.assert_allclose(w.contribution_out(C), [0.3, 0.3, 0.3])
    np.testing.assert_allclose(w.contribution_in(C), [0.2, 0.5, 0.2])


def test_a_task_that_gives_more_receives_less_or_is_harder_weighs_more():
    out, into, hard, weight = w.task_weights([0.5, 0.1], [0.2, 0.7], [0.9, 0.2], 0.5, (0.25, 0.25, 0.5))
    for part in (out, into, hard, weight):
        assert part[0] > part[1]
    # N * softmax of (0.4, 0.5, 0.7) / T against 0
    for part, lead in zip((out, into, hard), (0.4, 0.5, 0.7), strict=True):
        assert part[0] == pytest.approx(2 / (1 + math.exp(-lead / 0.5)), rel=1e-12)
    np.testing.assert_allclose(weight, 0.25 * out + 0.25 * into + 0.5 * hard)


def test_contributions_of_a_failed_measurement_are_refused():
    with pytest.raises(ValueError, match="own data"):
        w.contributions(np.array([1.0, 1.0]), np.array([[1.0, 1.0], [1.0, 2.0]]))


@given(VALUES, st.floats(0.05, 10))
def test_each_weight_vector_is_positive_and_averages_one(values, temperature):
    weights = w.softmax_weights(values, temperature)
    assert (weights > 0).all()
    assert math.isclose(weights.mean(), 1.0, rel_tol=1e-12)


@given(VALUES, VALUES, ALPHAS, st.floats(0.2, 5))
def test_the_combined_weights_average_one(values, others, alpha, temperature):
    size = min(len(values), len(others))
    parts = w.task_weights(values[:size], others[:size], values[:size], temperature, alpha)
    for part in parts:
        assert (part > 0).all()
        assert math.isclose(part.mean(), 1.0, rel_tol=1e-9)


@given(VALUES, st.floats(-100, 100), st.floats(0.1, 10))
def test_a_common_shift_of_all_values_changes_nothing(values, shift, temperature):
    shifted = w.softmax_weights(np.array(values) + shift, temperature)
    np.testing.assert_allclose(shifted, w.softmax_weights(values, temperature), rtol=1e-9)


@given(VALUES)
def test_a_high_temperature_gives_equal_weights(values):
    np.testing.assert_allclose(w.softmax_weights(values, 1e12), 1.0, atol=1e-9)


@pytest.mark.parametrize("temperature", [1e-308, 1e-3, 1.0, 1e308])
def test_no_size_of_value_or_temperature_gives_nan(temperature):
    weights = w.softmax_weights([1e300, -1e300, 0.0, 1.0], temperature)
    assert np.isfinite(weights).all()
    assert math.isclose(weights.mean(), 1.0)


@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_the_tasks_does_not_matter(pair, chance):
    mini, score = pair
    order = list(range(len(mini)))
    chance.shuffle(order)
    straight = w.weigh(as_matrix(mini, score), 1.0)
    permuted = w.weigh(as_matrix(mini[order], score[order][:, order]), 1.0)
    np.testing.assert_allclose(permuted.weight, straight.weight[order], rtol=1e-9)
    np.testing.assert_allclose(permuted.contributions, straight.contributions[order][:, order], rtol=1e-12)


@given(matrices(), st.floats(0.01, 100))
def test_the_unit_of_a_metric_does_not_matter(pair, unit):
    mini, score = pair
    scale = np.ones(len(mini))
    scale[0] = unit
    scaled = w.weigh(as_matrix(mini * scale, score * scale), 1.0)
    np.testing.assert_allclose(scaled.weight, w.weigh(as_matrix(mini, score), 1.0).weight, rtol=1e-6)


@given(matrices())
def test_the_diagonal_is_one(pair):
    assert (np.diagonal(w.contributions(*pair)) == 1.0).all()


@given(matrices(), ALPHAS)
def test_the_automatic_temperature_is_the_lowest_that_keeps_the_range(pair, alpha):
    matrix = as_matrix(*pair)
    try:
        found = w.weigh(matrix, None, alpha)
    except InputError as error:
        assert "no temperature" in str(error)
        return
    assert 0.5 <= found.weight.min() <= found.weight.max() <= 2.0
    for temperature in w.AUTO_TEMPERATURES[: w.AUTO_TEMPERATURES.index(found.temperature)]:
        parts = w.task_weights(found.contribution_out, found.contribution_in, found.difficulty, temperature, alpha)
        assert parts[-1].min() < 0.5 or parts[-1].max() > 2.0


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(InputError, match="temperature must be"):
        w.weigh(as_matrix([1, 1], np.array([[2.0, 1], [1, 2]])), temperature)


@pytest.mark.parametrize("alpha", [(0.5, 0.5, 0.5), (1.5, -0.5, 0), (math.nan, 0.5, 0.5), (1, 0), (0.3, 0.3, 0.3)])
def test_an_impossible_alpha_is_refused(alpha):
    with pytest.raises(InputError, match="alpha must"):
        w.weigh(as_matrix([1, 1], np.array([[2.0, 1], [1, 2]])), 0.5, alpha)


@pytest.mark.parametrize("min_gain", [-0.1, 1, math.nan])
def test_an_impossible_smallest_gain_is_refused(min_gain):
    with pytest.raises(InputError, match="min_gain must"):
        w.weigh(as_matrix([1, 1], np.array([[2.0, 1], [1, 2]])), 0.5, min_gain=min_gain)


def test_a_temperature_that_leaves_a_task_nothing_is_refused():
    with pytest.raises(InputError, match="leaves t1 no weight"):
        w.weigh(as_matrix([1, 1], np.array([[9.0, 1], [1, 2]])), 1e-5, (0, 0, 1))


@pytest.mark.parametrize("own", [20.0, 19.0, 20.01, 0.0])
def test_a_task_that_its_own_data_did_not_help_is_refused_with_both_scores(rows, write_scores, own):
    rows["B"]["B"] = own
    if own == 0:
        rows["mini"]["B"] = 0.0
    matrix = score_matrix(read_score_table(write_scores(rows)))
    with pytest.raises(InputError, match=rf"failed: B scores {own:g} with .* {rows['mini']['B']:g} without") as caught:
        w.weigh(matrix)
    assert "--on-failed exclude or clip" in str(caught.value)


def test_all_failed_tasks_are_named_at_once_with_their_scores(rows, write_scores):
    rows["A"]["A"], rows["C"]["C"] = 0.4, 0.1
    with pytest.raises(InputError) as caught:
        w.weigh(score_matrix(read_score_table(write_scores(rows))))
    message = str(caught.value)
    assert "of 2 task(s) failed: A scores 0.4 with its own data (A) and 0.5 without (mini); C scores 0.1" in message
    assert "Train A, C on more data" in message


def test_an_excluded_task_leaves_the_others_as_if_it_were_not_there(rows, write_scores):
    rows["B"]["B"] = 19.0
    matrix = score_matrix(read_score_table(write_scores(rows)))
    weighting = w.weigh(matrix, on_failed="exclude")
    without = {model: cells for model, cells in rows.items() if model != "B"}
    alone = w.weigh(score_matrix(read_score_table(write_scores(without, ("A", "C")))))
    assert weighting.tasks == ("A", "C")
    np.testing.assert_array_equal(weighting.weight, alone.weight)
    assert w.weights_by_task(weighting, matrix)["B"] == 1.0


def test_excluding_all_but_one_task_is_refused(rows, write_scores):
    rows["B"]["B"] = rows["C"]["C"] = 0.0
    with pytest.raises(InputError, match="fewer than 2 tasks are left"):
        w.weigh(score_matrix(read_score_table(write_scores(rows))), on_failed="exclude")


def test_a_clipped_task_keeps_bounded_contributions(rows, write_scores):
    rows["B"]["B"] = 19.0
    weighting = w.weigh(score_matrix(read_score_table(write_scores(rows))), on_failed="clip")
    np.testing.assert_allclose(weighting.contributions[:, 1], [1, -1, -1])
    assert weighting.difficulty[1] == 0.0
    untouched = w.contributions(np.array([0.5, 0.1]), np.array([[0.8, 0.1], [0.5, 0.5]]))
    np.testing.assert_allclose(weighting.contributions[np.ix_([0, 2], [0, 2])], untouched)


def test_clipping_a_task_without_any_score_is_refused(rows, write_scores):
    rows["B"]["B"] = 0.0
    with pytest.raises(InputError, match="B scores 0 with its own data"):
        w.weigh(score_matrix(read_score_table(write_scores(rows))), on_failed="clip")


@pytest.mark.parametrize("on_failed", ["exclude", "clip"])
def test_what_to_do_with_failures_changes_nothing_where_there_is_none(rows, write_scores, on_failed):
    matrix = score_matrix(read_score_table(write_scores(rows)))
    np.testing.assert_array_equal(w.weigh(matrix, on_failed=on_failed).weight, w.weigh(matrix).weight)
