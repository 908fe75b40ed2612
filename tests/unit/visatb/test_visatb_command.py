"""The `visatb` command: its names lead to programs, and asking for help is cheap."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from eval.registry import all_metrics
from visatb.__main__ import COMMANDS, main
from visatb.errors import InputError

NAMES = """run show status look study data new label split refcoco subsets check gradients train ask score weigh
plot-log overall suite schema chat merge convert export"""
MODULES = {name: module for commands in COMMANDS.values() for name, (module, _) in commands.items()}


def visatb(monkeypatch, *words: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["visatb", *words])
    return main()


def test_every_promised_name_is_there_and_leads_to_a_program():
    assert set(MODULES) == set(NAMES.split())
    for name, module in MODULES.items():
        text = Path(find_spec(module).origin).read_text()
        assert name == "score" or "def main(" in text or "main = " in text, module


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_shows_the_five_steps_in_order(monkeypatch, capsys, words):
    assert visatb(monkeypatch, *words) == 0
    text = capsys.readouterr().out
    steps = [text.index(f"\n{step}") for step in ("1. prepare", "2. score", "3. weigh", "4. finetune", "5. compare")]
    assert steps == sorted(steps) and all(f"  {name} " in text for name in MODULES)
    assert max(map(len, text.splitlines())) <= 120


def test_an_unknown_name_is_refused_with_the_names_there_are(monkeypatch):
    with pytest.raises(InputError, match=r"visatb 'wiegh': no such command. There are show, run, .*weigh"):
        visatb(monkeypatch, "wiegh")
    with pytest.raises(InputError, match=r"visatb score 'bleu9': no such metric. There are cider, .*exact_match"):
        visatb(monkeypatch, "score", "bleu9", "-a", "x")


def test_help_of_a_command_is_named_after_it(monkeypatch, capsys):
    for words in (["weigh"], ["show"], ["score", "exact_match"]):
        with pytest.raises(SystemExit) as ended:
            visatb(monkeypatch, *words, "--help")
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: visatb {' '.join(words)} [-h]")


def test_score_takes_names_of_metrics_and_of_their_scripts(monkeypatch, capsys, tmp_path):
    record = '{"id": "a", "task": "T", "conversations": [{"from": "human", "value": "q"}, '
    record += '{"from": "gpt", "value": "Two.", "generative_value": "two"}], "generator": "m"}'
    (tmp_path / "a.jsonl").write_text(record)
    printed = []
    for name in ("exact_match", "qa"):
        assert not visatb(monkeypatch, "score", name, "-a", str(tmp_path / "a.jsonl"))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "1 / 1" in printed[0]
    visatb(monkeypatch, "score", "--help")
    text = capsys.readouterr().out
    assert all(f"  {metric.name} " in text for metric in all_metrics())


def test_show_lists_the_benchmarks_and_finds_one_by_name(monkeypatch, capsys):
    visatb(monkeypatch, "show")
    assert "academic.yaml" in capsys.readouterr().out
    visatb(monkeypatch, "show", "academic")
    assert capsys.readouterr().out.startswith("academic: 8 tasks")
