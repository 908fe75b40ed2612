"""Checks of the values in a benchmark file; every error names file, key and rule in one line."""

import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visatb.errors import LONGEST_VALUE, InputError, shown

AUTO = "auto"
_LONGEST_LABEL = 100  # with a split, a metric and a suffix it must fit the 255 bytes of a file name


def check_keys(mapping: dict, known: str, file: Path, prefix: str) -> None:
    """Refuse keys that are not among the known ones."""
    for key in mapping:
        if key not in known.split():
            raise InputError(f"{file}: unknown key {prefix}{cut(key)}. Known: {', '.join(sorted(known.split()))}.")


def check_flags(mapping: dict, known: Iterable[str] | None, file: Path, prefix: str) -> None:
    """Refuse flags that are not among the known ones (None: any may be), and values that no command line can hold.

    Flags are taken in both spellings, with `-` and with `_`.
    """
    if known is not None:
        spelled = [name.replace("_", "-") for name in known]
        others = {key: 0 for key in mapping if str(key).replace("_", "-") not in spelled}
        check_keys(others, " ".join(known), file, prefix)
    taken: dict[str, Any] = {}
    for key, value in mapping.items():
        if (other := taken.setdefault(str(key).replace("_", "-"), key)) != key:
            raise InputError(f"{file}: {prefix}{key} is {prefix}{other} again. Give the flag once.")
        check_word(value, f"{prefix}{key}", file)


def check_word(value: Any, key: str, file: Path) -> None:
    """Refuse values that cannot be a command-line argument or variable; None is left to the caller."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str) and "\0" not in part or part is None or isinstance(part, bool) or is_number(part):
            continue
        raise InputError(f"{file}: {key} must be text, a number, true or false, got {shown(value)}. Correct it.")


def check_kinds(mapping: dict, kinds: Mapping[str, str], file: Path, prefix: str, numbers_as_text: bool = True) -> None:
    """Refuse values of the wrong kind for their key (see `broken_rule`); null omits a key."""
    spelled = {name.replace("_", "-"): kind for name, kind in kinds.items()}
    for key, value in mapping.items():
        rule = (
            None
            if value is None
            else broken_rule(value, spelled.get(str(key).replace("_", "-"), "any"), numbers_as_text)
        )
        if rule:
            raise InputError(f"{file}: {prefix}{key} must be {rule}, got {shown(value)}. Correct it.")


def broken_rule(value: Any, kind: str, numbers_as_text: bool = True) -> str | None:
    """The rule that a value of a kind violates; None if it is valid.

    Kinds: `text`; `truth`; `number` (>= 0); `count` (whole, >= 1), `whole` (>= 0), `integer`; `any`. Numbers may be
    written as text, as YAML reads 2e-5, where they become words of a command line.
    """
    if kind == "any":
        return None
    if kind == "text":
        return None if isinstance(value, str) else "text (in quotes)"
    if kind == "truth":
        return None if isinstance(value, bool) or value in ("True", "False", "true", "false") else "true or false"
    number = number_of(value) if numbers_as_text or not isinstance(value, str) else None
    if kind == "number":
        return None if number is not None and number >= 0 else "a number >= 0"
    least = {"count": 1, "whole": 0}.get(kind)
    if number is None or number != int(number) or least is not None and number < least:
        return "a whole number" + ("" if least is None else f" >= {least}")
    return None


def number_of(value: Any) -> int | float | None:
    """A finite number, which may be written as text; None for anything else."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("-").isdigit() else float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


def cut(key: Any) -> str:
    """A key as a message names it."""
    return key if isinstance(key, str) and len(key) <= LONGEST_VALUE else shown(key)


def text(mapping: dict, key: str, file: Path, prefix: str = "") -> str:
    """A required text."""
    value = mapping.get(key)
    if isinstance(value, str) and value:
        return value
    # YAML reads 2024_11, 007 and 2024-11-01 as numbers and dates: what was typed is known only in quotes.
    advice = "Set it" if value is None or isinstance(value, str | dict | list) else "Put it in quotes"
    raise InputError(f"{file}: {prefix}{key} must be text, got {shown(value)}. {advice}.")


