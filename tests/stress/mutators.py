"""Mutations of JSON that any input file can suffer, and a strict reader that says which of them leave JSON.

Nothing of our own code is used, so that it can test all of it.
"""

import copy
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

MOST_DEPTH = 100
SURROGATE = "cut \ud83d off"
ODD = (None, True, False, 0, -1, 3, 2.5, 1e308, 10**400, "", " ", "a", "3", "None", "NaN", "\u0000", "\u202e",
       "<image>", "é" * 50, "x" * 5000, SURROGATE, [], [[]], ["a"], [""], {}, {"value": "x"})  # fmt: skip
_KEY = re.compile(r'\{"(\w+)": ')
_SCALAR = re.compile(r': ("(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|true|false|null)')


class Mutation(NamedTuple):
    """What was done to a file, and what it holds now."""

    what: str
    content: bytes


class NotJsonError(ValueError):
    """Bytes that hold no JSON as RFC 8259 and I-JSON (RFC 7493) know it."""


def mutated(text: str, chance: random.Random, lines: bool = False) -> Mutation:
    """A JSON text (or JSON Lines) with one to three places changed, or spoilt as text or as bytes."""
    if chance.random() < 0.35:
        what = chance.choice(list(_SPOILS))
        return Mutation(what, _SPOILS[what](text, chance))
    content = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    done = [_change_one_place(content, chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    escape = chance.random() < 0.7 or "\\ud83d" in repr(content)
    parts = content if lines else [content]
    dumped = "\n".join(json.dumps(part, ensure_ascii=escape) for part in parts)
    return Mutation(", ".join(done), (dumped + "\n" * lines).encode())


def strict(content: bytes, lines: bool = False) -> Any:
    """The value of JSON bytes, of JSON Lines the list of the lines' values.

    Raises:
        NotJsonError: broken JSON, another encoding, NaN, infinity, lone surrogates, a key twice, too deep nesting.
    """
    try:
        text = content.decode("utf-8-sig")
        parts = [part for part in text.split("\n") if part.strip()] if lines else [text]
        values = [
            json.loads(part, parse_constant=_refuse, parse_float=_finite, parse_int=_whole, object_pairs_hook=_object)
            for part in parts
        ]
        for value in values:
            json.dumps(value, ensure_ascii=False).encode()
            if _depth(value) > MOST_DEPTH:
                raise NotJsonError("too deep")
    except NotJsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJsonError(str(error)[:80]) from None
    return values if lines else values[0]


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, 1, 1.0 and true apart."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _change_one_place(content: Any, chance: random.Random) -> str:
    """Change one place below a value; returns what was done."""
    place, way = content, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return "nothing"
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.85:
            place, way = place[key], [*way, key]
            continue
        what = chance.choice(list(_CHANGES))
        _CHANGES[what](place, key, chance)
        return f"{what} at {'.'.join(map(str, [*way, key]))}"


def _set_odd(place: Any, key: Any, chance: random.Random) -> None:
    place[key] = copy.deepcopy(chance.choice(ODD))


def _drop(place: Any, key: Any, _: random.Random) -> None:
    del place[key]


def _double(place: Any, key: Any, chance: random.Random) -> None:
    value = copy.deepcopy(place[key])
    if isinstance(place, list):
        place.insert(chance.randrange(len(place) + 1), value)
    else:
        place[f"{key}_2"] = value


def _rename(place: Any, key: Any, chance: random.Random) -> None:
    if isinstance(place, dict):
        place[chance.choice((key.upper(), f"{key} ", f" {key}", key + "s", key[:-1], "")) or "x"] = place.pop(key)


def _swap(place: Any, key: Any, chance: random.Random) -> None:
    other = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
    place[key], place[other] = place[other], place[key]


def _retype(place: Any, key: Any, chance: random.Random) -> None:
    value = place[key]
    if isinstance(value, str):
        number = int(value) if value.isdecimal() and len(value) < 9 else len(value)
        place[key] = chance.choice((number, [value], {"text": value}, value[::-1]))
    else:
        place[key] = chance.choice((str(value), [value], {"0": value}))


def _edit(place: Any, key: Any, chance: random.Random) -> None:
    value = place[key]
    if isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        place[key] = value[:at] + chance.choice((" ", "\n", "x", "\t", "\u200b", "é", "\u0000")) + value[at:]
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e308:
        place[key] = chance.choice((value + 1, -value, value * 1e9, float(value)))


def _bury(place: Any, key: Any, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 30, 150, 400))):
        place[key] = [place[key]]


