"""The study of a run's search: what was tried and what came of it, by the coordinator's log, and what comes next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.ensemble.metrics import METRICS
from orchestrator.ensemble.prefix import watched
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import IdentityChanged, InvalidModel, OrchestratorError
from orchestrator.planning.outputs import output_of
from orchestrator.planning.plan import Plan
from orchestrator.planning.ports import Sampler
from orchestrator.planning.search import (
    Generation,
    Params,
    Rung,
    decide_generation,
    decide_rung,
    generation_to_json,
    pruned_trials,
    rung_to_json,
)
from orchestrator.search.samplers import importance
from orchestrator.spec import Job, SearchSpec
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import labels_from_parquet, predictions_from_parquet

References = Mapping[str, Mapping[str, object]]
"""Of stored blobs, by part (`planning.outputs`)."""


def metric_of(search: SearchSpec, task: TaskKind) -> str:
    """The score by which trials are compared."""
    return search.metric or ("rmse" if task is TaskKind.REGRESSION else "nll")


class TrialScores:
    """What trials score on the validation rows, from their stored predictions.

    Args:
        search: the job's `search` part.
        task: what the scored output tells.
        part: its name in labels and predictions.
        labels: of the run.
        read: gives the verified bytes of a blob.
    """

    def __init__(
        self, search: SearchSpec, task: TaskKind, part: str, labels: References, read: Callable[[BlobRef], bytes]
    ) -> None:
        self.metric, self.output = metric_of(search, task), output_of(part)
        self._task, self._part, self._read = task, part, read
        self._targets = labels_from_parquet(read(BlobRef.from_json(labels[part], where=f"labels of {part}")))

    def __call__(self, predictions: References) -> float | None:
        """The score of a trial; None where it predicts what is no number."""
        ref = BlobRef.from_json(predictions[self._part], where=f"a trial's predictions of {self._part}")
        values = predictions_from_parquet(self._read(ref))
        try:
            score = watched(self.metric, self._task, self._targets, values, "search.metric")
        except InvalidModel:
            return None
        return score if math.isfinite(score) else None


@dataclass(frozen=True)
class Asked:
    """What comes next: kind and body of the record to append, None where the search is over; and why."""

    kind: Literal["generation", "rung"]
    body: Mapping[str, Any] | None
    reason: str


class Study:
    """All generations of a search so far. Decides through `planning.search`, asks a sampler, and writes nothing.

    Args:
        job: a job with a search.
        sampler: at its beginning; it is asked and told here what the records say it was.
        past: the generations that are recorded.

    Attributes:
        plan: all trials so far.

    Raises:
        IdentityChanged: the sampler does not ask for the recorded trials again.
    """

    def __init__(self, job: Job, search: SearchSpec, sampler: Sampler, past: Sequence[Generation]) -> None:
        self._job, self._search, self._sampler = job, search, sampler
        self._generations = list(past)
        for number, generation in enumerate(past):
            asked = [dict(each) for each in sampler.ask(len(generation.params))]
            if asked != [dict(each) for each in generation.params]:
                raise _asks_otherwise(number, generation.params, asked)
            if generation.scores:
                sampler.tell([self._loss(score) for score in generation.scores])
        self.plan = Plan((), job).with_generations(past)

    def begin(self) -> dict[str, Any] | None:
        """Body of the first `generation` record; None: there is one."""
        return None if self._generations else self._ask(decide_generation(self._search, []).num_trials, ())

    def go_on(self, predictions: Mapping[int, References], score: TrialScores | None) -> Asked:
        """What comes after the generations so far: the next rung of the last one, another one, or nothing.

        Args:
            predictions: of each trial that has a model.
            score: what they score; None where there are none.
        """
        told = self._scores_of_last(predictions, score)
        rung = self._next_rung(told)
        if rung is not None:
            last = self._generations[-1]
            self._generations[-1] = replace(last, rungs=(*last.rungs, rung))
            self.plan = self.plan.with_generations(self._generations)
            reason = f"{_counted(rung.trials)} of generation {len(self._generations) - 1} to {rung.epochs} epochs"
            return Asked("rung", rung_to_json(rung), reason)
        decision = decide_generation(self._search, self._generations)
        if decision.num_trials == 0:
            return Asked("generation", None, decision.reason)
        self._sampler.tell([self._loss(each) for each in told])
        return Asked("generation", self._ask(decision.num_trials, told), decision.reason)

    def on_rung(self) -> Rung | None:
        """Where the last generation is; None: on the first rung."""
        rungs = self._generations[-1].rungs if self._generations else ()
        return rungs[-1] if rungs else None

    def pruned(self) -> tuple[int, ...]:
        """Trials that were left behind on a rung."""
        return pruned_trials(self._generations)

    def facts(self, predictions: Mapping[int, References], score: TrialScores) -> dict[str, Any]:
        """What the selection fixes of the search: how it went, and what each trial scored. Arguments as `go_on`."""
        told = [*(g.scores for g in self._generations[:-1]), self._scores_of_last(predictions, score)]
        scores = [each for generation in told for each in generation]
        params = [each for generation in self._generations for each in generation.params]
        scored = [(values, each) for values, each in zip(params, scores, strict=True) if each is not None]
        return {
            "sampler": self._search.sampler,
            "metric": score.metric,
            "output": score.output,
            "planned": self._search.num_trials,
            "generations": [len(generation.params) for generation in self._generations],
            "params": [dict(each) for each in params],
            "scores": scores,
            "pruned": list(self.pruned()),
            "importance": importance(self._search, scored, self._job.seed),
        }

    def _ask(self, count: int, told: Sequence[float | None]) -> dict[str, Any]:
        params = tuple(self._sampler.ask(count))
        if self._generations:
            self._generations[-1] = replace(self._generations[-1], scores=tuple(told))
        self._generations.append(Generation(params))
        self.plan = self.plan.with_generations(self._generations)
        return generation_to_json(params, told)

    def _next_rung(self, told: Sequence[float | None]) -> Rung | None:
        """Where the best trials of the last generation go on to; None: it is through, or all have failed."""
        pruning, last = self._search.pruning, self._generations[-1]
        rungs = self._search.rungs(self._job.train.epochs)
        place = len(last.rungs) + 1
        if pruning is None or place >= len(rungs):
            return None
        first = sum(len(generation.params) for generation in self._generations[:-1])
        here = last.rungs[-1].trials if last.rungs else range(first, first + len(last.params))
        metric = self._search.metric
        kept = decide_rung(
            {trial: told[trial - first] for trial in here},
            pruning.reduction_factor,
            greater_is_better=metric is not None and METRICS[metric].greater_is_better,
        ).trials
        return Rung(kept, rungs[place]) if kept else None

    def _scores_of_last(
        self, predictions: Mapping[int, References], score: TrialScores | None
    ) -> tuple[float | None, ...]:
        num_before = sum(len(generation.params) for generation in self._generations[:-1])
        last = range(num_before, num_before + len(self._generations[-1].params))
        if score is None:
            return tuple(None for _ in last)
        return tuple(score(predictions[trial]) if trial in predictions else None for trial in last)

    def _loss(self, score: float | None) -> float | None:
        metric = self._search.metric
        return -score if score is not None and metric is not None and METRICS[metric].greater_is_better else score


def _counted(trials: Sequence[int]) -> str:
    return f"trials {', '.join(map(str, trials))} go on" if len(trials) > 1 else f"trial {trials[0]} goes on"


def _asks_otherwise(number: int, recorded: Sequence[Params], asked: Sequence[Params]) -> OrchestratorError:
    before, now = next((dict(a), dict(b)) for a, b in zip(recorded, asked, strict=True) if dict(a) != dict(b))
    return IdentityChanged(
        f"the search does not go on as it began: generation {number} tried {before}, and would try {now} now",
        where="search",
        hint="another version of Optuna samples otherwise: go on with the one that began, or start anew with --fresh",
    )
