"""The quality gate's decision. Pure."""

from __future__ import annotations

from orchestrator.errors import InvalidJob
from orchestrator.planning.outputs import ONLY
from orchestrator.reporting.outputs import for_output
from orchestrator.reporting.result import GateResult
from orchestrator.reporting.scores import Figure, FigureName, Metric, SplitName, SplitScores

SPOKEN: dict[FigureName, str] = {
    "ensemble": "the ensemble",
    "weighted": "the weighted ensemble",
    "best_member": "the best member",
    "members_mean": "the members' mean",
}


def judge_gate(
    *,
    metric: Metric,
    of: FigureName,
    on: SplitName,
    min: float | None,
    max: float | None,
    validation: SplitScores | None,
    test: SplitScores | None,
    out_of_fold: SplitScores | None = None,
    output: str = ONLY,
) -> GateResult:
    """Whether the figure `of` the split `on` lies within [min, max], and why; `output` is the one that decides.

    A figure that does not exist does not pass. The bounds themselves pass.

    Raises:
        InvalidJob: neither bound is given.
    """
    if min is None and max is None:
        raise InvalidJob("the gate has no bound", where="ensemble.gate", hint="give `min`, `max` or both")
    split = {"validation": validation, "test": test, "out_of_fold": out_of_fold}[on]
    figure: Figure | None = None if split is None else getattr(split, of)
    name = f"{metric} of {SPOKEN[of]}{for_output(output)} on {on}"
    value: float | None = None if figure is None else getattr(figure, metric)
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
