"""What `data.preprocess` learns from training rows: frozen numbers, by NumPy alone. `preprocess.py` makes layers of it.

Rows are taken as the model will take them, in float32; sums are made in float64, in the order of the rows. So the same
rows give the same numbers, and an interrupted member goes on with those that it began with. Sample weights play no
part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DamagedStore, InvalidData, InvalidJob
from orchestrator.spec.preprocess import settings_of

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float64]
Blocks = Callable[[], Iterator[Values]]

BLOCK_VALUES = 2**21
"""Numbers that are looked at together: 16 MB in float64."""


@dataclass(frozen=True)
class Affine:
    """`(x - center) * scale + offset`; `center` and `scale` are float32 and broadcast against one row."""

    center: Array
    scale: Array
    offset: float = 0.0


@dataclass(frozen=True)
class OneHot:
    """Whole numbers below `num_classes` become rows with a single 1, all others rows of 0."""

    num_classes: int


@dataclass(frozen=True)
class Reshape:
    """The same numbers in rows of another shape."""

    shape: tuple[int, ...]


FittedStep = Affine | OneHot | Reshape


@dataclass(frozen=True)
class FittedInput:
    """How one input is prepared.

    Attributes:
        row_shape: of one raw row, without the axis of the examples.
        dtype: the type in which the model takes raw rows.
        steps: in their order; none: the input is left as it is.
    """

    row_shape: tuple[int, ...]
    dtype: str
    steps: tuple[FittedStep, ...]


@dataclass(frozen=True)
class Preprocessing:
    """How all inputs of a member are prepared, by input name; "" stands for the only one, where x is an array."""

    inputs: Mapping[str, FittedInput]


def fit(
    preprocess: Any, x: Array | Mapping[str, Array], numbers: npt.NDArray[np.integer[Any]] | None = None
) -> Preprocessing | None:
    """Learn what the steps need from training rows.

    Args:
        preprocess: the job's `data.preprocess`.
        x: rows, first axis N, or a dictionary of such arrays by input name.
        numbers: of the training rows among them; None: they all are. Nothing is learnt from others.

    Returns:
        None where there is nothing to do.

    Raises:
        InvalidJob: steps for an input that there is not, or an axis that it does not have.
        InvalidData: the rows are not what a step needs.
    """
    if not preprocess:
        return None
    by_name = dict(x) if isinstance(x, Mapping) else {"": x}
    steps = _by_input(preprocess, by_name)
    fitted = {name: _fit_input(name, steps.get(name, ()), rows, numbers) for name, rows in by_name.items()}
    return Preprocessing(fitted)


def check_numbered(preprocess: Any, x: Array | Mapping[str, Array], rows: str) -> None:
    """Refuse categories whose numbers the model cannot take: as its 32 bits they would be other categories.

    Args:
        preprocess: the job's `data.preprocess`.
        x: rows, or a dictionary of them by input name.
        rows: which ones, for the message.

    Raises:
        InvalidJob: as `fit`.
        InvalidData: such a number.
    """
    if not preprocess:
        return
    by_name = dict(x) if isinstance(x, Mapping) else {"": x}
    for name, steps in _by_input(preprocess, by_name).items():
        [(kind, _)] = list(settings_of(steps))[:1]
        if kind == "one_hot":
            for far in (by_name[name].min(), by_name[name].max()):
                _check_number(int(far), rows, _place(name, 0, kind))


def _check_number(number: int, rows: str, where: str) -> None:
    if abs(number) >= np.iinfo(np.int32).max:
        raise InvalidData(
            f"the {rows} rows hold the number {number}, and categories are numbered below 2³¹",
            where=where,
            hint="number the categories from 0, or leave this input as it is",
        )


def _place(name: str, number: int, kind: str) -> str:
    return f"data.preprocess.{f'{name}.' if name else ''}{number}: {kind}"


def apply(fitted: FittedInput, x: Array) -> Values:
    """What the layers compute for raw rows [N, …], in float64."""
    values = _rows(fitted, x)
    for step in fitted.steps:
        values = _apply(step, values)
    return values


def to_json(preprocessing: Preprocessing) -> bytes:
    """For storage; `from_json` gives the same numbers back, bit for bit."""
    inputs = {
        name: {
            "row_shape": fitted.row_shape,
            "dtype": fitted.dtype,
            "steps": [_step_to_json(step) for step in fitted.steps],
        }
        for name, fitted in preprocessing.inputs.items()
    }
    return json.dumps({"inputs": inputs}, allow_nan=False, separators=(",", ":")).encode()


def from_json(body: bytes, where: str) -> Preprocessing:
    """What `to_json` wrote. Raises DamagedStore."""
    try:
        inputs = {
            str(name): FittedInput(
                tuple(map(int, entry["row_shape"])),
                str(entry["dtype"]),
                tuple(_step_from_json(step) for step in entry["steps"]),
            )
            for name, entry in json.loads(body)["inputs"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DamagedStore(f"no preprocessing is stored there: {error}", where=where) from error
    return Preprocessing(inputs)


def _by_input(preprocess: Any, x: Mapping[str, Array]) -> Mapping[str, Sequence[Any]]:
    names = ", ".join(sorted(x))
    if not isinstance(preprocess, Mapping):
        if "" in x:
            return {"": preprocess}
        raise InvalidJob(
            f"the data has inputs by name: {names}",
            where="data.preprocess",
            hint="give each its own list of steps: data.preprocess is then a mapping from input name to list",
        )
    if "" in x:
        raise InvalidJob(
            f"the data has one input without a name, and there are steps for {', '.join(sorted(preprocess))}",
            where="data.preprocess",
            hint="give a list of steps, or have the data function return x as a dictionary by input name",
        )
    unknown = sorted(set(preprocess) - set(x))
    if unknown:
        raise InvalidJob(f"the data has no input {unknown[0]}", where="data.preprocess", hint=f"there are: {names}")
    return preprocess


def _fit_input(name: str, steps: Sequence[Any], x: Array, numbers: Any) -> FittedInput:
    settings = list(settings_of(steps))
    whole = settings[0][0] == "one_hot" if settings else x.dtype.kind in "iu"
    fitted = FittedInput(x.shape[1:] or (1,), "int32" if whole else "float32", ())
    for number, (kind, asked) in enumerate(settings):
        added = _FIT[kind](asked, _Rows(fitted, x, numbers), _place(name, number, kind))
        fitted = FittedInput(fitted.row_shape, fitted.dtype, (*fitted.steps, *added))
    return fitted


class _Rows:
    """Training rows as the next step gets them."""

    def __init__(self, fitted: FittedInput, x: Array, numbers: Any) -> None:
        self._fitted, self._x, self._numbers = fitted, x, numbers
        self.raw_kind = x.dtype.kind
        self.shape = apply(fitted, x[:1]).shape[1:]

    def raw_blocks(self) -> Iterator[Array]:
        """All rows in their order, some at a time, as they come from the data."""
        size = max(1, BLOCK_VALUES // max(1, math.prod(self._x.shape[1:])))
        for start in range(0, len(self._x) if self._numbers is None else len(self._numbers), size):
            part = slice(start, start + size)
            yield self._x[part] if self._numbers is None else self._x[self._numbers[part]]

    def blocks(self) -> Iterator[Values]:
        """All rows after the steps before this one."""
        return (apply(self._fitted, block) for block in self.raw_blocks())


def _fit_min_max(asked: Any, rows: _Rows, where: str) -> tuple[FittedStep, ...]:
    axes = _reduced(asked.axis, rows, where)
    low, high = _extremes(rows, axes, where)
    bottom, top = map(float, asked.feature_range)
    return (_affine(low, (top - bottom) / _positive(high - low), high > low, bottom),)


def _fit_standardize(asked: Any, rows: _Rows, where: str) -> tuple[FittedStep, ...]:
    axes = _reduced(asked.axis, rows, where)
    low, high = _extremes(rows, axes, where)
    count = 0
    total = np.zeros_like(low)
    for block in rows.blocks():
        count += block.size // low.size
        total = total + block.sum(axis=axes, keepdims=True)
    mean = total / count
    squares = np.zeros_like(low)
    for block in rows.blocks():
        squares = squares + np.square(block - mean).sum(axis=axes, keepdims=True)
    return (_affine(mean, 1 / _positive(np.sqrt(squares / count)), high > low, 0.0),)


def _fit_one_hot(asked: Any, rows: _Rows, where: str) -> tuple[FittedStep, ...]:
    largest = 0
    for block in rows.raw_blocks():  # the first step, and as whole numbers nothing would be wrong with them
        if block.min() < 0 or not np.array_equal(block, np.round(block)):
            raise InvalidData(
                "the training rows hold numbers that are not whole, or below 0",
                where=where,
                hint="number the categories from 0, or leave this input as it is",
            )
        largest = max(largest, int(block.max()))
    _check_number(largest, "training", where)
    if asked.num_classes is not None and largest >= asked.num_classes:
        raise InvalidData(
            f"the training rows hold category {largest}, and num_classes is {asked.num_classes}",
            where=where,
            hint=f"categories go from 0 to num_classes - 1: {largest + 1} are needed",
        )
    return (OneHot(asked.num_classes or largest + 1),)


def _fit_flatten(asked: Any, rows: _Rows, where: str) -> tuple[FittedStep, ...]:
    return (Reshape((math.prod(rows.shape),)),)


def _fit_images(asked: Any, rows: _Rows, where: str) -> tuple[FittedStep, ...]:
    if len(rows.shape) not in (2, 3):
        raise InvalidData(
            f"rows have shape {rows.shape}, which is no image",
            where=where,
            hint="images are [height, width] or [height, width, channels]; for other rows use min_max",
        )
    low, high = _extremes(rows, tuple(range(len(rows.shape) + 1)), where)
    if low.min() < 0 or high.max() > 255 or (rows.raw_kind == "f" and high.max() <= 1):
        raise InvalidData(
            f"the training rows go from {low.min():g} to {high.max():g}, not from 0 to 255",
            where=where,
            hint="leave out normalize_images where the data function has scaled them, or use min_max",
        )
    scaled = Affine(np.zeros((), np.float32), np.asarray(1 / 255, np.float32))
    return (scaled,) if len(rows.shape) == 3 else (scaled, Reshape((*rows.shape, 1)))


_FIT: Mapping[str, Callable[[Any, _Rows, str], tuple[FittedStep, ...]]] = {
    "min_max": _fit_min_max,
    "standardize": _fit_standardize,
    "one_hot": _fit_one_hot,
    "flatten": _fit_flatten,
    "normalize_images": _fit_images,
}


def _affine(center: Values, scale: Values, varies: npt.NDArray[np.bool_], offset: float) -> Affine:
    """What does not vary, or by less than float32 can scale up, gets a scale of exactly 0: it can give no NaN."""
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float32)
    kept = varies & np.isfinite(rounded)
    return Affine(np.where(kept, center, 0)[0].astype(np.float32), np.where(kept, rounded, 0)[0], offset)


def _extremes(rows: _Rows, axes: tuple[int, ...], where: str) -> tuple[Values, Values]:
    found = [(block.min(axis=axes, keepdims=True), block.max(axis=axes, keepdims=True)) for block in rows.blocks()]
    low, high = np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)
    if not (high - low <= np.finfo(np.float32).max).all():  # a number beyond is infinite, and gives NaN here
        raise InvalidData(
            "the training rows hold numbers, or differences of numbers, that are more than float32 can tell",
            where=where,
            hint=f"give them in another unit, or as logarithms: {np.finfo(np.float32).max:.2g} is the largest",
        )
    return low, high


def _positive(values: Values) -> Values:
    """To divide by; what stands in for 0 is never used."""
    return np.asarray(np.where(values > 0, values, 1.0))


def _reduced(axis: int | Sequence[int] | None, rows: _Rows, where: str) -> tuple[int, ...]:
    """The axes over which one figure is taken: all but those that keep figures of their own."""
    rank = len(rows.shape) + 1
    asked = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    kept = {one + rank if one < 0 else one for one in asked}
    if not kept <= set(range(1, rank)):
        raise InvalidJob(
            f"there is no axis {list(asked)} in rows of shape {rows.shape}",
            where=where,
            hint=f"axes of a row are 1 to {rank - 1}, or -1 for the last; 0 are the examples",
        )
    return tuple(one for one in range(rank) if one not in kept)


def _rows(fitted: FittedInput, x: Array) -> Values:
    with np.errstate(over="ignore"):  # told of training rows, which are looked at first
        typed = np.asarray(x, dtype=fitted.dtype)
    return typed.reshape(len(x), *fitted.row_shape).astype(np.float64)


def _apply(step: FittedStep, values: Values) -> Values:
    match step:
        case Affine(center, scale, offset):
            return np.asarray((values - center.astype(np.float64)) * scale.astype(np.float64) + offset)
        case Reshape(shape):
            return values.reshape(len(values), *shape)
        case OneHot(num_classes):
            numbers = values[..., 0] if values.ndim > 1 and values.shape[-1] == 1 else values
            return np.asarray(numbers[..., None] == np.arange(num_classes), np.float64)


def _step_to_json(step: FittedStep) -> dict[str, Any]:
    match step:
        case Affine(center, scale, offset):
            return {"affine": [center.tolist(), scale.tolist(), offset]}
        case Reshape(shape):
            return {"reshape": list(shape)}
        case OneHot(num_classes):
            return {"one_hot": num_classes}


def _step_from_json(entry: Mapping[str, Any]) -> FittedStep:
    [(kind, value)] = entry.items()
    if kind == "affine":
        center, scale, offset = value
        return Affine(np.asarray(center, np.float32), np.asarray(scale, np.float32), float(offset))
    if kind == "reshape":
        return Reshape(tuple(map(int, value)))
    if kind == "one_hot":
        return OneHot(int(value))
    raise ValueError(f"there is no step {kind!r}")
