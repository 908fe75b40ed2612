"""The strategies against the recorded weighters of the reference, 260 steps each."""

import numpy as np
import pytest
import torch

from transformers_patch import build_weighter

SET_WEIGHTS = [0.6, 1.7, 1.1]
NAMES = ("EW", "EWTB", "RLW", "DWA", "IGB")
SCENARIOS = ("task2_never", "task1_absent_60_to_129", "all_masked_iterations", "eight_tasks")


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "weighters.npz")


@pytest.fixture(scope="module")
def edge(golden):
    return np.load(golden / "weighters_edge.npz")


def reference_weighter(name, num_tasks=3, weights=None):
    history = {"reference_history": True} if name in ("DWA", "IGB") else {}
    return build_weighter(name, num_tasks, weights, seed=0, **history)


def steps(file, prefix=""):
    """Batches of the recording: losses that require a gradient, their tokens, the token losses and task ids."""
    losses, task_ids = torch.from_numpy(file[f"{prefix}losses"]), torch.from_numpy(file[f"{prefix}task_ids"]).long()
    for loss_BS, task_B in zip(losses, task_ids, strict=True):
        loss_BS = loss_BS.clone().requires_grad_(True)
        row_T, column_T = (loss_BS != 0).nonzero(as_tuple=True)  # the recording has zeros at padded places
        yield loss_BS, loss_BS[row_T, column_T], task_B[row_T]


@pytest.mark.parametrize("name", [*NAMES, "EW_set_weights", "EWTB_set_weights"])
def test_losses_weights_and_gradients_are_the_references(recorded, name):
    weighter = reference_weighter(name.split("_")[0], weights=SET_WEIGHTS if "_set_weights" in name else None)
    for n, (loss_BS, loss_T, task_T) in enumerate(steps(recorded)):
        loss = weighter(loss_T, task_T)
        assert loss.item() == pytest.approx(recorded[f"{name}_loss"][n], abs=1e-6)
        if f"{name}_weights" in recorded:
            assert weighter.weight_K.tolist() == pytest.approx(recorded[f"{name}_weights"][n], abs=1e-6)
        if f"{name}_grad_first_last" in recorded and n in (0, 259):
            loss.backward()
            valid = loss_BS.detach() != 0  # the reference hands gradients to padded places too, where they end
            expected = torch.from_numpy(recorded[f"{name}_grad_first_last"][n // 259])[valid]
            torch.testing.assert_close(loss_BS.grad[valid], expected, atol=1e-7, rtol=1e-5)


def test_histories_are_the_references(recorded):
    dwa, igb = reference_weighter("DWA"), reference_weighter("IGB")
    for _, loss_T, task_T in steps(recorded):
        dwa(loss_T, task_T)
        igb(loss_T, task_T)
    np.testing.assert_allclose(dwa.loss_KW.T, recorded["DWA_final_costs"], atol=1e-6)
    np.testing.assert_allclose(igb.base_sum_K / igb.base_steps_K, recorded["IGB_base_task_losses"], atol=1e-6)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_finite_values_equal_the_reference_and_nothing_is_nan(edge, scenario, name):
    num_tasks = edge[f"{scenario}::{name}_weights"].shape[1]
    weighter = reference_weighter(name, num_tasks)
    expected_loss, expected_weights = edge[f"{scenario}::{name}_loss"], edge[f"{scenario}::{name}_weights"]
    same = True  # until the reference divides by 0
    for n, (_, loss_T, task_T) in enumerate(steps(edge, f"{scenario}::")):
        loss = weighter(loss_T, task_T)
        assert loss.isfinite() and loss.requires_grad and weighter.weight_K.isfinite().all()
        assert (weighter.weight_K > 0).all() and weighter.weight_K.sum().item() == pytest.approx(num_tasks, rel=1e-5)
        same = same and np.isfinite(expected_weights[n]).all() and (expected_weights[n] > 1e-6).all()
        if same:
            assert loss.item() == pytest.approx(expected_loss[n], abs=2e-6)
            assert weighter.weight_K.tolist() == pytest.approx(expected_weights[n], abs=2e-6)


@pytest.mark.parametrize("scenario", ["task_id_out_of_range", "task_id_negative"])
@pytest.mark.parametrize("name", NAMES)
def test_a_task_id_without_a_task_is_refused(edge, scenario, name):
    weighter = reference_weighter(name)
    with pytest.raises(ValueError, match=r"task_ids must be in 0\.\.2"):
        for _, loss_T, task_T in steps(edge, f"{scenario}::"):
            weighter(loss_T, task_T)
