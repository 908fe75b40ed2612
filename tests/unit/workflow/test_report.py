"""The report: what it says, and that it can be read without anything beside it."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest
from report_example import TASKS, synthetic_data

from scripts_visatb.workflow import plots
from scripts_visatb.workflow.report import main, page_text, print_table, tables, write_report
from scripts_visatb.workflow.report_data import comparison, overall, read_weighting


class _Page(HTMLParser):
    """Collects the addresses a page would load and checks that its elements nest."""

    VOID = ("meta", "img", "br", "link", "input", "source")

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "srcset")]
        self.links += [value for name, value in attributes if name == "href"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(synthetic_data(), folder).read_text()


@pytest.fixture
def svg_alone(monkeypatch):
    """Figures are drawn in the formats that the page holds, in half of the time."""
    monkeypatch.setattr(plots, "FORMATS", {"svg": plots.FORMATS["svg"]})


def test_report_loads_nothing_from_outside(written):
    page = _Page()
    page.feed(written[1])
    assert not page.open
    assert len(page.loads) == 2 * 7, "each figure for light and for dark pages"
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.loads)
    assert not re.search(r"https?://|url\(|@import|<script", written[1])


def test_links_of_the_report_lead_to_files_and_sections_that_are_there(written):
    folder, text = written
    page = _Page()
    page.feed(text)
    lost = [link for link in page.links if link[0] != "#" and not (folder / link).is_file()]
    lost += [link for link in page.links if link[0] == "#" and f'id="{link[1:]}"' not in text]
    assert len(page.links) > 40 and not lost


def test_report_has_every_section_and_figure(written):
    folder, page = written
    sections = re.findall(r'<section id="(\w+)"', page)
    wanted = ["summary", "scores", "methods", "ablations", "weights", "matrix", "amounts", "seeds", "curves", "jobs"]
    assert sections == [*wanted, "data", "settings"]
    names = {"weights", "matrix", "weighting", "scores", "curves", "amounts", "timeline"}
    assert {path.name for path in folder.glob("*.???")} == {
        f"{n}.{kind}" for n in names for kind in ("png", "svg", "pdf")
    }
    assert page.index("Task weights with their intervals") < page.index('id="scores"'), "the first figure"
    written_tables = {path.name for path in (folder / "tables").iterdir()}
    wanted = ("weights", "methods", "ablations", "matrix")
    assert written_tables == {f"{name}.{suffix}" for name in wanted for suffix in ("md", "csv", "tex")}
    assert json.loads((folder / "report.json").read_text())["benchmark"] == "demo"


def test_weights_come_with_intervals_and_mark_those_that_may_be_1(written):
    folder, page = written
    section = page.split('<section id="weights">')[1].split("</section>")[0]
    rows = {name: section.split(f'<th scope="row">{name}</th>')[1].split("</tr>")[0] for name in TASKS}
    assert "0.70 .. 1.50" in rows["SceneCaption"] and "not distinguishable from 1" in rows["SceneCaption"]
    assert "not distinguishable" not in rows["RegionCaption"] and "not distinguishable" not in rows["TextChartQA"]
    assert "A task failed in 3 of 1000; clipped" in section
    assert "interval" in (folder / "tables/weights.md").read_text()


def test_tables_mark_the_best_of_each_column_in_all_layouts(written):
    folder, page = written
    assert "| TLA " in (folder / "tables/methods.md").read_text()
    assert r"\textbf{2.00}" in (folder / "tables/methods.tex").read_text()
    assert '<th scope="row">T-2</th>' in page.split('<section id="ablations">')[1]
    assert "<b>2.00</b>" in page


@pytest.mark.usefixtures("svg_alone")
def test_a_run_without_comparisons_and_intervals_is_reported_as_well(tmp_path):
    data = synthetic_data()
    data |= {"methods": comparison(data["test"], ["EW", "VisATB"]), "ablations": None, "amounts": {}}
    data["weighting"]["spread"] = None
    data["weighting"]["form"] = "simpler"
    data["matrix"]["rows"][0] = "base"
    data["seed_order"]["mean"] = {name: [1.0, 0.1] for name in TASKS}
    page = write_report(data, tmp_path).read_text()
    assert not any(f'id="{name}"' in page for name in ("methods", "ablations", "amounts"))
    assert "not distinguishable" not in page and "was not tuned" in page


def test_figures_of_the_same_data_are_the_same_bytes(written, tmp_path):
    write_report(synthetic_data(), tmp_path)
    for path in written[0].glob("*.???"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_names_in_the_data_cannot_inject_markup(tmp_path):
    data = synthetic_data()
    data["warnings"] = ["<script>alert(1)</script>"]
    data["benchmark"] = "</title><script>alert(1)</script>"
    data["settings"] = {"<b onload=x>": "<style>*{display:none}</style>"}
    page = page_text(data, no_figures(data), has_answers=True)
    assert "<script>" not in page and "<b onload" not in page and page.count("<style>") == 1
    assert "&lt;script&gt;" in page


def no_figures(data, *absent: str) -> dict:
    names = ("weights", "matrix", "weighting", "scores", "curves", "amounts", "timeline")
    return {name: (b"<svg/>", b"<svg/>") for name in names if name not in absent}


def test_report_without_training_logs_leaves_the_curves_out():
    data = synthetic_data()
    data["curves"] = {name: {} for name in data["curves"]}
    page = page_text(data, no_figures(data, "curves"), has_answers=False)
    assert 'id="curves"' not in page and '"#curves"' not in page


def test_scores_link_to_their_answers_only_where_that_page_is():
    data = synthetic_data()
    data["test"][0]["task"] = data["tasks"][0]["name"] = "A&B #1"
    data["weighting"]["tasks"] = data["matrix"]["columns"] = ["A&B #1", *TASKS[1:]]
    data |= {"overall": overall(data["test"]), "ablations": None}
    page = page_text(data, no_figures(data), has_answers=True)
    assert 'href="answers.html#task=A%26B+%231&amp;who=visatb"' in page
    assert "answers.html" not in page_text(data, no_figures(data), has_answers=False)


def test_tables_have_minus_signs_for_readers_and_hyphens_for_programs():
    data = synthetic_data()
    methods, weights = tables(data)["methods"], tables(data)["weights"]
    assert "**2.00** [0.90, 3.10]" in methods("markdown") and r"\textbf{2.00} [0.90, 3.10]" in methods("latex")
    assert "{$-$3.00} [$-$4.10, $-$1.90]" in methods("latex") and "\N{MINUS SIGN}3.00" in methods("markdown")
    header, *rows = csv.reader(methods("csv").splitlines())
    assert header[-6:] == [f"{name}{end}" for name in ("dI%", "dE%") for end in ("", " low", " high")]
    ew = next(row for row in rows if row[0] == "EW")
    assert [float(cell) for cell in ew[-6:]] == pytest.approx([-3.0, -4.1, -1.9, 3.0, 1.9, 4.1])
    low = next(row for row in csv.reader(weights("csv").splitlines()) if row[0] == "low")
    assert [float(cell) for cell in low[1:]] == data["weighting"]["spread"]["low"]["weight"]
    assert all(len(row) == len(header) for row in rows)


@pytest.mark.usefixtures("svg_alone")
def test_a_single_task_score_of_0_leaves_the_other_tasks_percentages(tmp_path, capsys):
    data = synthetic_data()
    data["test"][2]["STL"] = 0.0
    data["overall"] = overall(data["test"])
    data["methods"] = comparison(data["test"], ["EW", "TLA", "VisATB"])
    assert data["overall"]["VisATB"]["tasks"] == pytest.approx(
        {name: None if name == "ShapeVQA" else 2.0 for name in TASKS}
    )
    assert data["overall"]["VisATB"]["dI"] == pytest.approx(2.0)
    reported = "scores 0 on ShapeVQA: no percentage there; dI% and dE% are over the other tasks"
    assert reported in write_report(data, tmp_path).read_text()
    print_table(data, tmp_path)
    assert reported in capsys.readouterr().out
    assert "scores 0 on ShapeVQA" in (tmp_path / "tables/methods.md").read_text()


@pytest.mark.usefixtures("svg_alone")
def test_single_task_scores_of_zero_on_all_tasks_give_a_report(tmp_path, capsys):
    data = synthetic_data()
    for row in data["test"]:
        row["STL"] = 0.0
    data["overall"], data["methods"], data["ablations"] = overall(data["test"]), None, None
    data["overall_spread"] = {"about": "no intervals", "models": {}}
    assert data["overall"] == {"EW": None, "VisATB": None}
    assert "scores 0 on SceneCaption" in write_report(data, tmp_path).read_text()
    print_table(data, tmp_path)
    assert "scores 0 on SceneCaption" in capsys.readouterr().out


@pytest.mark.usefixtures("svg_alone")
def test_tasks_left_out_stay_visible_in_terminal_report_and_tables(tmp_path, capsys):
    data = synthetic_data()
    about = "ShapeVQA scores 0.39 with its own data (ShapeVQA) and 0.4 without (mini): it is left out, with weight 1"
    weighting = data["weighting"]
    weighting["failed"] = [{"task": "ShapeVQA", "own": 0.39, "without": 0.4, "weighed": False, "about": about}]
    weighting["tasks"] = [name for name in TASKS if name != "ShapeVQA"]
    for values in (weighting, weighting["spread"]["low"], weighting["spread"]["high"]):
        for name, value in values.items():
            if isinstance(value, list) and len(value) == 5 and name not in ("tasks", "failed"):
                values[name] = [row[:2] + row[3:] if isinstance(row, list) else row for row in value[:2] + value[3:]]
    weighting["weights"]["ShapeVQA"] = 1.0
    page = write_report(data, tmp_path).read_text()
    assert "left out: 0.39 with its own data, 0.4 without" in page and f"{about}." in page
    header, _, *rows = (tmp_path / "tables/weights.md").read_text().splitlines()
    assert "ShapeVQA (left out)" in header and "1.0000 |" in rows[3]
    print_table(data, tmp_path)
    shown = capsys.readouterr().out
    assert re.search(r"^ *ShapeVQA .* left out ", shown, re.MULTILINE) and about in shown


@pytest.mark.usefixtures("svg_alone")
def test_a_run_of_an_earlier_version_is_reported_without_weighing_again(tmp_path, capsys, monkeypatch):
    data = synthetic_data()
    old = data["weighting"]
    del old["failed"], old["spread"]["rule"], old["spread"]["low"]["weight_difference"]
    (tmp_path / "weights.json").write_text(json.dumps(old))
    data["weighting"] = read_weighting(tmp_path / "weights.json")
    spread = data["weighting"]["spread"]
    assert spread["low"]["weight_difference"][3][1] == pytest.approx(1.05 - 0.9)
    assert spread["error"]["weight"][0] == pytest.approx(0.4)
    assert "those are left out" in write_report(data, tmp_path).read_text()
    del data["overall_spread"]
    (tmp_path / "report.json").write_text(json.dumps(data | {"weighting": old}))
    monkeypatch.setattr("sys.argv", ["report", "--run", str(tmp_path), "--print-table"])
    main()
    assert "Without intervals this order may be chance" in capsys.readouterr().out


def test_print_table_reads_report_json(written, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", "--run", str(written[0]), "--print_table"])
    main()
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*TASKS, "dI%", "dE%", "report.html"])
