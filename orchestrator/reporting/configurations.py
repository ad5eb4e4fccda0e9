"""What a result tells of folds: each member on the rows that it was held out from, and configurations as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from orchestrator.ensemble.metrics import Scores
from orchestrator.planning.folds import OUT_OF_FOLD
from orchestrator.planning.outputs import part
from orchestrator.reporting.members_pass import cheap_scores
from orchestrator.reporting.outputs import gathered
from orchestrator.reporting.predictions import Read, by_configuration
from orchestrator.reporting.result import ConfigurationResult
from orchestrator.reporting.scores import MemberScores, SplitName
from orchestrator.reporting.selection import COUNTED, labels_of, tasks_of
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import held_out_from_parquet, predictions_from_parquet

Json = Any
Told = MemberScores | dict[str, MemberScores] | None
"""Scores, by output where there are several."""


def member_scores(selection: Mapping[str, Json], read: Read) -> dict[SplitName, dict[int, Told]]:
    """The scores of each member that has a model, by split and index: out-of-fold on the rows that it held out.

    Args:
        selection: body of the `selection` record of a run with folds.
        read: gives the verified bytes of a blob.

    Raises:
        DamagedStore: predictions or labels are gone.
    """
    found: dict[SplitName, dict[int, dict[str, MemberScores | None]]] = {}
    for split in get_args(SplitName):
        for output, task in tasks_of(selection).items():
            rows = part(split, output)
            if rows not in selection["labels"]:
                continue
            targets = labels_of(selection, rows, read)
            for member in selection["members"]:
                if member["status"] in COUNTED:
                    body = read(BlobRef.from_json(member["predictions"][rows], where=f"selection, {rows}"))
                    if split == OUT_OF_FOLD:
                        numbers, prediction = held_out_from_parquet(body)
                        scores = cheap_scores(task, targets[numbers], prediction)
                    else:
                        scores = cheap_scores(task, targets, predictions_from_parquet(body))
                    found.setdefault(split, {}).setdefault(member["index"], {})[output] = told_scores(scores)
    return {split: {index: gathered(told) for index, told in each.items()} for split, each in found.items()}


def configurations_of(
    selection: Mapping[str, Json], scores: Mapping[SplitName, Mapping[int, Told]]
) -> tuple[ConfigurationResult, ...]:
    """All configurations of a run with folds.

    Args:
        selection: body of the `selection` record.
        scores: of those in the ensemble, by split and configuration.
    """
    return tuple(
        ConfigurationResult(
            index=index,
            members=tuple(member["index"] for member in members),
            **{split: each[index] for split, each in scores.items() if index in each},
        )
        for index, members in by_configuration(selection["members"]).items()
    )


def left_out(selection: Mapping[str, Json]) -> Iterator[str]:
    """What is to be said of configurations that lack a member: its rows would be a hole that nobody could fill."""
    for index, members in by_configuration(selection["members"]).items():
        absent = [str(member["index"]) for member in members if member["status"] not in COUNTED]
        if 0 < len(absent) < len(members):
            yield f"configuration {index} is not in the ensemble: it lacks member {', '.join(absent)}"


def told_scores(scores: Scores) -> MemberScores:
    """Scores as the result tells them of a member."""
    return MemberScores(**{name: value for name, value in vars(scores).items() if name != "n"})
