"""All zero-shot benchmarks by name: what the modules of this package declare as `BENCHMARKS`."""

import importlib
import pkgutil
from collections.abc import Mapping

from eval import zero_shot
from eval.zero_shot.definition import ZeroShot

# Table 4 of arXiv 2403.04343: dI_zero% is over these.
ZERO_SHOT_TASKS = ("TextVQA", "POPE", "MME", "SQA", "MMBench", "SEED", "MM-Vet")

# The order in which benchmarks are listed and asked; any others come last.
_ORDER = (
    *("textvqa", "pope", "mme", "sqa", "mmbench", "mmbench_cn", "seed", "mmvet", "vqav2", "vqav2_val", "gqa"),
    *("vizwiz", "vizwiz_val", "llavabench", "llavabench_review", "llavacoco", "llavacoco_review"),
)


def _declared() -> dict[str, ZeroShot]:
    found: dict[str, ZeroShot] = {}
    for module in pkgutil.iter_modules(zero_shot.__path__):
        if module.name != "table":
            found |= getattr(importlib.import_module(f"{zero_shot.__name__}.{module.name}"), "BENCHMARKS", {})
    return {name: found.pop(name) for name in _ORDER} | found


BENCHMARKS: Mapping[str, ZeroShot] = _declared()
