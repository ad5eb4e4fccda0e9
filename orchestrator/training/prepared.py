"""Preprocessing is fitted to the rows that a member learns from, and to no others. No Keras here."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.models.preprocess_fit import Preprocessing, fit
from orchestrator.planning.members import MemberPlan
from orchestrator.training.rows import SplitRows


def prepare(member: MemberPlan, rows: SplitRows) -> Preprocessing | None:
    """What the member's preprocessing learns from the rows that it learns from; None: it has none.

    Raises:
        InvalidJob, InvalidData: as `preprocess_fit.fit`.
    """
    return fit(member.preprocess, rows.split.x, rows.numbers)


def prepare_all(members: Sequence[MemberPlan], rows: Sequence[SplitRows]) -> list[Preprocessing | None]:
    """As `prepare`, for members of one job; each set of rows is gone through once."""
    found: list[Preprocessing | None] = []
    for member, own in zip(members, rows, strict=True):
        same = next((place for place, other in enumerate(rows[: len(found)]) if own.same_as(other)), None)
        found.append(prepare(member, own) if same is None else found[same])
    return found
