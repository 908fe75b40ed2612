"""The report: what it says, and that it can be read without anything beside it."""

import copy
import csv
import json
import math
import random
import re
from html.parser import HTMLParser

import pytest

from scripts_visatb.workflow.findings import overall_sentences, seed_sentence, weight_sentence
from scripts_visatb.workflow.report import duration, main, page_text, print_table, tables, write_report
from scripts_visatb.workflow.report_data import comparison, curves, jobs, overall, read_weighting

TASKS = ["SceneCaption", "RegionCaption", "ShapeVQA", "TextChartQA", "Grounding"]
METRICS = ["CIDEr", "CIDEr", "exact match", "exact match", "IoU > 0.5"]


def synthetic_data() -> dict:
    """A made-up run of five tasks, as report.json holds it."""
    rng = random.Random(0)
    mini = [1.4, 0.9, 0.42, 0.31, 0.2]
    own = [2.3, 1.5, 0.71, 0.58, 0.44]
    share = [[1.0 if i == j else rng.uniform(-0.25, 0.5) for j in range(5)] for i in range(5)]
    values = [mini] + [[mini[j] + share[i][j] * (own[j] - mini[j]) for j in range(5)] for i in range(5)]
    test = []
    for name, metric, score in zip(TASKS, METRICS, own, strict=True):
        row = {"task": name, "metric": metric, "records": 200, "STL": score, "EW": score * 0.97, "VisATB": score * 1.02}
        row |= {"TLA": score * 0.9, "T-2": score * 1.01, "also": {}}
        test.append(row | {"difference": row["VisATB"] - row["EW"], "standard_error": 0.02})
    final = [1.31, 0.78, 0.92, 1.12, 0.87]
    spread = {"about": "95 % of 1000 resamples", "failed": 3, "total": 1000, "rule": "clipped", "low": {}, "high": {}}
    for quantity in ("contribution_out", "contribution_in", "difficulty", "weight"):
        spread["low"][quantity] = [0.7, 0.6, 0.8, 1.05, 0.9]
        spread["high"][quantity] = [1.5, 0.9, 1.1, 1.3, 1.2]
    spread["low"]["weight_difference"] = [[-0.1] * 5 for _ in TASKS]
    weighting = {
        "failed": [],
        "form": "standard",
        "spread": spread,
        "tasks": TASKS,
        "temperature": 0.5,
        "alpha": [0.25, 0.25, 0.5],
        "contributions": share,
        "contribution_out": [0.2, 0.1, 0.15, 0.05, -0.02],
        "contribution_in": [0.1, 0.2, 0.05, 0.15, -0.02],
        "difficulty": [0.39, 0.4, 0.41, 0.47, 0.55],
        "weight_out": [1.2, 0.9, 1.0, 0.95, 0.95],
        "weight_in": [1.1, 0.8, 1.05, 0.95, 1.1],
        "weight_difficulty": [0.9, 0.95, 1.0, 1.05, 1.1],
        "weights": dict(zip(TASKS, final, strict=True)) | {"Chat": 1.0},
    }
    models = [*(("STL-" + name) for name in TASKS), "EW", "VisATB"]
    loss = {
        name: {
            model: [[s / 100, 3 * math.exp(-s / 40) + 0.4 + rng.uniform(0, 0.1)] for s in range(1, 301)]
            for model in models
            if model in ("EW", "VisATB", "STL-" + name)
        }
        for name in [*TASKS, "Chat"]
    }
    kinds = ["prepare", "subsets", *(["train", "infer", "score"] * 13), "matrix", "weights"]
    ran = [
        {
            "name": f"{kind} {n}",
            "kind": kind,
            "started": 6.0 * n,
            "seconds": 25.0 if kind == "train" else 4.0,
            "peak_mib": 700,
        }
        for n, kind in enumerate(kinds)
    ]
    return {
        "benchmark": "demo",
        "tasks": [
            {"name": name, "metric": metric, "weight": None, "group": None}
            for name, metric in zip(TASKS, METRICS, strict=True)
        ]
        + [{"name": "Chat", "metric": None, "weight": 1.0, "group": None}],
        "seeds": [0],
        "matrix": {"columns": TASKS, "rows": ["mini", *TASKS], "values": values},
        "weighting": weighting,
        "test": test,
        "overall": overall(test),
        "overall_spread": {
            "about": "95% interval over 1000 resamples of the test records",
            "models": {
                "EW": {"dI": [-4.1, -1.9], "dI_error": 0.56, "dE": [1.9, 4.1], "dE_error": 0.56},
                "VisATB": {"dI": [0.9, 3.1], "dI_error": 0.57, "dE": [0.0, 0.4], "dE_error": 0.1, "gap": [3.9, 6.1]},
            },
        },
        "methods": comparison(test, ["EW", "TLA", "VisATB"]),
        "ablations": comparison(test, ["EW", "VisATB", "T-2"]),
        "ablation_weights": {name: dict(zip(TASKS, final, strict=True)) for name in ("VisATB", "T-2")},
        "amounts": {
            name: [[0.0, 0.0], [0.125, 0.5 * score], [1.0, score]] for name, score in zip(TASKS, own, strict=True)
        },
        "seed_order": {
            "rows": [
                {
                    "seed": 0,
                    "weights": dict(zip(TASKS, final, strict=True)),
                    "highest": TASKS[0],
                    "lowest": TASKS[1],
                }
            ],
            "mean": None,
            "highest_holds": True,
            "lowest_holds": True,
        },
        "curves": loss,
        "jobs": ran,
        "subsets": [
            {
                "name": "mini",
                "file": "demo-mini_train-998.json",
                "records": 998,
                "tasks": dict.fromkeys([*TASKS, "Chat"], 166),
            }
        ],
        "evaluation_records": {"val": dict.fromkeys(TASKS, 200), "test": dict.fromkeys(TASKS, 200)},
        "warnings": [],
        "settings": {"temperature T": "0.5"},
        "versions": {"Python": "3.11"},
    }


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


