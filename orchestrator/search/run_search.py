"""A run's search as its coordinator carries it out: what comes next is recorded before any of it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.ensemble.asked import deciding_output
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import OrchestratorError
from orchestrator.planning import events as ev
from orchestrator.planning.outputs import part
from orchestrator.planning.plan import Plan
from orchestrator.planning.ports import Clock, Sampler
from orchestrator.planning.recovery import RunMemory, goes_on
from orchestrator.planning.search import read_generations
from orchestrator.search.study import References, Study, TrialScores
from orchestrator.spec import Job
from orchestrator.storage.log import Log
from orchestrator.storage.members import MemberLogs
from orchestrator.storage.parallel import in_order
from orchestrator.storage.records import BlobRef


class RunSearch:
    """The search of one run.

    Args:
        job: with a search.
        sampler: at its beginning.
        log: the coordinator's log, claimed.
        members: the trials' logs.
        clock: the time.
    """

    def __init__(self, job: Job, sampler: Sampler, log: Log, members: MemberLogs, clock: Clock) -> None:
        self._job, self._sampler, self._log, self._members, self._clock = job, sampler, log, members, clock
        self._study: Study | None = None
        self._scores: TrialScores | None = None

    def begin(self, memory: RunMemory) -> Plan:
        """Take the search up where predecessors left it; returns the trials so far.

        Raises:
            IdentityChanged: the sampler does not ask for the recorded trials again.
        """
        if self._job.search is None:
            raise OrchestratorError("the job has no search", where=self._job.name)
        self._study = Study(self._job, self._job.search, self._sampler, read_generations(memory.generations))
        first = self._study.begin()
        if first is not None:
            self._log.append("generation", **first, at=self._clock.epoch())
        self._reopen(self._study)
        return self._study.plan

    def score_with(self, tasks: Mapping[str, TaskKind], labels: References, read: Callable[[BlobRef], bytes]) -> None:
        """Learn what trials are scored by: tasks and labels of the run, and what gives the bytes of a blob."""
        if self._scores is None and self._job.search is not None:
            output = deciding_output(self._job.ensemble, list(tasks))
            self._scores = TrialScores(self._job.search, tasks[output], part("validation", output), labels, read)

    def ask(self, predictions: Mapping[int, References]) -> ev.TrialsAsked:
        """What comes after the trials so far, recorded.

        Args:
            predictions: of each trial that has a model.
        """
        study = self._begun()
        asked = study.go_on(predictions, self._scores)
        if asked.body is not None:
            self._log.append(asked.kind, **asked.body, at=self._clock.epoch())
        again = self._reopen(study) if asked.kind == "rung" else ()
        return ev.TrialsAsked(study.plan, asked.reason, asked.body is None, again, study.pruned())

    def pruned(self) -> tuple[int, ...]:
        """Trials that were left behind so far: they are no members."""
        return self._begun().pruned()

    def facts(self, predictions: Mapping[int, References]) -> Mapping[str, Any] | None:
        """What the selection tells of the search; None: it was over before anything was scored. As `ask`."""
        return None if self._scores is None else self._begun().facts(predictions, self._scores)

    def _begun(self) -> Study:
        if self._study is None:
            raise OrchestratorError("the search was asked before it began", where=self._job.name)
        return self._study

    def _reopen(self, study: Study) -> tuple[int, ...]:
        """Take back the models of trials that are to train on from their checkpoints; returns whose."""
        rung = study.on_rung()
        if rung is None:
            return ()
        trials = dict(zip(rung.trials, in_order(self._members.read, rung.trials), strict=True))
        again = tuple(trial for trial, memory in trials.items() if goes_on(memory, rung.epochs))
        for trial in again:
            self._members.void(trial, f"the search trains it on, to {rung.epochs} epochs", trains_on=rung.epochs)
        return again
