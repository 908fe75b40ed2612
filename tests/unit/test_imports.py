"""Who imports whom: no circle, and the arrows of docs/architecture.md; imports inside functions and for types count."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHARED = {"visatb", "transformers_patch"}
SCORING = SHARED | {"eval"}
LLAVA = SCORING | {"llava"}
PROGRAMS = LLAVA | {"inference_visatb", "weighting_visatb"}
# Package or script at the root -> what it may import besides itself.
ARROWS = {
    "visatb": set(),
    "transformers_patch": {"visatb"},
    "eval": SHARED,
    "weighting_visatb": {"visatb", "eval"},
    "llava": SCORING,
    "inference_visatb": LLAVA,
    "visatb_hf": PROGRAMS,
    "scripts_visatb": PROGRAMS | {"visatb_hf"},
    "perf": PROGRAMS | {"visatb_hf", "scripts_visatb"},
    "tests": PROGRAMS | {"visatb_hf", "scripts_visatb", "perf"},
}
# (importing module, imported module): why it stands against the arrows.
EXCEPTIONS = {
    ("visatb.__main__", "eval.registry"): "the command hands over to every program; this one is imported when called",
}
# What the method's package must run without.
NOT_IN_VISATB = {"torch", "transformers", "accelerate", "peft", "deepspeed"}


def module_of(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(file: Path, module: str) -> Iterator[tuple[str, str]]:
    """Module and name (empty for `import module`) of every import statement of a file."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((base, alias.name) for alias in node.names)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module -> the modules it imports, of this repository and others."""
    files = [file for room in ARROWS for file in (REPOSITORY / room).rglob("*.py")]
    files += [REPOSITORY / f"{room}.py" for room in ARROWS if (REPOSITORY / f"{room}.py").is_file()]
    modules = {module_of(file): file for file in files}
    found = {}
    for module, file in modules.items():
        names = imported_names(file, module)
        found[module] = {full if (full := f"{base}.{name}") in modules else base for base, name in names} - {module}
    return found


def test_no_modules_import_each_other_in_a_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_import_follows_the_arrows_of_the_architecture(graph):
    against = {
        (module, other)
        for module, others in graph.items()
        for other in others
        if (target := other.partition(".")[0]) in ARROWS
        and target not in ARROWS[module.partition(".")[0]] | {module.partition(".")[0]}
    }
    assert against == set(EXCEPTIONS)


def test_the_shared_package_imports_neither_torch_nor_transformers(graph):
    heavy = {
        (module, other)
        for module, others in graph.items()
        for other in others
        if module.startswith("visatb.") and other.partition(".")[0] in NOT_IN_VISATB
    }
    assert not heavy


def test_the_graph_sees_relative_imports_and_imports_in_functions(tmp_path):
    file = tmp_path / "b.py"
    file.write_text("from . import c\nfrom ..d import e\nimport f.g\ndef h():\n    from i import j, k\n")
    expected = [("p.a", "c"), ("p.d", "e"), ("f.g", ""), ("i", "j"), ("i", "k")]
    assert sorted(imported_names(file, "p.a.b")) == sorted(expected)
    file = file.rename(tmp_path / "__init__.py")
    file.write_text("from .c import d\n")
    assert list(imported_names(file, "p.a")) == [("p.a.c", "d")]
