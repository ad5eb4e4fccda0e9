"""Every random stream of a run, derived from the job's one `seed` by namespaced spawn keys.

`numpy.random.SeedSequence(root, spawn_key=(namespace, index))` gives streams that are independent of each other and of
how many there are: adding a sixth member leaves the first five as they were.
"""

from __future__ import annotations

from enum import IntEnum

from numpy.random import SeedSequence


class Namespace(IntEnum):
    """First part of the spawn key: what the stream is for."""

    MEMBERS = 0
    TRIALS = 1
    SPLITS = 2
    BACKOFF = 3
    SEARCH = 4


def member_seed(root: int, index: int) -> int:
    """The 32-bit seed of member `index` (0-based): what Keras' `set_random_seed` gets."""
    return _state(root, Namespace.MEMBERS, index)


def trial_seed(root: int, index: int) -> int:
    """The 32-bit seed of trial `index` (0-based) of a search, for Keras' `set_random_seed`."""
    return _state(root, Namespace.TRIALS, index)


def search_seed(root: int) -> int:
    """The 32-bit seed of the sampler of a search, and of what is told of its parameters."""
    return _state(root, Namespace.SEARCH, 0)


def split_seed(root: int) -> int:
    """The 32-bit seed of the split into training and validation rows."""
    return _state(root, Namespace.SPLITS, 0)


def example_seed(root: int) -> int:
    """The 32-bit seed of the draw of rows that a report may show as examples."""
    return _state(root, Namespace.SPLITS, 3)


def limit_seed(root: int) -> int:
    """The 32-bit seed of the draw of the rows that `data.max_rows` leaves."""
    return _state(root, Namespace.SPLITS, 6)


def fold_seed(root: int, repeat: int) -> int:
    """The 32-bit seed of the assignment of rows to folds, for one repeat (0-based)."""
    return _state(root, Namespace.SPLITS, 4, repeat)


def inner_seed(root: int, repeat: int, fold: int) -> int:
    """The 32-bit seed of the inner validation rows of the members that are held out from one fold of a repeat."""
    return _state(root, Namespace.SPLITS, 5, repeat, fold)


def jitter(root: int, member: int, attempt: int) -> float:
    """A number in [0, 1) for the backoff of one retry: spread over members, yet the same in every replay."""
    return _state(root, Namespace.BACKOFF, member, attempt) / 2**32


def _state(root: int, *spawn_key: int) -> int:
    return int(SeedSequence(root, spawn_key=tuple(int(key) for key in spawn_key)).generate_state(1)[0])
