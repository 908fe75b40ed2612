"""The pages of a run in a real browser: nothing breaks, nothing is wider than the page, no answer runs as code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from toy_graph import make_toy, run_graph

from scripts_visatb.pictures.browser import browser, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")

# What a model, or somebody's annotation file, may hold. Each would set `pwned` or hide the page if it ran.
HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 2">',
    "' onmouseover='window.pwned = 3' autofocus onfocus='window.pwned = 3",
    "</dd></dl></article></section></main><style>body { display: none }</style>",
    "</script><script>window.pwned = 4</script><!--",
    "{{ 7 * 191 }}{% raw %}<svg onload=window.pwned=5>",
    "javascript:window.pwned=6 \u202e \u0000 &lt;b&gt;",
    "<base href=https://example.invalid/><iframe srcdoc='<script>parent.pwned=7</script>'>" + "W" * 4000,
)
IMAGE = "o'ne\"><b onload=x>&.png"


# Texts with a contrast below 4.5 to the colour they stand on (WCAG 2.2), which axe cannot judge over a gradient.
PALE = """
(() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => channels(color).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.body.querySelectorAll("*")].filter(element => {
    const text = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!text || !element.offsetHeight || element.closest("script, style, option")) return false;
    const [a, b] = [getComputedStyle(element).color, ground(element)].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map(element => element.outerHTML.slice(0, 120));
})()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository) -> Path:
    """A finished toy run whose answers, ids, questions and image names are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    make_toy(folder)
    Image.new("RGB", (90, 40), "teal").save(folder / "images" / IMAGE)
    for n, file in enumerate(sorted((folder / "data").glob("*_test-*.json"))):
        records = json.loads(file.read_text())
        for k, record in enumerate(records):
            record["id"] = f"{k}{HOSTILE[k % 8][:60]}"
            record["image"] = IMAGE
            record["conversations"][0]["value"] += HOSTILE[(k + n) % 8]
        file.write_text(json.dumps(records))
    script = folder / "infer.py"
    said = f'(["[0.1, 0.1, 0.9, 0.5]"] + {list(HOSTILE)!r})[int(draw * 997) % 9]'
    script.write_text(script.read_text().replace('"no idea"', said))
    run_graph(folder, repository)
    return folder / "runs/toy"


@pytest.fixture(scope="module")
def tab():
    with browser() as started:
        yield started.page()


@pytest.fixture
def page(tab):
    """The tab, which must have nothing to complain about at the end."""
    yield tab
    assert tab.errors == []
    assert tab.evaluate("window.pwned") is None


@pytest.mark.parametrize("name", ["report", "answers"])
@pytest.mark.parametrize("width, dark", [(400, False), (1400, True)])
def test_pages_fit_their_window_and_show_text_on_its_ground(page, folder, name, width, dark):
    page.open(folder / f"{name}.html", width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    background = page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert background == ("rgb(27, 32, 40)" if dark else "rgb(255, 255, 255)")
    shown = page.evaluate("[...document.images].map(i => i.currentSrc)[0]")
    light = page.evaluate("document.images[0].getAttribute('src')")
    assert (shown != light) == (dark and name == "report"), "figures have a dark version"


def test_waiting_outlasts_a_navigation_in_the_middle_of_a_question(page, folder):
    page.open(folder / "report.html")
    page.wait("location.pathname.endsWith('answers.html') || new Promise(() => location.assign('answers.html'))")
    assert page.evaluate("document.querySelector('output') !== null")


def test_a_cell_of_the_report_leads_to_its_answers_which_can_be_filtered(page, folder):
    page.open(folder / "report.html")
    cell = "document.querySelector('#scores tbody tr:nth-child(2) td:nth-child(6) a')"
    assert (
        page.evaluate(f"{cell}.textContent")
        == f"{json.loads((folder / 'report.json').read_text())['test'][1]['VisATB']:.4f}"
    )
    page.evaluate(f"{cell}.click()")
    page.wait("location.pathname.endsWith('answers.html') && document.readyState === 'complete'")
    cards = "[...document.querySelectorAll('article')].filter(card => card.offsetHeight > 0)"
    shown = f"{cards}.map(card => [card.closest('section').dataset.task, card.dataset.outcome].join())"
    assert set(page.evaluate(shown)) == {"Box,visatb"}
    few = page.evaluate(f"{cards}.length")
    assert page.evaluate("document.querySelector('output').textContent") == f"{few} of 80 records"

    def choose(name: str, value: str) -> set[str]:
        pick = f"document.querySelector('select[name={name}]')"
        page.evaluate(f"{pick}.value = '{value}'; {pick}.dispatchEvent(new Event('change', {{bubbles: true}}))")
        return set(page.evaluate(shown))

    assert choose("who", "differ") == {"Box,visatb", "Box,ew"}
    assert choose("task", "") == {"Box,visatb", "Box,ew", "Vqa,visatb", "Vqa,ew"}
    assert page.evaluate("location.hash") == "#who=differ"
    page.evaluate("document.querySelector('button[type=reset]').click()")
    page.wait(f"{cards}.length === 80")
    page.evaluate("location.hash = '#task=Vqa&who=wrong'")
    page.wait(f"{shown}.every(kind => kind === 'Vqa,wrong')")


def test_hostile_answers_are_shown_as_the_text_they_are(page, folder):
    page.open(folder / "answers.html")
    page.evaluate("for (const e of document.querySelectorAll('*')) e.dispatchEvent(new MouseEvent('mouseover'))")
    text = page.evaluate("document.body.textContent")
    for attack in HOSTILE[:6]:
        assert attack in text
    assert page.evaluate("document.querySelectorAll('main script, main style, iframe, base, b[onload]').length") == 0
    assert page.evaluate("document.querySelectorAll('article').length") == 80
    assert page.evaluate("document.querySelectorAll('rect.visatb').length") > 0
    assert (folder / "answers.html").stat().st_size < 20_000_000


@pytest.mark.parametrize("name", ["report", "answers"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_follow_the_rules_of_accessibility(page, folder, name, dark):
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    page.open(folder / f"{name}.html", dark=dark)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(heading => +heading.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.evaluate("[...document.images].every(image => image.alt.length > 5)")
    assert page.evaluate(PALE) == []
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run().then(found => found.violations.map(v => [v.id, v.nodes[0].html]))")
    assert found == []


@pytest.mark.parametrize("name", ["report", "answers"])
def test_printed_pages_are_black_on_white_and_have_no_controls(page, folder, tmp_path, name):
    page.open(folder / f"{name}.html", width=760)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.send("Emulation.setEmulatedMedia", media="print", features=dark)
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.evaluate("[...document.images].every(i => i.currentSrc === i.getAttribute('src'))"), "dark figures"
    hidden = "[...document.querySelectorAll('nav, .filters')].every(e => getComputedStyle(e).display === 'none')"
    assert page.evaluate(hidden)
    page.send("Emulation.setEmulatedMedia", media="")
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_look_writes_the_page_of_a_finished_run(folder, repository, tmp_path):
    run = Path(shutil.copytree(folder, tmp_path / "toy"))
    written = (run / "answers.html").read_bytes()
    (run / "answers.html").unlink()
    command = [sys.executable, "-m", "visatb", "look", str(run)]
    done = subprocess.run(command, cwd=folder.parents[1], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{run}/answers.html\n", done.stderr
    assert (run / "answers.html").read_bytes() == written


def test_a_report_is_written_without_answers_and_says_why(folder, repository, tmp_path):
    run = Path(shutil.copytree(folder, tmp_path / "toy"))
    (answers,) = run.glob("seed0/answers/EW_test/Box*_EW.json")
    answers.unlink()
    command = [sys.executable, "-m", "scripts_visatb.workflow.report", "--benchmark", "toy.yaml", "--run", str(run)]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=folder.parents[1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Answers to look at" not in done.stdout, done.stderr
    page = (run / "report.html").read_text()
    assert f"there is no page of answers: {answers}: no such file" in page and "answers.html" not in page
    assert not (run / "answers.html").exists()


def test_pictures_of_a_run_are_drawn_and_taken(folder, repository, tmp_path):
    command = [sys.executable, "-m", "scripts_visatb.pictures.screenshots", str(folder), "--output", str(tmp_path)]
    subprocess.run(command, cwd=repository, check=True)
    names = ("report", "report-dark", "answers", "answers-phone", "terminal")
    sizes = {}
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as picture:
            sizes[name] = picture.size
            assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096)) > 20, "an empty picture"
        assert (tmp_path / f"{name}.png").stat().st_size <= 300_000
    assert sizes["report"] == sizes["answers"] == (1280, 860) and sizes["answers-phone"] == (400, 860)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in tmp_path.iterdir()} == {*(f"{name}.png" for name in names), "report.pdf"}


def test_the_picture_of_contributions_is_made_for_light_and_dark_pages(folder, repository, tmp_path):
    command = [sys.executable, "-m", "scripts_visatb.pictures.contributions", str(folder), "--output"]
    subprocess.run([*command, str(tmp_path / "c.svg")], cwd=repository, check=True)
    texts = [(tmp_path / name).read_text() for name in ("c.svg", "c-dark.svg")]
    assert texts[0] != texts[1] and all("<svg" in text and len(text) < 300_000 for text in texts)
    done = subprocess.run([*command, "c.gif"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and "must end in .svg" in done.stderr
