"""Figures from predictions, and the gate's decision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from orchestrator.ensemble.combine import mean, weighted
from orchestrator.ensemble.metrics import Scores, TaskKind, score
from orchestrator.ensemble.weights import Weights, by_accuracy
from orchestrator.errors import InvalidJob, InvalidModel, OrchestratorError
from orchestrator.reporting.evaluate import choose_best, evaluate_split, judge_gate
from orchestrator.reporting.result import Figure, FigureName, Metric, SplitName, SplitScores

TASK = TaskKind.MULTICLASS
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 30)
MEMBERS = RNG.dirichlet(np.ones(3), (4, 30)).astype(np.float32)
INDICES = [0, 2, 5, 7]  # some members are missing
WEIGHTS = Weights((0.5, 0.25, 0.1, 0.15), "given", "given")


def test_every_figure_equals_what_the_parts_say() -> None:
    split, scores = evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES, WEIGHTS)
    assert scores == tuple(score(TASK, LABELS, prediction) for prediction in MEMBERS)
    assert split.weighted is not None
    for figure, prediction in ((split.ensemble, mean(MEMBERS)), (split.weighted, weighted(MEMBERS, WEIGHTS.values))):
        expected = score(TASK, LABELS, prediction)
        assert (figure.accuracy, figure.n) == (expected.accuracy, 30)
        assert figure.nll == pytest.approx(expected.nll, abs=1e-14)
    assert split.members_mean.accuracy == pytest.approx(np.mean([s.accuracy for s in scores]))
    assert split.members_mean.nll == pytest.approx(np.mean([s.nll for s in scores]))


def test_the_best_member_is_chosen_on_validation_by_its_index() -> None:
    split, scores = evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES)
    assert split.best_member is not None
    assert split.best_member.member in INDICES
    assert split.best_member.accuracy == max(s.accuracy for s in scores)


def test_on_test_the_member_chosen_before_is_reported_though_another_is_better() -> None:
    right = np.eye(3, dtype=np.float32)[LABELS]
    split, scores = evaluate_split("test", TASK, LABELS, [right, MEMBERS[1]], [0, 2], best_member=2)
    assert split.best_member is not None
    assert split.best_member.member == 2
    assert split.best_member.accuracy == scores[1].accuracy < scores[0].accuracy


def test_test_rows_never_choose_the_best_member() -> None:
    split, _ = evaluate_split("test", TASK, LABELS, MEMBERS, INDICES)
    assert split.best_member is None
    assert split.weighted is None


def test_ties_go_to_the_lower_nll_and_then_to_the_lower_index() -> None:
    assert choose_best([4, 3, 9], [Scores(0.9, 0.3, 10), Scores(0.9, 0.2, 10), Scores(0.8, 0.1, 10)]) == 3
    assert choose_best([4, 3, 9], [Scores(0.9, 0.2, 10)] * 3) == 3


def test_each_figure_says_what_else_its_rows_were_used_for() -> None:
    weights = by_accuracy([0.5, 0.4, 0.3, 0.2])
    validation, _ = evaluate_split(
        "validation", TASK, LABELS, MEMBERS, INDICES, weights, used_for=["early stopping", "choice of the best epoch"]
    )
    rows = "validation (30 rows; also used for early stopping, choice of the best epoch"
    assert validation.weighted is not None
    assert validation.best_member is not None
    assert validation.ensemble.scored_on == validation.members_mean.scored_on == rows + ")"
    assert validation.weighted.scored_on == rows + ", weights)"
    assert validation.best_member.scored_on == rows + ", choice of the best member)"
    test, _ = evaluate_split("test", TASK, LABELS, MEMBERS, INDICES, weights, best_member=5)
    assert test.weighted is not None
    assert test.best_member is not None
    assert test.weighted.scored_on == test.best_member.scored_on == "test (30 rows; used for nothing else)"


def test_a_use_that_is_named_already_is_not_named_twice() -> None:
    split, _ = evaluate_split(
        "validation", TASK, LABELS, MEMBERS, INDICES, by_accuracy([0.5] * 4), used_for=["weights"]
    )
    assert split.weighted is not None
    assert split.weighted.scored_on == "validation (30 rows; also used for weights)"


def test_predictions_are_read_once_and_may_be_a_stream() -> None:
    def stream() -> Iterator[np.ndarray]:
        yield from MEMBERS

    streamed = evaluate_split("validation", TASK, LABELS, stream(), INDICES, WEIGHTS)
    assert streamed == evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES, WEIGHTS)


def test_binary_tasks_and_one_hot_labels_are_scored() -> None:
    yes = (LABELS > 0).astype(int)
    split, _ = evaluate_split("validation", TaskKind.BINARY, yes, MEMBERS[:, :, :1], INDICES)
    assert split.ensemble.accuracy == np.mean((MEMBERS[:, :, 0].astype(float).mean(axis=0) > 0.5) == yes)
    one_hot, _ = evaluate_split("validation", TASK, np.eye(3)[LABELS], MEMBERS, INDICES)
    assert one_hot == evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES)[0]


@pytest.mark.parametrize("num_predictions", [3, 5])
def test_another_number_of_predictions_than_members_is_refused(num_predictions: int) -> None:
    with pytest.raises(OrchestratorError, match="one prediction for each of 4 members"):
        evaluate_split("validation", TASK, LABELS, [MEMBERS[0]] * num_predictions, INDICES)


def test_no_members_weights_that_do_not_fit_and_an_unknown_best_member_are_refused() -> None:
    with pytest.raises(InvalidModel, match="no predictions"):
        evaluate_split("validation", TASK, LABELS, [], [])
    with pytest.raises(InvalidJob, match="4 weights for 2 members"):
        evaluate_split("validation", TASK, LABELS, MEMBERS[:2], [0, 2], WEIGHTS)
    with pytest.raises(OrchestratorError, match="best member 1 is not among"):
        evaluate_split("test", TASK, LABELS, MEMBERS, INDICES, best_member=1)


def test_a_member_that_predicts_nan_is_named_by_its_index() -> None:
    broken = MEMBERS.copy()
    broken[2, 0, 0] = np.nan
    with pytest.raises(InvalidModel, match="validation: member 5"):
        evaluate_split("validation", TASK, LABELS, broken, INDICES)


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
