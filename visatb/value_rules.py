"""Rules for the values of a JSON file, checked when the file is read.

transformers accepts any value of a config.json and fails much later or computes something else. A `Rule` describes the
valid values in words; `check` names file and key of an invalid value.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from visatb.errors import InputError, shown

_LARGEST = 1e300  # of a number; excludes NaN and ints beyond the range of float


@dataclass(frozen=True)
class Rule:
    """The valid values of a key: in words, for messages, and as a test."""

    words: str
    holds: Callable[[Any], bool]

    def __or__(self, other: "Rule") -> "Rule":
        """A value that satisfies either rule."""
        return Rule(f"{self.words} or {other.words}", lambda value: self.holds(value) or other.holds(value))


NULL = Rule("null", lambda value: value is None)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("text", lambda value: isinstance(value, str))
OBJECT = Rule("an object", lambda value: isinstance(value, dict))
NUMBER = Rule("a number", lambda value: _is_number(value))


def whole(low: int, high: int) -> Rule:
    """A whole number from `low` to `high`."""
    return Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def number(low: float, high: float) -> Rule:
    """A number from `low` to `high`."""
    return Rule(f"a number from {low} to {high}", lambda value: _is_number(value) and low <= value <= high)


def one_of(*choices: Any) -> Rule:
    """One of some values, of the same type: 1 is not true."""
    words = choices[0] if len(choices) == 1 else f"one of {', '.join(map(str, choices))}"
    return Rule(str(words), lambda value: any(type(value) is type(one) and value == one for one in choices))


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """A list whose items all follow a rule."""
    size = "" if length is None else f"{length} "
    return Rule(
        f"a list of {size}items, each {rule.words}",
        lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(rule.holds, value)),
    )


def object_of(rule: Rule) -> Rule:
    """An object whose values all satisfy a rule."""
    return Rule(
        f"an object whose values are {rule.words}",
        lambda value: isinstance(value, dict) and all(map(rule.holds, value.values())),
    )


def like_defaults(defaults: Mapping[str, Any]) -> dict[str, Rule]:
    """Rules derived from default values: true or false, a number, text, an object."""
    kinds = {bool: FLAG, int: NUMBER, float: NUMBER, str: TEXT | NULL, dict: OBJECT | NULL}
    return {key: kinds[type(value)] for key, value in defaults.items() if type(value) in kinds}


def check(content: Mapping[str, Any], rules: Mapping[str, Rule], source: Any, nullable: Collection[str] = ()) -> None:
    """Refuse the first value that violates its key's rule. Absent keys and keys without a rule are accepted.

    Args:
        content: of the file.
        rules: by key.
        source: the file, for messages.
        nullable: keys that may be null in spite of their rule.

    Raises:
        InputError: naming file, key, rule and value.
    """
    for key, value in content.items():
        rule = rules.get(key)
        if rule is not None and not rule.holds(value) and not (value is None and key in nullable):
            raise InputError(f"{source}: {key} must be {rule.words}, got {shown(value)}. Correct it, or copy it again.")


def refuse_attributes(content: Mapping[str, Any], owner: type, source: Any, settable: Collection[str] = ()) -> None:
    """Refuse keys that would overwrite a method of their class. Raises InputError naming file and key.

    Args:
        content: of the file.
        owner: the class.
        source: the file, for messages.
        settable: attributes of the class that are settings.
    """
    for key in content:
        if key not in settable and hasattr(owner, key):
            raise InputError(f"{source}: {shown(key)} is not a setting. Delete it, or copy the file again.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
