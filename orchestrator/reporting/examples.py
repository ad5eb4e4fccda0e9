"""Which examples a report shows: those that the ensemble is least sure of, and those that its members dispute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.diversity import RowDiversity
from orchestrator.errors import DamagedStore

Indices = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ChosenExamples:
    """Rows of the split, [at most k] each, the most uncertain and the most disputed first; a row may be in both."""

    uncertain: Indices
    disputed: Indices


def choose_examples(diversity: RowDiversity, available: Indices, k: int = 12) -> ChosenExamples:
    """The rows to show.

    Uncertain is a row where the entropy of the ensemble's prediction is high; of a regression, where the members'
    spread is. Disputed is a row where many pairs of members decide differently; among equals, where the mutual
    information is high; a regression has none, for its spread says both. Ties go to the lower row. Rows without any
    uncertainty or dispute are not shown.

    Args:
        diversity: of all rows of the split, arrays [N].
        available: [K] rows that can be shown.
        k: most rows of each kind.

    Raises:
        DamagedStore: a row that can be shown is none of the split's.
    """
    uncertainty = diversity.spread if diversity.predictive_entropy is None else diversity.predictive_entropy
    return ChosenExamples(
        uncertain=_highest(available, k, uncertainty),
        disputed=_highest(available, k, diversity.vote_disagreement, diversity.mutual_information),
    )


def _highest(available: Indices, k: int, values: Float64 | None, ties: Float64 | None = None) -> Indices:
    """At most k of the rows: those of the highest values above 0, highest first."""
    if values is None:
        return np.empty(0, dtype=np.int64)
    if available.size and not 0 <= available.min() <= available.max() < len(values):
        raise DamagedStore(
            f"examples name rows from {available.min()} to {available.max()}, and the split has {len(values)}",
            where="examples",
            hint="the stored examples are not those of this run",
        )
    rows = available[values[available] > 0]
    second = np.zeros(len(rows)) if ties is None else ties[rows]
    return rows[np.lexsort((rows, -second, -values[rows]))[:k]]
