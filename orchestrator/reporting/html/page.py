"""The page: one file that needs nothing else, in which nothing that comes from users can run."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from orchestrator.reporting.html.examples import examples_section
from orchestrator.reporting.html.headline import figures_section, output_section, tiles
from orchestrator.reporting.html.members import curves_section, members_section, weights_section
from orchestrator.reporting.html.parts import Page, Section
from orchestrator.reporting.html.quality import (
    calibration_section,
    confusion_section,
    diversity_section,
    regression_section,
    selective_section,
    size_section,
)
from orchestrator.reporting.html.run import notes_section, provenance_section, timeline_section
from orchestrator.reporting.html.search import search_section
from orchestrator.reporting.report import OutputData, ReportData
from orchestrator.reporting.verdict import verdict_of
from orchestrator.storage.redact import redact

_WORTH = (
    weights_section,
    calibration_section,
    confusion_section,
    regression_section,
    examples_section,
    diversity_section,
    selective_section,
)
_RUN = (timeline_section, notes_section, provenance_section)
_HERE = files("orchestrator.reporting.html")


def render(data: ReportData, environ: Mapping[str, str] = os.environ) -> bytes:
    """The report of a run as one HTML file; see `write_page`.

    Args:
        data: what to tell.
        environ: of this process, whose secrets are blotted out.
    """
    page = Page(
        kind="Ensemble report",
        about=data.spec.get("job", {}).get("name", ""),
        heading=data.result.run_id,
        status=data.result.status,
        question="Was the ensemble worth it?",
        verdict=verdict_of(data.result),
        tiles=tiles(data.result),
        sections=tuple(section for section in _sections(data) if section is not None),
    )
    return write_page(page, environ)


def _sections(data: ReportData) -> Iterator[Section | None]:
    """What there is to tell of an only output stands between what is told of the run; several have a part each."""
    outputs = data.outputs()
    if len(outputs) == 1:
        yield figures_section(outputs[0])
        yield curves_section(data)
        yield size_section(outputs[0])
        yield members_section(data)
        yield search_section(data)
        yield from (make(outputs[0]) for make in _WORTH)
    else:
        for own in outputs:
            yield from _of_output(own)
        yield curves_section(data)
        yield members_section(data)
        yield search_section(data)
    yield from (make(data) for make in _RUN)


def _of_output(data: OutputData) -> Iterator[Section]:
    yield output_section(data)
    for make in (figures_section, size_section, *_WORTH):
        section = make(data)
        if section is not None:
            title = f"{section.title}: {data.result.output}"
            yield replace(section, id=data.id(section.id), title=title, within=True)


def write_page(page: Page, environ: Mapping[str, str] = os.environ) -> bytes:
    """A page as one HTML file, UTF-8.

    It asks nothing of any network: styles, script and images stand in it, and its content security policy forbids all
    else, scripts but its own among them. Whatever comes from users is escaped.

    Args:
        page: what to tell.
        environ: of this process, whose secrets are blotted out.
    """
    environ = dict(environ)  # decoded once, not for each text
    script, style = _text("report.js"), _text("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")

    def without_secrets(value: object) -> object:
        """Before it is escaped, which would change a secret that has an ampersand in it."""
        return redact(value, environ) if type(value) is str else value

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=without_secrets
    )
    written = environment.from_string(_text("report.html.j2")).render(
        page=page,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    )
    return written.encode()


def _text(name: str) -> str:
    return _HERE.joinpath(name).read_text(encoding="utf-8")