def test_report_says_plainly_when_visatb_is_worse():
    data = synthetic_data()
    for row in data["test"]:
        row["EW"], row["VisATB"], row["difference"] = row["VisATB"], row["EW"], -row["difference"]
    data["overall"] = overall(data["test"])
    data["overall_spread"]["models"]["VisATB"]["gap"] = [-6.1, -3.9]
    sentences = overall_sentences(data)
    assert "VisATB did not help in this run: it is behind equal weights by 5.00 points" in sentences[0]
    assert sentences[0].endswith("the 95% interval of the difference is -6.10 .. -3.90.")
    assert "higher than equal weights on 0 of 5 tasks and lower on 5" in sentences[-1]
    assert "clearly worse on SceneCaption" in sentences[-1] and "better" not in sentences[-1]


def test_report_says_in_which_direction_clear_differences_go():
    data = synthetic_data()
    for row, difference in zip(data["test"], (0.05, -0.21, 0.03, -0.001, 0.2), strict=True):
        row["difference"] = difference
    sentences = overall_sentences(data)
    assert sentences[0].startswith("VisATB is ahead of equal weights by 5.00 points")
    assert "on 3 of 5 tasks and lower on 2" in sentences[-1]
    assert "clearly better on SceneCaption, Grounding, clearly worse on RegionCaption (by more" in sentences[-1]
    assert sentences[-1].endswith("on the others the difference may be chance.")
    for row in data["test"]:
        row["standard_error"] = 1.0
    assert "each may be chance" in overall_sentences(data)[-1]


def test_a_gap_whose_interval_contains_0_is_said_to_be_chance():
    data = synthetic_data()
    data["overall_spread"]["models"]["VisATB"]["gap"] = [-0.2, 10.2]
    assert "-0.20 .. +10.20, which contains 0: it may be chance" in overall_sentences(data)[0]
    data["overall_spread"] = {"about": "no intervals: bootstrap is 0", "models": {}}
    assert "interval" not in overall_sentences(data)[0]


def test_a_single_task_score_of_0_leaves_the_other_tasks_percentages(tmp_path, capsys):
    data = synthetic_data()
    data["test"][2]["STL"] = 0.0
    data["overall"] = overall(data["test"])
    data["methods"] = comparison(data["test"], ["EW", "TLA", "VisATB"])
    assert data["overall"]["VisATB"]["tasks"] == pytest.approx(
        {name: None if name == "ShapeVQA" else 2.0 for name in TASKS}
    )
    assert data["overall"]["VisATB"]["dI"] == pytest.approx(2.0)
    reported = "scores 0 on ShapeVQA: no change in percent there; dI% and dE% are over the other tasks"
    assert reported in write_report(data, tmp_path).read_text()
    print_table(data, tmp_path)
    assert reported in capsys.readouterr().out
    assert "scores 0 on ShapeVQA" in (tmp_path / "tables/methods.md").read_text()


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