def label(mapping: dict, key: str, file: Path, prefix: str = "") -> str:
    """A name that is used for files, folders and models, and as a command-line argument."""
    value = text(mapping, key, file, prefix)
    if not all(ch.isalnum() or ch in "-._" for ch in value) or value[0] in ".-" or len(value) > _LONGEST_LABEL:
        raise InputError(
            f"{file}: {prefix}{key} must be letters, digits, '-', '.', '_', no '.' or '-' first, at most "
            f"{_LONGEST_LABEL} characters, got {shown(value)}. Rename it."
        )
    return value


def mapping_of(content: dict, key: str, file: Path, prefix: str = "") -> dict[str, Any]:
    """A mapping; empty where the key is absent or null."""
    value = content.get(key)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{file}: {prefix}{key} must be a mapping, got {shown(value)}. Correct it.")
    return value or {}


def list_of(content: dict, key: str, file: Path, prefix: str = "", of: str = "names") -> list:
    """A list; empty where the key is absent or null."""
    value = content.get(key)
    if value is not None and not isinstance(value, list):
        raise InputError(f"{file}: {prefix}{key} must be a list of {of}, got {shown(value)}. Correct it.")
    return value or []


def names(mapping: dict, key: str, file: Path, prefix: str = "") -> tuple[str, ...]:
    """A list of names without repetition."""
    value = list_of(mapping, key, file, prefix)
    if not all(isinstance(name, str) and name for name in value):
        raise InputError(f"{file}: {prefix}{key} must be a list of names, got {shown(value)}. Correct it.")
    if len(set(value)) != len(value):
        raise InputError(f"{file}: {prefix}{key} names one twice: {shown(', '.join(value))}. Name each once.")
    return tuple(value)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and neither true nor false."""
    # Comparison, for math.isfinite cannot take whole numbers beyond float64.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def positive(value: Any, key: str, file: Path) -> float:
    """A number above 0."""
    if not is_number(value) or value <= 0:
        raise InputError(f"{file}: {key} must be a number > 0, got {shown(value)}. Correct it.")
    return float(value)


def rate(content: dict, key: str, file: Path) -> float:
    """A share of the data; default 1."""
    value = positive(content.get(key, 1.0), key, file)
    if value > 1:
        raise InputError(f"{file}: {key} must be at most 1, got {value}. It is a share of each task's data.")
    return value


def whole(value: Any, key: str, file: Path, least: int = 0) -> int:
    """A whole number within 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise InputError(f"{file}: {key} must be a whole number >= {least}, got {shown(value)}. Correct it.")
    return value


def switch(mapping: dict, key: str, default: bool, file: Path, prefix: str = "") -> bool:
    """True or false."""
    value = mapping.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"{file}: {prefix}{key} must be true or false, got {shown(value)}. Correct it.")
    return value


def shares(value: Any, key: str, file: Path) -> tuple[float, float, float]:
    """The three alphas of Eq. 8."""
    if not isinstance(value, list) or len(value) != 3 or not all(is_number(v) and v >= 0 for v in value):
        raise InputError(
            f"{file}: {key} must be three numbers >= 0 (out, in, difficulty), got {shown(value)}. Correct it."
        )
    if not math.isclose(sum(value), 1.0, abs_tol=1e-9):
        raise InputError(f"{file}: {key} must sum to 1 (Eq. 8), got {sum(value)}. Correct it.")
    return tuple(float(v) for v in value)


def temperature_of(value: Any, key: str, file: Path) -> float | None:
    """A temperature; None for the automatic one."""
    if value == AUTO:
        return None
    if not is_number(value) or value <= 0:
        raise InputError(f"{file}: {key} must be a number > 0 or {AUTO}, got {shown(value)}. Correct it.")
    return float(value)


def one_of(value: Any, known: tuple[str, ...], key: str, file: Path) -> str:
    """One of the known words."""
    if value not in known:
        raise InputError(f"{file}: {key} must be one of {', '.join(known)}, got {shown(value)}. Correct it.")
    return value
