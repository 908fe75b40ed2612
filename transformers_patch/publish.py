"""A folder that is complete or absent under its name: written elsewhere, flushed, renamed."""

import os
import shutil
from pathlib import Path


def publish(staged: Path, final: Path) -> None:
    """Flush every file of a staged folder to the disk and rename the folder."""
    for file in [*staged.rglob("*"), staged]:
        _fsync(file)
    if final.exists():  # a run that went on from an older checkpoint comes by here again
        replaced = staged.with_name(f"{staged.name}.replaced")
        os.replace(final, replaced)
        os.replace(staged, final)
        shutil.rmtree(replaced)
    else:
        os.replace(staged, final)
    _fsync(final.parent)  # older checkpoints are deleted next


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
