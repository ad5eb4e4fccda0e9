"""`status --watch`: a live table on a terminal, lines elsewhere, until the run has ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import NoReturn, TextIO

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator import api
from orchestrator.cli.output import answer, json_line, tell
from orchestrator.reporting.run_status import RunStatus
from orchestrator.reporting.watch_text import MAX_ROWS, changes, watch_view

Look = Callable[[Callable[[str], None]], Iterator[RunStatus]]
"""Given a taker of notes, where the run stands, again and again until it has ended."""

_AROUND = 9
"""Lines of the view that are no member's."""


def watch(look: Look, *, as_json: bool) -> NoReturn:
    """Show a run until it ends and exit with its own code; or on a signal with 130 or 143: the run goes on."""
    try:
        with _ending_on_sigterm():
            if not as_json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
                last = draw(look, sys.stdout, os.environ)
            else:
                last = _write(look, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    raise typer.Exit((last and last.exit_code) or 0)


def _write(look: Look, *, as_json: bool) -> RunStatus | None:
    last: RunStatus | None = None
    for run in look(tell):
        news = changes(last, run, api.SystemClock().epoch())
        if as_json and news:
            answer(json_line(asdict(run)))
        elif news:
            answer("\n".join(news))
        last = run
    return last


def draw(look: Look, stream: TextIO, environ: Mapping[str, str]) -> RunStatus | None:
    """Draw the live table on a terminal; returns the last status."""
    console = Console(
        file=stream,
        force_terminal=True,
        force_jupyter=False,
        no_color=bool(environ.get("NO_COLOR")),
        highlight=False,
        markup=False,
    )
    last: RunStatus | None = None

    def view() -> RenderableType:
        if last is None:
            return Text("looking for the run")
        return watch_view(last, api.SystemClock().epoch(), min(MAX_ROWS, max(console.size.height - _AROUND, 1)))

    with Live(get_renderable=view, console=console, refresh_per_second=2, redirect_stdout=False) as live:
        for run in look(lambda text: console.print(Text(text))):
            last = run
            live.refresh()
    return last


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """The default would leave the terminal without its cursor."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only there can a signal be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
