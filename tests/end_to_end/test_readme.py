"""Every command that README.md and docs/ show is one that the programs understand."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from eval.registry import find_metric
from visatb.__main__ import COMMANDS

DOCUMENTS = (
    "README.md",
    "docs/training.md",
    "docs/data.md",
    "docs/preparing_data.md",
    "docs/benchmarks.md",
    "docs/demo.md",
    "docs/tutorial.md",
    "docs/inference.md",
    "docs/evaluation.md",
    "docs/weighting_strategies.md",
    "docs/distributed.md",
    "docs/checkpoints.md",
    "docs/interruptions.md",
)


class Parsed(Exception):  # noqa: N818 - not an error: the sign that parsing succeeded
    """Raised in place of running the command."""


def commands(text: str) -> list[str]:
    """The command lines of the bash blocks: comments dropped, continued lines joined, $( ) and quotes kept."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        lines = re.sub(r"(^|\s)#[^\n]*", r"\1", block.replace("\\\n", " ")).splitlines()
        found += [line.strip() for line in lines if line.strip()]
    return found


def simple_commands(line: str) -> list[tuple[dict[str, str], list[str]]]:
    """(variables, words) of a line: parts joined by && apart, X="$(command)" as the command inside."""
    inner = re.fullmatch(r'\w+="\$\((.*)\)"', line)
    parts = (inner[1] if inner else line).split("&&")
    result = []
    for part in parts:
        words = shlex.split(part)
        variables = {}
        while words and re.match(r"^[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        result.append((variables, words))
    return result


def shown(repository) -> list[tuple[str, str]]:
    return [(name, line) for name in DOCUMENTS for line in commands((repository / name).read_text())]


def test_documents_show_commands(repository):
    assert len(shown(repository)) > 10


def test_shell_scripts_shown_exist_are_sound_and_know_the_variables(repository):
    sources = {p.name: p.read_text() for p in (repository / "scripts_visatb").rglob("*.sh")}
    known = set(re.findall(r"[A-Z][A-Z_]+", "".join(sources.values()) + (repository / "quickstart.sh").read_text()))
    for name, line in shown(repository):
        for variables, words in simple_commands(line):
            if words[:1] != ["bash"]:
                continue
            assert (repository / words[1]).is_file(), f"{name}: {line}"
            subprocess.run(["bash", "-n", str(repository / words[1])], check=True)
            assert set(variables) <= known, f"{name}: {line}: {set(variables) - known}"


def test_python_commands_shown_are_parsed_by_their_programs(repository, monkeypatch):
    def parse(method):
        def parse_and_stop(self, *args, **kwargs):
            method(self, *args, **kwargs)
            raise Parsed

        return parse_and_stop

    # Of the class that ours and transformers_patch's own derive from.
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse(argparse.ArgumentParser.parse_args))
    parsed = 0
    for _, line in shown(repository):
        for _, words in simple_commands(line):
            if words[:1] == ["visatb"]:
                words = ["python", *program_of(*words[1:])]
            if words[:1] not in (["python"], ["torchrun"]):
                continue
            words = words[1:]
            while words[0].startswith("--"):  # torchrun's own flags, each with a value
                words = words[1:] if "=" in words[0] else words[2:]
            module = words.pop(0) == "-m" if words[0] == "-m" else False
            program, arguments = words[0], words[1:]
            if program in ("llava.train.train", "scripts_visatb.workflow.run"):
                check_elsewhere(program, arguments)
                parsed += 1
                continue
            monkeypatch.setattr(sys, "argv", [program, *arguments])
            run = runpy.run_module if module else runpy.run_path
            with pytest.raises(Parsed):
                run(program if module else str(repository / program), run_name="__main__")
            parsed += 1
    assert parsed > 5, "the documents show no Python command any more?"


def program_of(name: str, *arguments: str) -> list[str]:
    """The words after `python` that do what a `visatb` command does."""
    module = {name: module for commands in COMMANDS.values() for name, (module, _) in commands.items()}[name]
    if name == "score":
        metric, *arguments = arguments
        module = find_metric(metric).score.__module__
    return ["-m", module, *(["show"] if name == "show" else []), *arguments]


def check_elsewhere(program: str, arguments: list[str]) -> None:
    """Programs that do not use our parser alone: transformers' parser, and flags handed on to snakemake."""
    if program == "llava.train.train":
        from llava.train.arguments import parse_arguments

        if arguments != ["--help"]:
            parse_arguments(arguments)
        return
    known = {"--benchmark", "--cores", "--seeds", "--runs", "-n", "--resources", "--workflow-profile"}
    assert {word for word in arguments if word.startswith("-")} <= known
