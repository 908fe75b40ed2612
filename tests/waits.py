"""Counts where a training step would wait for a GPU, by what the host asks of tensors; it works on a CPU."""

from collections import Counter
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique", "bincount", "repeat_interleave")
_METHODS = ("tolist", "cpu", "numpy")  # of a CPU tensor they pass by the dispatcher


class Waits(TorchDispatchMode):
    """What was asked for inside of the context.

    Attributes:
        found: name -> how often.
    """

    def __enter__(self):
        self.found: Counter = Counter()
        self._patches = [patch.object(torch.Tensor, name, self._counted(name)) for name in _METHODS]
        for one in self._patches:
            one.start()
        return super().__enter__()

    def __exit__(self, *exc):
        super().__exit__(*exc)
        for one in self._patches:
            one.stop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if is_by_mask or name.startswith(_WAITING):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

    def _counted(self, name):
        method = getattr(torch.Tensor, name)

        def counted(tensor, *args, **kwargs):
            self.found[name] += _get_current_dispatch_mode() is self  # not where modes are disabled
            return method(tensor, *args, **kwargs)

        return counted
