"""Which AdamW a training uses; GPU parameters are stand-ins without memory."""

import pytest
import torch
from sentences import make_trainer
from torch._subclasses.fake_tensor import FakeTensorMode

from transformers_patch import EqualWeighting
from transformers_patch.settings import check_settings


def trainer(folder, **arguments):
    return make_trainer(folder, EqualWeighting(3), optim="adamw_torch", **arguments)


def groups_on(*devices):
    with FakeTensorMode():
        return [{"params": [torch.nn.Parameter(torch.empty(2, device=device))], "lr": 0.1} for device in devices]


def test_on_a_cpu_torch_chooses_the_implementation(tmp_path):
    assert trainer(tmp_path).create_optimizer().defaults["fused"] is None


@pytest.mark.parametrize(
    "devices, optim, expected",
    [
        (["cuda"], "adamw_torch", True),
        (["cuda", "cuda"], "adamw_torch", True),
        (["cuda", "cpu"], "adamw_torch", None),
        (["cuda"], "adamw_torch_fused", True),
    ],
)
def test_adamw_is_fused_if_all_parameters_are_on_a_gpu(tmp_path, monkeypatch, devices, optim, expected):
    run = make_trainer(tmp_path, EqualWeighting(3), optim=optim)
    groups = groups_on(*devices)
    monkeypatch.setattr(run, "optimizer_groups", lambda: groups)
    assert run.create_optimizer().defaults["fused"] is expected


def test_another_optimizer_that_was_asked_for_stays(tmp_path, monkeypatch):
    run = make_trainer(tmp_path, EqualWeighting(3), optim="adamw_hf")
    groups = groups_on("cuda")
    monkeypatch.setattr(run, "optimizer_groups", lambda: groups)
    assert not isinstance(run.create_optimizer(), torch.optim.AdamW)


@pytest.mark.parametrize("field", ["fp16", "deepspeed"])
def test_neither_fp16_nor_deepspeed_changes_the_implementation(tmp_path, monkeypatch, field):
    run = trainer(tmp_path)
    if field == "fp16":
        run.args.fp16 = True
    else:
        run.is_deepspeed_enabled = True
    groups = groups_on("cuda")
    monkeypatch.setattr(run, "optimizer_groups", lambda: groups)
    assert run.create_optimizer().defaults["fused"] is None


def test_a_fused_optimizer_that_hides_skipped_steps_is_refused(tmp_path):
    args = trainer(tmp_path).args
    args.fp16, args.optim = True, "adamw_torch_fused"
    with pytest.raises(ValueError, match="adamw_torch_fused with fp16"):
        check_settings(args, "step")
