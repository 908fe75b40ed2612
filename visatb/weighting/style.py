"""How the figures look: colours for light and for dark pages, and matplotlib's settings.

The colours stay distinct for colour-blind readers (a test simulates the three kinds) and keep a contrast of 3 to the
paper. They are taken or darkened from Okabe and Ito's palette, https://jfly.uni-koeln.de/color/.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Attributes:
        ink, muted, grid, paper: of text, minor text and whiskers, grid lines, background.
        blank: of a cell that is not compared.
        diverging: from negative over 0 to positive.
        series: colour by quantity, model or kind of job.
        cycle: of lines without a colour of their own.
    """

    ink: str
    muted: str
    grid: str
    paper: str
    blank: str
    diverging: tuple[str, ...]
    series: dict[str, str]
    cycle: tuple[str, ...]


def _series(dark: str, light: str, grey: str, strong: str) -> dict[str, str]:
    """A dark and a light blue, a grey, and the one that stands out."""
    return {
        **{"out": dark, "in": light, "difficulty": grey, "weight": strong},
        **{"STL": grey, "EW": dark, "VisATB": strong},
        **{"train": strong, "infer": dark, "score": light, "matrix": light, "weights": light},
        **{"prepare": grey, "subsets": grey},
    }


LIGHT = Theme(
    ink="#1f2733",
    muted="#56616d",
    grid="#dfe4ea",
    paper="#ffffff",
    blank="#d9dce0",
    diverging=("#0b5394", "#9cc3e5", "#f7f7f7", "#f3b591", "#b34700"),
    series=_series("#0b5394", "#4a9fdc", "#7a828c", "#d55e00"),
    cycle=("#0b5394", "#d55e00", "#7a828c", "#4a9fdc", "#9a5c00", "#8f4f80", "#00805c", "#1f2733"),
)
DARK = Theme(
    ink="#e4e8ee",
    muted="#a3adb9",
    grid="#343c47",
    paper="#1b2028",
    blank="#3a424d",
    diverging=("#6db8f2", "#2f5f88", "#262c35", "#8a4a1c", "#ff9a57"),
    series=_series("#3f8fd6", "#a9d8ff", "#8a929c", "#ff8c42"),
    cycle=("#6db8f2", "#ff8c42", "#8a929c", "#a9d8ff", "#d9a300", "#d58cc4", "#3fbf95", "#e4e8ee"),
)


def style(theme: Theme) -> dict[str, Any]:
    """matplotlib's settings (rcParams) of a theme."""
    from cycler import cycler

    return {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.ink,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlecolor": theme.ink,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=theme.cycle),
        "text.color": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "grid.color": theme.grid,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.hashsalt": "visatb",  # names inside an SVG file are the same in every run
    }


def readable_on(color: tuple[float, ...]) -> str:
    """Black or white, whichever has the higher contrast to a colour (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    luminance = sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if luminance > 0.179 else "#ffffff"
