"""Arrays that were computed from a file and are kept for the next run, valid for one key.

They lie beside the file, or in the cache folder where that is read-only; VISATB_CACHE names another place. They are
loaded without pickle, and what is missing, damaged or made for another key is computed again.
"""

import hashlib
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visatb.files import replacing

VARIABLE = "VISATB_CACHE"
_KEY = "key"
# What numpy and zipfile raise for a file that is not there, damaged, or of another kind.
_NO_ARRAYS = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError)
_NO_ARRAYS += (zipfile.BadZipFile, zlib.error)


class ArrayCache:
    """The kept arrays of a file.

    Args:
        source: the file that they were computed from.
        suffix: of their own file's name.
        key: JSON value that they depend on, the content of `source` above all.
    """

    def __init__(self, source: Path, suffix: str, key: Any):
        self._places = _places(source, f"{source.name}{suffix}")
        self._key = json.loads(json.dumps(key))

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays; None if there are none for the key."""
        for place in self._places:
            try:
                with np.load(place, allow_pickle=False) as stored:
                    if from_array(stored[_KEY]) == self._key:
                        return {name: stored[name] for name in stored.files}
            except _NO_ARRAYS:
                continue
        return None

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays at the first place that can be written; says so if there is none, and goes without."""
        for place in self._places:
            try:
                with replacing(place) as part, open(part, "wb") as stream:
                    np.savez(stream, **arrays, **{_KEY: as_array(self._key)})
                return
            except OSError as error:
                problem = error.strerror
        print(f"warning: {place}: cannot be written ({problem}); the next start computes it again.", file=sys.stderr)


def as_array(value: Any) -> np.ndarray:
    """A JSON value as bytes, uint8 [n]."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def from_array(array: np.ndarray) -> Any:
    """The JSON value in an array of `as_array`. Raises ValueError: there is none."""
    return json.loads(array.tobytes())


def _places(source: Path, name: str) -> list[Path]:
    own = f"{hashlib.sha256(os.path.realpath(source).encode()).hexdigest()[:16]}-{name}"
    if folder := os.environ.get(VARIABLE):
        return [Path(folder) / own]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "visatb" / own
    return [source.with_name(name), cache] if os.access(source.parent, os.W_OK) else [cache]
