"""Coordinators as light processes: the product's own `become_coordinator` and `Controller`, and fake workers."""

from __future__ import annotations

import hashlib
import threading

from orchestrator.api import SystemClock
from orchestrator.attach import Start, become_coordinator
from orchestrator.controller import Controller, RunRequest
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.planning.ports import Store
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result, to_json
from orchestrator.spec import parse_job
from orchestrator.storage import parallel
from orchestrator.storage.beat import Beat
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.testing import FakeClock, FakeCluster
from tests.support.chaos_actor import WAIT_S, Site, Wire
from tests.support.chaos_gate import GatedStore, InTurn, open_journaled
from tests.support.chaos_writer import no_pause

LAYOUT = RunLayout("digits", "digits-run")
MEMBERS = 3
_BUILDER = "jobs.digits:build_model"
_BEAT_EVERY_S = 0.2
_LOOK_EVERY_S = 0.05


class _Telling(SilentProgress):
    """Tells the conductor that this start follows another one."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def note(self, text: str) -> None:
        if text.startswith("attached"):
            self._wire.tell("attached")


def coordinate(wire: Wire, site: Site) -> str:
    """A start that takes every other coordinator for dead: it claims whatever it finds unfinished."""
    store = GatedStore(site.open(), wire.ask)
    clock = FakeClock()
    log = open_journaled(store, LAYOUT.coord_log, wire.acknowledged, sleep=no_pause)
    held = become_coordinator(
        _start(store, takeover_s=0.0),
        log,
        clock=clock,
        progress=SilentProgress(),
        before_claim=lambda: None,
        interruption=lambda: None,
        give_up_at=None,
        pause=clock.sleep,
    )
    result = held if isinstance(held, Result) else _control(store, log, clock)
    return _returned(wire, result)


def attach(wire: Wire, site: Site) -> str:
    """A start as `orchestrator run` makes it: it follows a live coordinator. It waits for its go-ahead twice.

    At `ready`, before its first look, and at `coordinating`, once it is the run's coordinator.
    """
    store = site.open()
    wire.ask("ready")
    log = open_journaled(store, LAYOUT.coord_log, wire.acknowledged, sleep=no_pause)
    clock = SystemClock()
    held = become_coordinator(
        _start(store, takeover_s=WAIT_S),
        log,
        clock=clock,
        progress=_Telling(wire),
        before_claim=lambda: None,
        interruption=lambda: None,
        give_up_at=clock.monotonic() + WAIT_S,
        pause=lambda _: threading.Event().wait(_LOOK_EVERY_S),
    )
    if isinstance(held, Result):
        return _returned(wire, held)
    with Beat(store, LAYOUT.beat, LAYOUT.control, term=held, every_s=_BEAT_EVERY_S, epoch=clock.epoch):
        wire.ask("coordinating")
        return _returned(wire, _control(store, log, FakeClock()))


def _start(store: Store, *, takeover_s: float) -> Start:
    return Start(store, LAYOUT, "tuesday", takeover_s=takeover_s, attach=True, claim={"code_digest": "c" * 64})


def _control(store: Store, log: Log, clock: FakeClock) -> Result:
    base = {"name": "digits", "model": _BUILDER, "data": "jobs.digits:load_data", "members": MEMBERS}
    job = parse_job({**base, "report": {"html": False}})
    plan = make_plan(job, {_BUILDER: True})
    parallel.ThreadPoolExecutor = InTurn  # type: ignore[misc,assignment]  # in this process alone
    request = RunRequest(job, plan, LAYOUT, run_id="tuesday", spec_digest="5" * 64, code_digest="c" * 64)
    cluster = FakeCluster(store, LAYOUT, plan, coord_term=log.term, clock=clock, epochs=1)
    return Controller(
        request, store=store, log=log, cluster=cluster, clock=clock, progress=SilentProgress(), crew=Crew(1)
    ).run()


def _returned(wire: Wire, result: Result) -> str:
    wire.tell(f"result {hashlib.sha256(to_json(result)).hexdigest()}")
    return "finished"