_CHANGES: dict[str, Callable[[Any, Any, random.Random], None]] = {
    "odd value": _set_odd,
    "another odd value": _set_odd,
    "dropped": _drop,
    "doubled": _double,
    "renamed": _rename,
    "swapped": _swap,
    "other type": _retype,
    "edited": _edit,
    "buried": _bury,
}


def _cut(text: str, chance: random.Random) -> bytes:
    return text[: chance.randrange(len(text))].encode()


def _one_character(text: str, chance: random.Random) -> bytes:
    at = chance.randrange(len(text))
    return (text[:at] + chance.choice("{}[]\",:0N\\x\x00'") + text[at + 1 :]).encode()


def _one_byte(text: str, chance: random.Random) -> bytes:
    content = bytearray(text.encode())
    content[chance.randrange(len(content))] = chance.choice((0, 0x80, 0xC3, 0xFF))
    return bytes(content)


def _other_number(text: str, chance: random.Random) -> bytes:
    """A value becomes one that Python reads and JSON does not know, or that no float can hold."""
    found = list(_SCALAR.finditer(text))
    if not found:
        return b""
    match = chance.choice(found)
    value = chance.choice(("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "01", "+1", "0x1", "1_0"))
    return (text[: match.start(1)] + value + text[match.end(1) :]).encode()


def _key_twice(text: str, chance: random.Random) -> bytes:
    found = list(_KEY.finditer(text))
    if not found:
        return b""
    match = chance.choice(found)
    return (text[: match.start()] + f'{{"{match[1]}": 0, ' + text[match.start() + 1 :]).encode()


def _surrounded(text: str, chance: random.Random) -> bytes:
    before, after = chance.choice(
        (("\ufeff", ""), ("", " \n\n"), ("", "}"), ("x", ""), ("", "\u0000"), ('{"data": ', "}"))
    )
    return (before + text + after).encode()


_SPOILS: dict[str, Callable[[str, random.Random], bytes]] = {
    "cut": _cut,
    "cut again": _cut,
    "one character": _one_character,
    "one byte": _one_byte,
    "no JSON number": _other_number,
    "key twice": _key_twice,
    "surrounded": _surrounded,
    "UTF-16": lambda text, _: text.encode("utf-16"),
    "Latin-1": lambda text, _: text.replace("a", "é").encode("latin-1", errors="replace"),
    "surrogate bytes": lambda text, _: text.replace("a", "\ud83d", 1).encode("utf-8", errors="surrogatepass"),
    "CRLF": lambda text, _: text.replace("\n", "\r\n").encode(),
    "brackets": lambda text, chance: chance.choice((b"[", b'{"a":')) * 100_000 + text.encode(),
    "empty": lambda _, chance: chance.choice((b"", b"\n", b"null", b"[]", b"{}", b"3", b'""')),
    "written twice": lambda text, _: (text + text).encode(),
}


def _refuse(name: str) -> None:
    raise NotJsonError(name)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJsonError(text[:20])
    return value


def _whole(text: str) -> int:
    if len(text) > 308:
        raise NotJsonError("a number beyond any float")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise NotJsonError("a key twice")
    return dict(pairs)


def _depth(value: Any) -> int:
    deepest, todo = 0, [(value, 0)]
    while todo:
        inner, depth = todo.pop()
        deepest = max(deepest, depth)
        if isinstance(inner, dict | list):
            todo += [(item, depth + 1) for item in (inner.values() if isinstance(inner, dict) else inner)]
    return deepest
