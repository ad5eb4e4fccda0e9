"""The decisions of a hyperparameter search: how many trials come next, and which of them are kept. Pure.

A search goes in generations of fixed size: each is asked for as a whole, recorded before any of its trials starts, and
told to the sampler as a whole, in the order of the index. So its trials depend neither on how many workers there are
nor on who finishes first, and whoever resumes a run asks again for the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.spec import SearchSpec

Params = Mapping[str, Any]
"""The values of one trial, by the names of `search.space`."""


@dataclass(frozen=True)
class Rung:
    """The trials of a generation that go on to so many epochs; the others are pruned."""

    trials: tuple[int, ...]
    epochs: int


@dataclass(frozen=True)
class Generation:
    """Trials that were asked for together.

    Attributes:
        params: of each trial.
        scores: what the sampler was told of each; None for a trial without a score. Empty: nothing yet.
        rungs: beyond the first, on which all trials are.
    """

    params: tuple[Params, ...]
    scores: tuple[float | None, ...] = ()
    rungs: tuple[Rung, ...] = ()


@dataclass(frozen=True)
class GenerationDecision:
    """How many trials to ask for next, 0 for none, and why."""

    num_trials: int
    reason: str


@dataclass(frozen=True)
class KeptDecision:
    """The trials that become members, by index in ascending order, and why these."""

    trials: tuple[int, ...]
    reason: str


def decide_generation(search: SearchSpec, generations: Sequence[Generation]) -> GenerationDecision:
    """Decide what comes after the generations so far, all of whose trials are through."""
    asked = sum(len(generation.params) for generation in generations)
    left = search.num_trials - asked
    if left <= 0:
        return GenerationDecision(0, f"the search is over: {asked} of {search.num_trials} trials")
    size = min(search.generation, left)
    first = f"{asked}–{asked + size - 1}" if size > 1 else str(asked)
    return GenerationDecision(size, f"generation {len(generations)}: trials {first} of {search.num_trials}")


def decide_rung(scores: Mapping[int, float | None], reduction_factor: int, *, greater_is_better: bool) -> KeptDecision:
    """The trials that go on to the next rung: the best part of those that are compared, one at least.

    Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
    optimization"), with all trials of a rung compared at once, so that nothing depends on who is there first.

    Args:
        scores: of the trials on this rung; None for one that has failed, which takes no place from the others.
        reduction_factor: of so many trials one goes on.
        greater_is_better: of the scores.
    """
    count = max(1, len(scores) // reduction_factor)
    kept = decide_kept(scores, count, greater_is_better=greater_is_better).trials
    return KeptDecision(kept, f"{len(kept)} of {len(scores)} trials go on")


def decide_kept(scores: Mapping[int, float | None], count: int, *, greater_is_better: bool) -> KeptDecision:
    """The best trials; of equal ones those of the lower index.

    Args:
        scores: by trial; None for one without a score, which is never kept.
        count: how many are wanted.
        greater_is_better: of the scores.
    """
    sign = -1.0 if greater_is_better else 1.0
    ranked = sorted((sign * score, trial) for trial, score in scores.items() if score is not None)
    kept = tuple(sorted(trial for _, trial in ranked[:count]))
    return KeptDecision(kept, f"the {len(kept)} best of {len(scores)} trials")


def generation_to_json(params: Sequence[Params], told: Sequence[float | None]) -> dict[str, Any]:
    """Body of a `generation` record.

    Args:
        params: of the trials that it asks for.
        told: the scores of the trials of the generation before.
    """
    return {"params": [dict(each) for each in params], "told": list(told)}


def rung_to_json(rung: Rung) -> dict[str, Any]:
    """Body of a `rung` record."""
    return {"trials": list(rung.trials), "epochs": rung.epochs}


def read_generations(bodies: Iterable[Mapping[str, Any]]) -> tuple[Generation, ...]:
    """The generations that `generation` and `rung` records tell, in order; the last one is told no scores yet."""
    generations: list[Generation] = []
    for body in bodies:
        if "epochs" in body:
            rung = Rung(tuple(body["trials"]), int(body["epochs"]))
            generations[-1] = replace(generations[-1], rungs=(*generations[-1].rungs, rung))
            continue
        if generations:
            generations[-1] = replace(generations[-1], scores=tuple(body["told"]))
        generations.append(Generation(tuple(body["params"])))
    return tuple(generations)


def pruned_trials(generations: Iterable[Generation]) -> tuple[int, ...]:
    """Trials, by index, that were left behind on a rung."""
    pruned: list[int] = []
    first = 0
    for generation in generations:
        trials = range(first, first + len(generation.params))
        first += len(generation.params)
        if generation.rungs:
            pruned += [trial for trial in trials if trial not in generation.rungs[-1].trials]
    return tuple(pruned)
