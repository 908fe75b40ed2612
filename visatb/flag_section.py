"""Sections of a benchmark file that hold the flags of a program, or the variables of a script, by name and kind."""

from collections.abc import Callable, Mapping
from typing import Any

from visatb.errors import shown
from visatb.schema import BrokenError, Check, cut, is_number, number_of, refuse_unknown

# Kind -> JSON schema. Numbers may be written as text, as YAML reads 2e-5, where they become words of a command line.
_KINDS: dict[str, dict[str, Any]] = {
    "any": {},
    "text": {"type": "string"},
    "truth": {"enum": [True, False, "True", "False", "true", "false"]},
    "number": {"type": ["number", "string"], "minimum": 0},
    "count": {"type": ["integer", "string"], "minimum": 1},
    "whole": {"type": ["integer", "string"], "minimum": 0},
    "integer": {"type": ["integer", "string"]},
    "place": {"type": "integer", "minimum": 0},
}


def flags(kinds: Mapping[str, str], check: Callable[[dict], None]) -> Check:
    """The rule for a mapping of flags; null is an empty one.

    Args:
        kinds: flag -> kind (see `broken_rule`), for the JSON schema.
        check: refuses a mapping by BrokenError.
    """

    def checked(value: Any) -> dict[str, Any]:
        if value is not None and not isinstance(value, dict):
            raise BrokenError(f" must be a mapping, got {shown(value)}. Correct it.")
        check(value or {})
        return value or {}

    properties = {
        name: {"enum": kind.split("|")} if "|" in kind else _KINDS.get(kind, {}) for name, kind in kinds.items()
    }
    return Check(checked, {"type": "object", "properties": properties})


def check_flags(given: dict, kinds: Mapping[str, str], known: bool = True, numbers_as_text: bool = True) -> None:
    """Refuse unknown flags, values of the wrong kind, and values that no command line can hold; null omits a flag.

    Flags are taken in both spellings, with `-` and with `_`.

    Args:
        given: flag -> value.
        kinds: flag -> kind.
        known: refuse flags that are not among them.
        numbers_as_text: a number may be text.
    """
    spelled = {name.replace("_", "-"): kind for name, kind in kinds.items()}
    if known:
        refuse_unknown({key: 0 for key in given if str(key).replace("_", "-") not in spelled}, kinds)
    taken: dict[str, Any] = {}
    for key, value in given.items():
        plain = str(key).replace("_", "-")
        if (other := taken.setdefault(plain, key)) != key:
            raise BrokenError(f" is {other} again. Give the flag once.", key)
        check_word(value, key)
        found = None if value is None else broken_rule(value, spelled.get(plain, "any"), numbers_as_text)
        if found:
            raise BrokenError(f" must be {found}, got {shown(value)}. Correct it.", cut(key))


def check_word(value: Any, key: Any) -> None:
    """Refuse values that cannot be a command-line argument or variable; None is left to the caller."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str) and "\0" not in part or part is None or isinstance(part, bool) or is_number(part):
            continue
        raise BrokenError(f" must be text, a number, true or false, got {shown(value)}. Correct it.", cut(key))


def broken_rule(value: Any, kind: str, numbers_as_text: bool = True) -> str | None:
    """The rule that a value of a kind violates; None if it is valid.

    Kinds: `text`; `truth`; `number` (>= 0); `count` (whole, >= 1), `whole` (>= 0), `integer`; `place` (whole, >= 0,
    never text); `any`; `a|b`, one of these words.
    """
    if kind == "any":
        return None
    if "|" in kind:
        return None if value in kind.split("|") else f"one of {kind.replace('|', ', ')}"
    if kind == "text":
        return None if isinstance(value, str) else "text (in quotes)"
    if kind == "truth":
        return None if isinstance(value, bool) or value in ("True", "False", "true", "false") else "true or false"
    as_text = numbers_as_text and kind != "place"
    number = number_of(value) if as_text or not isinstance(value, str) else None
    if kind == "number":
        return None if number is not None and number >= 0 else "a number >= 0"
    least = {"count": 1, "whole": 0, "place": 0}.get(kind)
    if number is None or number != int(number) or least is not None and number < least:
        return "a whole number" + ("" if least is None else f" >= {least}")
    return None
