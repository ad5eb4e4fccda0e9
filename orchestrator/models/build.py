"""From a member's plan to a compiled `keras.Model`, by the job's own build function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidModel
from orchestrator.models.base import load_base
from orchestrator.models.compiling import compile_as_asked
from orchestrator.models.layers import make_layers
from orchestrator.models.preprocess import put_in_front
from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.models.user_code import import_function, in_user_code
from orchestrator.spec import BaseSpec, TrainSpec

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Built:
    """A member's model as it was built.

    Attributes:
        model: compiled.
        base: what the build function was handed as `base`, whose layers are now the model's; None: nothing.
        own: what the build function gave to `compile`; empty where it did not call it.
        own_optimizer: makes an optimizer as that was at first: new, with nothing learnt.
    """

    model: keras.Model
    base: keras.Model | None
    own: Mapping[str, Any]
    own_optimizer: Callable[[], Any]

    def compile_anew(self, train: TrainSpec, builder: str) -> None:
        """Compile for another stage: as `build_member` does by `train`, with a new optimizer. Raises alike."""
        if self.own:
            self.model.compile(**{**self.own, "optimizer": self.own_optimizer()})
        compile_as_asked(self.model, train, builder)


def build_member(
    builder: str,
    kwargs: Mapping[str, Any],
    seed: int,
    train: TrainSpec,
    preprocessing: Preprocessing | None = None,
    base: BaseSpec | None = None,
) -> keras.Model:
    """The model of `build`, for who trains it in one go or not at all. Raises alike."""
    return build(builder, kwargs, seed, train, preprocessing, base).model


def build(
    builder: str,
    kwargs: Mapping[str, Any],
    seed: int,
    train: TrainSpec,
    preprocessing: Preprocessing | None = None,
    base: BaseSpec | None = None,
) -> Built:
    """Build and compile one member, with its preprocessing in front.

    Layer names and the global seed are reset first, so the same member comes out whatever was built before in this
    process (`dense`, not `dense_4`).

    Args:
        builder: `module:function`.
        kwargs: its arguments.
        seed: of the member.
        train: the member's settings: what of `compile` they replace.
        base: opened anew for each member, and handed over as `base`.

    Raises:
        InvalidModel: the build function raises, refuses its arguments, returns no model, or leaves it uncompiled
            while the job gives no optimizer and loss; its inputs do not fit what preprocessing makes; or the base
            cannot be opened.
        InvalidData: as `put_in_front`.
        InvalidJob: as `put_in_front`; or a layer, or a part of compile, does not exist or cannot be made; or the base
            has no such layers.
    """
    import keras

    function = import_function(builder)
    keras.utils.clear_session(free_memory=False)  # a full collection takes 0.15 s; Python's own turn comes
    opened = None if base is None else load_base(base)
    handed = dict(kwargs) if opened is None else {**kwargs, "base": opened}
    keras.utils.set_random_seed(seed)
    try:
        inspect.signature(function).bind(**handed)
    except TypeError as error:
        raise InvalidModel(
            f"the build function cannot be called with {sorted(handed)}: {error}",
            where=builder,
            hint="model.kwargs, members.vary, members.dropout and overrides must name its parameters",
        ) from error
    layers = make_layers(kwargs) if opened is None else {**make_layers(kwargs), "base": opened}
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
    own = dict(model._compile_config.config) if model.compiled else {}  # what the user's compile() was given
    built = Built(model, opened, own, _maker(own.get("optimizer")))
    compile_as_asked(model, train, builder)
    return built


def _maker(optimizer: Any) -> Callable[[], Any]:
    """Makes copies of an optimizer as it is now; of one by name or none at all there is nothing to copy."""
    if not hasattr(optimizer, "get_config"):
        return lambda: optimizer
    config = optimizer.get_config()
    return lambda: type(optimizer).from_config(copy.deepcopy(config))


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
