"""Parameters that ZeRO-3 splits over the ranks."""

from contextlib import AbstractContextManager, nullcontext

from torch import nn


def gathered(*parameters: nn.Parameter) -> AbstractContextManager:
    """A context in which parameters can be written: under ZeRO-3 each rank holds a part of them only."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0)
