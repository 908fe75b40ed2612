"""A run that the tests of the graph may fill."""

import json

import pytest
from graph_example import benchmark

from scripts_visatb.workflow import places


@pytest.fixture
def run(tmp_path):
    current = places.Run(benchmark(), tmp_path, 3)
    current.subsets.mkdir(parents=True)
    keys = ["mini", "entire", "plus_mini/A", "plus_mini/B", "single/A", "single/B"]
    entries = {key: {"file": key.replace("/", "-") + ".json", "sha256": key} for key in keys}
    (current.subsets / "subsets.json").write_text(json.dumps({"files": entries}))
    return current
