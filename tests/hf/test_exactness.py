"""The gradient of a step is Eq. 2's, whatever the split, for every family and strategy."""

import pytest

from perf.closed_form import eq2, first_gradient, relative_error, weighted_gradient
from tests.hf.tiny_models import FAMILIES, build, collator, samples
from transformers_patch import build_weighter
from visatb_hf import WeightedTrainer

WEIGHTS = [0.5, 1.0, 2.5]
SPLITS = [(8, 1), (4, 2), (1, 8)]
EXACT = 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_weighted_gradient_is_eq2_on_any_split(family, split):
    model, data, collate = build(family), samples(family), collator(family)
    expected = weighted_gradient(model, collate(data), eq2(WEIGHTS))
    found = first_gradient(WeightedTrainer, model, data, collate, *split, weighter=build_weighter("EW", 3, WEIGHTS))
    assert relative_error(found, expected) < EXACT
