"""Sphinx's settings of the documentation site: python -m sphinx --fail-on-warning -c docs . runs/site

The pages are the Markdown files of the repository, with its root as the source folder, so that links between pages,
code and pictures are the same on the site and in the repository.
"""

import re
from textwrap import indent
from typing import Any

from pygments.lexers.special import TextLexer

project = "VisATB"
author = "the VisATB authors"
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "VisATB"
html_copy_source = False

myst_heading_anchors = 4  # as GitHub makes them
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_use_ivar = True  # attributes are described once, in the docstring of their class


def plain_text(_app: Any, kind: str, _name: str, _what: Any, _options: Any, lines: list[str]) -> None:
    """Make docstrings valid reStructuredText: `name` becomes code, tables and commands of modules literal blocks."""
    if kind == "module":
        paragraphs = "\n".join(lines).strip().split("\n\n")
        blocks = [f"::\n\n{indent(text, '    ')}" if re.search("^ |   ", text, re.M) else text for text in paragraphs]
        lines[:] = "\n\n".join([*blocks, ""]).split("\n")
    for n, line in enumerate(lines):
        if not line.startswith("    ") or kind != "module":
            # `a, b: what they are` would be read as b of type a.
            line = re.sub(r"^ +\*{0,2}\w+(, \*{0,2}\w+)+:", lambda names: names[0].replace(", ", ","), line)
            lines[n] = re.sub(r"([|*]|_(?= ))", r"\\\1", line.replace("``", "`").replace("`", "``"))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx: what its settings cannot say."""
    app.add_lexer("mermaid", TextLexer)  # diagrams stay text, which needs no script from elsewhere
    app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon makes markup
    return {"parallel_read_safe": True}
