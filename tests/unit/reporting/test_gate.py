"""The gate's decision."""

from __future__ import annotations

import pytest

from orchestrator.errors import InvalidJob
from orchestrator.reporting.gate import judge_gate
from orchestrator.reporting.scores import Figure, FigureName, Metric, SplitName, SplitScores

VALIDATION = SplitScores(
    ensemble=Figure(accuracy=0.9, nll=0.3, n=10, scored_on="validation"),
    members_mean=Figure(accuracy=0.8, nll=0.4, n=10, scored_on="validation"),
)


@pytest.mark.parametrize(
    ("metric", "of", "minimum", "maximum", "passed", "reason"),
    [
        ("accuracy", "ensemble", 0.85, None, True, "accuracy of the ensemble on validation is 0.9, at least 0.85"),
        ("accuracy", "ensemble", 0.9, None, True, "accuracy of the ensemble on validation is 0.9, at least 0.9"),
        ("accuracy", "ensemble", 0.90001, None, False, "is 0.9, below the minimum 0.90001"),
        ("accuracy", "members_mean", 0.85, None, False, "accuracy of the members' mean on validation is 0.8, below"),
        ("nll", "ensemble", None, 0.25, False, "nll of the ensemble on validation is 0.3, above the maximum 0.25"),
        ("nll", "ensemble", 0.1, 0.3, True, "is 0.3, at least 0.1 and at most 0.3"),
        ("accuracy", "weighted", 0.1, None, False, "there is no accuracy of the weighted ensemble on validation"),
    ],
)
def test_the_gate_decides_with_a_reason(
    metric: Metric, of: FigureName, minimum: float | None, maximum: float | None, passed: bool, reason: str
) -> None:
    gate = judge_gate(metric=metric, of=of, on="validation", min=minimum, max=maximum, validation=VALIDATION, test=None)
    assert gate.passed is passed
    assert reason in gate.reason
    assert (gate.metric, gate.of, gate.min, gate.max) == (metric, of, minimum, maximum)


@pytest.mark.parametrize("on", ["validation", "test"])
def test_a_gate_on_a_split_that_does_not_exist_is_missed(on: SplitName) -> None:
    gate = judge_gate(metric="accuracy", of="ensemble", on=on, min=0.0, max=None, validation=None, test=None)
    assert not gate.passed
    assert gate.value is None
    assert f"on {on}" in gate.reason


def test_a_gate_without_bounds_is_refused() -> None:
    with pytest.raises(InvalidJob, match="no bound"):
        judge_gate(metric="accuracy", of="ensemble", on="test", min=None, max=None, validation=None, test=None)


def test_a_gate_on_a_metric_that_could_not_be_told_is_missed() -> None:
    gate = judge_gate(metric="auc", of="ensemble", on="validation", min=0.5, max=None, validation=VALIDATION, test=None)
    assert not gate.passed
    assert gate.reason == "there is no auc of the ensemble on validation"
