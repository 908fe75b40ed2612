"""Files of tensors and plain values: written by torch, read without executing code (torch alone)."""

import copyreg
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def save_tensors(content: Any, file: Path) -> None:
    """`torch.save` through a stream of Python's, whose errors name what is wrong: torch's own name a position."""
    with open(file, "wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch's own, of the end that it could not write either
            if not isinstance(error.__context__, OSError):
                raise
            error.__context__.filename = str(file)
            raise error.__context__ from None


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
def stage_by_value() -> Iterator[None]:
    """Have DeepSpeed's enumeration pickled as class and value.

    Early releases of Python 3.11 (Debian 12's 3.11.2) write `getattr(class, name)`, which safe loading refuses.
    """
    from deepspeed.runtime.zero.config import ZeroStageEnum

    copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (stage.value,)))
    try:
        yield
    finally:
        del copyreg.dispatch_table[ZeroStageEnum]
