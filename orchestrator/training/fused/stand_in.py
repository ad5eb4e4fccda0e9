"""What callbacks see as `model`: the member's own model, brought up to date when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from orchestrator.training.checkpoint import Array
from orchestrator.training.variables import assign, copies

_LIGHT = ("stop_training", "history", "name", "layers", "loss", "built", "compiled")
"""Attributes of the model that do not depend on the values of its variables."""


class StandIn:
    """The `model` of one member's callbacks.

    Reading the figures of an epoch, the learning rate or `stop_training` costs nothing; whoever asks for more, weights
    or a file, gets the member's real model with its values put into it first. What callbacks change in it is found by
    `changes`.

    Args:
        model: the member's own.
        program_model: the program's; its metrics know what they are called, and whether more of them is better.
    """

    def __init__(self, model: keras.Model, program_model: keras.Model) -> None:
        own = self.__dict__
        own["_model"], own["_program_model"] = model, program_model
        own["_values"], own["_loaded"] = None, None
        own["_rate"] = _rate_of(model)

    def refer(self, values: Callable[[], tuple[Sequence[Array], Sequence[Array]]]) -> None:
        """Have the model stand for other values from now on: those of its variables, and of its optimizer's."""
        own = self.__dict__
        own["_values"], own["_loaded"] = values, None

    def load(self) -> keras.Model:
        """The real model, up to date."""
        own = self.__dict__
        if own["_loaded"] is None and own["_values"] is not None:
            variables, optimizer = own["_values"]()
            rate = _rate_of(self._model)
            assign(self._model.variables, variables, where="the pack's state")
            assign(self._model.optimizer.variables, optimizer, where="the pack's state")
            own["_loaded"] = [np.array(array) for array in (*variables, *optimizer)]
            if rate != own["_rate"]:  # an earlier callback has set it
                self._model.optimizer.learning_rate = rate
        return self._model

    def changes(self) -> list[tuple[int, Array]]:
        """What callbacks changed since the values were loaded, or since this was last asked.

        Returns:
            Places among the model's and then the optimizer's variables, with their new values.
        """
        own, model = self.__dict__, self._model
        if own["_loaded"] is not None:
            now = copies([*model.variables, *model.optimizer.variables])
            changed = [
                (n, new) for n, (new, old) in enumerate(zip(now, own["_loaded"], strict=True)) if _differ(new, old)
            ]
            own["_loaded"], own["_rate"] = list(now), _rate_of(model)
            return changed
        rate = _rate_of(model)
        if rate == own["_rate"] or rate is None:
            return []
        own["_rate"] = rate
        place = [id(variable) for variable in model.optimizer.variables].index(id(model.optimizer.learning_rate))
        return [(len(model.variables) + place, np.asarray(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))]

    @property
    def optimizer(self) -> Any:
        return OptimizerStandIn(self)

    @property
    def metrics(self) -> Any:
        return self._program_model.metrics

    def jax_state_sync(self) -> None:
        """Keras calls this whenever a callback asks for its model: `load` does what it is for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model if name in _LIGHT else self.load(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model if name in _LIGHT else self.load(), name, value)


class OptimizerStandIn:
    """The optimizer of a `StandIn`: its learning rate is always at hand, all else brings the model up to date."""

    def __init__(self, model: StandIn) -> None:
        self.__dict__["_stand_in"] = model

    @property
    def learning_rate(self) -> Any:
        return self._stand_in._model.optimizer.learning_rate

    def __getattr__(self, name: str) -> Any:
        optimizer = self._stand_in._model.optimizer
        if not hasattr(optimizer, name):  # Keras asks so for kinds of optimizers: no reason to load anything
            raise AttributeError(name)
        return getattr(self._stand_in.load().optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        optimizer = self._stand_in._model.optimizer
        setattr(optimizer if name == "learning_rate" else self._stand_in.load().optimizer, name, value)


def _rate_of(model: keras.Model) -> float | None:
    """The learning rate, or None where a schedule gives it."""
    optimizer = model.optimizer
    if not isinstance(optimizer._learning_rate, keras.Variable):
        return None
    return float(keras.ops.convert_to_numpy(optimizer._learning_rate))


def _differ(new: Array, old: Array) -> bool:
    return new.tobytes() != old.tobytes()
