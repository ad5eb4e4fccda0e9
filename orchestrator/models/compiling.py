"""What of `compile` the job replaces: optimizer, learning rate, loss and its weights, metrics."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.models.objects import with_modules
from orchestrator.models.user_code import import_function
from orchestrator.spec import KerasObject, TrainSpec
from orchestrator.spec.base import is_reference

if TYPE_CHECKING:
    import keras

_BY_SHAPE = ("accuracy", "acc", "crossentropy", "ce")
"""Names of metrics that no object of Keras has: `compile` finds which is meant when it sees labels and outputs."""

_REPLACED = ("optimizer", "loss", "loss_weights", "metrics")


def compile_as_asked(model: keras.Model, train: TrainSpec, builder: str) -> None:
    """Let the model's own compile stand, but for what the job gives.

    Raises:
        InvalidModel: it is not compiled, and the job gives no optimizer or no loss.
        InvalidJob: Keras does not know what the job names, or the model has no such output.
    """
    asked = _asked(train)
    own = model._compile_config.config if model.compiled else {}  # what the user's compile() was given
    settings = {name: own.get(name) if asked[name] is None else asked[name] for name in _REPLACED}
    for name in ("loss", "loss_weights", "metrics"):
        _check_outputs(model, name, settings[name], f"{builder}: {name}" if asked[name] is None else f"train.{name}")
    missing = [name for name in ("optimizer", "loss") if settings[name] is None]
    if missing or (not model.compiled and (train.optimizer is None or train.loss is None)):
        raise InvalidModel(
            f"the model is not compiled and the job gives no {' and no '.join(missing or ['loss'])}",
            where=builder,
            hint="call model.compile(...) in the build function, or set train.optimizer and train.loss",
        )
    if any(value is not None for value in asked.values()):
        model.compile(**{**own, **settings})
    if train.learning_rate is not None:
        _set_rate(model.optimizer, train.learning_rate)


def _asked(train: TrainSpec) -> dict[str, Any]:
    import keras

    weights = train.loss_weights
    return {
        "optimizer": _named(keras.optimizers, train.optimizer, "train.optimizer"),
        "loss": _per_output(lambda value, key: _named(keras.losses, value, key), train.loss, "train.loss"),
        "loss_weights": list(weights) if isinstance(weights, tuple) else weights,
        "metrics": _per_output(_metrics, train.metrics, "train.metrics"),
    }


def _per_output(make: Callable[[Any, str], Any], value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {output: make(part, f"{key}.{output}") for output, part in value.items()}
    return make(value, key)


def _metrics(values: Iterable[str | KerasObject] | None, key: str) -> list[Any] | None:
    return None if values is None else [_metric(value, f"{key}.{number}") for number, value in enumerate(values)]


def _metric(value: str | KerasObject, key: str) -> Any:
    """A metric of Keras by name stays a name: Keras picks the variant (`accuracy`) that suits labels and outputs."""
    import keras

    if not isinstance(value, str) or is_reference(value):
        return _named(keras.metrics, value, key)
    if value not in _BY_SHAPE:
        _named(keras.metrics, value, key)
    return value


def _named(kind: Any, value: str | KerasObject | None, key: str) -> Any:
    """The object that a job names: one of Keras' module `kind`, or a class or function of the job's own."""
    if value is None:
        return None
    name, config = (value, {}) if isinstance(value, str) else (value.class_name, dict(value.config))
    if is_reference(name):
        return _own(name, config, key)
    make = getattr(getattr(kind, name, None), "from_config", None)
    try:
        if make is not None:  # a class: `get` does not know them all, such as Lamb
            return make(with_modules(config))
        return kind.get(name if isinstance(value, str) else {"class_name": name, "config": with_modules(config)})
    except Exception as error:
        told = f"Keras knows no {name!r} with such arguments: {error}"
        raise InvalidJob(told, where=key, hint=_meant(kind, name)) from error


def _meant(kind: Any, name: str) -> str | None:
    """What to do about a name that Keras' module `kind` does not have; None where it has it."""
    if hasattr(kind, name):
        return None
    part = kind.__name__.rpartition(".")[2]
    known = [*(_BY_SHAPE if part == "metrics" else ()), *vars(kind)]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    named = f"{part} of Keras go by their names, yours are named as module:name"
    return f"did you mean {close[0]}?" if close else named


def _own(reference: str, config: dict[str, Any], key: str) -> Any:
    found = import_function(reference)
    if not isinstance(found, type) and not config:
        return found
    try:
        return found(**config)
    except Exception as error:
        raise InvalidJob(f"it cannot be made: {type(error).__name__}: {error}", where=f"{key}: {reference}") from error


def _check_outputs(model: keras.Model, name: str, value: Any, where: str) -> None:
    """Refuse settings by output of outputs that there are not, and weights of losses for a part of the outputs.

    Keras takes the values of `loss_weights` in the order of the alphabet where names are wrong, and says nothing.
    """
    import keras

    outputs = getattr(model, "_outputs_struct", None)
    names = list(outputs if isinstance(outputs, Mapping) else getattr(model, "output_names", ()))
    if isinstance(value, Mapping) and isinstance(model, keras.Sequential):
        raise InvalidJob(
            "the model is Sequential: its one output has no name",
            where=where,
            hint=f"give train.{name} as it is, without {', '.join(map(repr, value))}",
        )
    if not isinstance(value, Mapping) or not names:
        return
    unknown = [output for output in value if output not in {*names, *model.output_names}]
    if unknown:
        raise InvalidJob(
            f"the model has no output {unknown[0]!r}", where=where, hint=f"there are: {', '.join(sorted(names))}"
        )
    left_out = [output for output in names if output not in value] if name == "loss_weights" else []
    if left_out and len(value) < len(names):
        raise InvalidJob(
            f"there is no weight for the loss of {left_out[0]}",
            where=where,
            hint="give one for each output: 1 leaves a loss as it is",
        )


def _set_rate(optimizer: keras.optimizers.Optimizer, rate: float) -> None:
    try:
        optimizer.learning_rate = rate
    except (TypeError, AttributeError) as error:  # a schedule; or several optimizers, each with a rate of its own
        raise InvalidJob(
            f"the optimizer {optimizer.name} takes no single learning rate",
            where="train.learning_rate",
            hint="its rate is given by a schedule, or by several optimizers: leave train.learning_rate out, or set "
            "train.optimizer",
        ) from error
