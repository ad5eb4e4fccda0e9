"""Which trials of a search become the members of the ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.ensemble.metrics import METRICS
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.search import KeptDecision, decide_kept
from orchestrator.reporting.result import SearchResult, TrialResult

Json = Any
Entry = Mapping[str, Json]


def keep_trials(
    selection: Mapping[str, Json], keep: str, count: int, greedy: Callable[[Sequence[Entry]], Sequence[float]]
) -> dict[str, Json]:
    """The parts `members` and `search` of a selection: the trials that are kept, and the others beside them.

    Args:
        selection: with all trials as members, or as this function left it.
        keep: `best` or `greedy`.
        count: how many are wanted.
        greedy: the weights that greedy selection gives to the entries of these trials, at most `count` of them above 0.
    """
    told, trials = selection["search"], trials_of(selection)
    weights: list[float] | None = None
    if keep == "greedy":
        scored = scored_trials(selection)
        found = {t["index"]: value for t, value in zip(scored, greedy(scored), strict=True) if value > 0}
        weights = list(found.values())
        reason = f"{len(found)} of {len(trials)} trials by greedy selection of the best ensemble, at most {count}"
        kept = KeptDecision(tuple(found), reason)
    else:
        usable = {trial["index"] for trial in scored_trials(selection)}
        scores = {trial: score if trial in usable else None for trial, score in enumerate(told["scores"])}
        better = METRICS[told["metric"]].greater_is_better
        kept = decide_kept(scores, count, greater_is_better=better)
    return {
        "members": [trial for trial in trials if trial["index"] in kept.trials],
        "search": {
            **told,
            "keep": keep,
            "count": count,
            "because": kept.reason,
            "weights": weights,
            "others": [trial for trial in trials if trial["index"] not in kept.trials],
        },
    }


def trials_of(selection: Mapping[str, Json]) -> list[Entry]:
    """The entries of all trials of a selection that has a search, by index; as those of members."""
    entries = [*selection["members"], *selection["search"].get("others", ())]
    return sorted(entries, key=lambda entry: int(entry["index"]))


def trained_of(selection: Mapping[str, Json]) -> list[Entry]:
    """The entries of all that was trained: of a search all trials, else the members."""
    return trials_of(selection) if selection.get("search") else list(selection["members"])


def scored_trials(selection: Mapping[str, Json]) -> list[Entry]:
    """Those of `trials_of` that have a score, and therefore a model, and were not pruned."""
    search = selection["search"]
    usable = {trial for trial, score in enumerate(search["scores"]) if score is not None} - set(search["pruned"])
    return [trial for trial in trials_of(selection) if trial["index"] in usable]


def greedy_weights(selection: Mapping[str, Json]) -> Sequence[float] | None:
    """The weights of the members as greedy selection among all trials found them; None where it did not choose."""
    search = selection.get("search")
    return None if search is None else search.get("weights")


def is_short(selection: Mapping[str, Json]) -> bool:
    """Whether a search has found fewer usable trials than members were wanted."""
    search = selection.get("search")
    if search is None:
        return False
    return len(scored_trials(selection)) < int(search["count"])


def search_result(selection: Mapping[str, Json]) -> SearchResult | None:
    """What the result tells of a search; None: there was none."""
    search = selection.get("search")
    if search is None:
        return None
    generations = [number for number, size in enumerate(search["generations"]) for _ in range(size)]
    kept = {member["index"] for member in selection["members"]}
    return SearchResult(
        sampler=search["sampler"],
        metric=search["metric"],
        output=search.get("output", ONLY),
        planned=search["planned"],
        keep=search["keep"],
        because=search["because"],
        importance=search["importance"],
        trials=tuple(
            TrialResult(
                index=trial["index"],
                generation=generations[trial["index"]],
                seed=trial["seed"],
                hyperparameters=search["params"][trial["index"]],
                status="pruned" if trial["index"] in search["pruned"] else trial["status"],
                score=search["scores"][trial["index"]],
                kept=trial["index"] in kept,
                epochs=(trial["final"] or {}).get("epochs"),
                message=trial["message"],
            )
            for trial in trials_of(selection)
        ),
    )
