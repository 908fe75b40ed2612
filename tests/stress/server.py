"""Mutated replies of a server, for --engine server: its list of models, and its answer to one of the questions.

Whatever it said: once the server replies as it should, the same command ends with the usual answers.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from PIL import Image

import inference_visatb
from tests.judge_endpoint import Endpoint, chat_reply, judge_endpoint
from tests.stress.mutators import mutated
from tests.stress.trials import ACCEPTED, REFUSED, WRONG, Trial, call, verdict

COUNT = 50
_NAME = "served"
_MODELS = json.dumps({"object": "list", "data": [{"id": "other"}, {"id": _NAME, "root": "/models/served"}]})
_USUAL = chat_reply("A square.")
_SAID = ("", " a \n", "\ud83d", "x" * 10**6, "[" * 10**5, "\0", None, 8, [8], {"text": "8"}, "</s>", "\u2028")


def trials(count: int, seed: str, folder: Path) -> Iterator[Trial]:
    """`count` mutated replies."""
    Image.new("RGB", (9, 6), "red").save(folder / "0.png")
    records = [
        {"id": n, "conversations": [{"from": "human", "value": f"<image>\nWhat is {n}?"}], "image": "0.png"}
        for n in range(3)
    ]
    (folder / "questions.json").write_text(json.dumps(records))
    with judge_endpoint() as endpoint, mock.patch("time.sleep"):
        for n in range(count):
            yield _trial(endpoint, folder, random.Random(f"{seed} {n}"))


def _trial(endpoint: Endpoint, folder: Path, chance: random.Random) -> Trial:
    answers = folder / f"answers-{chance.random()}"
    argv = ["--engine", "server", "--server-url", endpoint.url, "--server-model", _NAME, "--retries", "1"]
    argv += ["--image-folder", folder, "--question-file", folder / "questions.json", "--answers-folder", answers]
    output = answers / f"questions_{_NAME}.json"
    endpoint.models, length, text = _MODELS.encode(), None, "A square."
    if chance.random() < 0.3:
        what, endpoint.models = mutated(_MODELS, chance)
        body, text = endpoint.models, "A square." if _lists(endpoint.models) else None
        endpoint.reply = lambda _: (200, _USUAL)
    else:
        what, body, length = _mutated_reply(chance)
        text = _text(body) if length == len(body) else None
        endpoint.reply = lambda asked: (200, body, length) if "What is 1?" in str(asked) else (200, _USUAL)
    ended = call(inference_visatb.main, argv)
    fault = None if text is not None else "there is no answer in it"
    found, why = verdict(ended, fault, text is not None, lambda: _other(output, text), [output], (1, 2))
    if found in (ACCEPTED, REFUSED) and length is not None:  # else the list of models, which names another model now
        endpoint.reply = lambda _: (200, _USUAL)
        again = call(inference_visatb.main, argv)
        locked = again.err or "exit code" if again.code else _other(output, "A square." if text is None else text)
        found, why = (WRONG, f"the next run: {locked}") if locked else (found, why)
    return Trial("--engine server", what, found, why, body)


def _other(output: Path, text: str) -> str | None:
    """What is wrong with the answers if the second is `text`; None if nothing."""
    said = [record["conversations"][1]["generative_value"] for record in json.loads(output.read_text())]
    expected = ["A square.", text, "A square."]
    return None if said == expected else f"the answers are {said!r:.200}, not {expected!r:.200}"


def _mutated_reply(chance: random.Random) -> tuple[str, bytes, int]:
    """What was done, the body of the reply, and the length that its header claims."""
    if chance.random() < 0.3:
        said = chance.choice(_SAID)
        body = chat_reply(said)
        return f"says {said!r:.40}", body, len(body)
    what, body = mutated(_USUAL.decode(), chance)
    cut = chance.random() < 0.2
    return what + ", cut short" * cut, body, len(body) + 7 * cut


def _text(body: bytes) -> str | None:
    """What a reply says; null says nothing, and that is an answer. None if it says anything that is no text."""
    try:
        content = json.loads(body.decode("utf-8", errors="replace"))["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if content is None:
        return ""
    return content.encode("utf-8", "replace").decode().strip() if isinstance(content, str) else None


def _lists(body: bytes) -> bool:
    """Whether a list of models has ours."""
    try:
        listed = json.loads(body.decode("utf-8", errors="replace"))["data"]
        return all(isinstance(one, dict) for one in listed) and _NAME in [one.get("id") for one in listed]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
