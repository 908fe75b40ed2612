"""The report's figures: labels keep apart, and colours stay distinct for every eye."""

import copy
import itertools

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from report_example import synthetic_data

from scripts_visatb.workflow import plots
from scripts_visatb.workflow.report_data import overall
from visatb.weighting.style import DARK, LIGHT, readable_on, style

# From sRGB (linear) to what a dichromat sees (Machado, Oliveira and Fernandes 2009, severity 1.0).
SIMULATED = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
SHOWN_TOGETHER = (
    ("out", "in", "difficulty", "weight"),
    ("STL", "EW", "VisATB"),
    ("train", "infer", "score", "prepare"),
)


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(color: str, eye: str) -> np.ndarray:
    """CIE Lab of a colour as an eye sees it."""
    xyz = TO_XYZ @ np.clip(np.array(SIMULATED[eye]) @ linear(color), 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("eye", SIMULATED)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_that_are_shown_together_differ_for_every_eye(theme, eye):
    for names in SHOWN_TOGETHER:
        for one, other in itertools.combinations(names, 2):
            distance = np.linalg.norm(lab(theme.series[one], eye) - lab(theme.series[other], eye))
            assert distance > 17, (one, other, distance)  # 2.3 is just noticeable
    ends = lab(theme.diverging[0], eye) - lab(theme.diverging[-1], eye)
    assert np.linalg.norm(ends) > 40


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_have_enough_contrast_to_the_paper(theme):
    assert contrast(theme.ink, theme.paper) > 7 and contrast(theme.muted, theme.paper) > 4.5
    assert min(contrast(color, theme.paper) for color in theme.series.values()) > 2.8
    for color in (*theme.diverging, theme.blank, "#7f7f7f"):
        assert contrast(readable_on(to_rgb(color)), color) >= 4.5


def with_tasks(count: int, name: str) -> dict:
    """The made-up run with another number of tasks."""
    data = synthetic_data()
    names = [f"{name}{n}" for n in range(count)]
    pick = [n % 5 for n in range(count)]
    content = data["weighting"]
    for key, value in list(content.items()):
        if isinstance(value, list) and len(value) == 5:
            content[key] = [value[n] for n in pick]
    content["contributions"] = [[content["contributions"][i][j] for j in pick] for i in pick]
    content["tasks"] = names
    for ends in (content["spread"]["low"], content["spread"]["high"]):
        ends |= {key: [value[n] for n in pick] for key, value in ends.items() if not isinstance(value[0], list)}
    matrix = data["matrix"]
    rows = [matrix["values"][0], *(matrix["values"][1 + n] for n in pick)]
    data["matrix"] = {"columns": names, "rows": ["mini", *names], "values": [[row[n] for n in pick] for row in rows]}
    data["test"] = [copy.deepcopy(data["test"][n]) | {"task": task} for n, task in zip(pick, names, strict=True)]
    data["test"][0]["VisATB"] *= 0.2  # far below: a label left of its bar
    data["overall"] = overall(data["test"])
    return data


def hidden_labels(axis):
    """Labels of ticks beyond the ends of an axis, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]


@pytest.mark.parametrize("name", ["A", "A_task_with_a_long_name_"])
@pytest.mark.parametrize("count", [2, 5, 16])
@pytest.mark.parametrize("make", [plots.weights_figure, plots.matrix_figure, plots.parts_figure, plots.scores_figure])
def test_labels_of_a_figure_do_not_collide(make, count, name):
    with rc_context(style(LIGHT)):
        figure = make(with_tasks(count, name), LIGHT)
        figure.draw_without_rendering()
    axes_of = [axis for axes in figure.findobj(Axes) for axis in (axes.xaxis, axes.yaxis)]
    beyond = {label for axis in axes_of for label in hidden_labels(axis)}
    texts = [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in beyond
    ]
    boxes = [(text.get_text(), text.get_rotation(), text.get_window_extent()) for text in texts]
    width, height = figure.get_size_inches() * figure.dpi
    outside = [
        text for text, _, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
    # Slanted labels lie in boxes that meet while the texts do not.
    level = [(text, box) for text, rotation, box in boxes if rotation in (0.0, 90.0)]
    pairs = itertools.combinations(level, 2)
    meeting = [(a, b) for (a, one), (b, other) in pairs if one.shrunk(0.94, 0.8).overlaps(other.shrunk(0.94, 0.8))]
    assert len(texts) > 2 * count and not outside and not meeting
