"""A made-up run, as report.json holds it."""

import math
import random

from scripts_visatb.workflow.report_data import comparison, overall

TASKS = ["SceneCaption", "RegionCaption", "ShapeVQA", "TextChartQA", "Grounding"]


METRICS = ["CIDEr", "CIDEr", "exact match", "exact match", "IoU > 0.5"]


def synthetic_data() -> dict:
    """A made-up run of five tasks, as report.json holds it."""
    rng = random.Random(0)
    mini = [1.4, 0.9, 0.42, 0.31, 0.2]
    own = [2.3, 1.5, 0.71, 0.58, 0.44]
    share = [[1.0 if i == j else rng.uniform(-0.25, 0.5) for j in range(5)] for i in range(5)]
    values = [mini] + [[mini[j] + share[i][j] * (own[j] - mini[j]) for j in range(5)] for i in range(5)]
    test = []
    for name, metric, score in zip(TASKS, METRICS, own, strict=True):
        row = {"task": name, "metric": metric, "records": 200, "STL": score, "EW": score * 0.97, "VisATB": score * 1.02}
        row |= {"TLA": score * 0.9, "T-2": score * 1.01, "also": {}}
        test.append(row | {"difference": row["VisATB"] - row["EW"], "standard_error": 0.02})
    final = [1.31, 0.78, 0.92, 1.12, 0.87]
    spread = {"about": "95 % of 1000 resamples", "failed": 3, "total": 1000, "rule": "clipped", "low": {}, "high": {}}
    for quantity in ("contribution_out", "contribution_in", "difficulty", "weight"):
        spread["low"][quantity] = [0.7, 0.6, 0.8, 1.05, 0.9]
        spread["high"][quantity] = [1.5, 0.9, 1.1, 1.3, 1.2]
    spread["low"]["weight_difference"] = [[-0.1] * 5 for _ in TASKS]
    weighting = {
        "failed": [],
        "form": "standard",
        "spread": spread,
        "tasks": TASKS,
        "temperature": 0.5,
        "alpha": [0.25, 0.25, 0.5],
        "contributions": share,
        "contribution_out": [0.2, 0.1, 0.15, 0.05, -0.02],
        "contribution_in": [0.1, 0.2, 0.05, 0.15, -0.02],
        "difficulty": [0.39, 0.4, 0.41, 0.47, 0.55],
        "weight_out": [1.2, 0.9, 1.0, 0.95, 0.95],
        "weight_in": [1.1, 0.8, 1.05, 0.95, 1.1],
        "weight_difficulty": [0.9, 0.95, 1.0, 1.05, 1.1],
        "weights": dict(zip(TASKS, final, strict=True)) | {"Chat": 1.0},
    }
    models = [*(("STL-" + name) for name in TASKS), "EW", "VisATB"]
    loss = {
        name: {
            model: [[s / 100, 3 * math.exp(-s / 40) + 0.4 + rng.uniform(0, 0.1)] for s in range(1, 301)]
            for model in models
            if model in ("EW", "VisATB", "STL-" + name)
        }
        for name in [*TASKS, "Chat"]
    }
    kinds = ["prepare", "subsets", *(["train", "infer", "score"] * 13), "matrix", "weights"]
    ran = [
        {
            "name": f"{kind} {n}",
            "kind": kind,
            "started": 6.0 * n,
            "seconds": 25.0 if kind == "train" else 4.0,
            "peak_mib": 700,
        }
        for n, kind in enumerate(kinds)
    ]
    return {
        "benchmark": "demo",
        "tasks": [
            {"name": name, "metric": metric, "weight": None, "group": None}
            for name, metric in zip(TASKS, METRICS, strict=True)
        ]
        + [{"name": "Chat", "metric": None, "weight": 1.0, "group": None}],
        "seeds": [0],
        "matrix": {"columns": TASKS, "rows": ["mini", *TASKS], "values": values},
        "weighting": weighting,
        "test": test,
        "overall": overall(test),
        "overall_spread": {
            "about": "95% interval over 1000 resamples of the test records",
            "models": {
                "EW": {"dI": [-4.1, -1.9], "dI_error": 0.56, "dE": [1.9, 4.1], "dE_error": 0.56},
                "VisATB": {"dI": [0.9, 3.1], "dI_error": 0.57, "dE": [0.0, 0.4], "dE_error": 0.1, "gap": [3.9, 6.1]},
            },
        },
        "methods": comparison(test, ["EW", "TLA", "VisATB"]),
        "ablations": comparison(test, ["EW", "VisATB", "T-2"]),
        "ablation_weights": {name: dict(zip(TASKS, final, strict=True)) for name in ("VisATB", "T-2")},
        "amounts": {
            name: [[0.0, 0.0], [0.125, 0.5 * score], [1.0, score]] for name, score in zip(TASKS, own, strict=True)
        },
        "seed_order": {
            "rows": [
                {
                    "seed": 0,
                    "weights": dict(zip(TASKS, final, strict=True)),
                    "highest": TASKS[0],
                    "lowest": TASKS[1],
                }
            ],
            "mean": None,
            "highest_holds": True,
            "lowest_holds": True,
        },
        "curves": loss,
        "jobs": ran,
        "subsets": [
            {
                "name": "mini",
                "file": "demo-mini_train-998.json",
                "records": 998,
                "tasks": dict.fromkeys([*TASKS, "Chat"], 166),
            }
        ],
        "evaluation_records": {"val": dict.fromkeys(TASKS, 200), "test": dict.fromkeys(TASKS, 200)},
        "warnings": [],
        "settings": {"temperature T": "0.5"},
        "versions": {"Python": "3.11"},
    }
