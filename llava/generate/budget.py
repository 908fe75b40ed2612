"""The pixel budget that a current model was trained with: noted in its config.json, kept when it is asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visatb.errors import InputError, shown
from visatb.files import read_json

BUDGET = "visatb_pixel_budget"  # of config.json: [min_pixels, max_pixels], null for no limit
NO_BUDGET = (None, None)


def budget_in(folder: str | Path | None) -> tuple[int | None, int | None]:
    """What the configuration in a model's folder says; no limits without one. Raises InputError: as `budget_of`."""
    file = Path(folder or "") / "config.json"
    content = read_json(file) if folder and file.is_file() else {}
    return budget_of(content if isinstance(content, dict) else {}, file)


def budget_of(config: Mapping[str, Any], where: str | Path) -> tuple[int | None, int | None]:
    """Fewest and most pixels of an image according to a configuration; None for no limit.

    Raises:
        InputError: naming `where` the configuration is.
    """
    found = config.get(BUDGET)
    if found is None:
        return NO_BUDGET
    if not isinstance(found, list) or len(found) != 2 or not all(_is_limit(limit) for limit in found):
        raise InputError(f"{where}: {BUDGET} must be two numbers of pixels or null, got {shown(found)}. Correct it.")
    return found[0], found[1]


def _is_limit(value: Any) -> bool:
    return value is None or isinstance(value, int) and not isinstance(value, bool) and value > 0
