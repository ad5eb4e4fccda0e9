"""The `Sampler` port: a grid, and Optuna's samplers behind ask and tell.

Optuna keeps its study in memory alone: what lasts is the run's log, from which a sampler is brought back to where it
was by asking and telling the same again. Imported only by whoever runs, or plans, a search.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.errors import InvalidJob
from orchestrator.planning.ports import Sampler
from orchestrator.planning.search import Params
from orchestrator.planning.seeds import search_seed
from orchestrator.spec import Job, Range, SearchSpec

STARTUP = 10
"""Trials of `tpe` that are drawn at random before its model has anything to go by: at most these, or a third of all."""


def make_sampler(search: SearchSpec, seed: int) -> Sampler:
    """The sampler that a job asks for, at its beginning.

    Args:
        search: the job's `search` part.
        seed: the job's root seed; the stream is `planning.seeds.search_seed`.

    Raises:
        InvalidJob: Optuna is not installed.
    """
    if search.sampler == "grid":
        return Grid(search)
    return OptunaSampler(search, seed)


def sampler_of(job: Job) -> Sampler | None:
    """The sampler of a job's search, at its beginning; None: there is no search. Raises as `make_sampler`."""
    return None if job.search is None else make_sampler(job.search, job.seed)


class Grid:
    """All combinations, the last name of the space, by alphabet, turning fastest. What it is told changes nothing."""

    def __init__(self, search: SearchSpec) -> None:
        space = _space_of(search)
        values = [axis if isinstance(axis, tuple) else () for axis in space.values()]
        self._left = (dict(zip(space, each, strict=True)) for each in itertools.product(*values))

    def ask(self, count: int) -> Sequence[Params]:
        return list(itertools.islice(self._left, count))

    def tell(self, losses: Sequence[float | None]) -> None:
        """Nothing."""


class OptunaSampler:
    """One study of Optuna's. Arguments and errors as `make_sampler`.

    Floats are rounded to six digits where they leave, so that plans stay readable: what the study remembers differs
    from what is trained by less than any training could tell.
    """

    def __init__(self, search: SearchSpec, seed: int) -> None:
        optuna = _optuna()
        self._space = _space_of(search)
        self._distributions = {name: _distribution(optuna, axis) for name, axis in self._space.items()}
        with _quiet(optuna):
            self._study = optuna.create_study(sampler=_optunas_own(optuna, search, search_seed(seed)))
        self._failed = optuna.trial.TrialState.FAIL
        self._asked: list[Any] = []

    def ask(self, count: int) -> Sequence[Params]:
        self._asked = [self._study.ask(self._distributions) for _ in range(count)]
        return [self._values(trial.params) for trial in self._asked]

    def tell(self, losses: Sequence[float | None]) -> None:
        for trial, loss in zip(self._asked, losses, strict=True):
            if loss is None:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, loss)
        self._asked = []

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _value(axis, params[name]) for name, axis in self._space.items()}


def _space_of(search: SearchSpec) -> dict[str, Any]:
    """In one order, however the job is written: a run's identity knows no order, and samplers draw name by name."""
    return {name: search.space[name] for name in sorted(search.space)}


def _optunas_own(optuna: Any, search: SearchSpec, seed: int) -> Any:
    match search.sampler:
        case "tpe":
            # The trials of a generation that are asked for already count as bad, so that the others lie elsewhere.
            startup = min(STARTUP, math.ceil(search.trials / 3))
            return optuna.samplers.TPESampler(n_startup_trials=startup, constant_liar=True, seed=seed)
        case "genetic":
            return optuna.samplers.NSGAIISampler(population_size=search.generation, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _distribution(optuna: Any, axis: Sequence[Any] | Range) -> Any:
    """A list by the places of its values: Optuna's categories may be neither lists nor mappings."""
    if not isinstance(axis, Range):
        return optuna.distributions.CategoricalDistribution(range(len(axis)))
    whole = isinstance(axis.min, int) and isinstance(axis.max, int)
    kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
    return kind(axis.min, axis.max, log=axis.log)


def _value(axis: Sequence[Any] | Range, sampled: Any) -> Any:
    if not isinstance(axis, Range):
        return axis[sampled]
    if isinstance(axis.min, int) and isinstance(axis.max, int):
        return int(sampled)
    return min(max(float(f"{sampled:.6g}"), axis.min), axis.max)


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's words on a new study, and on what it calls experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InvalidJob(
            f"a search needs Optuna, which cannot be imported: {error}",
            where="search",
            hint="pip install 'orchestrator[search]'; `sampler: grid` does without",
        ) from error
    return optuna


def importance(search: SearchSpec, trials: Sequence[tuple[Params, float]], seed: int) -> dict[str, float]:
    """How much of the spread of the scores each parameter explains: shares that sum to 1, largest first.

    By fANOVA over a random forest (Hutter, Hoos and Leyton-Brown 2014, "An efficient approach for assessing
    hyperparameter importance"), single parameters only. It describes the trials that were made, so it says little of
    values that a sampler left soon. Empty with fewer than four trials or where all scored the same.

    Args:
        search: the job's `search` part.
        trials: the values and the score of each trial that has one.
        seed: the job's root seed.
    """
    scores = [score for _, score in trials]
    if len(trials) < FEWEST_TRIALS or max(scores) == min(scores):
        return {}
    optuna = _optuna()
    distributions = {name: _distribution(optuna, axis) for name, axis in _space_of(search).items()}
    with _quiet(optuna):
        study = optuna.create_study()
        for params, score in trials:
            sampled = {name: _sampled(search.space[name], params[name]) for name in distributions}
            study.add_trial(optuna.trial.create_trial(params=sampled, distributions=distributions, value=score))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=search_seed(seed))
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: round(float(share), 6) for name, share in found.items()}


FEWEST_TRIALS = 4
"""Below so many trials nothing is told of importance."""


def _sampled(axis: Sequence[Any] | Range, value: Any) -> Any:
    """What `_value` was given, up to its rounding."""
    return value if isinstance(axis, Range) else _place(axis, value)


def _place(axis: Sequence[Any], value: Any) -> int:
    """By type as well: in a list of true and 1, these are two."""
    return next(place for place, each in enumerate(axis) if type(each) is type(value) and each == value)
