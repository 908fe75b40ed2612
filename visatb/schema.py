"""Rules for the values of files that users write, for pydantic, and its errors as one line: file, key, rule, remedy.

A class of a file is a plain frozen dataclass whose fields are `Annotated[type, rule]`: pydantic, which is imported when
a file is read, fills it from the content and derives the JSON schema. A program that makes an object is trusted.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from visatb.errors import LONGEST_VALUE, InputError, shown

AUTO = "auto"
_LONGEST_LABEL = 100  # with a split, a metric and a suffix it must fit the 255 bytes of a file name
_LABEL = f"letters, digits, '-', '.', '_', no '.' or '-' first, at most {_LONGEST_LABEL} characters"


class BrokenError(ValueError):
    """A value that violates a rule.

    Args:
        message: what follows the key of the value.
        key: of the part of the value that violates it.
    """

    def __init__(self, message: str, key: Any = None):
        super().__init__(message)
        self.key = key


class UnknownKeyError(BrokenError):
    """A key that is not among the known ones."""


@dataclass(frozen=True)
class Check:
    """A rule for a value, as metadata of `Annotated`.

    Attributes:
        check: value -> the value in use. Raises BrokenError.
        schema: in JSON schema.
    """

    check: Callable[[Any], Any]
    schema: Mapping[str, Any] = field(default_factory=dict)

    def then(self, check: Callable[[Any], Any]) -> "Check":
        """This rule, and another one for its result."""
        return Check(lambda value: check(self.check(value)), self.schema)

    def or_default(self, default: Any = None) -> "Check":
        """The rule for a value that may be null, which stands for a default."""
        return Check(lambda value: default if value is None else self.check(value), self.schema)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_plain_validator_function

        return no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True)
class Before:
    """A rule for what a file has in place of a list or an object, before pydantic reads its parts."""

    check: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self.check, handler(source))


def rule(
    words: str,
    holds: Callable[[Any], bool],
    convert: Callable[[Any], Any] = lambda value: value,
    remedy: str = "Correct it",
    **schema: Any,
) -> Check:
    """A rule in words and as a test.

    Args:
        words: as in "must be ...".
        holds: the test.
        convert: of a value that passes it.
        remedy: what to do with another.
        schema: in JSON schema.
    """

    def check(value: Any) -> Any:
        if not holds(value):
            raise BrokenError(f" must be {words}, got {shown(value)}. {remedy}.")
        return convert(value)

    return Check(check, schema)


def section(kind: type, shape: str = "a mapping", given: Iterable[str] = ()) -> Before:
    """The rule for a mapping with the fields of a dataclass: an unknown key is refused, an absent one is null.

    Args:
        kind: the dataclass.
        shape: what it must be, for messages.
        given: fields that the reader adds.
    """
    known = [one.name for one in fields(kind) if one.name not in given]
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise BrokenError(f" must be {shape}, got {shown(value)}. Correct it.")
        refuse_unknown(value, known)
        return dict.fromkeys(needed) | value

    return Before(check)


def refuse_unknown(mapping: Mapping, known: Iterable[str], prefix: str = "") -> None:
    """Refuse a key that is not among the known ones."""
    for key in mapping:
        if key not in known:
            raise UnknownKeyError(f" Known: {', '.join(sorted(known))}.", f"{prefix}{cut(key)}")


def read(kind: Any, content: Any, file: Path) -> Any:
    """What a file's content is as that type.

    Raises:
        InputError: naming file, key and rule; or that pydantic is not installed.
    """
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError:
        raise InputError(f"{file}: is checked by pydantic, which is not installed: pip install pydantic.") from None
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
    unknown = (error for error in errors if isinstance(_cause(error), UnknownKeyError))
    raise InputError(f"{file}: {_line(next(unknown, errors[0]))}")


def _cause(error: Any) -> Any:
    return (error.get("ctx") or {}).get("error")


def _line(error: Any) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"]]
    cause, place = _cause(error), "".join(steps)
    if not isinstance(cause, BrokenError):
        return f"{place[1:]}: {error['msg']}, got {shown(error['input'])}. Correct it."
    place += "" if cause.key is None else f".{cut(cause.key)}"
    if isinstance(cause, UnknownKeyError):
        return f"unknown key {place.removeprefix('.')}.{cause}"
    return (place.removeprefix(".") + str(cause)).lstrip()


def cut(key: Any) -> str:
    """A key as a message names it."""
    return key if isinstance(key, str) and len(key) <= LONGEST_VALUE else shown(key)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and neither true nor false."""
    # Comparison, for math.isfinite cannot take whole numbers beyond float64.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def number_of(value: Any) -> int | float | None:
    """A finite number, which may be written as text; None for anything else."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("-").isdigit() else float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


def one_of(*known: str) -> Check:
    """The rule for one of the known words."""
    return rule(f"one of {', '.join(known)}", lambda value: value in known, enum=list(known))


def whole(least: int = 0) -> Check:
    """The rule for a whole number within 64 bits."""
    return rule(
        f"a whole number >= {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63,
        type="integer",
        minimum=least,
    )


def _check_text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    # YAML reads 2024_11, 007 and 2024-11-01 as numbers and dates: what was typed is known only in quotes.
    advice = "Set it" if value is None or isinstance(value, str | dict | list) else "Put it in quotes"
    raise BrokenError(f" must be text, got {shown(value)}. {advice}.")


def _check_label(value: str) -> str:
    if not all(ch.isalnum() or ch in "-._" for ch in value) or value[0] in ".-" or len(value) > _LONGEST_LABEL:
        raise BrokenError(f" must be {_LABEL}, got {shown(value)}. Rename it.")
    return value


def _check_names(value: list) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise BrokenError(f" names one twice: {shown(', '.join(value))}. Name each once.")
    return tuple(value)


def _check_sum(value: tuple) -> tuple[float, float, float]:
    if not math.isclose(sum(value), 1.0, abs_tol=1e-9):
        raise BrokenError(f" must sum to 1 (Eq. 8), got {sum(value)}. Correct it.")
    return value


def _check_rate(value: float) -> float:
    if value > 1:
        raise BrokenError(f" must be at most 1, got {value}. It is a share of each task's data.")
    return value


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_number(v) and v >= 0 for v in value)


TEXT = Check(_check_text, {"type": "string", "minLength": 1})
LABEL = TEXT.then(_check_label)  # of files, folders and models, and a word of a command line
NAMES = rule("a list of names", _is_names, type="array", items={"type": "string"}, uniqueItems=True).then(_check_names)
POSITIVE = rule("a number > 0", lambda value: is_number(value) and value > 0, float, type="number", exclusiveMinimum=0)
RATE = POSITIVE.then(_check_rate)
TEMPERATURE = rule(
    f"a number > 0 or {AUTO}",
    lambda value: value == AUTO or is_number(value) and value > 0,
    lambda value: None if value == AUTO else float(value),
    anyOf=[{"const": AUTO}, {"type": "number", "exclusiveMinimum": 0}],
)
ALPHA = rule(
    "three numbers >= 0 (out, in, difficulty)",
    _is_triple,
    lambda value: tuple(map(float, value)),
    type="array",
    items={"type": "number", "minimum": 0},
    minItems=3,
    maxItems=3,
).then(_check_sum)
