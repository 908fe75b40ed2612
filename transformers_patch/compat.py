"""What torch 2.13 and current DeepSpeed need of transformers 4.31.0, each with its reason."""

import copyreg
import os
import sys
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

SUPPORTED_TRANSFORMERS = "4.31.0"


def rng_state_loadable() -> AbstractContextManager:
    """Let `torch.load` read numpy's random state, which is all that a 4.31.0 `rng_state.pth` holds beyond tensors.

    torch >= 2.6 loads with `weights_only=True`; the names allowed here build arrays and can run nothing.
    """
    reconstruct = np.random.get_state()[1].__reduce__()[0]
    return torch.serialization.safe_globals([reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))])


def save_tensors(content: Any, file: Path) -> None:
    """`torch.save` through a stream of Python's, whose errors name what is wrong: torch's own name a position."""
    with open(file, "wb") as stream:
        torch.save(content, stream)


def load_tensors(file: Path, mmap: bool = False) -> Any:
    """What `torch.save` wrote, on the CPU: tensors and plain values; an environment variable cannot undo that.

    Raises:
        pickle.UnpicklingError: the file holds anything else.
    """
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


@contextmanager
def weights_only_loading() -> Iterator[None]:
    """Make every `torch.load` inside load with `weights_only=True`, whatever caller and environment say.

    transformers 4.31.0 leaves it to the environment, DeepSpeed asks for the opposite. Its shards hold, beside tensors
    and plain values, the classes allowed here: three records of numbers and an enumeration.
    """
    allowed = []
    if "deepspeed" in sys.modules:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        allowed = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ[names[0]] = "1"
    try:
        with torch.serialization.safe_globals(allowed):
            yield
    finally:
        del os.environ[names[0]]
        os.environ.update(before)


@contextmanager
def _stage_by_value() -> Iterator[None]:
    """Have DeepSpeed's enumeration pickled as class and value.

    Early releases of Python 3.11 (Debian 12's 3.11.2) write `getattr(class, name)`, which safe loading refuses.
    """
    from deepspeed.runtime.zero.config import ZeroStageEnum

    copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (stage.value,)))
    try:
        yield
    finally:
        del copyreg.dispatch_table[ZeroStageEnum]


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
            with _stage_by_value():
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
