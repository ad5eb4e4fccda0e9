"""What a section of the report is made of: plain values, which the template knows how to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from markupsafe import Markup

from orchestrator.reporting.verdict import Verdict

NONE = "–"


@dataclass(frozen=True)
class Key:
    """One entry of a chart's legend; `color` names a colour of the palette, such as `c1`."""

    text: str
    color: str
    style: Literal["line", "dashed", "dot", "bar", "band"] = "line"


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        svg: the element, with its alternative text.
        caption: what is to be seen.
        keys: the legend.
        half: two of them stand side by side; else it takes the page's width, and is moved sideways on a narrow one.
    """

    kind: ClassVar[str] = "chart"
    svg: Markup
    caption: str
    keys: tuple[Key, ...] = ()
    half: bool = True


@dataclass(frozen=True)
class Cell:
    """One value; `note` stands small below it, `heat` in [0, 1] colours its ground, `svg` stands behind its text."""

    text: str
    note: str = ""
    heat: float | None = None
    svg: Markup | None = None


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of a row names it. `numeric` says which columns hold numbers, `half` whether
    something may stand beside it."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    sortable: bool = False
    half: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and what is known under them."""

    kind: ClassVar[str] = "facts"
    items: tuple[tuple[str, str], ...]
    half: bool = False


@dataclass(frozen=True)
class Picture:
    """An example: `uri` is its image, or None; `lines` tell about it, the first one as its title."""

    lines: tuple[str, ...]
    uri: str | None = None
    alt: str = ""


@dataclass(frozen=True)
class Gallery:
    """Examples side by side."""

    kind: ClassVar[str] = "gallery"
    half: ClassVar[bool] = False
    title: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Lines:
    """Sentences, one below the other."""

    kind: ClassVar[str] = "lines"
    half: ClassVar[bool] = False
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """A long text that opens on demand; `text` is shown as it is."""

    kind: ClassVar[str] = "folded"
    half: ClassVar[bool] = False
    title: str
    text: str


Part: TypeAlias = Chart | Table | Facts | Gallery | Lines | Folded


@dataclass(frozen=True)
class Section:
    """One heading of the report and what stands below it; `intro` says what it tells and how to read it.

    `within` is set where it belongs to the section before it that has none: its heading is smaller, and the list of
    sections leaves it out.
    """

    id: str
    title: str
    intro: str
    parts: tuple[Part, ...]
    within: bool = False


@dataclass(frozen=True)
class Page:
    """A page: what it is of, the question that it answers first, and its sections.

    Attributes:
        kind: what it is, such as `Ensemble report`.
        heading: what it is of.
        question, verdict: of the first thing that a reader sees.
        about: stands beside the kind; or empty.
        status: of the run; or empty.
        tiles: the few numbers to remember.
    """

    kind: str
    heading: str
    question: str
    verdict: Verdict
    sections: tuple[Section, ...]
    about: str = ""
    status: str = ""
    tiles: Facts | None = None


def table(
    caption: str,
    columns: tuple[str, ...],
    rows: list[list[str | Cell]],
    *,
    text: tuple[str, ...] = (),
    sortable: bool = False,
    half: bool = False,
) -> Table:
    """A table of texts and cells; `text` names the columns that hold words."""
    cells = tuple(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    return Table(caption, columns, cells, tuple(name not in text for name in columns), sortable, half)
