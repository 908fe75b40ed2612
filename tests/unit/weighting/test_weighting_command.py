"""The command line of weighting_visatb.py, in this process."""

import importlib
import json
import subprocess
import sys

import pytest

import weighting_visatb as w
from visatb.errors import InputError
from visatb.weighting import comparable, figure, matrix, report, tables, uncertainty
from visatb.weighting import weigh as library
from visatb.weighting.matrix import score_matrix
from visatb.weighting.tables import read_score_table

KEYS = ["form", "measure", "tasks", "temperature", "alpha", "contributions", "contribution_out", "contribution_in",
        "difficulty", "weight_out", "weight_in", "weight_difficulty", "weights", "failed", "notes"]  # fmt: skip


@pytest.fixture
def call(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["weighting_visatb.py", *map(str, arguments)])
        return w.main()

    return call


def test_the_json_has_the_documented_keys_and_full_precision(rows, write_scores, tmp_path, call, capsys):
    output = tmp_path / "weights.json"
    assert call("--scores", write_scores(rows), "--output", output) == 0
    content = json.loads(output.read_text())
    assert list(content) == KEYS
    assert content["tasks"] == ["A", "B", "C"]
    assert (content["temperature"], content["alpha"]) == (0.5, [0.25, 0.25, 0.5])
    weighting = w.weigh(score_matrix(read_score_table(write_scores(rows))))
    assert list(content["weights"].values()) == weighting.weight.tolist()
    assert sum(content["weights"].values()) == pytest.approx(3.0)
    table = capsys.readouterr().out
    for task, weight in content["weights"].items():
        assert any(line.startswith(task) and line.endswith(f"{weight:.4f}") for line in table.splitlines())


def test_print_weights_prints_the_weights_in_id_order_and_nothing_else(
    rows, write_scores, write_benchmark, tmp_path, call, capsys
):
    benchmark = write_benchmark({"C": "metric: iou", "Chat": "weight: 1.0", "A": "metric: iou", "B": "metric: iou"})
    output = tmp_path / "weights.json"
    call("--scores", write_scores(rows), "--benchmark", benchmark, "--print-weights", "--output", output)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    weights = json.loads(output.read_text())["weights"]
    assert list(weights) == ["C", "Chat", "A", "B"]
    assert [float(word) for word in printed.out.split()] == list(weights.values())
    assert "lambda" in printed.err


def test_flags_win_over_the_benchmark_and_the_benchmark_over_the_defaults(
    rows, write_scores, write_benchmark, tmp_path, call
):
    tasks = {name: "metric: iou" for name in "ABC"}
    benchmark = write_benchmark(tasks, "temperature: 2.0\nalpha: [1.0, 0.0, 0.0]\n")
    output, scores = tmp_path / "weights.json", write_scores(rows)
    call("--scores", scores, "--benchmark", benchmark, "--output", output)
    content = json.loads(output.read_text())
    assert (content["temperature"], content["alpha"]) == (2.0, [1.0, 0.0, 0.0])
    flags = ("--temperature", 0.7, "--alpha", 0, 0.5, 0.5)
    call("--scores", scores, "--benchmark", benchmark, *flags, "--output", output)
    content = json.loads(output.read_text())
    assert (content["temperature"], content["alpha"]) == (0.7, [0.0, 0.5, 0.5])


def test_the_automatic_temperature_is_written_as_a_number(rows, write_scores, tmp_path, call):
    output = tmp_path / "weights.json"
    call("--scores", write_scores(rows), "--temperature", "auto", "--output", output)
    content = json.loads(output.read_text())
    assert content["temperature"] in w.AUTO_TEMPERATURES
    assert all(0.5 <= weight <= 2.0 for weight in content["weights"].values())


def test_without_scores_the_message_shows_an_example(call):
    with pytest.raises(InputError, match="--scores must name .* python weighting_visatb.py --scores scores.csv"):
        call()


@pytest.mark.parametrize("temperature", ["warm", "", "nan", "-1", "0", "inf"])
def test_a_temperature_that_is_none_is_refused_and_nothing_is_written(rows, write_scores, tmp_path, call, temperature):
    output = tmp_path / "weights.json"
    with pytest.raises(InputError, match="temperature must be"):
        call("--scores", write_scores(rows), f"--temperature={temperature}", "--output", output)
    assert not output.exists()


