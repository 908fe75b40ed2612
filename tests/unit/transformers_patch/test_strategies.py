"""Each weighting strategy: its closed form, its properties, its state, and what it refuses."""

import inspect
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers_patch import build_weighter
from transformers_patch.strategies import LEAST_WEIGHT, STRATEGIES, ComputedWeighting

COMPUTED = tuple(name for name, strategy in STRATEGIES.items() if issubclass(strategy, ComputedWeighting))
WITH_HISTORY = ("DWA", "IGB", "UW")


def small(name, num_tasks=3, **constants):
    """A strategy whose windows, if it has any, are two steps."""
    window = {"window": 2} if name in ("DWA", "IGB") else {}
    return build_weighter(name, num_tasks, **window | constants)


def feed(weighter, mean_NK):
    """Take steps with these mean losses, NaN where a task is absent; returns the weights after each."""
    weights = []
    for mean_K in torch.as_tensor(mean_NK, dtype=torch.float64):
        weighter.begin_step()
        weighter.observe(mean_K, mean_K.isfinite().long())
        weights.append(weighter.weight_K.clone())
    return torch.stack(weights)


def random_means(steps, num_tasks=3, seed=0, absent=0.0):
    draw = torch.Generator().manual_seed(seed)
    mean_NK = 0.5 + 3 * torch.rand(steps, num_tasks, generator=draw, dtype=torch.float64)
    mean_NK[torch.rand(steps, num_tasks, generator=draw) < absent] = math.nan
    return mean_NK


def softmax(score):
    return (len(score) * torch.softmax(torch.as_tensor(score, dtype=torch.float64), 0)).float()


# Closed forms


def test_ewtb_is_the_weighted_mean_of_the_tasks_mean_losses():
    loss_T = torch.tensor([1.0, 2.0, 6.0, 4.0], requires_grad=True)
    task_T, count_K = torch.tensor([0, 0, 0, 2]), torch.tensor([3, 0, 1])
    loss = build_weighter("EWTB", 3, [0.6, 1.7, 1.1])(loss_T, task_T, count_K)
    assert loss.item() == pytest.approx((0.6 * 3.0 + 1.1 * 4.0) / (0.6 + 1.1))
    loss.backward()
    assert loss_T.grad.tolist() == pytest.approx([0.6 / 1.7 / 3] * 3 + [1.1 / 1.7])


def test_ewtb_parts_of_a_step_add_up_to_the_step():
    weighter = build_weighter("TLA", 3, [0.6, 1.7, 1.1])
    loss_T, task_T = torch.rand(11), torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 1, 0, 0])
    count_K = torch.bincount(task_T, minlength=3)
    parts = [weighter(loss_T[a:b], task_T[a:b], count_K) for a, b in ((0, 1), (1, 1), (1, 7), (7, 11))]
    assert sum(parts).item() == pytest.approx(weighter(loss_T, task_T, count_K).item(), rel=1e-6)


