"""Names of what is kept of each output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.outputs import ONLY, output_of, owner_of, part, split_of


@pytest.mark.parametrize(
    ("split", "output", "told"),
    [
        ("validation", ONLY, "validation"),
        ("validation", "species", "validation/species"),
        ("out_of_fold", "body mass", "out_of_fold/body mass"),
    ],
)
def test_the_only_output_has_the_name_of_its_split_and_others_have_their_own(
    split: str, output: str, told: str
) -> None:
    assert part(split, output) == told


@given(split=st.text(min_size=1).filter(lambda text: "/" not in text), output=st.text())
def test_a_part_tells_its_split_and_its_output_whatever_the_output_is_called(split: str, output: str) -> None:
    assert (split_of(part(split, output)), output_of(part(split, output))) == (split, output)


@pytest.mark.parametrize(
    ("metric", "owner"),
    [("val_mass_mae", "mass"), ("mass_of_egg_mae", "mass_of_egg"), ("val_loss", None), ("massive_loss", None)],
)
def test_a_metric_is_of_the_output_with_whose_whole_name_it_begins(metric: str, owner: str | None) -> None:
    assert owner_of(metric, [ONLY, "mass", "mass_of_egg"]) == owner
