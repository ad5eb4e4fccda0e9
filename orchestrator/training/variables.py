"""Variables of models and optimizers as arrays, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from orchestrator.errors import InvalidModel
from orchestrator.training.checkpoint import STORABLE_KINDS, Array, Snapshot


def copies(variables: Sequence[Any]) -> tuple[Array, ...]:
    """The values of variables, in arrays that no later step writes to."""
    return tuple(storable(keras.ops.convert_to_numpy(variable)) for variable in variables)


def storable(array: Array) -> Array:
    """A copy of a type that files know: what NumPy itself has no name for (bfloat16, …) as float32, which holds it all.

    Raises:
        TypeError: it holds objects.
    """
    copied = np.array(array, order="C")
    if copied.dtype.kind == "V" and copied.dtype.fields is None:
        copied = copied.astype(np.float32)
    if copied.dtype.kind not in STORABLE_KINDS:
        raise TypeError(f"an array of type {copied.dtype} cannot be stored")
    return copied


def restore_variables(model: keras.Model, snapshot: Snapshot, where: str) -> None:
    """Set all variables of a built model and of its optimizer to those of a snapshot.

    Raises:
        InvalidModel: they do not fit: the job's code builds another model now.
    """
    assign(model.variables, snapshot.variables, where=where)
    assign(model.optimizer.variables, snapshot.optimizer, where=f"{where}, optimizer")


def assign(variables: Sequence[Any], arrays: Sequence[Array], *, where: str) -> None:
    """Set variables to arrays, all or none. Raises InvalidModel when number or shapes differ."""
    have, stored = [tuple(variable.shape) for variable in variables], [array.shape for array in arrays]
    if have != stored:
        raise InvalidModel(
            f"the checkpoint has {len(stored)} variables, the model {len(have)}, or their shapes differ",
            where=where,
            hint="the build function must build the same model for the same arguments",
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
