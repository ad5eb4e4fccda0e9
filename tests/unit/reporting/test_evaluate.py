"""Figures from predictions: what is right, and what is honest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from orchestrator.ensemble.combine import Accumulator
from orchestrator.ensemble.crossfit import assign_folds
from orchestrator.ensemble.fitting import fit_weights
from orchestrator.ensemble.metrics import Scores, score
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import Weights, by_accuracy
from orchestrator.errors import InvalidJob, InvalidModel, OrchestratorError
from orchestrator.reporting.evaluate import choose_best, evaluate_split
from orchestrator.reporting.fitted import Chosen, Rules

TASK = TaskKind.MULTICLASS
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 30)
MEMBERS = RNG.dirichlet(np.ones(3), (4, 30)).astype(np.float32)
INDICES = [0, 2, 5, 7]  # some members are missing
WEIGHTS = Weights((0.5, 0.25, 0.1, 0.15), "given", "given")
GIVEN = Rules(weights=WEIGHTS)


def average(predictions: np.ndarray, weights: tuple[float, ...] | None = None) -> np.ndarray:
    total = Accumulator(TASK)
    for prediction, weight in zip(predictions, weights or [1.0] * len(predictions), strict=True):
        total.add(prediction, weight)
    return total.average()


def skilled(num_members: int, num_rows: int, *, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] and members [M, N, 3] that know something, each with noise of its own."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, num_rows)
    logits = 1.2 * np.eye(3)[labels] + rng.normal(0, 1.0, (num_members, num_rows, 3))
    powers = np.exp(sharpness * logits)
    return labels, (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32)


def test_every_figure_equals_what_the_parts_say() -> None:
    found = evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES, GIVEN)
    split = found.split
    assert [each.accuracy for each in found.members] == [score(TASK, LABELS, one).accuracy for one in MEMBERS]
    assert split.weighted is not None
    for figure, prediction in ((split.ensemble, average(MEMBERS)), (split.weighted, average(MEMBERS, WEIGHTS.values))):
        expected = score(TASK, LABELS, prediction)
        assert (figure.accuracy, figure.n) == (expected.accuracy, 30)
        for metric in ("nll", "brier", "ece", "auc"):
            assert getattr(figure, metric) == pytest.approx(getattr(expected, metric), abs=1e-12)
    for metric in ("accuracy", "nll", "brier", "ece"):
        mean = np.mean([getattr(score(TASK, LABELS, one), metric) for one in MEMBERS])
        assert getattr(split.members_mean, metric) == pytest.approx(mean)


def test_the_best_member_is_chosen_on_validation_by_its_index() -> None:
    found = evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES)
    assert found.split.best_member is not None
    assert found.split.best_member.member == found.chosen.best_member
    assert found.chosen.best_member in INDICES
    assert found.split.best_member.accuracy == max(each.accuracy for each in found.members)


def test_on_test_the_member_chosen_before_is_reported_though_another_is_better() -> None:
    right = np.eye(3, dtype=np.float32)[LABELS]
    found = evaluate_split("test", TASK, LABELS, [right, MEMBERS[1]], [0, 2], chosen=Chosen(best_member=2))
    assert found.split.best_member is not None
    assert found.split.best_member.member == 2
    assert found.split.best_member.accuracy == found.members[1].accuracy < found.members[0].accuracy


def test_test_rows_decide_nothing() -> None:
    found = evaluate_split("test", TASK, LABELS, MEMBERS, INDICES, Rules(combine="stacking", calibrate=True))
    assert found.chosen == Chosen()
    assert found.split.best_member is None
    assert found.split.weighted is None
    assert found.split.calibration is None


def test_ties_go_to_the_lower_nll_and_then_to_the_lower_index() -> None:
    worse, tied, lower = (Scores(n=10, accuracy=a, nll=b) for a, b in ((0.9, 0.3), (0.9, 0.2), (0.8, 0.1)))
    assert choose_best(TASK, [4, 3, 9], [worse, tied, lower]) == 3
    assert choose_best(TASK, [4, 3, 9], [tied] * 3) == 3
    errors = [Scores(n=10, rmse=2.0), Scores(n=10, rmse=1.0)]
    assert choose_best(TaskKind.REGRESSION, [0, 1], errors) == 1


@pytest.mark.parametrize("method", ["accuracy", "nll", "greedy"])
def test_weights_fitted_on_these_rows_are_cross_fitted_and_the_naive_figure_stands_beside(method: str) -> None:
    labels, members = skilled(4, 120)
    weights = fit_weights(method, TASK, labels, members)
    split = evaluate_split("validation", TASK, labels, members, INDICES, Rules(weights=weights)).split
    assert split.weighted is not None
    naive = score(TASK, labels, average(members, weights.values))
    assert split.weighted.naive["nll"] == pytest.approx(naive.nll)
    assert split.weighted.nll != pytest.approx(naive.nll, abs=1e-9)
    assert split.weighted.optimism["nll"] == pytest.approx(split.weighted.nll - naive.nll)
    assert split.weighted.optimism["accuracy"] == pytest.approx(naive.accuracy - split.weighted.accuracy)
    on_test = evaluate_split("test", TASK, labels, members, INDICES, Rules(weights=weights)).split
    assert on_test.weighted is not None
    assert on_test.weighted.nll == pytest.approx(naive.nll)  # fitted on other rows: as they are
    assert not on_test.weighted.naive


def test_a_stacking_of_members_that_know_nothing_looks_good_only_where_it_was_fitted() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 90)
    members = rng.dirichlet(np.ones(3), (20, 90)).astype(np.float32)
    found = evaluate_split("validation", TASK, labels, members, range(20), Rules(combine="stacking"))
    assert found.split.weighted is not None
    assert found.split.weighted.naive["accuracy"] > 0.6
    assert found.split.weighted.accuracy < 0.5
    fresh = rng.integers(0, 3, 90)
    on_test = evaluate_split("test", TASK, fresh, members, range(20), Rules(combine="stacking"), found.chosen).split
    assert on_test.weighted is not None
    assert on_test.weighted.accuracy < 0.5


def test_a_temperature_is_cross_fitted_on_validation_and_only_used_on_test() -> None:
    labels, members = skilled(1, 300, sharpness=6.0)
    plain = evaluate_split("validation", TASK, labels, members, range(1))
    scaled = evaluate_split("validation", TASK, labels, members, range(1), Rules(calibrate=True))
    calibration = scaled.split.calibration
    assert calibration is not None
    assert plain.split.calibration == calibration  # what scaling would do is told in any case
    assert calibration.temperature > 1.5
    assert (calibration.after.nll or 0) < (calibration.before.nll or 0)
    assert plain.split.ensemble.nll == calibration.before.nll
    assert scaled.split.ensemble.nll == calibration.after.nll
    assert scaled.split.ensemble.accuracy == plain.split.ensemble.accuracy
    assert scaled.split.ensemble.optimism["nll"] > 0
    assert sum(each.count for each in calibration.reliability_after) == 300
    on_test = evaluate_split("test", TASK, labels, members, range(1), Rules(calibrate=True), scaled.chosen).split
    assert on_test.calibration is not None
    assert on_test.calibration.temperature == calibration.temperature
    assert on_test.ensemble.nll == on_test.calibration.after.nll


def test_logits_are_averaged_where_the_job_says_so() -> None:
    labels, members = skilled(4, 60)
    split = evaluate_split("validation", TASK, labels, members, range(4), Rules(combine="logits")).split
    geometric = np.exp(np.log(members.astype(np.float64)).mean(axis=0))
    expected = score(TASK, labels, geometric / geometric.sum(axis=1, keepdims=True))
    assert split.ensemble.nll == pytest.approx(expected.nll)


def test_a_gain_is_above_zero_where_it_is_better_and_its_interval_is_paired() -> None:
    labels, members = skilled(8, 500)
    split = evaluate_split("validation", TASK, labels, members, range(8)).split
    gains = {(gain.over, gain.metric): gain for gain in split.gains}
    assert split.best_member is not None
    for metric, sign in (("accuracy", 1), ("nll", -1)):
        gain = gains["best_member", metric]
        assert gain.gain == pytest.approx(sign * (getattr(split.ensemble, metric) - getattr(split.best_member, metric)))
        assert gain.interval.low <= gain.gain <= gain.interval.high
    assert gains["members_mean", "nll"].interval.low > 0
    paired = gains["members_mean", "accuracy"].interval
    alone = [split.ensemble.intervals["accuracy"], split.members_mean.intervals["accuracy"]]
    assert paired.high - paired.low < np.hypot(*(each.high - each.low for each in alone))


def test_regression_is_scored_in_its_own_metrics_with_the_members_spread() -> None:
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(200, 1))
    members = (targets + rng.normal(0, 0.5, (5, 200, 1))).astype(np.float32)
    weights = fit_weights("nll", TaskKind.REGRESSION, targets, members)
    split = evaluate_split(
        "validation", TaskKind.REGRESSION, targets, members, range(5), Rules("weighted", weights)
    ).split
    residuals = members.astype(np.float64).mean(axis=0) - targets
    assert split.ensemble.rmse == pytest.approx(np.sqrt(np.mean(residuals**2)))
    assert split.ensemble.gaussian_nll is not None
    assert split.ensemble.accuracy is None
    assert split.weighted is not None
    assert split.weighted.naive["rmse"] < (split.weighted.rmse or 0)
    rmse = [float(np.sqrt(np.mean((one - targets) ** 2))) for one in members.astype(np.float64)]
    assert split.members_mean.rmse == pytest.approx(np.mean(rmse))
    low, high = split.members_mean.intervals["rmse"].low, split.members_mean.intervals["rmse"].high
    assert low < np.mean(rmse) < high
    assert {(gain.of, gain.metric) for gain in split.gains} == {("weighted", "rmse"), ("weighted", "mae")}
    assert all(gain.interval.low > 0 for gain in split.gains if gain.over == "best_member")
    assert split.calibration is None
    assert split.confusion is None


def test_a_spread_that_one_member_has_alone_is_not_told() -> None:
    targets = np.arange(30.0)[:, np.newaxis]
    members = np.stack([targets + 0.01, targets + 50]).astype(np.float32)
    weights = fit_weights("nll", TaskKind.REGRESSION, targets, members)
    assert weights.values[1] == 0
    split = evaluate_split(
        "validation", TaskKind.REGRESSION, targets, members, range(2), Rules("weighted", weights)
    ).split
    assert split.weighted is not None
    assert split.weighted.gaussian_nll is None
    assert split.ensemble.gaussian_nll is not None


def test_each_figure_says_what_else_its_rows_were_used_for() -> None:
    weights = by_accuracy([0.5, 0.4, 0.3, 0.2])
    rules = Rules(weights=weights, used_for={"validation": ("early stopping", "choice of the best epoch")})
    found = evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES, rules)
    validation = found.split
    rows = "validation (30 rows; also used for early stopping, choice of the best epoch"
    assert validation.weighted is not None
    assert validation.best_member is not None
    assert validation.ensemble.scored_on == validation.members_mean.scored_on == rows + ")"
    assert validation.weighted.scored_on == rows + ", weights (cross-fitted))"
    assert validation.best_member.scored_on == rows + ", choice of the best member)"
    test = evaluate_split("test", TASK, LABELS, MEMBERS, INDICES, rules, found.chosen).split
    assert test.weighted is not None
    assert test.best_member is not None
    assert test.weighted.scored_on == test.best_member.scored_on == "test (30 rows; used for nothing else)"


def test_a_use_that_is_named_already_is_not_named_twice() -> None:
    rules = Rules(weights=by_accuracy([0.5] * 4), used_for={"validation": ("weights",)})
    split = evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES, rules).split
    assert split.weighted is not None
    assert split.weighted.scored_on == "validation (30 rows; also used for weights (cross-fitted))"


def test_a_single_row_is_scored_and_nothing_that_was_fitted_on_it() -> None:
    rules = Rules(weights=by_accuracy([0.5] * 4), calibrate=True)
    found = evaluate_split("validation", TASK, LABELS[:1], MEMBERS[:, :1], INDICES, rules)
    assert found.split.ensemble.n == 1
    assert found.split.weighted is None
    assert found.chosen.temperature is None


@pytest.mark.parametrize("method", ["accuracy", "nll", "greedy", "stacking"])
def test_no_row_knows_its_own_label_where_weights_and_temperature_are_both_fitted(method: str) -> None:
    """With the folds held, a row's prediction stays as it is when its label changes; the others' move."""
    labels, members = skilled(4, 60, sharpness=3.0)
    labels = np.sort(labels)  # the flip below keeps the classes' sizes, and so the folds

    def delivered(targets: np.ndarray) -> np.ndarray:
        if method == "stacking":
            rules = Rules(combine="stacking", calibrate=True)
        else:
            rules = Rules("weighted", fit_weights(method, TASK, targets, members), calibrate=True)
        return evaluate_split("validation", TASK, targets, members, range(4), rules).delivered

    folds = assign_folds(TASK, labels)
    other = np.flatnonzero((labels != labels[0]) & (folds == folds[0]))[0]
    swapped = labels.copy()
    swapped[[0, other]] = labels[[other, 0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.reporting.fitted.assign_folds", lambda *args, **kwargs: folds)
        before, after = delivered(labels), delivered(swapped)
    own = folds == folds[0]
    np.testing.assert_array_equal(after[own], before[own])
    assert (after[~own] != before[~own]).any()


@pytest.mark.parametrize("method", ["nll", "stacking"])
def test_no_row_is_told_by_what_was_fitted_on_others_of_its_group(method: str) -> None:
    """A group's labels may be anything: what its rows are told stays."""
    labels, members = skilled(4, 60, sharpness=3.0)
    groups = np.arange(60) // 3 % 20

    def delivered(targets: np.ndarray) -> np.ndarray:
        if method == "stacking":
            rules = Rules(combine="stacking", calibrate=True)
        else:
            rules = Rules("weighted", fit_weights(method, TASK, targets, members), calibrate=True)
        return evaluate_split("validation", TASK, targets, members, range(4), rules, groups=groups).delivered

    folds = assign_folds(TASK, labels, groups=groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    own = folds == folds[0]
    other = labels.copy()
    other[own] = np.roll(labels[own], 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.reporting.fitted.assign_folds", lambda *args, groups, **kwargs: dealt(groups))

        def dealt(known: np.ndarray | None) -> np.ndarray:
            assert known is groups
            return folds

        before, after = delivered(labels), delivered(other)
    np.testing.assert_array_equal(after[own], before[own])


def test_rows_of_a_group_are_drawn_together_so_intervals_are_as_wide_as_those_of_groups() -> None:
    labels, members = skilled(2, 40, sharpness=3.0)
    single = evaluate_split("validation", TASK, labels, members, range(2)).split
    sixfold, groups = np.repeat(labels, 6), np.repeat(np.arange(40), 6)
    grouped = evaluate_split("validation", TASK, sixfold, np.repeat(members, 6, axis=1), range(2), groups=groups).split
    assert grouped.ensemble.accuracy == pytest.approx(single.ensemble.accuracy)
    for end in ("low", "high"):
        one, six = (getattr(each.ensemble.intervals["accuracy"], end) for each in (single, grouped))
        assert six == pytest.approx(one), "each group six times is as good as each row once"


def test_what_is_scaled_is_not_sold_as_a_gain_over_what_is_not() -> None:
    """Five copies of one overconfident member: an ensemble of them is that member, however well it is scaled."""
    labels, one = skilled(1, 300, sharpness=6.0)
    members = np.repeat(one, 5, axis=0)
    for calibrate in (False, True):
        split = evaluate_split("validation", TASK, labels, members, range(5), Rules(calibrate=calibrate)).split
        assert all(gain.gain == pytest.approx(0, abs=1e-9) for gain in split.gains)
        assert all(gain.interval.high == pytest.approx(0, abs=1e-9) for gain in split.gains)


def test_predictions_may_be_read_from_somewhere_each_time() -> None:
    class Stored:
        def __iter__(self) -> Iterator[np.ndarray]:
            yield from MEMBERS

    rules = Rules(weights=by_accuracy([0.5, 0.4, 0.3, 0.2]))
    streamed = evaluate_split("validation", TASK, LABELS, Stored(), INDICES, rules)
    assert streamed == evaluate_split("validation", TASK, LABELS, MEMBERS, INDICES, rules)


def test_binary_and_multilabel_tasks_are_scored() -> None:
    yes = (LABELS > 0).astype(np.int64)
    split = evaluate_split("validation", TaskKind.BINARY, yes, MEMBERS[:, :, :1], INDICES).split
    assert split.ensemble.accuracy == np.mean((MEMBERS[:, :, 0].astype(float).mean(axis=0) > 0.5) == yes)
    assert split.confusion is not None
    assert sum(map(sum, split.confusion)) == 30
    several = np.stack([yes, 1 - yes, yes], axis=1)
    split = evaluate_split("validation", TaskKind.MULTILABEL, several, MEMBERS, INDICES).split
    assert split.ensemble.accuracy == pytest.approx(np.mean((MEMBERS.astype(float).mean(axis=0) > 0.5) == several))
    assert split.confusion is None


@pytest.mark.parametrize("num_predictions", [3, 5])
def test_another_number_of_predictions_than_members_is_refused(num_predictions: int) -> None:
    with pytest.raises(OrchestratorError, match="one prediction for each of 4 members"):
        evaluate_split("validation", TASK, LABELS, [MEMBERS[0]] * num_predictions, INDICES)


def test_no_members_weights_that_do_not_fit_and_an_unknown_best_member_are_refused() -> None:
    with pytest.raises(InvalidModel, match="no predictions"):
        evaluate_split("validation", TASK, LABELS, [], [])
    with pytest.raises(InvalidJob, match="4 weights for 2 members"):
        evaluate_split("validation", TASK, LABELS, MEMBERS[:2], [0, 2], GIVEN)
    with pytest.raises(OrchestratorError, match="best member 1 is not among"):
        evaluate_split("test", TASK, LABELS, MEMBERS, INDICES, chosen=Chosen(best_member=1))


def test_a_member_that_predicts_nan_is_named_by_its_index() -> None:
    broken = MEMBERS.copy()
    broken[2, 0, 0] = np.nan
    with pytest.raises(InvalidModel, match="validation: member 5"):
        evaluate_split("validation", TASK, LABELS, broken, INDICES)
