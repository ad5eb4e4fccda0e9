"""Made-up runs for the report: of every task and of any size, with something of everything that a result may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.outputs import ONLY
from orchestrator.reporting.cases import Case, Cases, Points
from orchestrator.reporting.report import ReportData
from orchestrator.reporting.result import MemberResult, Result, RunsBefore, WeightsResult
from orchestrator.reporting.scores import (
    Calibration,
    CoveragePoint,
    CurvePoint,
    DiversityFigures,
    Figure,
    Gain,
    Interval,
    MemberScores,
    Metrics,
    ReliabilityBin,
    SplitScores,
)
from orchestrator.reporting.timeline import Span, Timeline

BEGAN = 1_790_000_000.0
NUM_CLASSES = 10
VALIDATION_ROWS = "validation (360 rows; also used for early stopping, choice of the best epoch)"
TEST_ROWS = "test (361 rows; used for nothing else)"
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)


def report_data(
    task: str = "multiclass", members: int = 5, epochs: int = 12, seed: int = 0, **changes: Any
) -> ReportData:
    """A run of that many members; equal arguments give equal runs. `changes` are fields of `ReportData`."""
    rng = np.random.default_rng(seed)
    histories = {index: history(rng, epochs, task) for index in range(members)}
    fields: dict[str, Any] = {
        "result": result(task, members, histories),
        "spec": {"run_id": "night", "job": {"name": "digits", "seed": 7, "model": "jobs.digits:build_model"}},
        "histories": histories,
        "timeline": timeline(members, workers=max(2, members // 60)),
        "cases": {ONLY: cases(rng, TaskKind(task))},
        "packs": tuple({"members": [index], "engine": "solo"} for index in range(members)),
        "packed_because": "too few gradient steps for a fused program to pay",
    }
    return ReportData(**{**fields, **changes})


def history(rng: np.random.Generator, epochs: int, task: str) -> Sequence[Mapping[str, float]]:
    """What Keras reports of a member that overfits from the middle on."""
    metric = "mae" if task == "regression" else "accuracy"
    rows, rate = [], rng.uniform(0.25, 0.5)
    for epoch in range(1, epochs + 1):
        loss = 2.2 * np.exp(-rate * epoch) + 0.05 + 0.01 * rng.random()
        val_loss = loss + 0.02 * epoch + 0.03 * rng.random()
        values = {"loss": loss, "val_loss": val_loss, metric: 1 - loss / 3, f"val_{metric}": 1 - val_loss / 3}
        rows.append({"epoch": epoch, **{name: float(value) for name, value in values.items()}})
    return rows


def result(
    task: str = "multiclass", num_members: int = 5, histories: Mapping[int, Any] | None = None, **changes: Any
) -> Result:
    """A result with every optional figure that the task has."""
    regression = task == "regression"
    names = ("rmse", "mae", "r2") if regression else ("accuracy", "nll", "brier", "ece")
    scores = dict(zip(names, (0.93, 0.24, 0.11, 0.03), strict=False))

    def better(by: float) -> dict[str, float]:
        return {name: round(value + (by if name in ("accuracy", "r2") else -by), 6) for name, value in scores.items()}

    split = {"validation": VALIDATION_ROWS, "test": TEST_ROWS}
    fields: dict[str, Any] = {
        "run_id": "digits-0123456789ab",
        "run_key": "digits-0123456789ab",
        "attempt": 1,
        "status": "succeeded",
        "exit_code": 0,
        "task": task,
        "runs_before": RunsBefore(runs=3, members=24, trials=40),
        **{name: split_scores(task, num_members, rows, better) for name, rows in split.items()},
        "members": [member(index, better(-0.01), histories) for index in range(num_members)],
        "weights": WeightsResult(
            members=tuple(range(num_members)),
            values=(1 / num_members,) * num_members,
            method="nll",
            fitted_on="validation",
        ),
        "gate": None,
        "missing": (),
        "artifacts": {"result": "digits/digits-0123456789ab/result.json"},
        "timing": {"total_s": 125.4, "members_s": 61.0},
        "spec_digest": "11" * 32,
        "code_digest": "22" * 32,
        "data_fingerprint": "33" * 32,
        "versions": {"keras": "3.15.1", "tensorflow": "2.21.0"},
        "notes": ["trained on CPU, deterministic"],
    }
    return Result(**{**fields, **changes})


def member(index: int, scores: Mapping[str, float], histories: Mapping[int, Any] | None = None) -> MemberResult:
    epochs = len((histories or {}).get(index, range(12)))
    return MemberResult(
        index=index,
        seed=4_000_000_000 + index,
        builder="jobs.digits:build_model",
        hyperparameters={"units": 64 + index},
        status="succeeded",
        attempts=1,
        engine="solo",
        dropout=0.1 + index / 10_000,
        epochs=epochs,
        best_epoch=max(1, epochs - 2),
        stopped_epoch=epochs if index % 2 else None,
        validation=MemberScores(**scores),
        test=MemberScores(**scores),
        loss=0.2 + index / 10_000,
    )


def split_scores(task: str, members: int, rows: str, better: Any) -> SplitScores:
    metric = "rmse" if task == "regression" else "accuracy"
    n = 360 if rows == VALIDATION_ROWS else 361

    def figure(by: float, **more: Any) -> Figure:
        scores = better(by)
        intervals = {name: Interval(low=value - 0.02, high=value + 0.02) for name, value in scores.items()}
        return Figure(**scores, n=n, scored_on=rows, intervals=intervals, **more)

    classes = task in ("multiclass", "binary")
    return SplitScores(
        ensemble=figure(0.02),
        weighted=figure(0.022, naive={metric: better(0.03)[metric]}, optimism={metric: 0.008}),
        best_member=figure(0.0, member=1 if members > 1 else 0),
        members_mean=figure(-0.01),
        gains=tuple(gain(metric, over, 0.02) for over in ("best_member", "members_mean")),
        calibration=None if task == "regression" else calibration(),
        diversity=DiversityFigures(spread=0.4) if task == "regression" else diversity(),
        curve=curve(metric, members),
        selective=()
        if task == "regression"
        else tuple(
            CoveragePoint(coverage=share, accuracy=0.99 - (share - 0.5) / 10)
            for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        ),
        confusion=confusion(2 if task == "binary" else NUM_CLASSES) if classes else None,
        recall=tuple(0.9 + c / 100 for c in range(2 if task == "binary" else NUM_CLASSES)) if classes else None,
    )


def gain(metric: Any, over: Any, value: float, low: float | None = None, high: float | None = None) -> Gain:
    low, high = value - 0.01 if low is None else low, value + 0.01 if high is None else high
    return Gain(of="ensemble", over=over, metric=metric, gain=value, interval=Interval(low=low, high=high))


def calibration() -> Calibration:
    def bins(gap: float) -> tuple[ReliabilityBin, ...]:
        return tuple(
            ReliabilityBin(count=n * n if n else 0, confidence=(n + 0.5) / 15, accuracy=max(0.0, (n + 0.5) / 15 - gap))
            for n in range(15)
        )

    before, after = Metrics(ece=0.052, nll=0.21, brier=0.1), Metrics(ece=0.013, nll=0.19, brier=0.095)
    return Calibration(
        temperature=1.31, before=before, after=after, reliability_before=bins(0.08), reliability_after=bins(0.01)
    )


def diversity() -> DiversityFigures:
    return DiversityFigures(
        disagreement=0.071, member_correlation=0.42, predictive_entropy=0.31, mean_entropy=0.25, mutual_information=0.06
    )


def curve(metric: Any, members: int) -> tuple[CurvePoint, ...]:
    sign = 1 if metric == "accuracy" else -1
    sizes = [size for size in SIZES if size < members] + [members]
    return tuple(
        CurvePoint(
            members=size,
            metric=name,
            mean=value - sign_of / 30 / size,
            in_order=value - sign_of / 28 / size,
            low=value - sign_of / 30 / size - 0.04 / size,
            high=value - sign_of / 30 / size + 0.03 / size,
        )
        for name, value, sign_of in ((metric, 0.95, sign), *((("nll", 0.2, -1),) if metric == "accuracy" else ()))
        for size in sizes
    )


def confusion(classes: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(34 if true == told else (true + told) % 3 for told in range(classes)) for true in range(classes))


def timeline(members: int, workers: int, epoch_s: float = 3.0) -> Timeline:
    """Workers take members in turn; the second member's node is taken once."""
    spans, free = [], [BEGAN + 2.0] * workers
    for index in range(members):
        worker = index % workers
        begin = free[worker]
        if index == 1:
            spans.append(Span(index, 1, f"w{worker}", BEGAN, begin, begin + epoch_s / 2, "preempted"))
            begin += epoch_s
        attempt, since = (2, begin - epoch_s / 2) if index == 1 else (1, BEGAN)
        spans.append(Span(index, attempt, f"w{worker}", since, begin, begin + epoch_s, "published"))
        free[worker] = begin + epoch_s
    spans.sort(key=lambda span: (len(span.worker), span.worker, span.begin))
    return Timeline(BEGAN, max(free), (BEGAN, BEGAN + 4.0), tuple(spans))