def test_the_figure_is_a_png_of_some_size(rows, write_scores, tmp_path, call):
    plot = tmp_path / "figure.png"
    call("--scores", write_scores(rows), "--plot", plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_size > 20_000


@pytest.mark.parametrize("kind, start", [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_figure_is_also_a_vector_graphic_and_the_same_each_time(rows, write_scores, tmp_path, call, kind, start):
    plots = [tmp_path / f"{n}.{kind}" for n in (1, 2)]
    for plot in plots:
        call("--scores", write_scores(rows), "--plot", plot)
    assert plots[0].read_bytes().startswith(start)
    assert plots[0].read_bytes() == plots[1].read_bytes()


def test_a_figure_of_another_format_is_refused(rows, write_scores, tmp_path, call):
    with pytest.raises(InputError, match=r"must name a \.png, \.svg or \.pdf file"):
        call("--scores", write_scores(rows), "--plot", tmp_path / "figure.doc")


ONLY_NUMPY = """
import sys
sys.path.insert(0, {repository!r})

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {{"numpy", "visatb", "weighting_visatb"}}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Block())
import weighting_visatb
from visatb.cli import run
run(weighting_visatb.main)
"""


def test_a_score_table_needs_numpy_alone_and_a_plot_says_what_it_needs(rows, write_scores, tmp_path, repository):
    def call(*flags):
        code = ONLY_NUMPY.format(repository=str(repository))
        words = [sys.executable, "-c", code, "--scores", write_scores(rows), *flags]
        return subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=tmp_path)

    done = call("--output", tmp_path / "weights.json")
    assert done.returncode == 0, done.stderr
    assert list(json.loads((tmp_path / "weights.json").read_text())) == KEYS
    assert "lambda_out" in done.stdout
    done = call("--plot", tmp_path / "figure.png")
    assert (done.returncode, "pip install matplotlib" in done.stderr) == (2, True), done.stderr


def test_names_at_their_earlier_addresses_are_those_of_the_library():
    for name in ("contributions", "difficulty", "softmax_weights", "task_weights", "weigh", "auto_temperature"):
        assert getattr(w, name) is getattr(library, name)
    assert (w.DEFAULT_TEMPERATURE, w.DEFAULT_ALPHA, w.MIN_GAIN) == (0.5, (0.25, 0.25, 0.5), 1e-3)
    moved = {"comparable": comparable, "score_matrix": matrix, "score_tables": tables, "uncertainty": uncertainty,
             "weighting_figure": figure, "weighting_report": report, "overall_table": report}  # fmt: skip
    for old, new in moved.items():
        earlier = importlib.import_module(f"eval.{old}")
        names = [name for name in vars(earlier) if not name.startswith("_") and name in vars(new)]
        assert names
        assert all(getattr(earlier, name) is getattr(new, name) for name in names)


def test_a_task_left_out_stays_visible_in_terminal_and_json(rows, write_scores, tmp_path, call, capsys):
    rows["B"]["B"] = 1.0
    call("--scores", write_scores(rows), "--on_failed", "exclude", "--print_weights", "--output", tmp_path / "w.json")
    printed = capsys.readouterr()
    assert printed.out.split()[1] == "1.0"
    about = "B scores 1 with its own data (B) and 20 without (mini): it is left out, with weight 1"
    assert f"note: {about}" in printed.err
    assert any(line.split() == ["B", *"------", "1.0000"] for line in printed.err.splitlines())
    (entry,) = json.loads((tmp_path / "w.json").read_text())["failed"]
    assert (entry["task"], entry["own"], entry["without"], entry["about"]) == ("B", 1.0, 20.0, about)


@pytest.mark.parametrize(
    "flags",
    [("--output", "scores.csv"), ("--output", "x.png", "--plot", "x.png"), ("--plot", "x.png", "--output", "folder")],
)
def test_outputs_over_the_scores_each_other_or_a_folder_are_refused(
    rows, write_scores, tmp_path, call, monkeypatch, flags
):
    monkeypatch.chdir(tmp_path)
    scores, _ = write_scores(rows), (tmp_path / "folder").mkdir()
    before = scores.read_bytes()
    with pytest.raises(InputError):
        call("--scores", "scores.csv", *flags)
    assert scores.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "scores.csv"]


def test_a_table_whose_name_ends_in_capitals_is_read_as_csv(rows, write_scores, call, capsys):
    assert call("--scores", write_scores(rows, name="SCORES.CSV")) == 0
