"""Takes the pictures of a run's pages and of its last lines on the terminal, by a headless Chromium.

    python -m scripts_visatb.pictures.screenshots runs/demo --output docs/pictures

Writes report.png, report-dark.png and answers.png (windows of 1280 x 860), answers-phone.png (400 wide), terminal.png,
each below 300 kB, and report.pdf, the printed report. Chromium or Chrome must be installed.
"""

import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json, replacing, write_text

MOST_BYTES = 300_000
_TERMINAL = """<!DOCTYPE html><meta charset="utf-8"><style>
body {{ margin: 0; background: #1b2028; }}
pre {{ margin: 0; padding: 18px 22px; color: #e4e8ee; font: 15px/1.35 "DejaVu Sans Mono", monospace; }}
pre {{ white-space: pre-wrap; }}
pre b {{ color: #6fd69c; font-weight: 400; }}
</style><pre><b>$ bash quickstart.sh</b>
{}</pre>"""


@dataclass(frozen=True)
class Shot:
    """A window on a page.

    Attributes:
        page: file of the run.
        width, height: of the window.
        dark: the reader's colour scheme.
        place: what the address ends in.
    """

    page: str
    width: int = 1280
    height: int = 860
    dark: bool = False
    place: str = ""


SHOTS = {
    "report": Shot("report.html"),
    "report-dark": Shot("report.html", dark=True),
    "answers": Shot("answers.html", place="#who=differ"),
    "answers-phone": Shot("answers.html", width=400, height=860, place="#who=differ"),
}


def take(folder: Path, output: Path, boxes_of: str | None = None) -> list[Path]:
    """Take all pictures of a finished run; returns their files.

    Args:
        folder: of the run.
        output: folder of the pictures.
        boxes_of: task whose answers the picture of answers.html shows; all by default.
    """
    from scripts_visatb.pictures.browser import browser

    for shot in SHOTS.values():
        if not (folder / shot.page).is_file():
            raise InputError(f"{folder / shot.page}: not there. Give the folder of a finished run.")
    written = []
    with browser() as started:
        page = started.page()
        for name, shot in SHOTS.items():
            task = f"&task={boxes_of}" if boxes_of and shot.place else ""
            address = (folder / shot.page).resolve().as_uri() + shot.place + task
            page.open(address, shot.width, shot.height, shot.dark)
            written.append(write_small(output / f"{name}.png", lambda file: page.screenshot(file, whole=False)))
        page.open(folder / "report.html")
        with replacing(output / "report.pdf") as part:
            page.pdf(part)
        screen = output / ".terminal.html"
        write_text(screen, terminal_page(folder))
        page.open(screen, width=780, height=200)
        written.append(write_small(output / "terminal.png", page.screenshot))
        screen.unlink()
    return [*written, output / "report.pdf"]


def terminal_page(folder: Path) -> str:
    """The last lines of a run as a page that looks like a terminal."""
    from rich.console import Console

    from scripts_visatb.workflow.report import print_table

    with io.StringIO() as text:
        data = {"overall_spread": {"models": {}}} | read_json(folder / "report.json")
        print_table(data, folder / "report.html", Console(file=text, width=80, highlight=False))
        return _TERMINAL.format(html.escape(text.getvalue()))


def write_small(file: Path, take_one: Callable[[Path], None]) -> Path:
    """Write a picture of at most MOST_BYTES: with fewer colours where that is needed; returns its file."""
    from PIL import Image

    with replacing(file) as part:
        take_one(part)
        for colors in (256, 64, 16):
            if part.stat().st_size <= MOST_BYTES:
                break
            with Image.open(part) as picture:
                few = picture.convert("RGB").quantize(colors)
            few.save(part, format="PNG", optimize=True)
    return file


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--task", help="task whose answers are shown; all by default")
    args = parser.parse_args()
    for file in take(args.run, args.output, args.task):
        print(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    run(main)
