"""Size and style figures of the code, which a change should not make worse without a reason.

    python -m perf.code_figures

Counts, in all Python outside tests/, lines, raise statements, command-line flags and entry points, the length of
functions, and modules over 400 lines; and, in tests and documents too, words that CONTRIBUTING.md's list replaces.
tests/unit/test_imports.py checks that there are no import circles.
"""

import ast
import re
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from visatb.cli import ArgumentParser, run

ROOT = Path(__file__).resolve().parents[1]
LONGEST_MODULE = 400
WORDS = re.compile(r"(?<![a-z.])(?:men(?:d|ds|ded|ding)|told|tells?)(?![a-z])", re.IGNORECASE)
# The files that must name the words.
_WORD_LISTS = ("CONTRIBUTING.md", "perf/code_figures.py", "tests/unit/test_code_figures.py")


@dataclass(frozen=True)
class Figures:
    """What was counted.

    Attributes:
        lines, raises, flags, mains: of all modules; flags are `add_argument` calls.
        functions: lines of every function, decorators and docstring included.
        long: modules over LONGEST_MODULE lines, with their lines.
    """

    lines: int
    raises: int
    flags: int
    mains: int
    functions: tuple[int, ...]
    long: dict[str, int]


def count(sources: dict[str, str]) -> Figures:
    """Figures of modules: path -> source text."""
    nodes = [node for text in sources.values() for node in ast.walk(ast.parse(text))]
    lines = {path: len(text.splitlines()) for path, text in sources.items()}
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return Figures(
        lines=sum(lines.values()),
        raises=sum(isinstance(node, ast.Raise) for node in nodes),
        flags=sum(_adds_flag(node) for node in nodes),
        mains=sum(function.name == "main" for function in functions),
        functions=tuple(_length(function) for function in functions),
        long={path: number for path, number in lines.items() if number > LONGEST_MODULE},
    )


def _adds_flag(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    # Long lists of flags are written with `add = parser.add_argument`.
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    first = node.args[0] if node.args else None
    is_word = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return name == "add_argument" or name == "add" and is_word and first.value.startswith("-")


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def describe(figures: Figures) -> str:
    """The figures, one per line."""
    lengths = figures.functions
    longest = statistics.quantiles(lengths, n=100)[-1]
    modules = ", ".join(f"{path} ({number})" for path, number in figures.long.items()) or "none"
    return "\n".join(
        [
            f"lines of Python without tests        {figures.lines:,}",
            f"raise statements per 100 lines       {100 * figures.raises / figures.lines:.2f}",
            f"command-line flags (add_argument)    {figures.flags}",
            f"entry points (def main)              {figures.mains}",
            f"lines of a function: mean, 99 %      {statistics.mean(lengths):.1f}, {longest:.1f}",
            f"modules over {LONGEST_MODULE} lines               {modules}",
        ]
    )


def replaced_words(texts: dict[str, str]) -> Iterator[str]:
    """`path:line: text` of every line with a word that CONTRIBUTING.md replaces."""
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if path not in _WORD_LISTS and WORDS.search(line):
                yield f"{path}:{number}: {line.strip()}"


def read_tracked(*patterns: str) -> dict[str, str]:
    """The tracked text files that match: path -> content."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *patterns]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in filter(None, names)}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1]).parse_args(argv)
    sources = {path: text for path, text in read_tracked("*.py").items() if not path.startswith("tests/")}
    print(describe(count(sources)))
    found = list(replaced_words(read_tracked("*.py", "*.md", "*.sh", "*.yaml")))
    print(f"words that CONTRIBUTING.md replaces  {len(found)}", *found, sep="\n")


if __name__ == "__main__":
    run(main)
