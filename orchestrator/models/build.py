"""From a member's plan to a compiled `keras.Model`, by the job's own build function."""

from __future__ import annotations

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.models.preprocess import put_in_front
from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.spec import TrainSpec

if TYPE_CHECKING:
    import keras


def import_function(reference: str) -> Callable[..., Any]:
    """Import what `module:function` names, from the working directory or the environment.

    Raises:
        InvalidJob: the module cannot be imported, or has no such function.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything while it is imported
        what = f"cannot import {module_name}: {type(error).__name__}: {error}"
        raise InvalidJob(what, where=in_user_code(error, reference)) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidJob(f"{module_name} has no function {name}", where=reference)
    return function  # type: ignore[no-any-return]  # getattr knows no types


def in_user_code(error: BaseException, reference: str) -> str:
    """Where in the user's own code an error came from, for messages.

    Args:
        error: as caught, with its traceback.
        reference: `module:function` that was imported or called.

    Returns:
        `<file>:<line> (<reference>)` of the deepest line outside of Python's own and installed packages; the bare
        reference where there is none.
    """
    paths = sysconfig.get_paths()
    foreign = ("<", paths["stdlib"], paths["purelib"], paths["platlib"], str(Path(__file__).parents[1]))
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(foreign)]
    return f"{own[-1].filename}:{own[-1].lineno} ({reference})" if own else reference


def build_member(
    builder: str,
    kwargs: Mapping[str, Any],
    seed: int,
    train: TrainSpec,
    preprocessing: Preprocessing | None = None,
) -> keras.Model:
    """Build and compile one member, with its preprocessing in front.

    Layer names and the global seed are reset first, so the same member comes out whatever was built before in this
    process (`dense`, not `dense_4`).

    Raises:
        InvalidModel: the build function raises, refuses its arguments, returns no model, or leaves it uncompiled
            while the job gives no optimizer and loss; or its inputs do not fit what preprocessing makes.
        InvalidData, InvalidJob: as `put_in_front`.
    """
    import keras

    function = import_function(builder)
    keras.utils.clear_session(free_memory=False)  # a full collection takes 0.15 s; Python's own turn comes
    keras.utils.set_random_seed(seed)
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError as error:
        raise InvalidModel(
            f"the build function cannot be called with {sorted(kwargs)}: {error}",
            where=builder,
            hint="model.kwargs, members.vary, members.dropout and overrides must name its parameters",
        ) from error
    try:
        model = function(**kwargs)
    except (Exception, SystemExit) as error:
        what = f"the build function raised {type(error).__name__}: {error}"
        raise InvalidModel(what, where=in_user_code(error, builder)) from error
    if not isinstance(model, keras.Model):
        raise InvalidModel(
            f"the build function returned {type(model).__name__}, not a keras.Model",
            where=builder,
            hint="return the model",
        )
    if preprocessing is not None:
        model = put_in_front(model, preprocessing, builder)
    _compile(model, train, builder)
    return model


def _compile(model: keras.Model, train: TrainSpec, builder: str) -> None:
    """Let the model's own compile stand; `train.optimizer`, `train.loss`, `train.metrics` replace that part."""
    import keras

    own = model._compile_config.config if model.compiled else {}  # what the user's compile() was given
    settings = {
        "optimizer": _named(keras.optimizers.get, train.optimizer, "train.optimizer") or own.get("optimizer"),
        "loss": _named(keras.losses.get, train.loss, "train.loss") or own.get("loss"),
        "metrics": own.get("metrics") if train.metrics is None else [_metric(metric) for metric in train.metrics],
    }
    missing = [name for name in ("optimizer", "loss") if settings[name] is None]
    if missing or (not model.compiled and (train.optimizer is None or train.loss is None)):
        raise InvalidModel(
            f"the model is not compiled and the job gives no {' and no '.join(missing or ['loss'])}",
            where=builder,
            hint="call model.compile(...) in the build function, or set train.optimizer and train.loss",
        )
    if train.optimizer is not None or train.loss is not None or train.metrics is not None:
        model.compile(**{**own, **settings})


def _named(get: Callable[[Any], Any], value: Any, key: str) -> Any:
    if value is None:
        return None
    try:
        return get(_plain(value))
    except Exception as error:
        raise InvalidJob(f"Keras knows no {value!r}: {error}", where=key) from error


def _metric(value: Any) -> Any:
    """A metric by name stays a name: Keras picks the variant (`accuracy`) that suits labels and outputs."""
    import keras

    return value if isinstance(value, str) else _named(keras.metrics.get, value, "train.metrics")


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else {"class_name": value.class_name, "config": dict(value.config)}
