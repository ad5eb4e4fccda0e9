"""What a model's outputs are called and say: probabilities or numbers by name, the same way for every member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.tasks import means_yes_or_no
from orchestrator.errors import InvalidModel
from orchestrator.planning.outputs import ONLY

if TYPE_CHECKING:
    import keras

Squash = Literal["softmax", "sigmoid"]
Losses = tuple[Any, ...]
"""Of one output: one as a rule; none where `compile` names none for it, several where a list of them is for all."""


def outputs_by_name(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """What a model returns, by output name in the model's order; under `ONLY` where there is one.

    Names are the keys where the model returns a dictionary; where a functional model returns a list, those of the
    layers that make the outputs.

    Args:
        model: which returned them.
        outputs: as its call gave them.

    Raises:
        InvalidModel: several outputs without names, with the same name, or within one another.
    """
    named = _named(model, outputs)
    for name, output in named.items():
        if isinstance(output, Mapping | list | tuple):
            raise InvalidModel(
                f"the model's output {name!r} is a {type(output).__name__} of {len(output)}",
                hint="return one flat dictionary with one array for each output",
            )
    return named if len(named) != 1 else {ONLY: next(iter(named.values()))}


def _named(model: keras.Model, outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(name): output for name, output in outputs.items()}
    if not isinstance(outputs, list | tuple):
        return {ONLY: outputs}
    if len(outputs) == 1:
        return {ONLY: outputs[0]}
    names = [str(name) for name in getattr(model, "output_names", ())]
    if len(set(names)) != len(outputs):
        told = f"the names {names}" if len(names) == len(outputs) else "no names"
        raise InvalidModel(
            f"the model returns {len(outputs)} outputs with {told}",
            hint="return a dictionary by output name, or name the layers that make the outputs of a functional model",
        )
    return dict(zip(names, outputs, strict=True))


def in_models_form(model: keras.Model, labels: Any) -> Any:
    """Labels, or sample weights, in the structure in which Keras' trainers take them for this model.

    A functional model that returns a list wants a sequence, and from a feed a tuple: Keras itself puts labels by name
    into its order, but no weights.

    Args:
        model: built.
        labels: an array, which is returned as it is, or arrays by the names of the model's outputs.
    """
    if not isinstance(labels, Mapping):
        return labels
    if isinstance(getattr(model, "_outputs_struct", None), list | tuple):
        return tuple(labels[name] for name in model.output_names)
    return dict(labels)


def losses_by_name(model: keras.Model, outputs: Any) -> dict[str, Losses]:
    """What a model is compiled to minimise, by output name.

    Args:
        model: compiled.
        outputs: as its call gave them.

    Raises:
        InvalidModel: as `outputs_by_name`; or a list of losses of another length than there are outputs.
    """
    names, loss = list(outputs_by_name(model, outputs)), model.loss
    if names == [ONLY]:
        return {ONLY: _known(*(loss.values() if isinstance(loss, Mapping) else _listed(loss)))}
    if isinstance(loss, Mapping):
        return {name: _known(loss.get(name)) for name in names}
    if not isinstance(loss, list | tuple):
        return {name: _known(loss) for name in names}
    if len(loss) != len(names):
        raise InvalidModel(
            f"there are {len(loss)} losses for the {len(names)} outputs {names}",
            hint="give compile one loss for all, a list of one for each output, or a dictionary by output name",
        )
    # As Keras takes a list: keys of a dictionary in the order of the alphabet.
    order = sorted(names) if isinstance(outputs, Mapping) else names
    by_name = dict(zip(order, loss, strict=True))
    return {name: _known(by_name[name]) for name in names}


def _listed(loss: Any) -> Losses:
    return tuple(loss) if isinstance(loss, list | tuple) else (loss,)


def _known(*losses: Any) -> Losses:
    return tuple(loss for loss in losses if loss is not None)


def loss_name(losses: Losses) -> str | None:
    """The name of an output's loss, as `ensemble.tasks.infer_task` takes it; None where it has several."""
    if len(losses) != 1:
        return None
    function = getattr(losses[0], "fn", losses[0])  # Keras' loss classes wrap its functions
    return function if isinstance(function, str) else getattr(function, "__name__", None)


def squash_of(losses: Losses) -> Squash | None:
    """What an output's loss makes probabilities with, where it takes logits; None: the output is no logits."""
    takes_logits = any(
        bool(getattr(loss, "from_logits", False) or getattr(loss, "_fn_kwargs", {}).get("from_logits", False))
        for loss in losses
    )
    if not takes_logits:
        return None
    return "sigmoid" if means_yes_or_no(loss_name(losses)) else "softmax"


def predictions(model: keras.Model, outputs: Any) -> dict[str, npt.NDArray[np.float32]]:
    """Outputs of a model as what is averaged and stored, by output name.

    Args:
        model: compiled.
        outputs: NumPy arrays in the structure that the model returns.

    Returns:
        Of each output what `as_predictions` makes of it.

    Raises:
        InvalidModel: outputs that cannot be told apart, or one that is no matrix.
    """
    losses = losses_by_name(model, outputs)
    return {
        name: as_predictions(output, squash_of(losses[name]), name)
        for name, output in outputs_by_name(model, outputs).items()
    }


def as_predictions(output: Any, squash: Squash | None, name: str = ONLY) -> npt.NDArray[np.float32]:
    """One output as what is averaged and stored.

    Args:
        output: of shape [N, C], or [N] where there is one number for each row.
        squash: what the loss applies to it, see `squash_of`; None: it is taken as it is.
        name: of the output, for the message.

    Returns:
        float32 of shape [N, C]; [N, 1] for binary targets.

    Raises:
        InvalidModel: it is no matrix.
    """
    values = np.asarray(output)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        which = f"output {name!r}" if name else "output"
        raise InvalidModel(f"the model's {which} has shape {values.shape}, not [examples, classes]")
    values = np.asarray(values, dtype=np.float32)
    if squash is None:
        return values
    if squash == "sigmoid" or values.shape[1] == 1:  # a softmax over one output would always be 1
        return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), dtype=np.float32)
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)
