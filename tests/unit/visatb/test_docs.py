"""Links of the documents, and the documents that code and scripts name, are there."""

import re

import pytest

from tests.external_links import external_links

DOCUMENTS = ("README.md", "CHANGELOG.md", "docs/*.md")
NAMING = ("*.py", "*.sh", "*.sbatch", "*.yaml", "*.md", "Snakefile")
FOLDERS = ("docs", "eval", "llava", "perf", "scripts_visatb", "tests", "transformers_patch", "visatb", "visatb_hf")


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings_that_are_there(repository):
    seen, broken = 0, []
    for page in (path for pattern in DOCUMENTS for path in repository.glob(pattern)):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if "://" in link:
                continue
            seen += 1
            if not target.exists() or anchor and anchor not in anchors(target.read_text()):
                broken.append(f"{page.name}: {link}")
    assert seen > 40 and not broken


@pytest.mark.parametrize("folder", FOLDERS)
def test_documents_that_code_names_are_there(repository, folder):
    lost = [
        f"{path.relative_to(repository)}: {name}"
        for kind in NAMING
        for path in (repository / folder).rglob(kind)
        for name in re.findall(r"\bdocs/[a-z_]+\.md", path.read_text())
        if not (repository / name).is_file()
    ]
    assert not lost


def test_addresses_outside_the_repository_are_listed_in_one_place(repository):
    found = external_links(repository)
    assert "docs/real_data.md" in found["https://huggingface.co/datasets/YanqiDai/VisATB"]
    assert len(found) > 50 and not [address for address in found if "{" in address or "example." in address]
