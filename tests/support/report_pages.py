"""Looks at a report's HTML as a browser would: elements, their attributes and texts, and what it would fetch or run."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}
SVG_VOID = {"use", "circle"}
FETCHING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "formaction", "background", "ping"}


@dataclass
class Element:
    """One element; `text` is all the text in it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    parents: tuple[str, ...] = ()


@dataclass
class Page(HTMLParser):
    """A parsed report; `unclosed` are the elements left open, of which there must be none."""

    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Element] = []
        self.mistakes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs}, parents=tuple(each.tag for each in self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            self.mistakes.append(f"</{tag}> where {[each.tag for each in self._open[-3:]]} is open")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    @property
    def unclosed(self) -> list[str]:
        return [element.tag for element in self._open]

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def section_ids(self) -> list[str]:
        return [each.attributes["id"] for each in self.all("section") if "id" in each.attributes]

    def section(self, name: str) -> Element:
        return next(each for each in self.all("section") if each.attributes.get("id") == name)

    def addresses(self) -> list[str]:
        """All that could be fetched or followed."""
        return [value for each in self.elements for name, value in each.attributes.items() if name in FETCHING]

    def handlers(self) -> list[str]:
        """Attributes that would run a script."""
        return [name for each in self.elements for name in each.attributes if name.startswith("on")]


def parse(body: bytes) -> Page:
    page = Page()
    page.feed(body.decode("utf-8"))
    page.close()
    return page
