"""Charts as inline SVG that takes its colours and fonts from the page around it.

Matplotlib writes a file of its own with fixed colours; a page with two themes needs an element. So what it draws uses
one stand-in for each colour of the palette, which becomes a CSS variable, and what only a file needs is cut off.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = tuple(f"c{n}" for n in range(1, 9))
"""Names of the colours of lines, by which legends mean them."""

_NAMES = ("ink", "muted", "line", *SERIES)
COLORS = {name: f"#0a0b{n:02x}" for n, name in enumerate(_NAMES)}
"""Stand-ins for the palette: what `axes.plot(…, color=COLORS["c1"])` takes."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "orchestrator",
    "text.parse_math": False,  # a class may be called `$x`
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": COLORS["ink"],
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["muted"],
    "axes.titlecolor": COLORS["muted"],
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # finding a place for the title measures every label
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": COLORS["line"],
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}
WIDTH, HEIGHT = 4.5, 2.9
WIDE = 8.6
"""Inches of 72 units; a unit is about a pixel on a phone, so that text of 10 stays legible there."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.60, 0.12, 0.32, 0.52
"""Margins in inches: fixed ones, for a layout that measures texts takes as long as the drawing."""


def draw(
    name: str,
    alt: str,
    paint: Callable[[Axes], None],
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
    left: float = _LEFT,
) -> Markup:
    """An `<svg>` element of what `paint` draws.

    Args:
        name: tells this chart's ids from those of others; it stands in the page as it is, so it must be our own.
        alt: the alternative text.
        paint: draws on the axes, with colours of `COLORS` alone.
        width, height: in inches.
        left: margin in inches.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        canvas: Any = FigureCanvasSVG(figure)
        box = (left / width, _BOTTOM / height, 1 - (left + _RIGHT) / width, 1 - (_BOTTOM + _TOP) / height)
        paint(figure.add_axes(box))
        canvas.print_svg(written, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _element(written.getvalue(), name, alt)


def sparkline(values: list[float], mark: int | None) -> Markup:
    """A line as small as a word; `mark` is the place of a dot on it. Of what is not finite nothing is drawn."""
    finite = [value for value in values if abs(value) < float("inf")]
    if len(finite) < 2:
        return Markup("")
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    step = 58 / (len(values) - 1)
    places = [
        (round(1 + step * n, 1), round(15 - 14 * (value - low) / span, 1)) if abs(value) < float("inf") else None
        for n, value in enumerate(values)
    ]
    points = " ".join(f"{place[0]:g},{place[1]:g}" for place in places if place)
    dot = places[mark] if mark is not None and 0 <= mark < len(places) else None
    circle = f'<circle cx="{dot[0]:g}" cy="{dot[1]:g}" r="1.8"/>' if dot else ""
    return Markup(
        f'<svg class="spark" viewBox="0 0 60 16" aria-hidden="true"><polyline points="{points}"/>{circle}</svg>'
    )


_VARIABLES = {color: f"var(--{name})" for name, color in COLORS.items()}
_COLOR = re.compile("|".join(_VARIABLES))
_VIEW_BOX = re.compile(r'<svg [^>]*viewBox="([^"]*)"[^>]*>')
_CUT = re.compile(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:xlink:)?href="#([^"]*)"|url\(#([^)]*)\)')
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_FONT = re.compile(r"font: (?:[\w-]+ )*?([\d.]+px) [^;\"]*")  # the short form of matplotlib before 3.10
_GEOMETRY = re.compile(r' (?:d|x|y|transform)="[^"]*"')
_LONG_NUMBER = re.compile(r"(\.\d)\d+")
_NO_TURN = re.compile(r' transform="rotate\(-?0 [^"]*\)"')
_BLANKS = re.compile(r">\s+<")


def _element(file: str, name: str, alt: str) -> Markup:
    """The element for a page: without what only a file needs, its ids unique, its colours variables."""
    text = _CUT.sub("", file[file.index("<svg ") :])
    wanted = {first or second for first, second in _REFERENCE.findall(text)}
    text = _ID.sub(lambda match: f' id="{name}-{match[1]}"' if match[1] in wanted else "", text)
    text = _REFERENCE.sub(lambda match: f'href="#{name}-{match[1]}"' if match[1] else f"url(#{name}-{match[2]})", text)
    text = _FONT.sub(r"font-size: \1", _FAMILY.sub("", text))
    text = _COLOR.sub(lambda match: _VARIABLES[match[0]], text)
    text = _GEOMETRY.sub(lambda match: " " + " ".join(_LONG_NUMBER.sub(r"\1", match[0]).split()), text)
    text = _BLANKS.sub("><", _NO_TURN.sub("", text)).strip()
    head = f'<svg class="chart" role="img" aria-label="{escape(alt)}"'
    return Markup(_VIEW_BOX.sub(lambda match: f'{head} viewBox="{match[1]}">', text, count=1))
