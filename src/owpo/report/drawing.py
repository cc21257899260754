"""How figures look, on the page and on paper: colours, marks, and the way into SVG and PDF.

On the page a figure is SVG inside the HTML. Its text stays text, and its colours become variables of the page, which it
follows into the dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from owpo.report.series import some_of

# Okabe and Ito's colours, which the colour-blind tell apart; every series has a mark or a dash of its own too.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#3a86c8", "#b2182b", "#555555")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.4)),
    (0, (6, 2, 1, 2)),
    "-",
    (0, (5, 2)),
    (0, (1, 1.4)),
    "-",
)
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, MUTED, RULE = "#1a1a1b", "#6b6b6c", "#d8d8d9"
ACCELERATED, LOCKED = "#0072b3", "#d55e01"  # a shade of their own: the page has variables for them
_VARIABLES = {
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES)},
    INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCELERATED: "--accelerated", LOCKED: "--locked",
}  # fmt: skip

WIDE, NARROW, PANEL = (7.6, 3.4), (3.9, 3.6), (3.9, 2.3)  # inches
_MOST_ROWS = 60

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "owpo",
    "pdf.fonttype": 42,  # text that can be searched and edited
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Chart:
    """A figure with what it says and its numbers.

    name     of its file
    title    what is shown
    says     the same in a sentence, for who cannot see it
    draw     draws it on an empty figure
    size     width and height in inches: on paper, and in a wide window
    narrow   for a phone; None where `size` is narrow already
    columns, rows  its data
    """

    name: str
    title: str
    says: str
    draw: Callable[[Figure], None]
    size: tuple[float, float]
    narrow: tuple[float, float] | None = None
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def save(self, folder: Path) -> list[Path]:
        """Write it as SVG and as PDF; the same numbers give the same bytes."""
        files = [folder / f"{self.name}.svg", folder / f"{self.name}.pdf"]
        with _figure(self.draw, self.size) as figure:
            figure.savefig(files[0], metadata={"Date": None, "Title": self.title})
            figure.savefig(files[1], metadata={"CreationDate": None, "Title": self.title})
        return files

    def save_svg(self, folder: Path) -> Path:
        """Write it as SVG on white, for a page whose colours are not ours; the same numbers give the same bytes."""
        file = folder / f"{self.name}.svg"
        with _figure(self.draw, self.size) as figure:
            figure.savefig(file, metadata={"Date": None, "Title": self.title}, facecolor="white")
        return file

    def svgs(self) -> list[tuple[str, str]]:
        """(for which width, SVG to stand in HTML): "any", or "wide" and "narrow"."""
        if self.narrow is None:
            return [("any", self._svg(self.size, "any"))]
        return [("wide", self._svg(self.size, "wide")), ("narrow", self._svg(self.narrow, "narrow"))]

    def _svg(self, size: tuple[float, float], width: str) -> str:
        with _figure(self.draw, size) as figure:
            stream = io.StringIO()
            figure.savefig(
                stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Type", "Format"))
            )
        return _for_page(stream.getvalue(), f"{self.name}-{width}", self.says)


@contextmanager
def _figure(draw: Callable[[Figure], None], size: tuple[float, float]) -> Iterator[Figure]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        yield figure


def _for_page(svg: str, prefix: str, says: str) -> str:
    """The <svg> element alone, with ids of its own, the page's colours and font, and a name for who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'(xlink:href=")#', rf"\1#{prefix}-", svg)
    svg = re.sub(r"#[0-9a-f]{6}", lambda found: _variable(found[0]), svg)
    svg = svg.replace("'DejaVu Sans'", "var(--sans)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(says)}"', 1)


def _variable(colour: str) -> str:
    return f"var({_VARIABLES[colour]})" if colour in _VARIABLES else colour


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def some(rows: list[Any], tables: int = 1) -> list[Any]:
    """Rows for a table that shares its place with others: of many, evenly spaced ones."""
    return some_of(rows, max(2, _MOST_ROWS // max(1, tables)))


def style(number: int) -> dict[str, Any]:
    """Line style of series `number`."""
    return {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)]}


def mark(number: int) -> str:
    """Its mark: another one where the colours begin anew."""
    return MARKS[(number + number // len(SERIES)) % len(MARKS)]
