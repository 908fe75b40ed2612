"""Adaptations of transformers 4.31.0 to torch 2.13 and current DeepSpeed, each with its reason."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS
from transformers.trainer_pt_utils import get_parameter_names

from transformers_patch.tensor_files import save_tensors, stage_by_value

SUPPORTED_TRANSFORMERS = "4.31.0"


def rng_state_loadable() -> AbstractContextManager:
    """Let `torch.load` read numpy's random state, which is all that a 4.31.0 `rng_state.pth` holds beyond tensors.

    torch >= 2.6 loads with `weights_only=True`; the names allowed here build arrays and can run nothing.
    """
    reconstruct = np.random.get_state()[1].__reduce__()[0]
    return torch.serialization.safe_globals([reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))])


def save_deepspeed(engine: Any, folder: Path, tag: str) -> None:
    """Write this rank's part of DeepSpeed's state (call it on all ranks).

    DeepSpeed waits for all ranks after its writes, so a rank that cannot write gets there before it raises. Its
    scripts that gather weights are left out: a checkpoint has the whole weights beside its state.

    Raises:
        OSError, RuntimeError: this rank could not write.
    """
    writer, failed = engine.checkpoint_engine, []

    def save(state_dict: Any, path: str) -> None:
        try:
            with stage_by_value():
                save_tensors(state_dict, Path(path))
        except (OSError, RuntimeError) as error:
            failed.append(error)

    writer.save, engine._copy_recovery_script = save, lambda _: None
    try:
        engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        if engine.global_rank == 0 and not failed:
            (folder / "latest").write_text(tag)
    finally:
        del writer.save, engine._copy_recovery_script
    if failed:
        raise failed[0]


@contextmanager
def quiet_checkpointing() -> Iterator[None]:
    """Leave out torch's advice to pass `use_reentrant`, which transformers 4.31.0 does not let its callers follow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use_reentrant parameter should be passed explicitly")
        yield


def decayed_parameters(model: nn.Module, decay_norm_weights: bool = False) -> set[str]:
    """Names of the parameters that weight decay applies to: all but biases and norm weights.

    transformers 4.31.0 does not count LlamaRMSNorm among the norms and decays its weights.

    Args:
        model: the model.
        decay_norm_weights: decay LlamaRMSNorm weights as transformers 4.31.0 does (the reference's grouping).
    """
    norms = list(ALL_LAYERNORM_LAYERS) if decay_norm_weights else [*ALL_LAYERNORM_LAYERS, LlamaRMSNorm]
    return {name for name in get_parameter_names(model, norms) if "bias" not in name}


def without_empty_groups(groups: list[dict]) -> list[dict]:
    """Optimizer groups that hold a parameter: ZeRO drops empty ones and the scheduler then no longer fits."""
    return [group for group in groups if group["params"]]
