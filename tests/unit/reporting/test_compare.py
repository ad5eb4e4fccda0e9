"""Runs side by side: what differs, the paired intervals and when there are none, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from run_examples import create_run, finished_run
from scipy import stats

from orchestrator.ensemble.intervals import Resamples
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob
from orchestrator.reporting.compare import (
    Comparison,
    Pair,
    RunGain,
    compare_runs,
    delivered,
    gains_over,
    score_rows,
)
from orchestrator.reporting.compare_text import comparison_json, comparison_text, judge_pair
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.testing import MemoryStore
from tests.support.report_cases import result

Array = npt.NDArray[Any]
Members = Sequence[Mapping[str, Array]]

NUM_ROWS = 120
A, B, C = (RunLayout("digits", f"run-{name}") for name in "abc")
LABELS = {split: np.random.default_rng(n).integers(0, 3, NUM_ROWS) for n, split in enumerate(("validation", "test"))}


def members(seed: int, skill: float, num_classes: int = 3, labels: Mapping[str, Array] = LABELS) -> Members:
    """Three members' probabilities; the more skill, the better."""
    rng = np.random.default_rng(seed)

    def one(truth: Array) -> Array:
        powers = np.exp(rng.normal(size=(NUM_ROWS, num_classes)) + skill * np.eye(num_classes)[truth])
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    return [{split: one(truth) for split, truth in labels.items()} for _ in range(3)]


def numbers(seed: int, noise: float, labels: Mapping[str, Array]) -> Members:
    """Three members' values of a regression."""
    rng = np.random.default_rng(seed)
    return [{split: y + noise * rng.normal(size=y.shape) for split, y in labels.items()} for _ in range(3)]


def two_runs(first: Mapping[str, Any] | None = None, second: Mapping[str, Any] | None = None) -> MemoryStore:
    """Run B knows far more than run A; the arguments change the two."""
    store = MemoryStore()
    for layout, changes in ((A, first), (B, second)):
        if changes is not None:
            finished_run(store, **{"labels": LABELS, "members": usual(layout), "layout": layout, **changes})
            continue
        for key, body in usual_run(layout).items():
            store.create(key, body)
    return store


def usual(layout: RunLayout) -> Members:
    return members(1, 0.7) if layout == A else members(2, 2.5)


@cache
def usual_run(layout: RunLayout) -> Mapping[str, bytes]:
    """Made once: most tests change one run at most."""
    store = MemoryStore()
    finished_run(store, LABELS, usual(layout), layout)
    return {key: store.get(key) for key in store.list("")}


def only_pair(store: MemoryStore) -> Pair:
    [pair] = compare_runs(store, [A, B]).pairs
    return pair


def gain_of(pair: Pair, split: str, metric: str) -> RunGain:
    return next(gain for gain in pair.gains if (gain.split, gain.metric) == (split, metric))


# -- the paired interval -------------------------------------------------------------------------------------------


def rows_won(theirs: Array, ours: Array, num_rows: int) -> RunGain:
    """The gain in accuracy of binary predictions [N, 1] of rows that are all `yes`."""
    targets, resamples = np.ones(num_rows, np.int64), Resamples(num_rows, seed=0, num_resamples=4000)
    scored = [score_rows(TaskKind.BINARY, targets, values, resamples) for values in (theirs, ours)]
    return next(gain for gain in gains_over("test", *scored) if gain.metric == "accuracy")


@pytest.mark.parametrize("won", [1, 5, 30])
def test_rows_that_one_run_alone_has_right_give_the_quantiles_of_a_binomial(won: int) -> None:
    """Of each resample's N draws, Binomial(N, won / N) are of those rows; on all other rows the two are equal."""
    num_rows = 200
    theirs = np.full((num_rows, 1), 0.9)
    theirs[: num_rows // 2] = 0.1
    ours = theirs.copy()
    ours[:won] = 0.9
    found = rows_won(theirs, ours, num_rows)
    low, high = stats.binom.ppf([0.025, 0.975], num_rows, won / num_rows) / num_rows
    assert found.gain == pytest.approx(won / num_rows)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12 if won < 30 else 1 / num_rows)


