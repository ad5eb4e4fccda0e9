"""A worker's program whose members do nothing but sleep: what is left is the price of running them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from orchestrator.ensemble.tasks import TaskKind, to_targets
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.ports import Store
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.members import claim_unpublished
from orchestrator.storage.open import open_store
from orchestrator.storage.tables import history_to_parquet, labels_to_parquet, predictions_to_parquet
from orchestrator.training.data import Dataset
from orchestrator.training.setup import WorkerSetup

SLEEP_S = 0.05


class Publisher:
    """Writes for a member that slept what a worker writes for one that was trained, with the same records.

    Args:
        store, layout: where to.
        coord_term: the term of the run's coordinator.
    """

    def __init__(self, store: Store, layout: RunLayout, coord_term: int) -> None:
        self._store, self._layout, self._coord_term = store, layout, coord_term

    def labels(self, labels: Any) -> dict[str, Any]:
        """Keep the class indices [N] of the validation rows; the reference by split."""
        return {"validation": self._keep(labels_to_parquet(to_targets(TaskKind.MULTICLASS, labels)))}

    def final(self, member: int) -> None:
        """Claim the member's log and publish its end."""
        log = Log.open(self._store, self._layout.member_log(member))
        claim_unpublished(log, coord_term=self._coord_term, worker="bench")
        log.append(
            "final",
            model=self._keep(b"nothing was trained"),
            history=self._keep(self._history),
            epochs=1,
            best_epoch=1,
            stopped_epoch=None,
            at_best={"loss": 1.0, "val_loss": 1.0},
            weights_sha256="0" * 64,
            engine="solo",
            train_s=SLEEP_S,
            late=False,
            resumed_from=None,
            at=round(time.time(), 3),
        )

    def predictions(self, num_rows: int) -> dict[str, Any]:
        """Keep a member's predictions of the validation rows; the reference by split."""
        return {"validation": self._keep(predictions_to_parquet(np.full((num_rows, 10), 0.1, np.float32)))}

    @cached_property
    def _history(self) -> bytes:
        return history_to_parquet([{"epoch": 1, "loss": 1.0, "val_loss": 1.0}])

    def _keep(self, body: bytes) -> dict[str, Any]:
        return put_blob(self._store, self._layout, body).to_json()


class Sleeper:
    """Takes the place of `training.program.Program`.

    Args:
        setup, emit, on_batch: as there.
        publishes: it writes records and blobs as a real worker does; else it writes nothing.
        sleep_s: seconds of one member.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        emit: Callable[[ev.Event], None],
        on_batch: Callable[[], None],
        *,
        publishes: bool,
        sleep_s: float = SLEEP_S,
    ) -> None:
        self._sleep_s = sleep_s
        self._name = setup.worker
        self._emit = emit
        self._publisher = None
        if publishes:
            self._publisher = Publisher(open_store(setup.job.storage.url), setup.layout, setup.coord_term)

    def start(self) -> None:
        """Nothing to get ready."""

    def interrupt(self, command: cmd.SaveNow) -> None:
        """There is nothing to save."""
        self._emit(ev.Saved(self._name))

    def handle(self, command: cmd.WorkerCommand, dataset: Dataset) -> None:
        """Tell what the real program would tell of such a command."""
        publisher, validation = self._publisher, dataset.validation
        assert validation is not None
        match command:
            case cmd.Preflight():
                labels = publisher.labels(validation.y) if publisher else {}
                self._emit(ev.PreflightPassed(self._name, {ONLY: "multiclass"}, "cpu", True, {}, labels))
            case cmd.TrainPack(members=members, predict=predict):
                for member in predict:
                    self._predict(member, validation.num_rows)
                for member in members:
                    time.sleep(self._sleep_s)
                    if publisher:
                        publisher.final(member)
                    self._emit(ev.MemberTrained(self._name, member))
            case cmd.Predict(member=member):
                self._predict(member, validation.num_rows)
        self._emit(ev.WorkerIdle(self._name))

    def _predict(self, member: int, num_rows: int) -> None:
        blobs = self._publisher.predictions(num_rows) if self._publisher else {}
        self._emit(ev.MemberPredicted(self._name, member, blobs))
