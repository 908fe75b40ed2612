"""Mutated score matrices: weighed rightly or refused with an InputError; nothing else may happen."""

import json
import random

import numpy as np

import weighting_visatb as w
from visatb.errors import InputError
from visatb.weighting.matrix import score_matrix
from visatb.weighting.report import to_json
from visatb.weighting.tables import read_score_table

ODD = ("", " ", "nan", "inf", "-1", "1e400", "1e308", "1e-308", "0", "x", "1_0", "0,5", "50%", "None", "\x00", '"',
       "１", "mini", "A", "B+mini", "9" * 400)  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    lines = [line.split(",") for line in text.rstrip("\n").split("\n")]
    row = chance.randrange(len(lines))
    cell = chance.randrange(len(lines[row]))
    change = chance.choice(("odd", "odd", "odd", "drop row", "double row", "drop cell", "swap", "cut"))
    if change == "odd":
        lines[row][cell] = chance.choice(ODD)
    elif change == "drop row":
        del lines[row]
    elif change == "double row":
        lines.insert(row, list(lines[row]))
    elif change == "drop cell":
        del lines[row][cell]
    elif change == "swap":
        other = chance.randrange(len(lines))
        lines[row], lines[other] = lines[other], lines[row]
    changed = "\n".join(",".join(line) for line in lines) + "\n"
    return changed[: chance.randrange(len(changed) + 1)] if change == "cut" else changed


def test_a_mutated_matrix_is_weighed_or_refused(rows, write_scores):
    chance = random.Random("matrices")
    path = write_scores(rows)
    whole, right = path.read_text(), w.weigh(score_matrix(read_score_table(path)))
    outcomes = {"weighed": 0, "refused": 0}
    for trial in range(300):
        path.write_text(mutated(whole, chance), encoding="utf-8")
        try:
            table = read_score_table(path)
            on_failed = ("fail", "exclude", "clip")[trial % 3]
            weighting = w.weigh(score_matrix(table), None if trial % 11 == 0 else 0.5, on_failed=on_failed)
        except InputError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
            continue
        outcomes["weighed"] += 1
        assert (weighting.weight > 0).all()
        assert np.isfinite(weighting.weight).all()
        assert abs(weighting.weight.mean() - 1) < 1e-9
        json.dumps(to_json(weighting, {}), allow_nan=False)
        if table.rows == rows and trial % 11:
            np.testing.assert_array_equal(weighting.weight, right.weight)
    assert min(outcomes.values()) > 30, outcomes
