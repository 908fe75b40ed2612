"""Keys of other trainers' record formats: those that would affect training are refused, the others are counted.

The formats of LLaMA-Factory, ms-swift, axolotl, OpenAI and InternVL are similar to ours but have further keys: images,
videos, a system prompt, which answers are supervised. Ignoring them silently would train on other data than intended.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from visatb.errors import shown

RECORD_KEYS = frozenset({"id", "image", "task", "conversations", "generator"})
TURN_KEYS = frozenset({"from", "value", "generative_value"})

_IMAGE = 'Write "image": a path or a list of paths, and one <image> for each in the questions'
_NO_MEDIA = "Only images are supported. Omit the record"
_SYSTEM = "The system prompt is the template's (--version). Remove the key, or put the text into the first question"
_LEARNED = "All answers are supervised, weighted by task. Remove the key, and answers that must not be learned"
_TURNS = 'Write "conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]'

# Lower case, without - and _: key -> what to write instead.
_ADVICE: dict[str, str] = {
    **dict.fromkeys(("image", "images", "img", "imgs", "picture", "pictures", "pixelvalues"), _IMAGE),
    **{f"image{what}{s}": _IMAGE for what in ("path", "file", "url", "list", "name") for s in ("", "s")},
    **dict.fromkeys(("video", "videos", "videopath", "audio", "audios", "audiopath", "speech", "sound"), _NO_MEDIA),
    **dict.fromkeys(("system", "systemprompt", "systemmessage", "tools"), _SYSTEM),
    **dict.fromkeys(("loss", "lossscale", "lossweight", "lossmask", "mask", "train", "training"), _LEARNED),
    **dict.fromkeys(("weight", "weights", "sampleweight", "traindetail", "trainingdetail"), _LEARNED),
    **dict.fromkeys(("messages", "conversation", "dialog", "dialogue", "history"), _TURNS),
    **dict.fromkeys(("role", "content"), _TURNS),
    "objects": "Write boxes into the text as [x1, y1, x2, y2] (scripts_visatb.data.boxes)",
    **{key: f'Write the key as "{key}"' for key in ("task", "conversations", "from", "value")},
}
_SEPARATORS = str.maketrans("", "", "-_ ")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ForeignKey(NamedTuple):
    """A key that would change inputs or labels.

    Attributes:
        key: the key.
        field: its path in the record.
        rule: its value and the remedy; the message continues after the field.
    """

    key: str
    field: str
    rule: str


def foreign_key(record: Mapping[str, Any], training: bool) -> ForeignKey | None:
    """The first key that would change inputs or labels; None if there is none.

    Empty values (`"images": []`) and values that match the behaviour (`"loss": true` of an answer) are accepted.

    Args:
        record: any record.
        training: whether it is a training record; otherwise only keys that affect inputs count.
    """
    has_image = bool(record.get("image"))
    for key in () if record.keys() <= RECORD_KEYS else record:
        advice = None if key in RECORD_KEYS else _advice(key, record[key], training, has_image=has_image)
        if advice is not None:
            return ForeignKey(key, key, f"{shown(record[key])} would be ignored. {advice}.")
    turns = record.get("conversations")
    if not _may_have_more(turns):
        return None
    for n, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.keys() <= TURN_KEYS:
            continue
        for key in turn:
            is_answer = turn.get("from") != "human"
            advice = None if key in TURN_KEYS else _advice(key, turn[key], training, is_answer, has_image)
            if advice is not None:
                return ForeignKey(key, f"conversations[{n}].{key}", f"{shown(turn[key])} would be ignored. {advice}.")
    return None


def unknown_keys(record: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a record and of its turns (`conversations[].key`) that are not used here, each once."""
    yield from record.keys() - RECORD_KEYS
    turns = record.get("conversations")
    if isinstance(turns, list):
        yield from {
            f"conversations[].{key}" for turn in turns if isinstance(turn, dict) for key in turn.keys() - TURN_KEYS
        }


def _advice(key: str, value: Any, training: bool, is_answer: bool = True, has_image: bool = False) -> str | None:
    """What to write instead of a key with that value; None if it has no effect."""
    if value is None or value in ("", [], {}):
        return None
    plain = key.lower().translate(_SEPARATORS)
    advice = _ADVICE.get(plain)
    if advice is None and not has_image and _names_images(value):
        return _IMAGE
    if advice == _LEARNED:
        # Values that repeat the default (answers supervised, questions not) are accepted; the meaning of masks differs.
        changes = plain == "mask" or not isinstance(value, int | float) or value != is_answer
        return advice if training and changes else None
    return advice


def _may_have_more(turns: Any) -> bool:
    """A fast check: a later turn with two keys other than `from` and `value` lacks one of them, which is refused."""
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        return False
    try:
        return not turns[0].keys() <= TURN_KEYS or max(map(len, turns)) > 2
    except TypeError:  # a number or null instead of a turn
        return True


def _names_images(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) and name.lower().endswith(_SUFFIXES) for name in names)
