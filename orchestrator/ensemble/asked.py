"""What a job asks of its ensemble, against the rows that there are."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import InvalidJob
from orchestrator.spec import EnsembleSpec

FEWEST_ROWS = 3
"""Validation rows on which something can be fitted honestly: some to fit on, some for the temperature, one to score."""


def check_rows(ensemble: EnsembleSpec, num_rows: Mapping[str, int]) -> None:
    """Refuse settings that need a validation or test set which the data does not have, or has too few rows of.

    Args:
        ensemble: the job's `ensemble` part.
        num_rows: of each split that can be scored.

    Raises:
        InvalidJob: what is asked for, and how to mend it.
    """
    gate = ensemble.gate
    if gate is not None and gate.on not in num_rows:
        raise InvalidJob(
            f"the gate is on the {gate.on} set, and there is none",
            where="ensemble.gate",
            hint=f"return a {gate.on} set from the data function, or remove the gate",
        )
    if ensemble.stop_when is not None and "validation" not in num_rows:
        raise InvalidJob(
            "the ensemble's score is watched on the validation set, and there is none",
            where="ensemble.stop_when",
            hint="set data.validation_split, return a validation set from the data function, or leave stop_when out",
        )
    rows = num_rows.get("validation", 0)
    for key in _fitted(ensemble):
        if rows < FEWEST_ROWS:
            there = "there is none" if rows == 0 else f"it has {rows} of the {FEWEST_ROWS} rows that this takes"
            raise InvalidJob(
                f"this is fitted on the validation set, and {there}",
                where=f"ensemble.{key}",
                hint="set data.validation_split, or do without; weights can be given as a list",
            )


def _fitted(ensemble: EnsembleSpec) -> list[str]:
    """The keys that ask for something to be fitted."""
    by_default = ensemble.combine == "weighted" and ensemble.weights is None
    asked = {
        "weights": isinstance(ensemble.weights, str),
        "calibrate": ensemble.calibrate,
        "combine": ensemble.combine == "stacking" or by_default,
    }
    return [key for key, is_asked in asked.items() if is_asked]