def test_ewtb_alone_counts_an_absent_task_as_loss_0_as_the_reference_does():
    loss = build_weighter("EWTB", 3)(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx((1.5 + 5.0 + 0.0) / 3)


def test_rlw_draws_softmax_of_normals_from_its_own_seed():
    weighter = build_weighter("RLW", 4, seed=7)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw = torch.Generator().manual_seed(7)
    for _ in range(5):
        weighter.begin_step()
        torch.testing.assert_close(weighter.weight_K, 4 * torch.softmax(torch.randn(4, generator=draw), 0))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(feed(build_weighter("RLW", 4, seed=8), random_means(1, 4))[0], weighter.weight_K)


def test_dwa_compares_two_windows_and_is_equal_until_both_are_filled():
    mean_NK = random_means(20)
    weights = feed(build_weighter("DWA", 3, window=4, temperature=1.5), mean_NK)
    assert torch.equal(weights[:7], torch.ones(7, 3))
    for n in range(7, 20):
        newer, older = mean_NK[n - 3 : n + 1].mean(0), mean_NK[n - 7 : n - 3].mean(0)
        torch.testing.assert_close(weights[n], softmax(newer / older / 1.5))


def test_igb_compares_with_the_mean_of_the_second_window():
    mean_NK = random_means(20)
    weights = feed(build_weighter("IGBv1", 3, window=4), mean_NK)
    assert torch.equal(weights[:7], torch.ones(7, 3))
    for n in range(7, 20):
        torch.testing.assert_close(weights[n], softmax(mean_NK[n] / mean_NK[4:8].mean(0)))


@pytest.mark.parametrize("name", ["DWA", "IGB"])
def test_an_absent_task_keeps_its_last_value(name):
    held = random_means(30, absent=0.4)
    held[0] = 1.0
    weights = feed(small(name), held)
    for n in range(1, 30):
        held[n] = torch.where(held[n].isnan(), held[n - 1], held[n])
    torch.testing.assert_close(weights, feed(small(name), held))


@pytest.mark.parametrize("name", ["DWA", "IGB"])
def test_a_task_seen_late_or_never_has_ratio_1(name):
    mean_NK = torch.full((12, 3), 2.0, dtype=torch.float64)
    mean_NK[:, 2] = math.nan
    mean_NK[:9, 1] = math.nan  # first seen when both windows are past
    torch.testing.assert_close(feed(small(name), mean_NK), torch.ones(12, 3))


def test_uw_moves_as_adam_moves_the_log_variances_of_its_objective():
    mean_NK = random_means(50)
    weighter = build_weighter("UW", 3, lr=0.01)
    s_K = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([s_K], lr=0.01)
    for n, weight_K in enumerate(feed(weighter, mean_NK)):
        adam.zero_grad()
        (torch.exp(-s_K) * mean_NK[n] + s_K / 2).sum().backward()
        adam.step()
        torch.testing.assert_close(weight_K, softmax(-s_K.detach()))
    torch.testing.assert_close(weighter.log_variance_K, s_K.detach())


def test_uw_ends_at_weights_inverse_to_the_losses():
    weighter = build_weighter("UW", 2, lr=0.05)
    weights = feed(weighter, torch.tensor([[0.5, 2.0]]).repeat(500, 1))
    assert weighter.log_variance_K.exp().tolist() == pytest.approx([1.0, 4.0], rel=1e-3)  # variance = 2 L
    assert weights[-1].tolist() == pytest.approx([1.6, 0.4], rel=1e-3)


@pytest.mark.parametrize("lr, mean", [(1000.0, [2.0, 0.01]), (1.0, [2.0, 0.0])])
def test_uw_stays_finite_at_any_learning_rate_and_a_loss_of_0(lr, mean):
    weights = feed(build_weighter("UW", 2, lr=lr), [mean] * 900)
    assert weights.isfinite().all() and (weights > 0).all()


def test_uw_leaves_an_absent_task_where_it_is():
    weighter = build_weighter("UW", 2)
    feed(weighter, [[1.0, 3.0], [1.0, 3.0]])
    before = {name: value.clone() for name, value in weighter.state_dict().items()}
    feed(weighter, [[1.0, math.nan]] * 5)
    for name, value in weighter.state_dict().items():
        if name != "weight_K":
            assert value[1] == before[name][1] and value[0] != before[name][0]


# Properties


losses = st.floats(1e-3, 50.0)
histories = st.integers(2, 5).flatmap(
    lambda k: st.lists(st.lists(losses | st.just(math.nan), min_size=k, max_size=k), min_size=1, max_size=12)
)


@pytest.mark.parametrize("name", COMPUTED)
@given(history=histories)
@settings(max_examples=60, deadline=None)
def test_weights_are_positive_finite_and_sum_to_the_number_of_tasks(name, history):
    num_tasks = len(history[0])
    weights = feed(small(name, num_tasks), history)
    assert (weights >= LEAST_WEIGHT).all() and weights.isfinite().all()
    torch.testing.assert_close(weights.sum(1), torch.full((len(history),), float(num_tasks)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", WITH_HISTORY)
@given(history=histories)
@settings(max_examples=40, deadline=None)
def test_permuted_tasks_have_permuted_weights(name, history):
    mean_NK = torch.tensor(history, dtype=torch.float64)
    weights = feed(small(name, mean_NK.shape[1]), mean_NK.flip(1))
    torch.testing.assert_close(weights, feed(small(name, mean_NK.shape[1]), mean_NK).flip(1))


@pytest.mark.parametrize("name", ["DWA", "IGB"])
@given(history=histories, factors=st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_a_tasks_loss_does_not_matter(name, history, factors):
    mean_NK = torch.tensor(history, dtype=torch.float64)
    factor_K = torch.tensor(factors[: mean_NK.shape[1]], dtype=torch.float64)
    weights = feed(small(name, mean_NK.shape[1]), mean_NK * factor_K)
    torch.testing.assert_close(weights, feed(small(name, mean_NK.shape[1]), mean_NK))


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("reference_history", [False, True])
def test_losses_that_are_0_infinite_or_nan_never_reach_the_weights(name, reference_history):
    history = {"reference_history": reference_history} if name in ("DWA", "IGB") else {}
    mean_NK = random_means(40)
    mean_NK[::3, 0], mean_NK[1::3, 1], mean_NK[:, 2] = 0.0, math.inf, math.nan
    weighter = small(name, **history)
    for mean_K in mean_NK:
        weighter.begin_step()
        weighter.observe(mean_K, torch.tensor([5, 5, 5]))
        assert weighter.weight_K.isfinite().all() and (weighter.weight_K > 0).all()


@pytest.mark.parametrize("name", [*COMPUTED, "EWTB"])
def test_2000_steps_with_a_task_of_share_one_in_1400_stay_finite(name):
    weighter = build_weighter(name, 3)
    draw = torch.Generator().manual_seed(3)
    share_K = torch.tensor([0.6, 0.3993, 0.0007])
    for step in range(2000):
        task_T = torch.multinomial(share_K, 16, replacement=True, generator=draw)
        loss_T = (4 * torch.rand(16, generator=draw) * 0.999**step).requires_grad_()
        count_K = torch.bincount(task_T, minlength=3)
        weighter.begin_step()
        loss = weighter(loss_T, task_T, count_K)
        sums_K = torch.zeros(3, dtype=torch.float64).index_add_(0, task_T, loss_T.detach().double())
        weighter.observe(sums_K / count_K, count_K)
        assert loss.isfinite() and weighter.weight_K.isfinite().all()
    if name in ("DWA", "IGB"):
        assert (weighter.weight_K > 0.05).all()  # nobody is lost


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_batch_without_supervised_tokens_has_loss_0_with_a_graph(name):
    weighter = small(name)
    feed(weighter, random_means(5))
    before = weighter.weight_K.clone()
    loss_T = torch.zeros(0, requires_grad=True)
    loss = weighter(loss_T, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and loss_T.grad is not None
    if name in ("EW", "EWTB", "UW"):
        assert torch.equal(weighter.weight_K, before)
    assert weighter.weight_K.isfinite().all()


# A micro-batch of its own (`batch` normalisation)


def test_a_micro_batch_is_observed_before_its_weights_are_used():
    weighter = small("IGB", 2)
    for _ in range(4):
        weighter(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    loss = weighter(torch.tensor([3.0, 2.0]), torch.tensor([0, 1]))
    weight_K = softmax([3.0, 1.0])
    torch.testing.assert_close(weighter.weight_K, weight_K)
    assert loss.item() == pytest.approx((weight_K[0] * 3 + weight_K[1] * 2).item() / 2)


def test_a_micro_batch_of_its_own_is_observed_over_all_ranks():
    weighter = small("UW", 2)
    weighter.sum_over_ranks = lambda values: values + torch.tensor([[9.0, 0.0], [1.0, 0.0]])  # another rank's sums
    seen = []
    weighter.observe = lambda mean_K, count_K: seen.append((mean_K.tolist(), count_K.tolist()))
    weighter(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    assert seen == [([5.0, 2.0], [2, 1])]


def test_in_eval_mode_nothing_is_drawn_or_observed():
    for name in COMPUTED:
        weighter = small(name).eval()
        for _ in range(9):
            weighter(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1]))
        assert torch.equal(weighter.weight_K, torch.ones(3))


@pytest.mark.parametrize("name", WITH_HISTORY)
def test_no_strategy_waits_for_the_device(name):
    weighter = small(name).to("meta")  # where reading a value raises
    weighter.observe(torch.ones(3, dtype=torch.float64, device="meta"), torch.ones(3, dtype=torch.long, device="meta"))


# State


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("step", [0, 1, 3, 5])
def test_a_strategy_restored_within_a_window_continues_identically(name, step):
    mean_NK = random_means(12, absent=0.3)
    whole, cut, resumed = small(name), small(name), small(name, **({"seed": 99} if name == "RLW" else {}))
    expected = feed(whole, mean_NK)
    if step:
        feed(cut, mean_NK[:step])
    file = io.BytesIO()
    torch.save(cut.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(feed(resumed, mean_NK[step:]), expected[step:])


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_state_does_not_grow_and_holds_no_parameter(name):
    weighter = small(name)
    sizes = {key: value.shape for key, value in weighter.state_dict().items()}
    feed(weighter, random_means(50))
    assert sizes == {key: value.shape for key, value in weighter.state_dict().items()}
    assert not list(weighter.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES.values())
def test_a_strategy_is_shorter_than_40_lines(strategy):
    assert len(inspect.getsource(strategy).splitlines()) < 40
