"""The exception for invalid user input, and messages of limited length."""

import re
from typing import Any

LONGEST_VALUE = 200  # characters of a value that a message shows
_LONGEST_MESSAGE = 2000
_ENDS = 80  # characters that are kept at each end

_QUOTED = r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_QUOTED_OR_WORD = re.compile(rf"{_QUOTED}(?!\w)|\S{{{LONGEST_VALUE + 1},}}", re.DOTALL)
_QUOTED_OR_BRACKET = re.compile(rf"{_QUOTED}|[\[\]{{}}]", re.DOTALL)


class InputError(ValueError):
    """Invalid user input: a file, flag or setting.

    Its message is one line that names the file, record and field and the remedy. Commands print it and exit with
    exit code 2 (see `visatb.cli.run`). Values in it that are longer than LONGEST_VALUE are shortened.
    """

    def __init__(self, message: object):
        super().__init__(shortened(str(message)))


def shortened(message: str) -> str:
    """A message in which values longer than LONGEST_VALUE are shortened to their ends.

    Values are quoted texts, lists, objects, and words without spaces.
    """
    if len(message) <= LONGEST_VALUE:
        return message
    message = _QUOTED_OR_WORD.sub(lambda value: _ends(value.group()), message)
    for start, end in reversed(_outer_brackets(message)):
        message = message[:start] + _ends(message[start:end]) + message[end:]
    return _ends(message, _LONGEST_MESSAGE, _LONGEST_MESSAGE // 2)


def _outer_brackets(message: str) -> list[tuple[int, int]]:
    """Positions of the outermost lists and objects of a message."""
    found, depth, start = [], 0, 0
    for match in _QUOTED_OR_BRACKET.finditer(message):
        if match.group() in ("[", "{"):
            start = start if depth else match.start()
            depth += 1
        elif match.group() in ("]", "}") and depth:
            depth -= 1
            found += [] if depth else [(start, match.end())]
    return found


def shown(value: Any) -> str:
    """A value of any type for a message: its repr, shortened."""
    try:
        return _ends(repr(value))
    except ValueError:  # Python prints no whole number of thousands of digits
        return "a number of thousands of digits"


def _ends(text: str, longest: int = LONGEST_VALUE, kept: int = _ENDS) -> str:
    return text if len(text) <= longest else f"{text[:kept]}... ({len(text):,} characters) ...{text[-kept:]}"
