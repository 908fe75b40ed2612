"""The figures of the code: what is counted, and that the repository keeps to its own word list."""

import pytest

from perf import code_figures

SOURCE = '''"""A module."""


@decorated
def main():
    """What it does."""
    add("--flag", help="a flag")
    seen.add(value)
    parser.add_argument("--other")
    raise ValueError


class Thing:
    async def wait(self):
        raise
'''


def test_lines_raises_flags_and_functions_are_counted():
    found = code_figures.count({"a.py": SOURCE, "b.py": "x = 1\n" * 401})
    assert (found.lines, found.raises, found.flags, found.mains) == (15 + 401, 2, 2, 1)
    assert sorted(found.functions) == [2, 7], "decorators and docstrings are part of a function"
    assert found.long == {"b.py": 401}
    shown = code_figures.describe(found)
    assert "0.48" in shown and "b.py (401)" in shown


@pytest.mark.parametrize(
    "line", ["They were told.", "def test_it_told_twice():", "mends it", "nobody tells", "Mending"]
)
def test_a_replaced_word_is_found_in_text_and_names(line):
    assert list(code_figures.replaced_words({"a.md": f"x\n{line}"})) == [f"a.md:2: {line}"]


@pytest.mark.parametrize("line", ["stream.tell()", "recommend it", "intelligent"])
def test_other_words_that_hold_one_are_no_hit(line):
    assert list(code_figures.replaced_words({"a.md": line})) == []


def test_the_repository_keeps_to_its_own_word_list(repository):
    if not (repository / ".git").exists():
        pytest.skip("not a checkout")
    texts = code_figures.read_tracked("*.py", "*.md", "*.sh", "*.yaml")
    assert list(code_figures.replaced_words(texts)) == []
    modules = {path: text for path, text in texts.items() if path.endswith(".py") and not path.startswith("tests/")}
    assert not code_figures.count(modules).long
