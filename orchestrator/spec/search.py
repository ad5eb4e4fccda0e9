"""Hyperparameter search: what is tried, by which sampler, and which trials become the members."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.spec.base import Problem, Range, Spec, refuse
from orchestrator.spec.members import MAX_MEMBERS, Axis, MembersSpec, ModelSpec, rate_problems
from orchestrator.spec.settings import EnsembleSpec
from orchestrator.spec.train import TrainSpec

SamplerName = Literal["grid", "random", "tpe", "genetic"]
TrialMetric = Literal["accuracy", "nll", "brier", "auc", "top_k", "rmse", "mae", "r2"]

LEARNING: tuple[SamplerName, ...] = ("tpe", "genetic")
"""Samplers that look at the scores of earlier generations; the others ask for all trials at once."""

MOST_PARALLEL = 8
"""The largest generation by default: a pack on a CPU has no more members."""


class PruningSpec(Spec):
    """Successive halving within each generation: all its trials train a few epochs, the best part of them goes on from
    its checkpoints to more epochs, and so on until `train.epochs`."""

    min_epochs: int = Field(ge=1, description="Epochs that all trials train; below `train.epochs`.")
    reduction_factor: int = Field(
        default=3,
        ge=2,
        description="Of so many trials one goes on, at least one of a generation, to so many times as many epochs.",
    )


class SearchSpec(Spec):
    """Train trials over a space of hyperparameters; the best of them become the members of the ensemble."""

    space: Annotated[dict[str, Axis], Field(min_length=1)] = Field(
        description="What differs from trial to trial: arguments of the build function, or keys of the job such as "
        "`train.batch_size`, each with a list of values or a range.",
    )
    sampler: SamplerName = Field(
        default="tpe",
        description="`grid`: all combinations; `random`: independent draws; `tpe`: Bayesian, by Optuna's "
        "Tree-structured Parzen Estimator; `genetic`: NSGA-II.",
    )
    trials: int = Field(
        default=30,
        ge=1,
        le=MAX_MEMBERS,
        description="Number of trials; a grid has as many as combinations, and is refused above this number.",
    )
    parallel: int | None = Field(
        default=None,
        ge=2,
        le=MAX_MEMBERS,
        description="Trials of one generation: they are asked for together, train side by side, and the sampler is "
        "told all their scores at once (of `genetic`: the population). By default a quarter of the trials, 2 to 8. Not "
        "the number of workers, which `resources.concurrency` limits and which changes no trial.",
    )
    metric: TrialMetric | None = Field(
        default=None,
        description="Score of a trial on the validation set; it has to fit the task. By default nll, for regression "
        "rmse.",
    )
    pruning: PruningSpec | None = Field(
        default=None,
        description="Give bad trials up early. Those that are given up keep their score, and are never members.",
    )
    keep: Literal["best", "greedy"] = Field(
        default="best",
        description="Which trials become members, `members.count` of them: those that score `best`, or those that "
        "`greedy` selection with replacement finds to make the best ensemble, and then at most so many.",
    )

    @property
    def learns(self) -> bool:
        """Whether later trials depend on the scores of earlier ones."""
        return self.sampler in LEARNING

    @property
    def num_trials(self) -> int:
        """How many trials there will be."""
        return math.prod(map(_num_values, self.space.values())) if self.sampler == "grid" else self.trials

    @property
    def generation(self) -> int:
        """How many trials are asked for together."""
        if not self.learns:
            return self.num_trials
        return self.parallel or min(MOST_PARALLEL, max(2, math.ceil(self.trials / 4)))

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """After how many epochs trials are compared, the last of them at `epochs`, of `train`; that one without
        pruning."""
        if self.pruning is None:
            return (epochs,)
        rungs, rung = [], self.pruning.min_epochs
        while rung < epochs:
            rungs.append(rung)
            rung *= self.pruning.reduction_factor
        return (*rungs, epochs)

    def num_unpruned(self, epochs: int) -> int:
        """How many trials reach the last rung, if none fails."""
        return self._num_on_rungs(epochs)[-1]

    def mean_epochs(self, epochs: int) -> float:
        """How many epochs a trial trains on average, if none fails: pruning ends most of them early."""
        rungs = self.rungs(epochs)
        parts = zip((0, *rungs), rungs, self._num_on_rungs(epochs), strict=False)
        return sum((rung - before) * count for before, rung, count in parts) / self.num_trials

    def _num_on_rungs(self, epochs: int) -> list[int]:
        """How many trials are trained up to each rung."""
        whole, rest = divmod(self.num_trials, self.generation)
        sizes = [self.generation] * whole + [rest] * (rest > 0)
        counts = [self.num_trials]
        for _ in self.rungs(epochs)[1:]:
            sizes = [max(1, size // self.pruning.reduction_factor) if self.pruning else size for size in sizes]
            counts.append(sum(sizes))
        return counts

    @model_validator(mode="after")
    def _check(self) -> SearchSpec:
        rates = rate_problems(("space", "dropout"), self.space.get("dropout"))
        refuse([*rates, *_grid_problems(self), *_generation_problems(self)])
        return self


def _num_values(axis: object) -> int:
    return len(axis) if isinstance(axis, tuple) else 1


def _grid_problems(search: SearchSpec) -> list[Problem]:
    if search.sampler != "grid":
        return []
    problems = [
        Problem(("space", name), "is a range, and a grid needs a list of values: name them, or take another sampler")
        for name, axis in search.space.items()
        if isinstance(axis, Range)
    ]
    if not problems and search.num_trials > search.trials:
        what = f"is {search.trials}, but the grid has {search.num_trials} combinations: allow as many, or name fewer"
        problems.append(Problem(("trials",), what))
    return problems


def _generation_problems(search: SearchSpec) -> list[Problem]:
    if not search.learns:
        what = f"has no effect with `sampler: {search.sampler}`, whose trials depend on no score: leave it out"
        return [] if search.parallel is None else [Problem(("parallel",), what)]
    if search.generation >= search.trials:
        what = (
            f"must be above the size of a generation ({search.generation}), or {search.sampler} would learn from "
            f"nothing, not {search.trials}; without learning there is `sampler: random`"
        )
        return [Problem(("trials",), what)]
    return []


def wrong_beside_search(
    search: SearchSpec, model: ModelSpec, members: MembersSpec, train: TrainSpec, ensemble: EnsembleSpec
) -> list[Problem]:
    """What contradicts a search in other parts of the job: it decides which networks there are, and how they differ."""
    problems = []
    named = {"vary": members.vary, "overrides": members.overrides}
    if not isinstance(members.dropout, int | float | None):
        named["dropout"] = members.dropout
    for key, value in named.items():
        if value:
            what = "says how members differ, which a search finds out: put what may differ into search.space"
            problems.append(Problem(("members", key), what))
    if "dropout" in search.space:
        once = {("members", "dropout"): members.dropout, ("model", "kwargs", "dropout"): model.kwargs.get("dropout")}
        said = [path for path, value in once.items() if value is not None]
        problems += [Problem(path, "stands beside `search.space.dropout`: say it once") for path in said]
    if search.pruning is not None:
        problems += _pruning_problems(search, search.pruning, members, train)
        if model.stages:
            what = "lets a trial train longer, and `model.stages` says how long each stage is: leave one out"
            problems.append(Problem(("search", "pruning"), what))
    if members.folds is not None:
        what = "stands beside `search`, which compares its trials on one validation set: leave one out"
        problems.append(Problem(("members", "folds"), what))
    if members.count > search.num_trials:
        what = f"must be at most the number of trials ({search.num_trials}), not {members.count}"
        problems.append(Problem(("members", "count"), what))
    if ensemble.stop_when is not None:
        what = "adds members in the order of their index, and a search chooses them among its trials: leave one out"
        problems.append(Problem(("ensemble", "stop_when"), what))
    if isinstance(ensemble.weights, tuple):
        what = "must not be given as numbers: which members they are for is known only after the search"
        problems.append(Problem(("ensemble", "weights"), what))
    elif search.keep == "greedy" and ensemble.weights not in (None, "greedy"):
        what = f"come out of the selection with `search.keep: greedy`, not by {ensemble.weights}: say `weights: null`"
        problems.append(Problem(("ensemble", "weights"), what))
    return problems


def _pruning_problems(
    search: SearchSpec, pruning: PruningSpec, members: MembersSpec, train: TrainSpec
) -> list[Problem]:
    if "train.epochs" in search.space:
        what = "stands beside `search.pruning`, which decides how long a trial trains: leave one out"
        return [Problem(("search", "space", "train.epochs"), what)]
    if pruning.min_epochs >= train.epochs:
        what = f"must be below train.epochs ({train.epochs}), or nothing is pruned, not {pruning.min_epochs}"
        return [Problem(("search", "pruning", "min_epochs"), what)]
    left = search.num_unpruned(train.epochs)
    if members.count > left:
        what = (
            f"must be at most the number of trials that pruning leaves ({left} of {search.num_trials}, in generations "
            f"of {search.generation}), not {members.count}: allow more trials, larger generations or later pruning"
        )
        return [Problem(("members", "count"), what)]
    return []
