"""Folds in the result: what configurations tell, what their rows were used for, and what lacks a member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from run_examples import LAYOUT

from orchestrator.ensemble.crossfit import assign_folds
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import DamagedStore
from orchestrator.planning.outputs import ONLY
from orchestrator.planning.plan import make_plan
from orchestrator.reporting.conclude import result_of
from orchestrator.reporting.predictions import tiled
from orchestrator.reporting.result import Result, WeightsResult, from_json, to_json
from orchestrator.reporting.scores import MemberScores, SplitScores
from orchestrator.reporting.selection import MemberFacts, RunFacts, make_selection, reselect
from orchestrator.reporting.verdict import verdict_of
from orchestrator.spec import Job, parse_job
from orchestrator.storage.blobs import get_blob, put_blob
from orchestrator.storage.tables import labels_to_parquet, predictions_to_parquet
from orchestrator.testing import MemoryStore

NUM_ROWS, FOLDS = 30, 3
LABELS = np.arange(NUM_ROWS) % 3
RNG = np.random.default_rng(5)


def job_of(**parts: Any) -> Job:
    members = {"count": 2, "folds": FOLDS, **parts.pop("members", {})}
    return parse_job({"name": "digits", "model": "jobs.digits:b", "data": "jobs.digits:l", "members": members, **parts})


def probabilities(labels: np.ndarray, right: float) -> np.ndarray:
    """Of three classes, drawn so that the true one is told about so often; no two are alike."""
    told = np.where(RNG.random(len(labels)) < right, labels, (labels + 1) % 3)
    values = 0.1 + 0.7 * np.eye(3)[told] + 0.05 * RNG.random((len(labels), 3))
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


class Run:
    """A run with folds as its coordinator sees it at the end; every third row is held out together."""

    def __init__(
        self,
        job: Job,
        splits: Sequence[str] = ("out_of_fold", "test"),
        bad: Sequence[int] = (),
        groups: np.ndarray | None = None,
    ) -> None:
        self.store, self.job = MemoryStore(), job
        self.labels = {split: LABELS if split == "out_of_fold" else LABELS[:12] for split in splits}
        self.told: list[dict[str, np.ndarray]] = []
        facts = []
        for plan in make_plan(job, {}).members:
            assert plan.fold is not None
            rows = np.flatnonzero((np.arange(NUM_ROWS) + plan.fold.repeat) // 10 % FOLDS == plan.fold.fold)
            own = {split: probabilities(self.labels[split], 0.8) for split in splits if split != "out_of_fold"}
            own["out_of_fold"] = probabilities(LABELS[rows], 0.6)
            self.told.append(own)
            blobs = {
                split: self.blob(predictions_to_parquet(values, rows if split == "out_of_fold" else None))
                for split, values in own.items()
            }
            good = plan.index not in bad
            final = {"model": self.blob(b"weights"), "history": self.blob(b"history")} if good else None
            facts.append(
                MemberFacts(plan, "succeeded" if good else "failed", 1, 0, None, final, 1, blobs if good else {})
            )
        told = {
            split: self.blob(labels_to_parquet(values, groups if split == "out_of_fold" else None))
            for split, values in self.labels.items()
        }
        run = RunFacts("folds", 1, {ONLY: TaskKind.MULTICLASS}, told, {}, "0" * 64, "1" * 64, "2" * 64, {}, ())
        self.selection = make_selection(job, run, facts, self.read)

    def blob(self, body: bytes) -> Any:
        return put_blob(self.store, LAYOUT, body).to_json()

    def read(self, ref: Any) -> bytes:
        return get_blob(self.store, ref)

    def result(self, **ensemble: Any) -> Result:
        selection: Mapping[str, Any] = self.selection
        if ensemble:
            asked = self.job.model_copy(update={"ensemble": self.job.ensemble.model_copy(update=ensemble)})
            selection = reselect(selection, asked, self.read)
        return result_of(selection, LAYOUT, self.read)


def out_of_fold(result: Result) -> SplitScores:
    assert isinstance(result.out_of_fold, SplitScores)
    return result.out_of_fold


def accuracy(of: object) -> float | None:
    assert isinstance(of, MemberScores)
    return of.accuracy


def test_each_row_is_told_by_the_member_that_held_it_out_and_repeats_are_averaged() -> None:
    run = Run(job_of(members={"count": 1, "folds": {"count": FOLDS, "repeats": 2}}))
    told = np.zeros((NUM_ROWS, 3))
    for plan, own in zip(make_plan(run.job, {}).members, run.told, strict=True):
        assert plan.fold is not None
        rows = np.flatnonzero((np.arange(NUM_ROWS) + plan.fold.repeat) // 10 % FOLDS == plan.fold.fold)
        told[rows] += own["out_of_fold"] / 2
    [configuration] = run.result().configurations
    assert accuracy(configuration.out_of_fold) == pytest.approx(np.mean(told.argmax(axis=1) == LABELS))
    on_test = np.mean([own["test"] for own in run.told], axis=0)
    assert accuracy(configuration.test) == pytest.approx(np.mean(on_test.argmax(axis=1) == LABELS[:12]))


def test_rows_that_are_held_out_twice_or_by_nobody_are_damage() -> None:
    values = np.full((2, 3), 1 / 3)
    for second in ([1, 2], [3, 4]):
        with pytest.raises(DamagedStore, match="do not hold out each of 4 rows exactly once"):
            tiled([(0, np.array([0, 1]), values), (0, np.array(second), values)], "out_of_fold")


@pytest.mark.parametrize("how", ["accuracy", "nll", "greedy"])
def test_weights_are_fitted_per_configuration_and_scored_on_rows_that_did_not_fit_them(how: str) -> None:
    result = Run(job_of(ensemble={"weights": how})).result()
    assert isinstance(result.weights, WeightsResult)
    assert (result.weights.members, result.weights.fitted_on) == ((0, 1), "out_of_fold")
    weighted = out_of_fold(result).weighted
    assert weighted is not None
    assert "weights (cross-fitted)" in weighted.scored_on
    assert set(weighted.naive) == set(weighted.optimism)
    assert isinstance(result.test, SplitScores)
    assert result.test.weighted is not None
    assert result.test.weighted.scored_on == "test (12 rows; used for nothing else)"


@pytest.mark.parametrize(
    ("combine", "calibrate"), [("mean", True), ("logits", False), ("weighted", True), ("stacking", False)]
)
def test_every_way_of_combining_is_fitted_out_of_fold(combine: str, calibrate: bool) -> None:
    result = Run(job_of()).result(combine=combine, calibrate=calibrate)
    figure = getattr(out_of_fold(result), result.delivered)
    fitted = {"weighted": "weights", "stacking": "stacking"}.get(combine)
    assert fitted is None or fitted in figure.scored_on
    assert ("temperature" in figure.scored_on) == calibrate
    assert isinstance(result.test, SplitScores)
    assert getattr(result.test, result.delivered).scored_on == "test (12 rows; used for nothing else)"


@pytest.mark.parametrize(
    ("folds", "splits", "used"),
    [
        ({"count": 3}, ("out_of_fold",), {"out_of_fold"}),
        ({"count": 3}, ("out_of_fold", "validation"), {"validation"}),
        ({"count": 3, "inner_validation": 0.2}, ("out_of_fold", "validation"), set()),
    ],
    ids=["held_out_rows", "validation_set", "inner_rows"],
)
def test_figures_name_early_stopping_on_the_rows_that_members_were_watched_on(
    folds: dict[str, Any], splits: tuple[str, ...], used: set[str]
) -> None:
    result = Run(job_of(members={"folds": folds}), splits).result()
    for split in splits:
        scores = getattr(result, split)
        assert ("early stopping" in scores.members_mean.scored_on) == (split in used)
        assert ("choice of the best configuration" in scores.best_member.scored_on) == (split == "out_of_fold")


def test_a_configuration_that_lacks_a_member_is_left_out_and_the_result_says_so() -> None:
    result = Run(job_of(ensemble={"quorum": 1}), bad=[4]).result()
    assert (result.status, result.missing) == ("partial", (3, 4, 5))
    assert [accuracy(member.out_of_fold) is not None for member in result.members if member.index != 4] == [True] * 5
    assert result.configurations[1].out_of_fold is None
    assert isinstance(result.weights, WeightsResult)
    assert result.weights.members == (0,)
    assert "configuration 1 is not in the ensemble: it lacks member 4" in result.notes


def test_groups_are_kept_beside_the_labels_and_whatever_is_fitted_out_of_fold_leaves_them_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def spied(*args: Any, **named: Any) -> Any:
        seen.append(named["groups"])
        return assign_folds(*args, **named)

    monkeypatch.setattr("orchestrator.reporting.fitted.assign_folds", spied)
    groups = np.arange(NUM_ROWS) // 2
    run = Run(job_of(ensemble={"weights": "nll"}), groups=groups)
    scores = out_of_fold(run.result())
    assert scores.weighted is not None
    assert [None if each is None else each.tolist() for each in seen][:1] == [groups.tolist()]


@pytest.mark.parametrize("bad", [[4], [3, 4, 5]])
def test_one_configuration_that_is_left_has_nothing_to_be_compared_with(bad: list[int]) -> None:
    stacked = Run(job_of(ensemble={"quorum": 1, "combine": "stacking"}), bad=bad).result()
    assert len(stacked.configurations) == 2
    verdict = verdict_of(stacked)
    assert verdict.answer == "cannot be told"
    assert "One whole configuration is all there is" in verdict.sentence


def test_a_gate_may_be_on_out_of_fold_rows() -> None:
    gate = {"metric": "accuracy", "on": "out_of_fold", "min": 0.1}
    result = Run(job_of(ensemble={"gate": gate})).result()
    assert result.gate is not None
    assert (result.gate.passed, result.gate.value) == (True, out_of_fold(result).ensemble.accuracy)


def test_a_result_with_folds_survives_json_and_one_without_says_nothing_of_them() -> None:
    result = Run(job_of()).result()
    assert from_json(to_json(result)) == result
    plain = replace_members(result)
    assert not {"out_of_fold", "configurations"} & plain.model_dump().keys()
    assert not {"out_of_fold", "fold"} & plain.model_dump()["members"][0].keys()


def replace_members(result: Result) -> Result:
    members = tuple(m.model_copy(update={"fold": None, "out_of_fold": None}) for m in result.members)
    return result.model_copy(update={"members": members, "configurations": (), "out_of_fold": None})
