"""The Python snippet of README.md runs as it stands."""

import re

import pytest
import torch


def test_the_readmes_snippet_weighs_a_matrix_and_a_loss(repository, tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), flags=re.DOTALL)
    assert len(snippet.strip().splitlines()) <= 11
    (tmp_path / "scores.csv").write_text("model,A,B\nmini,0.2,0.3\nA,0.6,0.35\nB,0.25,0.5\n")
    monkeypatch.chdir(tmp_path)
    token_loss_T = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    names = {"token_loss_T": token_loss_T, "task_T": torch.tensor([0, 0, 1])}
    exec(compile(snippet, "README.md", "exec"), names)
    weight_A, weight_B = names["weighting"].weight
    expected = (3 * weight_A + 3 * weight_B) / (2 * weight_A + weight_B)
    assert float(names["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(token_loss_T.grad[2] / token_loss_T.grad[0]) == pytest.approx(weight_B / weight_A, rel=1e-5)
    assert "'A':" in capsys.readouterr().out
