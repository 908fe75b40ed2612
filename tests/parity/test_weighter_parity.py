"""EW against the recorded weighter of the reference, 260 steps."""

import numpy as np
import pytest
import torch

from transformers_patch import EqualWeighting


@pytest.mark.parametrize("name, weights", [("EW", None), ("EW_set_weights", [0.6, 1.7, 1.1])])
def test_losses_and_gradients_of_equal_weighting_are_the_references(golden, name, weights):
    recorded = np.load(golden / "weighters.npz")
    losses, task_ids = torch.from_numpy(recorded["losses"]), torch.from_numpy(recorded["task_ids"]).long()
    weighter = EqualWeighting(3, weights)
    expected = recorded[f"{name}_loss"]
    for n, (loss_BS, task_B) in enumerate(zip(losses, task_ids, strict=True)):
        loss_BS = loss_BS.clone().requires_grad_(True)
        row_T, column_T = (loss_BS != 0).nonzero(as_tuple=True)  # the recording has zeros at padded places
        loss = weighter(loss_BS[row_T, column_T], task_B[row_T])
        assert loss.item() == pytest.approx(expected[n], abs=1e-6)
        if name == "EW" and n in (0, 259):
            loss.backward()
            valid = loss_BS.detach() != 0  # the reference hands gradients to padded places too, where they end
            got, recorded_grad = loss_BS.grad[valid], torch.from_numpy(recorded["EW_grad_first_last"][n // 259])[valid]
            torch.testing.assert_close(got, recorded_grad, atol=1e-7, rtol=1e-5)
