"""Strict JSON parsing.

Python's decoder accepts NaN and infinity, keeps the last of duplicate keys, accepts lone surrogates that cannot be
written as UTF-8, and fails at a depth that depends on the caller. All of these are refused here, by line and field.
"""

import json
import math
import re
from itertools import islice
from typing import Any, NamedTuple

from visatb.errors import InputError

# Maximum nesting of lists and objects. Far above any of our files, and far below the limit of Python's stack for
# writing or comparing values.
MAX_DEPTH = 100

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Fault(NamedTuple):
    """A fault in a JSON text.

    Attributes:
        position: its position in the text.
        field: its path, such as `[3].conversations[1].value`; "" at the top.
        rule: the problem and the remedy; the message continues after the field.
    """

    position: int
    field: str
    rule: str


class UnsoundJsonError(ValueError):
    """Text that Python's decoder accepts and we refuse; `find_fault` describes the fault."""


def scan(text: str, position: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at a position of the text, and where it ends.

    Raises:
        json.JSONDecodeError: broken JSON.
        UnsoundJsonError: JSON that is refused.
    """
    try:
        value, end = _DECODE(text, position)
    except RecursionError:
        raise UnsoundJsonError from None
    # The depth is at most the number of brackets, and only an escape can produce a lone surrogate.
    if text.count("{", position, end) + text.count("[", position, end) > MAX_DEPTH and _is_too_deep(value):
        raise UnsoundJsonError
    if _SURROGATE.search(text, position, end) and not _is_unicode(value):
        raise UnsoundJsonError
    return value, end


def find_fault(text: str, position: int = 0) -> Fault:
    """The first fault of a text that `scan` finds unsound, from that position on."""
    walk = _Walk()
    for match in _TOKEN.finditer(text, position):
        rule = walk.step(match.group())
        if rule is not None:
            return Fault(match.start(), walk.field(), rule)
    raise AssertionError("no fault in text that was found unsound")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Refused are broken JSON, NaN, numbers that are infinite or of thousands of digits, lone surrogates, a key that
    occurs twice in an object, and lists and objects nested deeper than MAX_DEPTH.

    Args:
        text: the JSON text.
        where: file (and line) for messages.
    """
    try:
        start = len(text) - len(text.lstrip(" \t\n\r"))
        value, end = scan(text, start)
        if rest := text[end:].lstrip(" \t\n\r"):
            is_lines = isinstance(value, dict | list) and rest[0] in "{[" and "\n" in text[end : len(text) - len(rest)]
            hint = "; the file looks like JSON Lines, expected one JSON value" if is_lines else ""
            raise json.JSONDecodeError(f"Extra data{hint}", text, len(text) - len(rest))
        return value
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{where}: broken JSON at {at}: {error.msg}. Correct or write the file again.") from None
    except UnsoundJsonError:
        fault = find_fault(text)
    line = f"line {text.count(chr(10), 0, fault.position) + 1}: " if "\n" in text else ""
    raise InputError(f"{where}: {line}{f'{fault.field}: ' if fault.field else ''}{fault.rule}")


class _Walk:
    """The tokens of a JSON text: the position and the fault of each."""

    def __init__(self):
        self._open: list[_Container] = []

    def step(self, token: str) -> str | None:
        """Advance over a token; returns the rule that it violates."""
        inside = self._open[-1] if self._open else None
        if token in ("[", "{"):
            self._open.append(_Container(token == "{"))
            if len(self._open) > MAX_DEPTH:
                return f"JSON nested too deeply: more than {MAX_DEPTH} levels of lists and objects. Flatten it."
        elif token in ("]", "}"):
            self._open.pop()
        elif token == ",":
            inside.go_on()
        elif token != ":":
            return _fault_of(token) or (inside.name(json.loads(token)) if inside and inside.expects_key else None)
        return None

    def field(self) -> str:
        """The path of the current position."""
        shown = "".join(container.step() for container in islice(self._open, 8))
        return (shown + "..." if len(self._open) > 8 else shown).removeprefix(".")


class _Container:
    """An open list or object, and the current position in it."""

    def __init__(self, is_object: bool):
        self.expects_key = is_object
        self._keys: set[str] | None = set() if is_object else None
        self._at: str | int = "" if is_object else 0

    def go_on(self) -> None:
        """After a comma."""
        self.expects_key = self._keys is not None
        self._at = "" if self.expects_key else self._at + 1

    def name(self, key: str) -> str | None:
        """Enter a key; returns the rule that it violates."""
        self.expects_key, self._at = False, key
        if key in self._keys:
            return "this key occurs twice in one object. Remove one."
        self._keys.add(key)
        return None

    def step(self) -> str:
        """Its step in a path."""
        if isinstance(self._at, str) and self._at.isidentifier():
            return f".{self._at}"
        return f"[{self._at!r}]" if self._at != "" else ""


def _fault_of(token: str) -> str | None:
    """The fault of a string, number or name."""
    if token.startswith('"'):
        sound = "\\u" not in token or _is_unicode(json.loads(token))
        return None if sound else "contains a lone surrogate (\\ud800-\\udfff). Write valid Unicode."
    if token in ("NaN", "Infinity", "-Infinity"):
        return f"{token} is not JSON. Write a finite number or null."
    if token not in ("null", "true", "false") and math.isinf(float(token)):
        return f"{token} is too large for a number. Write a finite number or null."
    return None


def _is_too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner = (item for box in level for item in (box.values() if isinstance(box, dict) else box))
        level = [item for item in inner if isinstance(item, dict | list)]
    return bool(level)


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise UnsoundJsonError
    return content


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise UnsoundJsonError
    return number


def _integer(text: str) -> int:
    if len(text) > 300:  # may be more than a float can hold, or than Python will read
        _finite(text)
    return int(text)


def _refuse_constant(name: str) -> None:
    raise UnsoundJsonError


_DECODE = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite, parse_int=_integer, parse_constant=_refuse_constant
).raw_decode
