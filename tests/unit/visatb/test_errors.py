"""Messages of bearable length, whatever they show."""

import pytest

from visatb.errors import InputError, shown

LONG = {
    "data URI": "data:image/png;base64," + "iVBORw0KGgo" * 30_000,
    "text with blanks": "It's a long story. " * 1000,
    "text with both quotation marks": '"It\'s" ' * 1000,
    "flat list": ["a", "b"] * 2000,
    "nested list": [[0, [1, [2, [3]]]]] * 2000,
    "object": {"a": {"b": {"c": ["]", "}"] * 500}}},
    "number": 9**900,
}


@pytest.mark.parametrize("kind", LONG)
def test_no_message_shows_a_value_of_more_than_200_characters(kind):
    around = "a.json: record 3 (id 'x'): conversations[0].value must not be {}. Don't write [x1, y1] like {{this}}."
    message = str(InputError(around.format(repr(LONG[kind]))))
    before, after = around.format("|").split("|")
    assert message.startswith(before) and message.endswith(after)
    assert len(message) <= len(before) + 200 + len(after)
    assert "characters) ..." in message
    assert len(shown(LONG[kind])) <= 200


def test_a_long_message_of_short_values_keeps_every_word():
    message = "a.json: " + "; ".join(f"record {n} (id 'a-{n}') has [0.1, 0.2, {n}]" for n in range(20))
    assert str(InputError(message)) == message


@pytest.mark.parametrize("value", ["x", [1, "a"], None, {"a": 1.5}])
def test_short_values_are_shown_as_they_are(value):
    assert shown(value) == repr(value)


def test_text_that_is_no_quoted_value_cannot_make_a_message_endless():
    assert len(str(InputError("no quotes here " * 20_000))) < 2200
