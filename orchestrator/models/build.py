"""From a member's plan to a compiled `keras.Model`, by the job's own build function."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidModel
from orchestrator.models.compiling import compile_as_asked
from orchestrator.models.layers import make_layers
from orchestrator.models.preprocess import put_in_front
from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.models.user_code import import_function, in_user_code
from orchestrator.spec import TrainSpec

if TYPE_CHECKING:
    import keras


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
        InvalidData: as `put_in_front`.
        InvalidJob: as `put_in_front`; or a layer, or a part of compile, does not exist or cannot be made.
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
    layers = make_layers(kwargs)
    try:
        with _precision(train):
            model = function(**layers)
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
    compile_as_asked(model, train, builder)
    return model


@contextmanager
def _precision(train: TrainSpec) -> Iterator[None]:
    """Keras' dtype policy while a model is built, where the job gives one; a policy of the user's own code stays."""
    import keras

    before = keras.config.dtype_policy()
    if train.mixed_precision is not None:
        keras.config.set_dtype_policy(train.mixed_precision)
    try:
        yield
    finally:
        if train.mixed_precision is not None:
            keras.config.set_dtype_policy(before)
