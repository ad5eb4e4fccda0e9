"""What a job asks of its ensemble, against the rows that there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.outputs import ONLY
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
            hint="say `on: out_of_fold`"
            if OUT_OF_FOLD in num_rows
            else f"return a {gate.on} set from the data function, or remove the gate",
        )
    if ensemble.stop_when is not None and "validation" not in num_rows:
        raise InvalidJob(
            "the ensemble's score is watched on the validation set, and there is none",
            where="ensemble.stop_when",
            hint="set data.validation_split, return a validation set from the data function, or leave stop_when out",
        )
    rows = num_rows.get(deciding_split(num_rows), 0)
    for key in _fitted(ensemble):
        if rows < FEWEST_ROWS:
            there = "there is none" if rows == 0 else f"it has {rows} of the {FEWEST_ROWS} rows that this takes"
            raise InvalidJob(
                f"this is fitted on the validation set, and {there}",
                where=f"ensemble.{key}",
                hint="set data.validation_split, or do without; weights can be given as a list",
            )


def deciding_output(ensemble: EnsembleSpec, outputs: Sequence[str]) -> str:
    """The output by which members are compared, the run is judged and stopped: `ensemble.output`, or the first.

    Args:
        ensemble: the job's `ensemble` part.
        outputs: names of the models' outputs in their order; `orchestrator.planning.outputs.ONLY` for an only one.

    Raises:
        InvalidJob: there is no such output, or no choice.
    """
    asked = ensemble.output
    if asked is None or asked in outputs:
        return asked or outputs[0]
    if tuple(outputs) == (ONLY,):
        raise InvalidJob(
            f"{asked!r} is named to decide, and the models have a single output",
            where="ensemble.output",
            hint="leave ensemble.output out",
        )
    raise InvalidJob(
        f"the models have no output {asked!r}", where="ensemble.output", hint=f"there are: {', '.join(outputs)}"
    )


def check_calibrated(ensemble: EnsembleSpec, tasks: Mapping[str, TaskKind]) -> None:
    """Refuse a calibration where no output tells probabilities. One that tells numbers beside others stays as it is.

    Args:
        ensemble: the job's `ensemble` part.
        tasks: of the outputs, by name.

    Raises:
        InvalidJob: there are only numbers.
    """
    if ensemble.calibrate and all(task is TaskKind.REGRESSION for task in tasks.values()):
        raise InvalidJob(
            "there are no probabilities to calibrate: the models tell regression",
            where="ensemble.calibrate",
            hint="leave ensemble.calibrate out",
        )


def deciding_split(splits: Collection[str]) -> Literal["out_of_fold", "validation"]:
    """The split whose rows decide: on which weights are fitted and the best member is chosen.

    Args:
        splits: those that are scored.
    """
    return "out_of_fold" if OUT_OF_FOLD in splits else "validation"


def _fitted(ensemble: EnsembleSpec) -> list[str]:
    """The keys that ask for something to be fitted."""
    by_default = ensemble.combine == "weighted" and ensemble.weights is None
    asked = {
        "weights": isinstance(ensemble.weights, str),
        "calibrate": ensemble.calibrate,
        "combine": ensemble.combine == "stacking" or by_default,
    }
    return [key for key, is_asked in asked.items() if is_asked]
