"""The interpreter of the second environment, requirements-hf.txt, whose packages current models need."""

import os
import sys
from pathlib import Path

from visatb.errors import InputError

VARIABLE = "PYTHON_HF"
OWN = Path(__file__).resolve().parents[1] / ".venv-hf" / "bin" / "python"


def python_of_current_models(chosen: str | None = None) -> str:
    """The Python that runs current models, as scripts_visatb/finetune_hf.sh finds it.

    Args:
        chosen: comes first; then PYTHON_HF, .venv-hf of the checkout, and this interpreter.

    Raises:
        InputError: what is chosen cannot be run.
    """
    python = chosen or os.environ.get(VARIABLE) or (str(OWN) if OWN.is_file() else sys.executable)
    if not os.access(python, os.X_OK) or not Path(python).is_file():
        raise InputError(f"{VARIABLE} must be a Python interpreter, got {python!r}. Change it.")
    return python