def test_the_interval_of_a_mean_difference_is_that_of_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, 300)
    hard = rng.normal(size=300)  # what makes a row hard for both
    probabilities = [
        1 / (1 + np.exp(-(2 * targets - 1) * (skill + hard + 0.3 * rng.normal(size=300))))[:, None]
        for skill in (0.5, 0.8)
    ]
    resamples = Resamples(300, seed=1)
    theirs, ours = (score_rows(TaskKind.BINARY, targets, values, resamples) for values in probabilities)
    found = next(gain for gain in gains_over("test", theirs, ours) if gain.metric == "nll")

    nll = [-np.log(np.where(targets == 1, values[:, 0], 1 - values[:, 0])) for values in probabilities]
    expected = stats.bootstrap(
        nll, lambda a, b: np.mean(a - b), paired=True, vectorized=False, method="percentile", rng=2, n_resamples=2000
    ).confidence_interval
    width = expected.high - expected.low
    assert found.gain == pytest.approx(np.mean(nll[0] - nll[1]))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)
    unpaired = np.sqrt(sum(np.var(values) for values in nll) / 300) * 2 * 1.96
    assert width < unpaired / 3


def test_a_run_that_delivers_the_same_has_gained_nothing_and_no_doubt_about_it() -> None:
    comparison = compare_runs(two_runs(second={"members": members(1, 0.7)}), [A, B])
    [pair] = comparison.pairs
    assert {gain.metric for gain in pair.gains} == {"accuracy", "nll", "brier", "ece"}
    assert all(str(value) == "0.0" for gain in pair.gains for value in (gain.gain, gain.low, gain.high))
    judged = judge_pair(comparison, pair)
    assert (judged.answer, judged.ahead, judged.title) == ("no", None, "B and A are equally good.")


@pytest.mark.parametrize(
    "ensemble",
    [
        {},
        {"combine": "logits"},
        {"combine": "weighted", "weights": "nll"},
        {"combine": "weighted", "weights": "greedy", "calibrate": True},
        {"combine": "stacking"},
        {"calibrate": True},
    ],
    ids=str,
)
def test_what_is_compared_is_what_each_run_delivers(ensemble: dict[str, Any]) -> None:
    comparison = compare_runs(two_runs(second={"ensemble": ensemble}), [A, B])
    [pair] = comparison.pairs
    assert {gain.split for gain in pair.gains} == {"validation", "test"}
    for gain in pair.gains:
        theirs, ours = (delivered(each, gain.split) for each in comparison.results.values())
        difference = getattr(ours, gain.metric) - getattr(theirs, gain.metric)
        assert gain.gain == pytest.approx(difference if gain.metric == "accuracy" else -difference, abs=1e-12)
        assert gain.low < gain.gain < gain.high


def test_a_regression_is_compared_by_its_errors() -> None:
    labels = {split: np.random.default_rng(7).normal(size=(NUM_ROWS, 2)) for split in LABELS}
    job = {"labels": labels, "task": TaskKind.REGRESSION}
    store = two_runs(
        {**job, "members": numbers(1, 0.9, labels)},
        {**job, "members": numbers(2, 0.3, labels)},
    )
    comparison = compare_runs(store, [A, B])
    [pair] = comparison.pairs
    assert {gain.metric for gain in pair.gains} == {"rmse", "mae", "r2"}
    assert all(gain.low > 0 for gain in pair.gains)
    assert judge_pair(comparison, pair).title == "B is clearly better than A."
    assert "RMSE" in judge_pair(comparison, pair).sentence


def test_several_runs_are_all_compared_with_the_first() -> None:
    store = two_runs()
    finished_run(store, LABELS, members(3, 0.1), C)
    comparison = compare_runs(store, [B, A, C])
    assert [result.run_key for result in comparison.results.values()] == ["run-b", "run-a", "run-c"]
    assert [judge_pair(comparison, pair).title for pair in comparison.pairs] == [
        "A is clearly better than B.",
        "A is clearly better than C.",
    ]
    forward = gain_of(only_pair(store), "test", "nll")
    back = gain_of(comparison.pairs[0], "test", "nll")
    assert (back.gain, back.low, back.high) == pytest.approx((-forward.gain, -forward.high, -forward.low))
    assert any("one such difference in twenty" in note for note in comparison.notes)


# -- where there is no interval --------------------------------------------------------------------------------------


def test_other_data_gives_no_paired_interval_and_says_so() -> None:
    comparison = compare_runs(two_runs(second={"facts": {"data_fingerprint": "9" * 64}}), [A, B])
    [pair] = comparison.pairs
    assert pair.gains == ()
    assert set(pair.unpaired) == {"test", "validation"}
    assert "their data differ (fingerprints: A 222222222222, B 999999999999)" in pair.unpaired["test"]
    judged = judge_pair(comparison, pair)
    assert (judged.answer, judged.ahead) == ("cannot be told", None)
    assert "no interval" in judged.sentence


def test_other_labels_under_the_same_fingerprint_are_not_compared() -> None:
    labels = {**LABELS, "test": LABELS["test"][::-1].copy()}
    pair = only_pair(two_runs(second={"labels": labels, "members": members(2, 2.0, labels=labels)}))
    assert {gain.split for gain in pair.gains} == {"validation"}
    assert "labels differ" in pair.unpaired["test"]


