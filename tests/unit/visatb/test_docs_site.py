"""The documentation site and the notebook: they build and run without a warning, where their packages are installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_example import synthetic_data


def test_the_site_builds_without_a_warning_and_can_be_searched(repository, tmp_path):
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason="needs pip install -e '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "-c", "docs", "-d", str(tmp_path / "cache")]
    done = subprocess.run([*command, ".", str(tmp_path / "site")], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").with_suffix("") for path in (tmp_path / "site").rglob("*.html")}
    documents = {path.relative_to(repository).with_suffix("") for path in repository.glob("docs/*.md")}
    assert documents | {Path("README"), Path("CHANGELOG")} <= pages
    reference = (tmp_path / "site/docs/reference.html").read_text()
    assert 'id="visatb.weighting.weigh.weigh"' in reference and 'id="transformers_patch.weighter.Weighter"' in reference
    assert "contribution" in (tmp_path / "site/searchindex.js").read_text()


def test_every_page_is_in_the_contents_of_the_site(repository):
    index = (repository / "docs/index.md").read_text()
    pages = {path.stem for path in repository.glob("docs/*.md")} - {"index"}
    assert not pages - set(re.findall(r"^\w+$", index, re.MULTILINE))


@pytest.mark.parametrize("finished", [True, False])
def test_the_notebook_runs_and_reads_a_finished_run(repository, tmp_path, finished):
    nbformat = pytest.importorskip("nbformat", reason="needs pip install -e '.[notebook]'")
    nbclient = pytest.importorskip("nbclient", reason="needs pip install -e '.[notebook]'")
    pytest.importorskip("ipykernel", reason="needs pip install -e '.[notebook]'")
    if finished:
        (tmp_path / "report.json").write_text(json.dumps(synthetic_data()))
    os.environ["RUN"] = str(tmp_path)
    os.environ["PYTHONPATH"] = str(repository)
    notebook = nbformat.read(repository / "docs/balance_your_tasks.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "Weights at T = 0.5" in text and "SceneCaption 1.2" in text and "not distinguishable from 1" in text
    pictures = [
        out for cell in notebook.cells for out in cell.get("outputs", []) if "image/svg+xml" in out.get("data", {})
    ]
    assert len(pictures) == 1
    assert ("VisATB is ahead of equal weights" in text) == finished
    assert ("no finished run" in text) != finished
