"""The figure of a training log, and the message where there is none."""

import json
import subprocess
import sys

import pytest

from transformers_patch.plot_log import Panel, draw_panels, main, read_log, run_panels, thinned


def line(step: int, loss: float | None = 2.0, **changes) -> dict:
    task = {"loss": loss, "weight": 0.5 * step, "tokens": 10 * step, "tokens_seen": 0, "share": 0.25}
    return {"step": step, "epoch": step / 10, "loss": 3.0 - step / 10, "tasks": {"Vqa": task, "Box": task}} | changes


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "EW"
    folder.mkdir()
    lines = [line(1), line(2, loss=None), line(3)]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def test_panels_hold_loss_weight_share_and_tokens_seen_of_every_task(run):
    panels = {panel.y_title: panel.lines for panel in run_panels("EW", read_log(run))}
    assert list(panels) == [
        "weighted loss", "loss (nats per token)", "task weight", "share of the loss", "supervised tokens seen",
    ]  # fmt: skip
    assert panels["weighted loss"] == {"all tasks": [[1, 2.9], [2, 2.8], [3, 2.7]]}
    assert panels["loss (nats per token)"]["Vqa"] == [[1, 2.0], [3, 2.0]]  # absent in step 2
    assert panels["task weight"]["Box"] == [[1, 0.5], [2, 1.0], [3, 1.5]]
    assert panels["supervised tokens seen"]["Vqa"] == [[1, 10], [2, 30], [3, 60]]


def test_a_task_that_never_occurred_is_left_out_of_the_loss_panel():
    panels = run_panels("EW", [line(1, loss=None)])
    assert panels[1].lines == {}
    assert draw_panels(panels, 1, "step").axes


def test_a_task_with_a_single_point_is_seen():
    figure = draw_panels([Panel("a", "y", {"rare": [[3, 1.0]], "often": [[0, 1.0], [3, 2.0]]})], 1, "step")
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "None"]


def test_long_lines_are_averaged():
    points = thinned([[n, 2 * n] for n in range(1000)], 100)
    assert len(points) == 100 and points[0] == [4.5, 9.0]


def test_lines_are_distinct_and_keep_their_colour_in_every_panel():
    lines = {f"task {n}": [[0, n], [1, n]] for n in range(17)}
    figure = draw_panels([Panel("a", "y", lines), Panel("b", "y", {"task 3": [[0, 1]]})], 2, "x", {"task 3": "red"})
    first, second = figure.axes
    looks = {(drawn.get_color(), drawn.get_linestyle()) for drawn in first.lines}
    assert len(looks) == 17
    assert first.lines[3].get_color() == second.lines[0].get_color() == "red"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_runs_are_drawn_beside_each_other(run, tmp_path, capsys, kind):
    output = tmp_path / f"curves.{kind}"
    main([str(run), str(run / "train_log.jsonl"), "--output", str(output)])
    assert output.stat().st_size > 1000 and capsys.readouterr().out.strip() == str(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EW", output.name]


def test_a_line_torn_by_a_kill_is_left_out(run):
    with open(run / "train_log.jsonl", "a") as stream:
        stream.write('{"step": 4, "lo')
    assert [one["step"] for one in read_log(run)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "no line in it"),
        ('[1]\n{"step": 1}\n', "line 1: not a line of train_log.jsonl"),
        (b"\xff\xfe", "not a train_log.jsonl"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "train_log.jsonl").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--output", str(tmp_path / "x.png")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.p*"))


def test_an_output_that_cannot_be_drawn_or_written_is_refused(run, tmp_path, capsys):
    for output in ("curves.txt", str(tmp_path / "nowhere" / "curves.png")):
        with pytest.raises(SystemExit) as ended:
            main([str(run), "--output", output])
        assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, transformers_patch.plot_log; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
