"""The snippet of docs/current_models.md runs as it stands."""

import re
from pathlib import Path

from tests.hf.tiny_models import build, collator, samples

PAGE = Path(__file__).parents[2] / "docs" / "current_models.md"


def test_snippet_of_the_docs_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1]
    assert len(snippet.splitlines()) < 20
    tasks = ("VQAv2", "ChartQA", "Grounding")
    dataset = [{**one, "task": tasks[one["task"]]} for one in samples("qwen3_vl")]

    def collate(batch):
        return {k: v for k, v in collator("qwen3_vl")([{**one, "task": 0} for one in batch]).items() if k != "task_ids"}

    exec(snippet, {"model": build("qwen3_vl"), "dataset": dataset, "collate": collate})
    assert (tmp_path / "out" / "train_log.jsonl").read_text().count('"VQAv2"')
