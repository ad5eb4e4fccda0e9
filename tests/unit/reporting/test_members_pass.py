"""What a pass over the members tells of a regression's spread."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.ensemble.intervals import Resamples
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.ensemble.weights import Weights
from orchestrator.reporting.members_pass import MembersPass


@pytest.mark.parametrize(
    ("weights", "plain", "weighted"),
    [((1.0,), None, None), ((1.0, 0.0), 1.0, None), ((0.0, 0.5, 0.5), 8 / 3, 1.0)],
)
def test_there_is_a_variance_only_where_several_members_have_weight(
    weights: tuple[float, ...], plain: float | None, weighted: float | None
) -> None:
    targets = np.zeros((5, 1))
    seen = MembersPass(
        TaskKind.REGRESSION,
        targets,
        num_members=len(weights),
        combine="mean",
        weights=Weights(weights, method="given", fitted_on="given"),
        resamples=Resamples(5, 0),
        seed=0,
    )
    for index in range(len(weights)):
        seen.add(np.full((5, 1), 2.0 * index), name=f"member {index}")
    for expected, variance in ((plain, seen.variance()), (weighted, seen.variance(weighted=True))):
        assert (variance is None) == (expected is None)
        if variance is not None:
            np.testing.assert_allclose(variance, np.full((5, 1), expected))
