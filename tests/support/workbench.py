"""A job whose runs are stored in a folder, and a job server that takes it and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner
from typer.testing import Result as Ended

from orchestrator import api
from orchestrator.api import RunPlan, SubmittedRun
from orchestrator.api.running import keep_spec
from orchestrator.cli.main import app
from orchestrator.reporting.result import Result
from orchestrator.spec import load_job
from orchestrator.storage.beat import Beat
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from tests.support.cli_job import write_tiny_job
from tests.support.job_server import FakeJobServer
from tests.support.report_cases import result as made_up_result

SIGNAL_S = 120.0
"""How long a process is given to end, or to answer."""


class Workbench:
    """A job whose runs are stored in a folder that is there, and a cluster to submit it to."""

    def __init__(self, folder: Path, fake: FakeJobServer) -> None:
        self.store_url = folder / "store"
        self.store_url.mkdir()
        self.root = folder / "project"
        self.root.mkdir()
        self.fake = fake
        self.job = write_tiny_job(self.root, {"url": str(self.store_url)})
        self.run_id: str | None = None
        self.notes: list[str] = []

    @property
    def planned(self) -> RunPlan:
        return api.plan(load_job(str(self.job)), run_id=self.run_id, root=str(self.root))

    @property
    def run_key(self) -> str:
        return self.planned.request.layout.run_key

    def submit(self, **more: Any) -> SubmittedRun:
        options = {"address": self.fake.address, "root": str(self.root), "on_note": self.notes.append}
        options["run_id"] = self.run_id
        return api.submit(str(self.job), **{**options, **more})

    def begin(self) -> Log:
        """Let the run have been started, and claimed once."""
        store = LocalStore(self.store_url)
        keep_spec(store, self.planned, must_exist=False, accept_code_change=False)
        log = Log.open(store, self.planned.request.layout.coord_log)
        log.claim(run_id=self.planned.request.run_id)
        return log

    def beat(self, log: Log) -> Beat:
        """The sign of life of the driver that claimed the run last: there while it is entered."""
        layout = self.planned.request.layout
        store = LocalStore(self.store_url)
        return Beat(store, layout.beat, layout.control, term=log.term, every_s=0.05, epoch=lambda: 0.0)

    def result(self, exit_code: int) -> Result:
        status = {0: "succeeded", 3: "gate_failed"}[exit_code]
        return made_up_result(
            num_members=2, run_id=self.run_key, run_key=self.run_key, status=status, exit_code=exit_code
        )


def command(*arguments: str) -> Ended:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)
