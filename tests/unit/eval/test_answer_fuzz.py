"""Mutated answer files: every evaluator scores them or refuses them with an InputError; nothing else may happen."""

import copy
import json
import math
import random

import pytest

from eval import caption, caption_list, grounding, qa
from eval.answers import read_answers
from visatb.errors import InputError

SCORERS = {"caption": caption.score, "caption_list": caption_list.score, "grounding": grounding.score, "qa": qa.score}
TRUTHS = {
    "caption": lambda n: f"a red ring and {n} stars",
    "caption_list": lambda n: [f"a red ring and {n} stars", f"{n} stars"],
    "grounding": lambda n: f"[0.{n}, 0.1, 0.9, 0.8]",
    "qa": lambda n: f"answer {n}",
}
ODD = (None, True, 0, -1, 2.5, 1e308, "", " ", "a", "[", "[]", "[1,2,3,4]", "[nan,0,1,1]", [], [[]], ["a"], [""], {},
       {"value": "x"}, "\u0000", "é" * 50, "x" * 5000)  # fmt: skip


def mutated(value, chance: random.Random):
    """A copy of a JSON value with one place changed, dropped or doubled."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and chance.random() < 0.8:
            place = place[key]
            continue
        change = chance.choice(("odd", "odd", "drop", "double"))
        if change == "odd":
            place[key] = chance.choice(ODD)
        elif change == "drop":
            del place[key]
        elif isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        break
    return value


def mutated_text(text: str, chance: random.Random) -> str:
    """A JSON text cut off, or with one character changed."""
    at = chance.randrange(len(text))
    return chance.choice((text[:at], text[:at] + chance.choice('{}[]",:0Nx\x00') + text[at + 1 :]))


@pytest.mark.parametrize("script", SCORERS)
def test_a_mutated_answer_file_is_scored_or_refused(script, make_record, tmp_path):
    chance = random.Random(f"answers {script}")
    whole = [make_record(f"id {n}", TRUTHS[script](n), "a red ring and [0.1, 0.1, 0.9, 0.8]") for n in range(1, 5)]
    path = tmp_path / "answers.json"
    outcomes = {"scored": 0, "refused": 0}
    for trial in range(200):
        content = whole
        for _ in range(chance.choice((1, 1, 2, 4))):
            content = mutated(content, chance)
        text = json.dumps(content)
        path.write_text(mutated_text(text, chance) if trial % 5 == 0 and text != "[]" else text, encoding="utf-8")
        try:
            scores = SCORERS[script](read_answers(path, key_by_position=trial % 7 == 0).answers)
        except InputError as error:
            assert "\n" not in str(error)
            assert "answers.json" in str(error)
            outcomes["refused"] += 1
        else:
            assert math.isfinite(scores["score"])
            assert scores["score"] >= 0
            assert scores["n"] == len(scores["per_record"]) >= 1
            json.dumps(scores, allow_nan=False)
            outcomes["scored"] += 1
    assert min(outcomes.values()) > 20, outcomes
