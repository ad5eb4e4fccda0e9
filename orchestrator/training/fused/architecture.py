"""Which models can be stacked, and why one cannot be fused."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from typing import Any

import keras

from orchestrator.models import architecture
from orchestrator.spec import TrainSpec

_NOISE = {"AlphaDropout": "rate", "GaussianDropout": "rate", "GaussianNoise": "stddev"}
"""Layers whose number is part of the program: only `Dropout` and its spatial forms have it as a variable."""

_BY_VARIABLE = ("_use_weight_decay", "_should_use_adamw")
"""What an optimizer decides for each variable, by lists or names that its configuration does not tell."""

_BATCH_HOOKS = (
    *("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"),
    *("on_test_batch_begin", "on_test_batch_end"),
)
_HARMLESS = (keras.callbacks.TerminateOnNaN,)
"""Looks at batches, but what it would stop for ends the member at the end of the epoch anyway."""


def signature(model: keras.Model) -> str | None:
    """What two members must have in common to be trained by one program.

    Layers and their connections, shapes and types of variables, optimizer, loss and metrics; but not names, seeds,
    initial values, dropout rates and the learning rate, which each member has for itself.

    Args:
        model: built and compiled.

    Returns:
        A sha256 in hex, or None where it cannot be told: then `why_not_fused` says why.
    """
    computed = architecture.signature(model)
    if computed is None or _strange_part(model) is not None:
        return None
    noise = [getattr(layer, _NOISE[type(layer).__name__], None) for layer in _noisy(model)]
    trainable = [bool(variable.trainable) for variable in model.weights]
    parts = [computed, noise, trainable, _optimizer(model), _objectives(model)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def layer_kinds(model: keras.Model) -> frozenset[str]:
    """The kinds of layers that decide about speed: `convolution`, `recurrent`; `other` for all else."""
    return frozenset(_kind(layer) for layer in model._flatten_layers(include_self=False))


def why_not_fused(
    model: keras.Model, train: TrainSpec, callbacks: Sequence[keras.callbacks.Callback], *, streamed: bool = False
) -> str | None:
    """Why a member cannot be trained in a pack, in words that go on from `solo: `; None: it can.

    Only what is impossible, or would give other results; what is merely slower is for the table of engines.

    Args:
        model: built and compiled.
        train: the job's `train:` settings.
        callbacks: the job's further ones, as they were made: hooks may be set on an instance.
        streamed: the training rows are read anew each epoch.
    """
    if streamed:
        return "its training rows are streamed (data.stream), and a pack needs them all at hand"
    return (
        _of_model(model)
        or _of_optimizer(model.optimizer)
        or _of_settings(model, train, callbacks)
        or _of_backend(model, train)
    )


def _of_model(model: keras.Model) -> str | None:
    if architecture.signature(model) is None:
        return "what its model computes cannot be read from its configuration (code of the job's own, or unbuilt)"
    strange = _strange_part(model)
    if strange is not None:
        return f"its {strange} is code that may differ between members in ways its configuration does not say"
    return None


def _of_optimizer(optimizer: keras.optimizers.Optimizer) -> str | None:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return "mixed_float16 scales the loss by what it meets"
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return "its optimizer is several (MultiOptimizer)"
    if optimizer.loss_scale_factor is not None:
        return "its optimizer scales the loss (loss_scale_factor)"
    if getattr(optimizer, "use_ema", False):
        return "its optimizer averages weights (use_ema)"
    if getattr(optimizer, "gradient_accumulation_steps", None):
        return "its optimizer accumulates gradients"
    return None


def _of_settings(model: keras.Model, train: TrainSpec, callbacks: Sequence[keras.callbacks.Callback]) -> str | None:
    if model.run_eagerly:
        return "it is compiled with run_eagerly"
    if train.checkpoint.save_freq != "epoch":
        return "train.checkpoint.save_freq counts batches"
    at_batches = [type(callback).__name__ for callback in callbacks if _looks_at_batches(callback)]
    return f"the callback {at_batches[0]} looks at batches" if at_batches else None


def _of_backend(model: keras.Model, train: TrainSpec) -> str | None:
    if keras.backend.backend() == "jax":
        return None
    if train.jit_compile is False:
        return "train.jit_compile is false, and a pack is compiled"
    if isinstance(model.optimizer, keras.optimizers.ScheduleFreeAdamW):
        return "in fit on TensorFlow ScheduleFreeAdamW reads its momentum after it has changed it, in a pack before"
    if "recurrent" in layer_kinds(model):
        return "TensorFlow cannot stack recurrent layers (train.backend: jax can)"
    for layer in model._flatten_layers():
        if type(layer).__name__.startswith("Random"):
            return f"TensorFlow cannot stack {type(layer).__name__}"
        rows = isinstance(layer, keras.layers.Embedding) and bool(layer.trainable_variables)
        if rows and not _adds_up(model.optimizer):
            return "in fit on TensorFlow its optimizer sees a row of an Embedding once for each time it was looked up"
    return None


def _adds_up(optimizer: Any) -> bool:
    """Whether it steps alike for parts of a gradient and for their sum, as a row has that a batch looks up twice."""
    clips = (optimizer.clipnorm, optimizer.clipvalue, optimizer.global_clipnorm)
    return type(optimizer) is keras.optimizers.SGD and all(clip is None for clip in clips)


def _kind(layer: keras.layers.Layer) -> str:
    if type(layer).__name__.startswith("Conv") or ".layers.convolutional." in type(layer).__module__:
        return "convolution"
    if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        return "recurrent"
    return "other"


def _noisy(model: keras.Model) -> list[Any]:
    return [layer for layer in model._flatten_layers() if type(layer).__name__ in _NOISE]


def _strange_part(model: keras.Model) -> str | None:
    """The part of `compile` that is neither Keras' own nor a plain function of a module."""
    if not _is_keras(type(model.optimizer)):
        return "optimizer"
    if callable(getattr(model.optimizer, "_learning_rate", None)) and not _is_known(model.optimizer._learning_rate):
        return "learning rate schedule"
    config = model._compile_config.config
    for name in ("loss", "metrics", "weighted_metrics"):
        if not all(_is_known(leaf) for leaf in keras.tree.flatten(config.get(name))):
            return name.replace("_", " ").removesuffix("s") if name != "loss" else name
    return None


