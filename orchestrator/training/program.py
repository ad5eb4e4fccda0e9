"""What a worker does with each command: preflight, train and publish, predict. Outcomes are events."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.ensemble.tasks import to_targets
from orchestrator.errors import Fenced, InvalidInput, OrchestratorError
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import part
from orchestrator.planning.seeds import example_seed
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.examples import write_examples
from orchestrator.storage.log import Log
from orchestrator.storage.open import open_store_of
from orchestrator.storage.plans import KnownPlan
from orchestrator.storage.records import JSON
from orchestrator.storage.tables import labels_to_parquet
from orchestrator.training.bases import placed_bases
from orchestrator.training.data import Dataset
from orchestrator.training.device import Device, peak_gpu_bytes, peak_memory_bytes, prepare_backend, start_backend
from orchestrator.training.examples import take_examples
from orchestrator.training.scratch import sweep_scratch
from orchestrator.training.setup import WorkerSetup
from orchestrator.training.train_pack import PackTrainer
from orchestrator.training.versions import versions

if TYPE_CHECKING:
    from orchestrator.models.predictor import Predictor

logger = logging.getLogger("orchestrator.worker")


class Program:
    """A worker's life without Ray: made once per process, then `handle` for one command after another.

    Args:
        setup: what to work on.
        emit: takes each event as it happens, from the thread that calls `handle` and from those that publish.
        on_batch: called for each batch of work, as a sign of life.
    """

    def __init__(self, setup: WorkerSetup, emit: Callable[[ev.Event], None], on_batch: Callable[[], None]) -> None:
        self._setup = setup
        self._emit = emit
        self._on_batch = on_batch
        self._store = open_store_of(setup.job)
        self._device: Device | None = None
        self._import_s = 0.0
        self._until_closed = ExitStack()
        self._predictor: Predictor | None = None
        self._members = KnownPlan(setup.plan, lambda: Log.open(self._store, setup.layout.coord_log))
        self._trainer = PackTrainer(self._store, setup, self._members, emit, on_batch)

    def start(self) -> None:
        """Import Keras with its backend and set it up: the one slow thing, done while the run is being prepared."""
        sweep_scratch()
        began, train = time.monotonic(), self._setup.job.train
        prepare_backend(train, self._setup.num_cpus, self._setup.num_gpus)
        root = self._setup.code_root or str(Path.cwd())
        if root not in sys.path:
            sys.path.insert(0, root)
        self._device = start_backend(train, self._setup.num_cpus)
        if self._setup.bases:
            self._until_closed.enter_context(placed_bases(self._store, self._setup.bases))
        self._import_s = time.monotonic() - began

    def handle(self, command: cmd.WorkerCommand, dataset: Dataset) -> None:
        """Carry out one command. Every outcome is an event; nothing is raised but `Fenced`, after its event.

        Raises:
            Fenced: a successor owns the member: this worker must end.
        """
        name = self._setup.worker
        try:
            if isinstance(command, cmd.TrainPack | cmd.PublishLate):
                self._members.refresh()
            match command:
                case cmd.Preflight():
                    self._preflight(dataset)
                case cmd.Measure():
                    self._measure(command, dataset)
                case cmd.LookAtTrials(trials=trials):
                    self._look_at(trials, dataset)
                case cmd.TrainPack():
                    first = partial(self._predict_all, command.predict, dataset)
                    self._trainer.train(command, dataset, self._started(), first)
                case cmd.PublishLate(member=member):
                    self._trainer.publish_late(member, dataset, self._started())
                case cmd.Predict(member=member):
                    self._predict(self._members[member], dataset)
        except Fenced as fenced:
            self._emit(ev.WorkerFenced(name, str(fenced)))
            raise
        except OrchestratorError as error:
            self._emit(ev.WorkerFailed(name, error))
        except Exception as error:
            logger.exception("%s failed", command)
            bug = OrchestratorError(f"{type(error).__name__}: {error}", where=f"{name}, {command}")
            self._emit(ev.WorkerFailed(name, bug))
        self._emit(ev.WorkerIdle(name, self._trainer.publishing()))

    def interrupt(self, command: cmd.SaveNow) -> None:
        """Have what is trained saved, and with `stop` given up at the next batch; `Saved` is told as an event.

        Called from another thread while `handle` runs; returns at once.
        """
        if not self._trainer.save_now(stop=command.stop):  # nothing is being trained (yet): there is nothing to save
            self._emit(ev.Saved(self._setup.worker))

    def close(self) -> None:
        """Wait until all that was handed over is published."""
        self._trainer.close()
        self._until_closed.close()

    def _preflight(self, dataset: Dataset) -> None:
        from orchestrator.training.preflight import check_before_training

        device = self._started()
        try:
            checked = check_before_training(self._setup.job, self._setup.plan.members, dataset)
        except InvalidInput as error:
            self._emit(ev.PreflightFailed(self._setup.worker, error))
            return
        scored = dataset.scored(held_out=self._setup.job.members.folds is not None)
        seed = example_seed(self._setup.job.seed)
        examples = {name: take_examples(split, seed) for name, split in scored.items()}
        passed = ev.PreflightPassed(
            self._setup.worker,
            tasks={output: task.value for output, task in checked.tasks.items()},
            device=device.kind,
            deterministic=device.deterministic,
            versions=versions(device.backend),
            labels={
                part(name, output): self._keep(
                    labels_to_parquet(to_targets(task, split.labels[output]), dataset.groups_of(name))
                )
                for name, split in scored.items()
                for output, task in checked.tasks.items()
            },
            architectures=checked.architectures,
            examples={name: self._keep(write_examples(taken)) for name, taken in examples.items() if taken is not None},
            codes=self._keep(json.dumps(dataset.codes, ensure_ascii=False).encode()) if dataset.codes else None,
        )
        self._emit(passed)

    def _measure(self, command: cmd.Measure, dataset: Dataset) -> None:
        from orchestrator.training.measure import measure_packs
        from orchestrator.training.preflight import check_before_training

        device, job, members = self._started(), self._setup.job, self._setup.plan.members
        began = time.monotonic()
        try:
            architectures = check_before_training(job, members, dataset).architectures
        except InvalidInput as error:
            self._emit(ev.PreflightFailed(self._setup.worker, error))
            return
        checked = time.monotonic()
        found = measure_packs(
            members, architectures, command.rules, dataset, device, self._on_batch, num_workers=command.num_workers
        )
        measured = ev.Measured(
            self._setup.worker,
            device.kind,
            found.decision.packs,
            found.decision.reason,
            found.timings,
            import_s=self._import_s,
            preflight_s=checked - began,
            packs_s=time.monotonic() - checked,
            peak_bytes=peak_memory_bytes(),
            peak_gpu_bytes=peak_gpu_bytes(device),
            notes=found.notes,
        )
        self._emit(measured)

    def _look_at(self, trials: Sequence[int], dataset: Dataset) -> None:
        """What is wrong with one of them is told, and ends nothing: it will fail alone."""
        from orchestrator.training.preflight import check_before_training

        members = [self._members[trial] for trial in trials]
        try:
            seen = ev.TrialsSeen(
                self._setup.worker, check_before_training(self._setup.job, members, dataset).architectures
            )
        except InvalidInput as error:
            seen = ev.TrialsSeen(self._setup.worker, {}, str(error))
        self._emit(seen)

    def _keep(self, body: bytes) -> Mapping[str, JSON]:
        return put_blob(self._store, self._setup.layout, body).to_json()

    def _predict_all(self, members: Sequence[int], dataset: Dataset) -> None:
        for member in members:
            self._predict(self._members[member], dataset)

    def _predict(self, member: MemberPlan, dataset: Dataset) -> None:
        """Predict from the published bytes, reloaded and verified: what is scored is what is stored."""
        from orchestrator.models.predictor import Predictor
        from orchestrator.training.predicting import predict_member

        if self._predictor is None:
            self._predictor = Predictor()
        final, model = self._trainer.endings.take(member.index)
        outcome = predict_member(
            self._store,
            self._setup.layout,
            member,
            member.train,
            dataset,
            self._predictor,
            worker=self._setup.worker,
            final=final,
            model=model,
            on_batch=self._on_batch,
        )
        self._emit(outcome)

    def _started(self) -> Device:
        if self._device is None:
            raise OrchestratorError("the worker got a command before it was started", where=self._setup.worker)
        return self._device
