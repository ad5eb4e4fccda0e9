"""Random streams: independent of each other and of how many there are, and the same for ever."""

from __future__ import annotations

import pytest

from orchestrator.planning.seeds import jitter, member_seed, split_seed


def test_seeds_stay_what_they_are_in_every_version() -> None:
    # Pinned: another value would train other members for everybody's old jobs.
    assert [member_seed(0, index) for index in range(3)] == [4088532484, 3581274545, 1008912121]
    assert split_seed(0) == 1961512366


def test_members_split_and_other_roots_share_no_seed() -> None:
    seeds = [member_seed(root, index) for root in range(20) for index in range(100)]
    seeds += [split_seed(root) for root in range(20)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("root", [0, 1, 2**32, 2**63 - 1])
def test_every_root_gives_seeds_that_keras_takes(root: int) -> None:
    assert all(0 <= seed < 2**32 for seed in (member_seed(root, 0), member_seed(root, 9_999), split_seed(root)))


def test_the_jitter_of_a_retry_is_the_same_in_every_replay_and_differs_between_members_and_attempts() -> None:
    values = [jitter(7, member, attempt) for member in range(10) for attempt in range(1, 5)]
    assert values == [jitter(7, member, attempt) for member in range(10) for attempt in range(1, 5)]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 1 for value in values)
