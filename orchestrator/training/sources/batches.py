"""What a data function may return in the place of arrays: a `tf.data.Dataset` or a `PyDataset`, taken over into arrays.

Both are gone through once, in their order. Neither library is imported here: what is one of theirs has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from orchestrator.errors import InvalidData
from orchestrator.training.sources.memory import half_of_memory

_INFINITE = -1
"""What `tf.data` says of the size of a data set that never ends; of one that it cannot tell, -2."""

_NEVER_ENDS = "leave out `repeat()`, or end it with `take(n)`: epochs are counted by train.epochs"


def is_batched(part: Any) -> bool:
    """Whether this is a `tf.data.Dataset` or a `keras.utils.PyDataset`."""
    tensorflow, keras = sys.modules.get("tensorflow"), sys.modules.get("keras")
    if tensorflow is not None and isinstance(part, tensorflow.data.Dataset):
        return True
    return keras is not None and isinstance(part, keras.utils.PyDataset)


def take_over(part: Any, where: str, *, max_bytes: int | None = None) -> tuple[Any, ...]:
    """All rows of a data set as arrays: (x, y) or (x, y, w), where x and y may be dictionaries.

    An element is a batch where all of its parts have one first axis in common, else a row; a `PyDataset` has batches.

    Args:
        part: a `tf.data.Dataset` or `PyDataset` whose elements are (x, y) or (x, y, w).
        where: names it in messages.
        max_bytes: more than so many are refused; default half of the machine's memory. A data set that does not say how
            large it is, and never ends, is found by that.

    Raises:
        InvalidData: it never ends, does not fit, or its elements are of another kind.
    """
    limit = max_bytes if max_bytes is not None else half_of_memory()
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(part, tensorflow.data.Dataset):
        if int(part.cardinality()) == _INFINITE:
            raise InvalidData("the tf.data.Dataset never ends", where=where, hint=_NEVER_ENDS)
        batched = _are_batches([tuple(spec.shape) for spec in tensorflow.nest.flatten(part.element_spec)])
        elements: Iterable[Any] = part.as_numpy_iterator()
    else:
        batched = True
        elements = _batches_of(part, where)
    leaves: dict[tuple[int, str], list[Any]] = {}
    size = 0
    for element in _guarded(elements, where):
        for key, array in _leaves(element, where):
            leaves.setdefault(key, []).append(array)
            size += array.nbytes
        if size > limit:
            raise InvalidData(
                f"has more than {limit / 2**20:,.0f} MiB, and may never end",
                where=where,
                hint=f"{_NEVER_ENDS}; rows that do not fit into memory can be read from files with data.stream",
            )
    if not leaves:
        raise InvalidData("the data set has no elements", where=where, hint="look at what it reads")
    join = np.concatenate if batched else np.stack
    try:
        arrays = {key: join(parts) for key, parts in leaves.items()}
    except ValueError as error:
        raise InvalidData(
            f"elements have different shapes: {error}", where=where, hint="every row needs the same shape: pad them"
        ) from error
    return _structured(arrays)


def _are_batches(shapes: list[tuple[Any, ...]]) -> bool:
    """Whether the parts of an element have a first axis in common; one of unknown length is a batch's."""
    return all(shapes) and len({shape[0] for shape in shapes}) == 1


def _batches_of(part: Any, where: str) -> Iterator[Any]:
    try:
        count = part.num_batches
    except NotImplementedError:
        count = None
    if count is None:
        raise InvalidData("the PyDataset has no end", where=where, hint="give it `__len__`: its number of batches")
    return (part[number] for number in range(count))


def _guarded(elements: Iterable[Any], where: str) -> Iterator[Any]:
    """The elements; what the data set raises is told as its own."""
    try:
        yield from elements
    except InvalidData:
        raise
    except Exception as error:
        raise InvalidData(
            f"the data set raised {type(error).__name__}: {str(error)[:400]}",
            where=where,
            hint="its elements are (x, y) or (x, y, w) of arrays with plain shapes",
        ) from error


def _leaves(element: Any, where: str) -> Iterator[tuple[tuple[int, str], Any]]:
    """The arrays of an element by place (0 x, 1 y, 2 w) and, in a dictionary, by name."""
    if not isinstance(element, tuple | list) or len(element) not in (2, 3):
        raise InvalidData(
            f"an element is {type(element).__name__}, not (x, y) or (x, y, sample weights)",
            where=where,
            hint="labels are needed; x may be a dictionary by input name",
        )
    for place, value in enumerate(element):
        if isinstance(value, tuple | list):
            raise InvalidData(
                f"part {place} of an element is a {type(value).__name__}",
                where=where,
                hint="give several inputs or outputs as a dictionary by their names",
            )
        for name, array in value.items() if isinstance(value, Mapping) else (("", value),):
            yield (place, str(name)), np.asarray(array)


def _structured(arrays: Mapping[tuple[int, str], Any]) -> tuple[Any, ...]:
    parts = []
    for place in sorted({place for place, _ in arrays}):
        by_name = {name: array for (of, name), array in arrays.items() if of == place}
        parts.append(by_name.get("", by_name))
    return tuple(parts)