def test_overall_is_equation_9():
    rows = [
        {"task": "a", "STL": 2.0, "EW": 1.0, "VisATB": 2.5},
        {"task": "b", "STL": 0.5, "EW": 0.6, "VisATB": 0.4},
    ]
    found = overall(rows)
    assert found["EW"]["dI"] == pytest.approx(100 * (-0.5 + 0.2) / 2)
    assert found["EW"]["dE"] == pytest.approx(25.0)
    assert found["VisATB"]["tasks"] == pytest.approx({"a": 25.0, "b": -20.0})


def test_seed_sentence_separates_one_seed_holding_and_changing():
    data = synthetic_data()
    assert "One seed (0)" in seed_sentence(data)
    order = data["seed_order"]
    order["rows"].append(copy.deepcopy(order["rows"][0]) | {"seed": 1})
    assert seed_sentence(data).startswith("The order holds over the seeds 0, 1")
    order["rows"][1]["lowest"] = "Grounding"
    order["lowest_holds"] = False
    sentence = seed_sentence(data)
    assert sentence.startswith("The order does not hold")
    assert "lowest weight CHANGES: RegionCaption with seed 0, Grounding with seed 1" in sentence


def test_weights_are_ranked_only_as_far_as_their_intervals_allow():
    data = synthetic_data()
    weighting = data["weighting"]
    # by part: SceneCaption 1.025, RegionCaption 0.9, ShapeVQA 1.0125, TextChartQA 1.0, Grounding 1.0625
    assert weight_sentence(data).startswith("No weight can be distinguished from another: Grounding got the highest")
    above = weighting["spread"]["low"]["weight_difference"]
    for n in (0, 2, 4):
        above[n][1] = 0.01
    assert weight_sentence(data) == (
        "Grounding got the highest weight (1.06), not distinguishable from SceneCaption, ShapeVQA, TextChartQA; "
        "RegionCaption got the lowest weight (0.90), not distinguishable from TextChartQA. 1 would be an equal share."
    )
    above[4] = [0.01, 0.01, 0.01, 0.01, 0.0]
    assert "highest weight (1.06); RegionCaption" in weight_sentence(data)
    weighting["spread"] = None
    assert weight_sentence(data).endswith("Without intervals this order may be chance.")


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


def test_curves_average_long_logs_and_skip_absent_losses(tmp_path):
    from types import SimpleNamespace

    task = SimpleNamespace(name="a", measured=True)
    run = SimpleNamespace(benchmark=SimpleNamespace(tasks=[task], measured=[task]), model=lambda name: tmp_path / name)
    (tmp_path / "EW").mkdir()
    lines = [
        {"step": n, "epoch": n / 100, "tasks": {"a": {"loss": None if n == 0 else 2.0, "weight": 1, "tokens": 3}}}
        for n in range(1001)
    ]
    (tmp_path / "EW" / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = curves(run)["a"]
    assert list(found) == ["EW"]
    assert len(found["EW"]) == 200
    assert found["EW"][0] == pytest.approx([0.03, 2.0])


def test_jobs_are_in_order_of_start_and_hidden_files_are_left_out(tmp_path):
    done = tmp_path / "done"
    done.mkdir()
    for name, started in (("train_b", 7.0), ("train_a", 5.0)):
        record = {"name": name, "started": started, "seconds": 1.0, "peak_mib": 2.0, "command": [], "log": ""}
        (done / f"{name}.json").write_text(json.dumps(record))
    (done / ".train_a.json.x.part").write_text("half")
    found = jobs(tmp_path, [])
    assert [(job["name"], job["started"], job["kind"]) for job in found] == [
        ("train_a", 0.0, "train"),
        ("train_b", 2.0, "train"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (245, "4 min 05 s"), (3600 * 3 + 20 * 60, "3 h 20 min")]
)
def test_duration_is_readable(seconds, text):
    assert duration(seconds) == text