def test_a_split_that_one_of_the_runs_lacks_is_named() -> None:
    only_test = {"test": LABELS["test"]}
    pair = only_pair(two_runs(second={"labels": only_test, "members": members(2, 2.0, labels=only_test)}))
    assert {gain.split for gain in pair.gains} == {"test"}
    assert pair.unpaired == {"validation": "B has no validation set"}


def test_runs_without_rows_to_score_on_are_still_set_side_by_side() -> None:
    nothing = {"labels": {}, "members": [{"nowhere": LABELS["test"][:, None] / 3}]}
    comparison = compare_runs(two_runs(nothing, {**nothing, "seed": 3}), [A, B])
    [pair] = comparison.pairs
    assert (pair.gains, pair.unpaired) == ((), {"validation": "neither run has rows to score on"})
    assert [row.key for row in comparison.spec] == ["seed"]
    assert "neither run has rows to score on" in " ".join(comparison_text(comparison).split())


def test_runs_that_tell_different_things_are_not_compared() -> None:
    labels = {split: (truth > 0).astype(np.int64) for split, truth in LABELS.items()}
    sure = [{split: truth[:, None] * 0.6 + 0.2 for split, truth in labels.items()}]
    pair = only_pair(
        two_runs(
            {"labels": labels, "members": members(1, 1.0, 2, labels)},
            {"labels": labels, "members": sure, "task": TaskKind.BINARY},
        )
    )
    assert pair.gains == ()
    assert pair.unpaired["test"] == "they tell different things: A multiclass, B binary"


def test_another_number_of_classes_is_compared_and_told() -> None:
    pair = only_pair(two_runs(second={"members": members(2, 2.5, num_classes=4)}))
    assert {gain.split for gain in pair.gains} == {"validation", "test"}
    assert pair.notes == ("A between 3 classes, B between 4: the one with fewer has less to choose from",)


def test_lost_predictions_leave_the_stored_figures_and_say_what_is_lost() -> None:
    store = two_runs()
    selection = next(record for record in Log.open(store, B.coord_log).records() if record.kind == "selection")
    store.delete(selection.body["members"][1]["predictions"]["test"]["key"])
    comparison = compare_runs(store, [A, B])
    [pair] = comparison.pairs
    assert "kept of the predictions cannot be read" in pair.unpaired["test"]
    assert delivered(comparison.results["B"], "test") is not None
    assert "cannot be read" in comparison_text(comparison)


def test_a_partial_run_is_compared_as_it_is_and_said_to_be_partial() -> None:
    some = [*members(2, 2.5)[:2], {}]
    comparison = compare_runs(two_runs(second={"members": some}), [A, B])
    assert comparison.pairs[0].gains
    assert "B: 1 of 3 members are missing from the ensemble." in comparison.notes
    assert "2 of 3" in comparison_text(comparison)


def test_a_lost_spec_keeps_nobody_from_the_scores() -> None:
    store = two_runs(second={"seed": 3})
    store.delete(A.spec)
    comparison = compare_runs(store, [A, B])
    assert (comparison.spec, len(comparison.pairs[0].gains)) == ((), 8)
    assert any("how the jobs differ is not known: A: the run's spec cannot be read" in n for n in comparison.notes)


def test_a_run_without_a_result_one_that_is_named_twice_and_one_alone_are_refused() -> None:
    store = two_runs()
    create_run(store, C)
    with pytest.raises(InvalidJob, match=r"run-c: the run has no result yet"):
        compare_runs(store, [A, C])
    with pytest.raises(InvalidJob, match=r"run-a: the run is named twice"):
        compare_runs(store, [A, B, A])
    with pytest.raises(InvalidJob, match=r"1 runs cannot be compared"):
        compare_runs(store, [A])


# -- what is told ----------------------------------------------------------------------------------------------------


def test_only_what_differs_is_told_by_key() -> None:
    second = {
        "seed": 4,
        "train": {"epochs": 7},
        "ensemble": {"combine": "logits"},
        "facts": {"code_digest": "8" * 64, "versions": {"keras": "3.16.0"}},
    }
    comparison = compare_runs(two_runs({"facts": {"versions": {"keras": "3.15.1", "numpy": "2.3"}}}, second), [A, B])
    spec = {row.key: row.values for row in comparison.spec}
    assert set(spec) == {"seed", "train.epochs", "ensemble.combine"}
    assert spec["seed"] == ("0", "4")
    assert spec["ensemble.combine"] == ('"mean"', '"logits"')
    assert {row.key: row.values for row in comparison.origins} == {
        "code digest": ("1" * 64, "8" * 64),
        "version of keras": ("3.15.1", "3.16.0"),
        "version of numpy": ("2.3", "–"),
    }


