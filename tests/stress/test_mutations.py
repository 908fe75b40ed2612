"""A few mutated inputs of every kind; `python -m tests.stress.mutations` makes as many as one likes."""

import pytest

from tests.stress.mutations import KINDS, failures, run_kind, table

FEW = {"judge": 20, "checkpoints": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_inputs_are_refused_in_one_line_or_accepted_rightly(kind):
    trials = run_kind(kind, FEW.get(kind, 10), "suite")
    assert not failures(trials), "\n".join(f"{one.subject}: {one.mutation}: {one.why}" for one in failures(trials))
    assert len({trial.verdict for trial in trials}) == 2, table(trials)
