"""Sub-datasets keep their bytes: the same data and seed give the files that earlier versions wrote."""

import hashlib
import json

import pytest
import yaml

from scripts_visatb.data.mixes import MANIFEST
from scripts_visatb.data.subsets import make_subsets
from visatb.benchmark import load_benchmark

WORDS = ("red", "Ampel", "größer", "猫", "\U0001f600", 'say "no"', "back\\slash", "tab\there", "line\nbreak", "\u2028")


def conversation(n: int, image: bool) -> list[dict]:
    turns = []
    for turn in range(1 + n % 3):
        start = "<image>\n" if image and turn == 0 else ""
        turns.append({"from": "human", "value": f"{start}{WORDS[(n + turn) % 10]} {n}.{turn}?"})
        turns.append({"from": "gpt", "value": " ".join(WORDS[(n * 7 + k) % 10] for k in range(1 + n % 6))})
    return turns


def records(task: str, count: int, split: str, first: int = 0) -> list[dict]:
    found = []
    for n in range(first, first + count):
        image = {} if task == "Chat" or n % 9 == 4 else {"image": f"{split}/{task}/{n % 50}.jpg"}
        extra = {"score": n / 7, "big": 10**20 + n, "nested": {"a": [None, True, 1e-7, n]}} if n % 5 == 0 else {}
        identifier = {} if n % 11 == 3 else {"id": n if task != "C" else f"c {n}"}
        record = identifier | image | extra | {"task": task, "conversations": conversation(n, bool(image))}
        found.append(dict(reversed(record.items())) if n % 4 == 1 else record)
    return found


def write(folder, groups: bool):
    """Data of five tasks: A and B share a file, C is JSON Lines, Chat is not measured, D is one indented file."""
    mixed = [r for pair in zip(records("A", 90, "train"), records("B", 90, "train", 300), strict=True) for r in pair]
    files = {
        "ab_train.json": mixed,
        "d_train.json": records("D", 33, "train"),
        "chat_train.json": records("Chat", 21, "train"),
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=2 if file.startswith("d") else None))
    lines = [json.dumps(r, ensure_ascii=False) for r in records("C", 1500, "train")]
    (folder / "c_train.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    for split in ("val", "test"):
        for task in "ABCD":
            held_out = records(task, 2, split, {"val": 6000, "test": 7000}[split])
            shared_image = {"image": f"train/{task}/2.jpg"} if task == "B" else {}
            held_out = [r | (shared_image if "image" in r else {}) for r in held_out]
            (folder / f"{task}_{split}.json").write_text(json.dumps(held_out))
    train = {"A": "ab_train.json", "B": "ab_train.json", "C": "c_train.jsonl", "D": "d_train.json"}
    tasks = [
        {"name": task, "metric": "exact_match", "files": {"train": train[task]}}
        | ({"group": "both"} if groups and task in "AD" else {})
        for task in "ABCD"
    ]
    for task in tasks:
        task["files"] |= {split: f"{task['name']}_{split}.json" for split in ("val", "test")}
    tasks.insert(2, {"name": "Chat", "weight": 1.0, "files": {"train": "chat_train.json"}})
    settings = {"name": "pin", "data_folder": ".", "image_folder": ".", "mini_rate": 0.03125, "large_rate": 0.25}
    (folder / "pin.yaml").write_text(yaml.safe_dump(settings | {"tasks": tasks}, sort_keys=False))


# SHA-256 of the manifest, which holds that of every file.
PINNED = {
    (False, 0): "711806aba6f76a329ca1950bcec6ed6d80fbfe4c807a139d386306283ff77a01",
    (False, 7): "63a1b813d979fdc49aa6a7d9fc1f7d97a7d91fcb57141ad473e3fb7a4cdb0b01",
    (True, 0): "304adde448455118b609fb97b3137e03f9652012e0ae9c0f096f38980f696d75",
}


@pytest.mark.parametrize(("groups", "seed"), PINNED)
def test_bytes_are_those_of_earlier_versions(tmp_path, groups, seed):
    write(tmp_path, groups)
    manifest = make_subsets(load_benchmark(tmp_path / "pin.yaml"), tmp_path / "out", seed, tmp_path, None)
    for entry in manifest["files"].values():
        assert hashlib.sha256((tmp_path / "out" / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert hashlib.sha256((tmp_path / "out" / MANIFEST).read_bytes()).hexdigest() == PINNED[groups, seed]