def test_looks_at_the_same_rows_are_told_of_each_run() -> None:
    comparison = compare_runs(
        two_runs(second={"facts": {"runs_before": {"runs": 9, "members": 30, "trials": 4}}}), [A, B]
    )
    assert any(note.startswith("A: 2 other runs with 7 members") for note in comparison.notes)
    assert any(note.startswith("B: 9 other runs with 30 members and 4") for note in comparison.notes)
    assert any("a look at them too" in note for note in comparison.notes)


def made_up(*gains: tuple[str, float, float, float]) -> tuple[Comparison, Pair]:
    pair = Pair("B", tuple(RunGain("test", *gain) for gain in gains), {})
    return Comparison({"A": result(), "B": result()}, (), (), (pair,), ()), pair


@pytest.mark.parametrize(
    ("accuracy", "nll", "title"),
    [
        ((0.03, 0.01, 0.05), (0.0, -0.1, 0.1), "B is clearly better than A."),
        ((-0.03, -0.05, -0.01), (0.0, -0.1, 0.1), "A is clearly better than B."),
        ((0.03, -0.01, 0.07), (0.0, -0.1, 0.1), "B is probably better than A."),
        ((-0.03, -0.07, 0.01), (0.0, -0.1, 0.1), "A is probably better than B."),
        ((0.01, -0.03, 0.05), (0.0, -0.1, 0.1), "It cannot be told whether B or A is better."),
        ((0.0, -0.03, 0.03), (0.0, -0.1, 0.1), "It cannot be told whether B or A is better."),
        ((0.01, -0.03, 0.05), (0.1, 0.05, 0.15), "B is probably better than A."),
        ((-0.01, -0.05, 0.03), (-0.1, -0.15, -0.05), "A is probably better than B."),
        ((0.01, -0.03, 0.05), (-0.1, -0.15, -0.05), "It cannot be told whether B or A is better."),
        ((0.0, 0.0, 0.0), (0.1, 0.05, 0.15), "B is probably better than A."),
        ((0.0, 0.0, 0.0), (0.01, -0.05, 0.07), "It cannot be told whether B or A is better."),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "B and A are equally good."),
    ],
)
def test_which_one_is_better_follows_from_the_intervals(
    accuracy: tuple[float, float, float], nll: tuple[float, float, float], title: str
) -> None:
    judged = judge_pair(*made_up(("accuracy", *accuracy), ("nll", *nll)))
    assert judged.title == title
    assert judged.ahead == (title[0] if "better than" in title else None)


def test_the_sentence_names_rows_figures_and_the_interval() -> None:
    judged = judge_pair(*made_up(("accuracy", 0.017, 0.003, 0.031), ("nll", -0.02, -0.05, 0.01)))
    assert judged.sentence == (
        "On test (361 rows), the accuracy of B is 95.00 % and that of A 95.00 %: B is 1.70 points better "
        "(95 % interval +0.30 to +3.10 points) than A. But its negative log-likelihood is 0.0200 worse "
        "(95 % interval −0.0500 to +0.0100) than that of A."
    )


def test_the_terminal_shows_runs_differences_gains_and_the_answer() -> None:
    text = comparison_text(compare_runs(two_runs(second={"seed": 4, "run_id": "[red]tuned[/red]"}), [A, B]), width=110)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert any(line.startswith("B [red]tuned[/red] succeeded mean 3 of 3 ") for line in lines)
    assert "seed 0 4" in lines
    assert any(line.startswith("B test accuracy +") and line.endswith(" points") for line in lines)
    assert "B is clearly better than A." in lines
    assert any(line.startswith("A, B: scored on test (120 rows; used for nothing else)") for line in lines)
    assert max(map(len, text.splitlines())) <= 110


def test_the_plain_values_are_json_and_say_the_same() -> None:
    comparison = compare_runs(two_runs(second={"seed": 4}), [A, B])
    told = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert [run["name"] for run in told["runs"]] == ["A", "B"]
    assert told["runs"][1]["test"]["accuracy"] == comparison.results["B"].test.ensemble.accuracy  # type: ignore[union-attr]
    assert told["spec"] == [{"key": "seed", "values": ["0", "4"]}]
    [pair] = told["pairs"]
    assert (pair["name"], pair["over"], pair["answer"], pair["ahead"]) == ("B", "A", "clearly", "B")
    assert len(pair["gains"]) == 8