def cases(rng: np.random.Generator, task: TaskKind, top: int = 12) -> Cases:
    """Pictures of noise; of a regression the rows of a table."""
    if task is TaskKind.REGRESSION:
        truth = rng.normal(size=300)
        spread = rng.uniform(0.1, 1.0, 300)
        points = Points(truth, truth + rng.normal(size=300) * spread, spread)
        row = Case(row=3, truth=np.array([1.5]), mean=np.array([1.25]), spread=0.5, values={"age": 41.0, "bmi": 23.5})
        return Cases("test", task, 5, uncertain=(row,), points=points)

    def case(row: int) -> Case:
        width = {TaskKind.BINARY: 1, TaskKind.MULTICLASS: NUM_CLASSES, TaskKind.MULTILABEL: 4}[task]
        mean = rng.dirichlet(np.ones(width)) if width > 1 else rng.uniform(size=1)
        truth = np.array([1, 0, 0, 1]) if task is TaskKind.MULTILABEL else np.array(row % 2)
        votes = rng.integers(0, 4, 2 if task is TaskKind.BINARY else width)
        return Case(row=row, truth=truth, mean=mean, votes=votes, image=rng.integers(0, 256, (28, 28)).astype(np.uint8))

    made = [case(row) for row in range(2 * top)]
    return Cases("test", task, 5, uncertain=tuple(made[:top]), disputed=tuple(made[top:]))
