"""What `visatb show` says of padding and of the balance of ranks, from annotation files alone."""

import json

import pytest
import yaml

from scripts_visatb.workflow.padding import describe_padding, estimated_lengths
from visatb.benchmark import load_benchmark


@pytest.fixture
def mix(tmp_path):
    """Half short questions about an image (4 patches), half long texts: 24 and 100 positions."""

    def turns(question, answer):
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    short = [{"task": "A", "image": "a.png", "conversations": turns("<image>" + "q" * 60, "a" * 20)} for _ in range(64)]
    long = [{"task": "B", "conversations": turns("q" * 100, "a" * 300)} for _ in range(64)]
    for name, records in (("A", short), ("B", long)):
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text(json.dumps({"vision_config": {"image_size": 28, "patch_size": 14}}))
    tasks = [{"name": name, "weight": 1.0, "files": {"train": f"{name}.json"}} for name in ("A", "B")]
    content = {"name": "mix", "data_folder": str(tmp_path), "image_folder": ".", "mini_rate": 0.5, "tasks": tasks}
    environment = {"VISION_TOWER": str(tmp_path / "tower"), "MODEL_MAX_LENGTH": 90}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(content | {"training": {"environment": environment}}))
    return load_benchmark(tmp_path / "mix.yaml")


def test_lengths_are_characters_and_patches_up_to_the_limit(mix):
    assert estimated_lengths(mix) == [24] * 64 + [90] * 64


def test_padding_and_balance_are_those_of_the_samples(mix):
    # Of 64 samples in micro-batches of 8, nearly all have a long one: 64 x 90 positions for 64 x 57.
    line = describe_padding(mix, 8, 1, 8)
    assert "padding: 3" in line and "% of positions if micro-batches of 8 were padded" in line
    slow, even = (float(part.split(" x ")[0].split()[-1]) for part in line.split(";")[1].split(", "))
    assert even < 1.05 < 1.3 < slow
    assert "slowest rank" not in describe_padding(mix, 8, 1, 1)
    assert describe_padding(mix, 1, 1, 1).startswith("padding: 0% of positions")
    assert "128 records" in line


def test_without_the_files_the_line_says_which_is_missing(mix, tmp_path):
    (tmp_path / "B.json").unlink()
    assert describe_padding(mix, 8, 1, 8).endswith("B.json: no such file. Check the path.")
