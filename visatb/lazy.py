"""Names that a module offers without importing their home until they are asked for."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module (PEP 562) that imports some of its names when they are first used.

    Args:
        module: its `__name__`.
        homes: name -> module that defines it, or module:name if it has another name there.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, inside = homes[name].partition(":")
        value = getattr(import_module(home), inside or name)
        setattr(sys.modules[module], name, value)
        return value

    return find