def _is_known(part: Any) -> bool:
    """Names, Keras' own objects, and functions that see nothing but their arguments and their module."""
    if _is_told_by_value(part):
        return True
    if inspect.isfunction(part):
        is_plain = "<" not in part.__qualname__ and part.__closure__ is None
        return is_plain and all(_is_told_by_value(value) for value in _defaults(part))
    if hasattr(part, "__qualname__"):  # a class; a bound method has an object that may be another's
        return inspect.isclass(part) and _is_keras(part)
    inner = [getattr(part, name, None) for name in ("fn", "_fn")]
    return _is_keras(type(part)) and all(_is_known(each) for each in inner if each is not None)


def _is_told_by_value(part: Any) -> bool:
    return part is None or isinstance(part, str | int | float)


def _defaults(function: Any) -> list[Any]:
    """Values of arguments that belong to the function, not to its code."""
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _is_keras(part: Any) -> bool:
    return str(getattr(part, "__module__", "")).partition(".")[0] == "keras"


def _optimizer(model: keras.Model) -> Any:
    optimizer = model.optimizer
    config = {key: value for key, value in optimizer.get_config().items() if key not in ("name", "learning_rate")}
    rate = getattr(optimizer, "_learning_rate", None)
    decided = [getattr(optimizer, name) for name in _BY_VARIABLE if hasattr(optimizer, name)]
    return [
        type(optimizer).__name__,
        config,
        _told(rate) if callable(rate) else None,  # a schedule is code, a number is a variable
        [[decide(variable) for variable in model.trainable_variables] for decide in decided],
    ]


def _objectives(model: keras.Model) -> Any:
    config = model._compile_config.config
    return [keras.tree.map_structure(_told, config.get(name)) for name in ("loss", "metrics", "weighted_metrics")] + [
        config.get("loss_weights")
    ]


def _told(part: Any) -> Any:
    if _is_told_by_value(part):
        return part
    if hasattr(part, "__qualname__"):
        return json.dumps([part.__module__, part.__qualname__, *(_defaults(part) if inspect.isfunction(part) else ())])
    inner = [_told(getattr(part, name)) for name in ("fn", "_fn") if getattr(part, name, None) is not None]
    return json.dumps([type(part).__name__, part.name, part.get_config(), inner], sort_keys=True, default=str)


def _looks_at_batches(callback: keras.callbacks.Callback) -> bool:
    base = keras.callbacks.Callback
    hooks = [(getattr(callback, hook), getattr(base, hook)) for hook in _BATCH_HOOKS]
    return type(callback) not in _HARMLESS and any(getattr(own, "__func__", None) is not empty for own, empty in hooks)
