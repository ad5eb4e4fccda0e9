"""What a model's outputs say: probabilities, the same way for every member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidModel

if TYPE_CHECKING:
    import keras


def probabilities(outputs: Any, *, from_logits: bool) -> npt.NDArray[np.float32]:
    """Outputs of a model as probabilities.

    Args:
        outputs: of shape [N, C]; [N, 1] for binary targets.
        from_logits: the model's loss says so: the softmax (C > 1) or the sigmoid (C = 1) that it applies is applied,
            so that what is averaged are always probabilities.

    Returns:
        float32 of shape [N, C].

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
    logits = np.asarray(outputs, dtype=np.float32)
    if not from_logits:
        return logits
    if logits.shape[1] == 1:
        return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), dtype=np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def uses_logits(model: keras.Model) -> bool:
    """Whether the model's loss takes logits, so that its outputs are not probabilities yet."""
    loss = model.loss
    losses = loss.values() if isinstance(loss, Mapping) else loss if isinstance(loss, list | tuple) else [loss]
    return any(
        bool(getattr(each, "from_logits", False) or getattr(each, "_fn_kwargs", {}).get("from_logits", False))
        for each in losses
    )
