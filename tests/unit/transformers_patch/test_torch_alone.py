"""Weighter, strategies and loss work where torch is installed and transformers, accelerate and peft are not."""

import subprocess
import sys

import pytest

import transformers_patch

_WEIGH_WITHOUT_TRANSFORMERS = """
import sys

for name in ("transformers", "accelerate", "peft", "deepspeed", "safetensors", "tokenizers", "huggingface_hub"):
    sys.modules[name] = None  # `import name` raises ImportError

import torch
import transformers_patch
from transformers_patch import (
    DynamicWeightAverage, EqualWeighting, EqualWeightingTaskBalancing, ImprovableGapBalancing, RandomLossWeighting,
    UncertaintyWeighting, Weighter, build_weighter,
)
from transformers_patch.loss import count_supervised_tokens, task_loss_sums, weighted_token_loss

weighter = build_weighter("EW", 2, [3.0, 1.0])
assert isinstance(weighter, Weighter)
loss = weighter(torch.tensor([2.0, 4.0]), torch.tensor([0, 1]))
print(float(loss))
for name in ("Trainer", "LlamaForCausalLM", "patch"):
    assert name in dir(transformers_patch)
    try:
        getattr(transformers_patch, name)
    except ImportError:
        print("needs transformers")
"""


def test_strategies_import_and_weigh_without_transformers():
    done = subprocess.run(
        [sys.executable, "-c", _WEIGH_WITHOUT_TRANSFORMERS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["2.5", *["needs transformers"] * 3]


def test_all_names_of_the_package_resolve():
    assert all(getattr(transformers_patch, name) is not None for name in transformers_patch.__all__)
    assert transformers_patch.Trainer.__module__ == "transformers_patch.trainer"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Weightr'"):
        _ = transformers_patch.Weightr
