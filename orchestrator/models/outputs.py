"""What a model's outputs say: probabilities or numbers, the same way for every member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.ensemble.tasks import means_yes_or_no
from orchestrator.errors import InvalidModel

if TYPE_CHECKING:
    import keras

Squash = Literal["softmax", "sigmoid"]


def predictions(outputs: Any, squash: Squash | None) -> npt.NDArray[np.float32]:
    """Outputs of a model as what is averaged and stored.

    Args:
        outputs: of shape [N, C], or [N] where there is one number for each row.
        squash: what the loss applies to the model's outputs, see `squash_of`; None: they are taken as they are.

    Returns:
        float32 of shape [N, C]; [N, 1] for binary targets.

    Raises:
        InvalidModel: the model has several outputs, or an output that is no matrix.
    """
    if not isinstance(outputs, np.ndarray):
        raise InvalidModel(
            f"the model has {len(outputs)} outputs",
            hint="models with one output can be averaged; give the build function one output",
        )
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.ndim != 2:
        raise InvalidModel(f"the model's output has shape {outputs.shape}, not [examples, classes]")
    values = np.asarray(outputs, dtype=np.float32)
    if squash is None:
        return values
    if squash == "sigmoid" or values.shape[1] == 1:  # a softmax over one output would always be 1
        return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), dtype=np.float32)
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def squash_of(model: keras.Model) -> Squash | None:
    """What the model's loss makes probabilities with, where it takes logits; None: the outputs are no logits."""
    takes_logits = any(
        bool(getattr(loss, "from_logits", False) or getattr(loss, "_fn_kwargs", {}).get("from_logits", False))
        for loss in _losses(model)
    )
    if not takes_logits:
        return None
    return "sigmoid" if means_yes_or_no(loss_name(model)) else "softmax"


def loss_name(model: keras.Model) -> str | None:
    """The name of the compiled model's loss, as `ensemble.tasks.infer_task` takes it; None where it has several."""
    losses = _losses(model)
    if len(losses) != 1:
        return None
    function = getattr(losses[0], "fn", losses[0])  # Keras' loss classes wrap its functions
    return function if isinstance(function, str) else getattr(function, "__name__", None)


def _losses(model: keras.Model) -> list[Any]:
    loss = model.loss
    return (
        list(loss.values()) if isinstance(loss, Mapping) else list(loss) if isinstance(loss, list | tuple) else [loss]
    )
