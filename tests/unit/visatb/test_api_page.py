"""The snippets of docs/api.md run as they stand, one after the other."""

import re

import pytest


def test_snippets_of_the_api_page_run(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    snippets = re.findall(r"```python\n(.*?)```", (repository / "docs" / "api.md").read_text(encoding="utf-8"), re.S)
    assert len(snippets) == 5 and len(re.findall(r"^.+", snippets[0], re.M)) <= 10
    names: dict = {}
    exec(snippets[0], names)
    contributions = names["weighting"].contributions
    assert contributions[0, 1] == pytest.approx((11.0 - 10.1) / (17.4 - 10.1))
    assert names["weighting"].weight.mean() == pytest.approx(1.0)
    for snippet in snippets[1:]:
        exec(snippet, names)
    printed = capsys.readouterr().out
    assert "95% interval over 2 runs" in printed and "RefCOCO-bbox" in printed and "**71.40 (+2.00%)**" in printed
    # Eq. 2: (1.6 * 2.0 + 1.6 * 1.0 + 0.4 * 0.5) / (1.6 + 1.6 + 0.4)
    assert names["loss"].item() == pytest.approx(5.0 / 3.6, rel=1e-6)
