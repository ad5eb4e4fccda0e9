"""A result with something of everything, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from orchestrator.reporting.result import GateResult, MemberResult, Result, StoredFile, WeightsResult
from orchestrator.reporting.scores import Figure, MemberScores, SplitScores

VALIDATION_ROWS = "validation (360 rows; also used for early stopping, choice of the best epoch)"
TEST_ROWS = "test (361 rows; used for nothing else)"


def member(index: int, **changes: Any) -> MemberResult:
    fields: dict[str, Any] = {
        "index": index,
        "seed": 4_000_000_000 + index,
        "builder": "jobs.digits:build_model",
        "hyperparameters": {"units": 64},
        "status": "succeeded",
        "attempts": 1,
        "engine": "solo",
        "dropout": 0.1 * (index + 1),
        "epochs": 12,
        "best_epoch": 10,
        "stopped_epoch": 12,
        "validation": MemberScores(accuracy=0.95 + index / 1000, nll=0.2 - index / 100),
        "test": MemberScores(accuracy=0.94 + index / 1000, nll=0.22),
        "loss": 0.2 - index / 100,
        "weights_sha256": "ef" * 32,
        "model": StoredFile(key=f"digits/run/members/{index}/best.keras", sha256="ab" * 32, size=1234),
        "history": StoredFile(key=f"digits/run/members/{index}/history.parquet", sha256="cd" * 32, size=567),
    }
    return MemberResult(**{**fields, **changes})


def figure(accuracy: float, nll: float, scored_on: str, n: int, index: int | None = None) -> Figure:
    return Figure(accuracy=accuracy, nll=nll, n=n, scored_on=scored_on, member=index)


def result(**changes: Any) -> Result:
    failed = member(
        2,
        status="diverged",
        epochs=3,
        best_epoch=None,
        stopped_epoch=None,
        validation=None,
        test=None,
        loss=None,
        model=None,
        message="loss is NaN at epoch 3 with learning rate 10",
    )
    fields: dict[str, Any] = {
        "run_id": "digits-0123456789ab",
        "run_key": "digits-0123456789ab",
        "attempt": 2,
        "status": "partial",
        "exit_code": 0,
        "validation": SplitScores(
            ensemble=figure(0.9611, 0.1502, VALIDATION_ROWS, 360),
            members_mean=figure(0.9505, 0.195, VALIDATION_ROWS, 360),
            weighted=figure(0.9639, 0.1499, VALIDATION_ROWS[:-1] + ", weights)", 360),
            best_member=figure(0.951, 0.19, VALIDATION_ROWS[:-1] + ", choice of the best member)", 360, 1),
        ),
        "test": SplitScores(
            ensemble=figure(0.9584, 0.1601, TEST_ROWS, 361),
            members_mean=figure(0.9405, 0.22, TEST_ROWS, 361),
            weighted=figure(0.9557, 0.1611, TEST_ROWS, 361),
            best_member=figure(0.941, 0.22, TEST_ROWS, 361, 1),
        ),
        "members": [member(0, stopped_epoch=None), member(1), failed],
        "weights": WeightsResult(members=(0, 1), values=(0.49, 0.51), method="accuracy", fitted_on="validation"),
        "gate": GateResult(
            passed=True,
            reason="accuracy of the ensemble on validation is 0.9611, at least 0.9",
            metric="accuracy",
            of="ensemble",
            on="validation",
            value=0.9611,
            min=0.9,
            max=None,
        ),
        "missing": [2],
        "artifacts": {"result": "runs/digits/digits-0123456789ab/result.json"},
        "timing": {"total_s": 12.5},
        "spec_digest": "11" * 32,
        "code_digest": "22" * 32,
        "data_fingerprint": "33" * 32,
        "versions": {"keras": "3.15.1"},
        "notes": ["The job's code changed between attempts."],
    }
    return Result(**{**fields, **changes})
