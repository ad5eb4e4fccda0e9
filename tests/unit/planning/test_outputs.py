"""Names of what is kept of each output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.outputs import ONLY, output_of, part, split_of


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
