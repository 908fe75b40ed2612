"""Intervals of dI% and dE%: against worlds whose true values are known, and on the command line."""

import json
import sys

import numpy as np
import pytest

from eval import overall
from eval.overall_spread import (
    interval,
    overall_of,
    read_task_scores,
    resampled_improvements,
    spread_over_records,
    spread_over_runs,
)
from visatb.errors import InputError

ONE = [np.ones(1)]


def world(draw, base, model, records=300):
    """Hits of the baseline and of a model on one task: three in four records are equally hard for both."""
    luck = draw.random(records)
    own = np.where(draw.random(records) < 0.75, luck, draw.random(records))
    return np.array([[luck < base, own < model]], dtype=float)


@pytest.mark.parametrize("changes", [(0.1, -0.1, 0.0, 0.05, -0.2), (0.0,) * 5, (0.3, 0.2, 0.2, 0.1, 0.3)])
def test_intervals_hold_the_true_overall_metrics_as_often_as_they_say(changes):
    draw = np.random.default_rng(0)
    true = overall_of(np.array(changes))
    worlds, held = 150, np.zeros(2)
    for seed in range(worlds):
        scores = [world(draw, 0.5, 0.5 * (1 + change)) for change in changes]
        found = spread_over_records(scores, ONE * 5, ["m"], 150, seed=seed)["models"]["m"]
        held += [found[key][0] <= value <= found[key][1] for key, value in zip(("dI", "dE"), true, strict=True)]
    assert (held / worlds >= 0.9).all()  # where no task changed, the resampled dE% alone would hold it in 87 %


def test_the_error_of_one_task_is_that_of_the_delta_method():
    scores = world(np.random.default_rng(1), 0.6, 0.7, 2000)
    found = spread_over_records([scores], ONE, ["m"], 2000)["models"]["m"]
    base, model = scores[0]
    linear = (model - base * model.mean() / base.mean()) / base.mean()
    assert found["dI_error"] == pytest.approx(100 * linear.std(ddof=1) / np.sqrt(2000), rel=0.06)


def test_the_records_are_drawn_alike_for_all_models_and_metrics_of_a_task():
    scores = np.random.default_rng(2).random((1, 1, 50)) + 1
    same = np.concatenate([scores, scores, 3 * scores], axis=1)
    drawn = resampled_improvements([np.concatenate([same, same])], [np.array([1.0, -1.0])], 20)
    np.testing.assert_allclose(drawn, 0, atol=1e-12)
    (gained,) = resampled_improvements([same], ONE, 20)
    np.testing.assert_allclose(gained, [[0] * 20, [2] * 20], atol=1e-12)


def test_the_gap_of_models_that_answer_alike_is_0_though_each_is_unsure():
    base, model = world(np.random.default_rng(3), 0.5, 0.6)[0]
    found = spread_over_records([np.array([[base, model, model]])], ONE, ["EW", "VisATB"], 100)["models"]
    assert found["VisATB"]["gap"] == pytest.approx([0, 0]) and found["EW"]["dI_error"] > 1
    assert "gap" not in found["EW"]


def test_a_baseline_that_scores_0_in_most_draws_is_refused():
    scores = np.array([[[1.0] + [0.0] * 999, [1.0] * 1000]])
    assert resampled_improvements([scores], ONE, 200).shape[-1] < 200
    with pytest.raises(ValueError, match="scores 0 in most resamples"):
        resampled_improvements([np.zeros((1, 2, 9))], ONE, 10)


def test_an_interval_takes_the_bias_of_resampling_off():
    (low, high), error = interval(1.0, np.array([1.5, 2.5, 1.5, 2.5]))
    assert (low + high) / 2 == pytest.approx(0.0) and (high - low) / 2 == pytest.approx(1.959964 * error)


def test_several_runs_give_a_mean_and_t_standard_errors():
    mean, (low, high), error = spread_over_runs([1.0, 2.0, 3.0])
    assert (mean, error) == pytest.approx((2.0, 1 / np.sqrt(3)))
    assert (high - mean, mean - low) == pytest.approx((4.30265 * error,) * 2, rel=1e-5)
    with pytest.raises(InputError, match="at least 2 runs"):
        spread_over_runs([1.0])


@pytest.fixture
def scored(tmp_path):
    """Metric files with record scores: of A as eval/*.py writes them, of B as the zero-shot suite does."""
    draw = np.random.default_rng(4)
    for model, chances in {"ew": (0.5, 0.6), "a": (0.55, 0.6), "b": (0.6, 0.65)}.items():
        (tmp_path / model).mkdir()
        for task, chance, key, scale in zip("AB", chances, ("position", "question_id"), (1, 100), strict=True):
            hits = (draw.random(200) < chance).astype(float)
            lines = [json.dumps({key: n, "score": hit}) for n, hit in enumerate(hits)]
            (tmp_path / model / f"{task}.per_record.jsonl").write_text("\n".join(lines))
            content = {"metric": "m", "score": scale * hits.mean(), "n": 200, "task": task, "generator": model}
            (tmp_path / model / f"{task}.json").write_text(json.dumps(content))
    return tmp_path


def call(monkeypatch, folder, *flags):
    words = ["--baseline", f"{folder}/ew", "--results", f"{folder}/a", f"{folder}/b", "--output", f"{folder}/o.json"]
    monkeypatch.setattr(sys, "argv", ["overall.py", *words, *map(str, flags)])
    overall.main()
    return json.loads((folder / "o.json").read_text())


def test_the_command_gives_intervals_over_records_and_over_runs(scored, monkeypatch, capsys):
    content = call(monkeypatch, scored, "--bootstrap", 100, "--runs")
    for model in ("a", "b"):
        entry = content["models"][model]
        assert entry["spread"]["dI"][0] < entry["dI_percent"] < entry["spread"]["dI"][1]
    values = [content["models"][model]["dI_percent"] for model in ("a", "b")]
    assert content["runs"]["dI_percent"]["mean"] == pytest.approx(sum(values) / 2)
    out = capsys.readouterr().out
    assert "note: b: dI% 95% interval over 100 resamples of the test records: " in out
    assert "note: dI%: mean of 2 runs" in out
    zero_shot = call(monkeypatch, scored, "--bootstrap", 100, "--zero-shot")
    assert zero_shot["models"]["a"]["spread"]["dI"] == content["models"]["a"]["spread"]["dI"]
    assert "dI_zero% 95% interval" in capsys.readouterr().out


def test_scores_that_cannot_be_resampled_are_refused_with_the_reason(scored, monkeypatch):
    with pytest.raises(InputError, match="at least 2 resamples"):
        call(monkeypatch, scored, "--bootstrap", 1)
    file = scored / "b" / "A.json"
    file.write_text(file.read_text().replace('"score": 0.', '"score": 0.9'))
    with pytest.raises(InputError, match="A.json: m is not the mean of its records' scores"):
        call(monkeypatch, scored, "--bootstrap", 10)
    lines = (scored / "b" / "B.per_record.jsonl").read_text().splitlines()
    (scored / "b" / "B.per_record.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match="scores other records than"):
        read_task_scores({"B": [scored / "ew/B.json", scored / "b/B.json"]})
    (scored / "table.csv").write_text("model,A,B\nc,1,2\n")
    with pytest.raises(InputError, match="needs metric files of all models; A has 3"):
        call(monkeypatch, scored, "--results", f"{scored}/a", f"{scored}/b", f"{scored}/table.csv", "--bootstrap", 10)
