"""Models without storage: what a checkpoint is compared with, or fills."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import no_init_weights


class _UndrawnEmbeddings(TorchFunctionMode):
    """Creates nn.Embedding without initial values.

    On the meta device torch would import its compiler to draw them, which takes a second.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Skip `nn.init.normal_`."""
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is torch.nn.init.normal_ else function(*args, **kwargs)


@contextmanager
def without_storage() -> Iterator[None]:
    """Create the body's parameters on the meta device, without initial values; buffers are real."""
    with init_empty_weights(include_buffers=False), no_init_weights(), _UndrawnEmbeddings():
        yield
