"""Real controllers over real Ray with the light trainer: a run in a thread, and what it left in the store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator import api
from orchestrator.cluster.head import Head
from orchestrator.cluster.ray_cluster import RayCluster
from orchestrator.cluster.session import connect
from orchestrator.controller import Controller
from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.planning import events as ev
from orchestrator.planning.placement import Crew, Placement, Placing
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.spec import Job, parse_job
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store
from orchestrator.storage.records import BlobRef, Record
from orchestrator.training.setup import WorkerSetup
from tests.support.light_trainer import Faults, LightTrainer, Stage, model_bytes
from tests.support.waiting import WAIT_S, wait_until

MODULE = """
import numpy as np


def load_data(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    return {"train": (x[:30], y[:30]), "validation": (x[30:], y[30:])}


def build_model(): ...
"""


def light_job(folder: Path, members: int, *, faults: Mapping[str, Any], **parts: Any) -> Job:
    """A job of the light trainer; its module and runs lie in `folder`."""
    (folder / "light.py").write_text(MODULE, encoding="utf-8")
    patience = {"backoff_min_s": 0.1, "backoff_max_s": 0.1, "stall_s": 30.0}
    document: dict[str, Any] = {
        "name": "light",
        "model": "light:build_model",
        "data": "light:load_data",
        "members": members,
        "faults": {**patience, **faults},
        "storage": {"url": str(folder / "store")},
        "report": {"html": False},  # these runs are about faults
    }
    return parse_job({**document, **parts})


class Notes(SilentProgress):
    """What people would see."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class StoppableClock(api.SystemClock):
    """This machine's; a test may have it stand still until something has happened."""

    def __init__(self) -> None:
        self._lost: tuple[float, float | None] = (0.0, None)
        """Seconds that it stood still, and since when it does now; one value, for the run's thread reads it."""

    def stand_still(self) -> None:
        self._lost = (self._lost[0], super().monotonic())

    def go_on(self) -> None:
        lost_s, since = self._lost
        if since is not None:
            self._lost = (lost_s + super().monotonic() - since, None)

    def monotonic(self) -> float:
        lost_s, since = self._lost
        return (super().monotonic() if since is None else since) - lost_s

    def epoch(self) -> float:
        return super().epoch() - super().monotonic() + self.monotonic()


class HeardCluster(RayCluster):
    """Remembers what it told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard: list[ev.Event] = []
        self.num_polls = 0

    def poll(self, timeout_s: float) -> Sequence[ev.Event]:
        happened = super().poll(timeout_s)
        self.heard += happened
        self.num_polls += 1
        return happened


class LightRun:
    """A run whose controller works in a thread, so that a story can be told beside it.

    Args:
        job: from `light_job`.
        folder: where its module lies.
        num_workers: how many train side by side until nodes come or go.
        faults: what goes wrong by itself.
        head: the cluster's head, as impatient as a test needs it.
        run_id: names the run.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        num_workers: int,
        *,
        faults: Faults | None = None,
        head: Head | None = None,
        run_id: str | None = None,
    ) -> None:
        self.request = api.plan(job, run_id=run_id, root=str(folder)).request
        self.store = open_store(self.request.job.storage.url)
        self.stage = Stage(folder)
        self.progress = Notes()
        self.clock = StoppableClock()
        self.result: Result | None = None
        self.error: BaseException | None = None
        log = Log.open(self.store, self.request.layout.coord_log)
        session = connect(None, str(folder))
        self.program = partial(LightTrainer, stage=self.stage, faults=faults or Faults())
        self.setup = WorkerSetup(
            "", self.request.job, self.request.plan, self.request.layout, log.claim(), session.code_root, 1, 0
        )
        self.cluster = HeardCluster(
            session,
            self.setup,
            Placement(num_workers, 1, 0, "as the test says"),
            program=self.program,
            head=head,
        )
        self._controller = Controller(
            self.request,
            store=self.store,
            log=log,
            cluster=self.cluster,
            clock=self.clock,
            progress=self.progress,
            crew=Crew(num_workers),
            placing=Placing(self.request.job.resources),
            interruption=lambda: Interrupted("the test is over") if self._stop else None,
        )
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = self._controller.run()
        except BaseException as error:
            self.error = error

    @contextmanager
    def running(self) -> Iterator[LightRun]:
        """Start; at the end of the block wait for the run's end and close its cluster."""
        self._thread.start()
        try:
            yield self
            wait_until(lambda: not self._thread.is_alive(), f"the end of the run; {self.progress.notes}")
        finally:
            self.stop()  # of a story that went wrong
            self._thread.join(WAIT_S)
            self.cluster.close()

    def stop(self) -> None:
        """Have the run end at its next turn."""
        self._stop = True

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def num_ended(self, member: int) -> int:
        """How many attempts of a member the coordinator has recorded as ended."""
        records = Log.open(self.store, self.request.layout.coord_log).records()
        return sum(record.kind == "ended" and record.body["member"] == member for record in records)

    def turns(self, count: int) -> None:
        """Wait for so many further turns of the controller's loop."""
        until = self.cluster.num_polls + count
        wait_until(lambda: self.cluster.num_polls >= until, f"{count} turns of the loop")

    def records(self, member: int) -> list[Record]:
        """A member's log; reading it checks that no record of an old term stands behind a claim."""
        return Log.open(self.store, self.request.layout.member_log(member)).records()

    def term(self, member: int) -> int:
        return max((record.term for record in self.records(member)), default=0)

    def held(self, member: int, epoch: int, term: int = 1) -> dict[str, Any]:
        """Wait until a member is held in the middle of an epoch, in that term or a later one; return its note."""

        def found() -> dict[str, Any] | None:
            notes = [n for n in self.stage.told("held", member=member, epoch=epoch) if n["term"] >= term]
            return notes[-1] if notes else None

        note: dict[str, Any] = wait_until(found, f"member {member} held in epoch {epoch}; {self.progress.notes}")
        return note

    def node_of(self, member: int) -> str:
        """The node of the member's newest attempt."""
        return str(self.stage.told("claim", member=member)[-1]["node"])

    def seen(self) -> dict[str, Any]:
        """The outcome: the result's or error's code, the members, and why attempts ended."""
        ended = [r.body for r in Log.open(self.store, self.request.layout.coord_log).records() if r.kind == "ended"]
        code = self.result.exit_code if self.result else getattr(self.error, "exit_code", 1)
        status = [member.status for member in self.result.members] if self.result else []
        return {
            "exit_code": code,
            "error": "" if isinstance(self.error, OrchestratorError) or not self.error else repr(self.error),
            "message": str(self.error or ""),
            "status": self.result.status if self.result else None,
            "members": [
                {
                    "status": status[index] if status else None,
                    "ended": [e["cause"] for e in ended if e["member"] == index],
                    **self._member(index),
                }
                for index in range(len(self.request.plan.members))
            ],
            "notes": self.progress.notes,
        }

    def _member(self, index: int) -> dict[str, Any]:
        """What a member's log and the trainers' notes say of it; `redone`: epochs done again, by later attempt."""
        records, claims = self.records(index), self.stage.told("claim", member=index)
        finals = [record.body for record in records if record.kind == "final"]
        expected = model_bytes(self.request.plan.members[index].seed, self.request.job.train.epochs)
        published = [get_blob(self.store, BlobRef.from_json(body["model"], where="final")) for body in finals]
        redone = []
        for claim in claims[1:]:
            before = [n["epoch"] for n in self.stage.told("epoch", member=index) if n["at"] < claim["at"]]
            redone.append(max(before, default=claim["epoch"]) - claim["epoch"])
        return {
            "kinds": [(record.kind, record.term, record.body.get("epoch")) for record in records],
            "claims": [[claim["term"], claim["epoch"], claim["node"]] for claim in claims],
            "num_finals": len(finals),
            "as_undisturbed": published == [expected],
            "redone": redone,
        }

    def progressed(self, member: int, since: float, term: int) -> float:
        """Seconds from `since` until that term of the member has finished an epoch; waits for it."""
        told = wait_until(
            lambda: self.stage.told("epoch", member=member, term=term), f"an epoch of member {member}, term {term}"
        )
        return float(told[0]["at"]) - since


def strike(pid: int, number: signal.Signals) -> float:
    """Send a signal; returns the moment."""
    os.kill(pid, number)
    return time.monotonic()


def state_of(pid: int) -> str | None:
    """The state of a process: `T` stopped, `R`, `S` …; None: it is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else state
