"""Figures from predictions, in one pass over the members; and the quality gate's decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.combine import Accumulator
from orchestrator.ensemble.metrics import Scores, TaskKind, score, to_class_indices
from orchestrator.ensemble.weights import Weights
from orchestrator.errors import InvalidJob, OrchestratorError
from orchestrator.reporting.result import Figure, FigureName, GateResult, Metric, SplitName, SplitScores

Array = npt.NDArray[Any]

_SPOKEN = {
    "ensemble": "the ensemble",
    "weighted": "the weighted ensemble",
    "best_member": "the best member",
    "members_mean": "the members' mean",
}


def evaluate_split(
    name: SplitName,
    task: TaskKind,
    labels: Array,
    predictions: Iterable[Array],
    indices: Sequence[int],
    weights: Weights | None = None,
    best_member: int | None = None,
    used_for: Sequence[str] = (),
) -> tuple[SplitScores, tuple[Scores, ...]]:
    """Score every member, their mean, their average and their weighted average on one split.

    The best member is chosen on validation (`choose_best`) and only named elsewhere: choosing it again on test
    rows would flatter it. So with `best_member=None` a test split reports none.

    Args:
        name: of the split.
        task: what `infer_task` said.
        labels: [N], or one-hot [N, C].
        predictions: [N, C] for each member, in the order of `indices`; read once, one in memory at a time.
        indices: the members' indices.
        weights: one weight for each of `indices`; None for no weighted figure.
        best_member: index of the member chosen before; None to choose it here, on validation alone.
        used_for: what else these rows were used for, such as `early stopping`; goes into `scored_on`.

    Returns:
        The split's figures and each member's scores, in the order of `indices`.

    Raises:
        InvalidData, InvalidModel: labels or predictions that cannot be scored or combined.
        InvalidJob: another number of weights than of members.
        OrchestratorError: another number of predictions than of members, or an unknown best member.
    """
    if weights is not None and len(weights.values) != len(indices):
        raise InvalidJob(f"{len(weights.values)} weights for {len(indices)} members", where="weights")
    if best_member is not None and best_member not in indices:
        raise OrchestratorError(f"the best member {best_member} is not among the members {list(indices)}", where=name)
    classes = to_class_indices(labels)
    plain, by_weight, scores = Accumulator(), Accumulator(), []
    for k, (index, prediction) in enumerate(zip_longest(indices, predictions)):
        if index is None or prediction is None:
            raise OrchestratorError(f"not one prediction for each of {len(indices)} members", where=name)
        member = f"{name}: member {index}"
        plain.add(prediction, name=member)
        scores.append(score(task, classes, prediction))
        if weights is not None:
            by_weight.add(prediction, weights.values[k], name=member)

    n, average = len(classes), plain.average()
    chosen_here = best_member is None and name == "validation"
    if chosen_here:
        best_member = choose_best(indices, scores)
    fitted_here = weights is not None and weights.fitted_on == name
    rows = _scored_on(name, n, used_for)
    split = SplitScores(
        ensemble=_figure(score(task, classes, average), rows),
        weighted=None
        if weights is None
        else _figure(
            score(task, classes, by_weight.average()),
            _scored_on(name, n, used_for, "weights" if fitted_here else None),
        ),
        best_member=None
        if best_member is None
        else _figure(
            scores[list(indices).index(best_member)],
            _scored_on(name, n, used_for, "choice of the best member" if chosen_here else None),
            best_member,
        ),
        members_mean=Figure(
            accuracy=float(np.mean([s.accuracy for s in scores])),
            nll=float(np.mean([s.nll for s in scores])),
            n=n,
            scored_on=rows,
        ),
    )
    return split, tuple(scores)


def choose_best(indices: Sequence[int], scores: Sequence[Scores]) -> int:
    """Index of the member of highest accuracy; ties go to the lower nll, then to the lower index."""
    ranked = zip(scores, indices, strict=True)
    return min((-s.accuracy, s.nll, index) for s, index in ranked)[2]


def judge_gate(
    *,
    metric: Metric,
    of: FigureName,
    on: SplitName,
    min: float | None,
    max: float | None,
    validation: SplitScores | None,
    test: SplitScores | None,
) -> GateResult:
    """Whether the figure `of` the split `on` lies within [min, max], and why.

    A figure that does not exist does not pass. The bounds themselves pass.

    Raises:
        InvalidJob: neither bound is given.
    """
    if min is None and max is None:
        raise InvalidJob("the gate has no bound", where="ensemble.gate", hint="give `min`, `max` or both")
    split = validation if on == "validation" else test
    figure: Figure | None = None if split is None else getattr(split, of)
    name = f"{metric} of {_SPOKEN[of]} on {on}"
    value = None if figure is None else float(getattr(figure, metric))
    if value is None:
        passed, reason = False, f"there is no {name}"
    elif min is not None and value < min:
        passed, reason = False, f"{name} is {value:.8g}, below the minimum {min:.8g}"
    elif max is not None and value > max:
        passed, reason = False, f"{name} is {value:.8g}, above the maximum {max:.8g}"
    else:
        bounds = [f"{word} {bound:.8g}" for word, bound in (("at least", min), ("at most", max)) if bound is not None]
        passed, reason = True, f"{name} is {value:.8g}, {' and '.join(bounds)}"
    return GateResult(passed=passed, reason=reason, metric=metric, of=of, on=on, value=value, min=min, max=max)


def _figure(scores: Scores, scored_on: str, member: int | None = None) -> Figure:
    return Figure(accuracy=scores.accuracy, nll=scores.nll, n=scores.n, scored_on=scored_on, member=member)


def _scored_on(name: str, n: int, used_for: Sequence[str], too: str | None = None) -> str:
    uses = list(dict.fromkeys([*used_for, *([too] if too else [])]))
    also = f"also used for {', '.join(uses)}" if uses else "used for nothing else"
    return f"{name} ({n} rows; {also})"
