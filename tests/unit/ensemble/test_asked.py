"""What a job asks of its ensemble is refused where the rows for it are not there."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.ensemble.asked import check_calibrated, check_rows, deciding_output
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob
from orchestrator.planning.outputs import ONLY
from orchestrator.spec import EnsembleSpec

FITTED = [
    {"weights": "accuracy"},
    {"weights": "nll"},
    {"calibrate": True},
    {"combine": "stacking"},
    {"combine": "weighted"},
]


@pytest.mark.parametrize("asked", FITTED)
@pytest.mark.parametrize(("rows", "told"), [({"test": 9}, "there is none"), ({"validation": 2}, "2 of the 3 rows")])
def test_what_is_fitted_needs_validation_rows(asked: dict[str, Any], rows: dict[str, int], told: str) -> None:
    with pytest.raises(InvalidJob, match=told) as refused:
        check_rows(EnsembleSpec.model_validate(asked), rows)
    assert refused.value.where == f"ensemble.{next(iter(asked))}"


@pytest.mark.parametrize("asked", [*FITTED, {"weights": [1.0, 2.0]}, {}])
def test_with_enough_rows_everything_may_be_asked(asked: dict[str, Any]) -> None:
    check_rows(EnsembleSpec.model_validate(asked), {"validation": 3})


@pytest.mark.parametrize("asked", [{"weights": [1.0, 2.0]}, {"combine": "logits"}, {}])
def test_what_is_not_fitted_needs_none(asked: dict[str, Any]) -> None:
    check_rows(EnsembleSpec.model_validate(asked), {})


def test_a_gate_and_a_rule_need_the_rows_that_they_watch() -> None:
    gate = EnsembleSpec.model_validate({"gate": {"metric": "nll", "on": "test", "max": 1.0}})
    with pytest.raises(InvalidJob, match="the gate is on the test set, and there is none"):
        check_rows(gate, {"validation": 9})
    check_rows(gate, {"test": 1})
    with pytest.raises(InvalidJob, match="watched on the validation set"):
        check_rows(EnsembleSpec.model_validate({"stop_when": {"patience": 2}}), {"test": 9})


@pytest.mark.parametrize(
    ("asked", "outputs", "decides"),
    [(None, [ONLY], ONLY), (None, ["species", "mass"], "species"), ("mass", ["species", "mass"], "mass")],
)
def test_the_output_that_is_named_decides_else_the_first(asked: str | None, outputs: list[str], decides: str) -> None:
    assert deciding_output(EnsembleSpec(output=asked), outputs) == decides


@pytest.mark.parametrize(
    ("outputs", "told", "hint"),
    [
        ([ONLY], "the models have a single output", "leave ensemble.output out"),
        (["species", "mass"], "the models have no output 'weight'", "there are: species, mass"),
    ],
)
def test_an_output_that_is_not_there_cannot_decide(outputs: list[str], told: str, hint: str) -> None:
    with pytest.raises(InvalidJob, match=told) as refused:
        deciding_output(EnsembleSpec(output="weight"), outputs)
    assert (refused.value.where, refused.value.hint) == ("ensemble.output", hint)


def test_a_calibration_needs_an_output_that_tells_probabilities() -> None:
    asked, numbers = EnsembleSpec(calibrate=True), {"mass": TaskKind.REGRESSION, "age": TaskKind.REGRESSION}
    check_calibrated(asked, {**numbers, "species": TaskKind.MULTICLASS})
    check_calibrated(EnsembleSpec(), numbers)
    with pytest.raises(InvalidJob, match="no probabilities to calibrate"):
        check_calibrated(asked, numbers)
