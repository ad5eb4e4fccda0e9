"""How each member is trained: Keras' `fit`, its two callbacks, and what of `compile` the job replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.spec.base import (
    BY_SHAPE,
    IS_BOOL,
    IS_LIST,
    IS_MAPPING,
    IS_NUMBER,
    IS_TEXT,
    OFF_BY_FALSE,
    KerasObject,
    ListPerOutput,
    Mode,
    NameOrObject,
    NamesOrObjects,
    PerOutput,
    Problem,
    Spec,
    Verbosity,
    refuse,
)
from orchestrator.spec.callbacks import wrong_callback

_MONITOR = "Quantity to watch; by default `val_loss`, or `loss` where there is no validation set."

AutoOrCount = Annotated[Annotated[Literal["auto"], IS_TEXT] | Annotated[int, Field(ge=1), IS_NUMBER], BY_SHAPE]
AutoOrBool = Annotated[Annotated[Literal["auto"], IS_TEXT] | Annotated[bool, IS_BOOL], BY_SHAPE]
Backend = Literal["tensorflow", "jax"]
Engine = Literal["auto", "solo", "fused"]


def _whole_keys(value: object) -> object:
    """Numbers of classes as whole numbers: JSON, in which settings are kept, has text as keys alone."""
    if not isinstance(value, Mapping):
        return value
    return {int(key) if isinstance(key, str) and key.isdecimal() else key: weight for key, weight in value.items()}


ClassWeight = Annotated[
    Annotated[Literal["balanced"], IS_TEXT]
    | Annotated[dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0)]], Field(min_length=1), IS_MAPPING],
    BY_SHAPE,
    BeforeValidator(_whole_keys),
]
_Weights = Annotated[tuple[float, ...], Field(min_length=1, strict=False), IS_LIST]
LossWeights = Annotated[_Weights | Annotated[dict[str, float], Field(min_length=1), IS_MAPPING], BY_SHAPE]
MixedPrecision = Literal["mixed_float16", "mixed_bfloat16"]
EpochOrCount = Annotated[Annotated[Literal["epoch"], IS_TEXT] | Annotated[int, Field(ge=1), IS_NUMBER], BY_SHAPE]


class EarlyStoppingSpec(Spec):
    """Arguments of `keras.callbacks.EarlyStopping`."""

    monitor: str | None = Field(default=None, min_length=1, description=_MONITOR)
    min_delta: float = Field(default=0.0, description="Smallest change that counts as an improvement.")
    patience: int = Field(default=5, ge=0, description="Epochs without improvement after which training ends.")
    verbose: Verbosity = Field(default=0, description="1 prints when training is stopped.")
    mode: Mode = Field(default="auto", description="Whether smaller or larger is better; `auto` goes by the name.")
    baseline: float | None = Field(default=None, description="Value that the monitored quantity must beat.")
    restore_best_weights: bool = Field(default=True, description="Return to the weights of the best epoch at the end.")
    start_from_epoch: int = Field(default=0, ge=0, description="Epochs to wait before watching.")


class CheckpointSpec(Spec):
    """Arguments of `keras.callbacks.ModelCheckpoint` but `filepath`, which the orchestrator chooses."""

    monitor: str | None = Field(default=None, min_length=1, description=_MONITOR)
    verbose: Verbosity = Field(default=0, description="1 prints when a model is saved.")
    save_best_only: bool = Field(
        default=True, description="Keep the best model; if false, the member's model is the one after `fit`."
    )
    save_weights_only: bool = Field(
        default=False,
        description="The member's file has its weights alone (`best.weights.h5`), for a model that your code builds; "
        "else it is a whole model (`best.keras`).",
    )
    mode: Mode = Field(default="auto", description="Whether smaller or larger is better; `auto` goes by the name.")
    save_freq: EpochOrCount = Field(default="epoch", description="`epoch`, or a number of batches.")
    initial_value_threshold: float | None = Field(
        default=None, description="Value that the monitored quantity must beat before anything is saved."
    )


class TrainSpec(Spec):
    """Settings of `fit` and `compile`; members may have values of their own."""

    epochs: int = Field(default=10, ge=1, description="Largest number of epochs.")
    batch_size: int = Field(default=32, ge=1, description="Examples per gradient step.")
    shuffle: bool = Field(
        default=True,
        description="A new order of the rows at each epoch, drawn from the member's seed; false: always as they are.",
    )
    verbose: int = Field(
        default=0,
        ge=0,
        le=2,
        description="What Keras prints, into the log of the member: 0 nothing, 1 a progress bar, 2 a line per epoch. "
        "With 1 and 2, whatever members print is shown where the run is started, too, each line with its member.",
    )
    class_weight: ClassWeight | None = Field(
        default=None,
        description="Weight of the training rows of each class, by its number, 1 where none is given; `balanced`: as "
        "much for each class in all. It multiplies sample weights; validation goes without it, as in Keras.",
    )
    early_stopping: Annotated[EarlyStoppingSpec | None, OFF_BY_FALSE] = Field(
        default=EarlyStoppingSpec(), description="Keras' EarlyStopping, one for each member; null or false: off."
    )
    checkpoint: CheckpointSpec = Field(
        default=CheckpointSpec(), description="Keras' ModelCheckpoint, one for each member."
    )
    callbacks: NamesOrObjects = Field(
        default=(),
        description="Further callbacks, a fresh copy for each member: Keras' own by name (`ReduceLROnPlateau`, "
        "`CSVLogger`, …) or yours as `module:Class`, with arguments as {class_name, config}; a function as argument is "
        "`module:function`. Relative paths lie in the attempt's folder in storage; a class of yours whose constructor "
        "takes `folder` is given it.",
    )
    optimizer: NameOrObject | None = Field(
        default=None, description="Optimizer, instead of the one the build function compiled with."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="Learning rate, instead of the one that the optimizer has otherwise."
    )
    loss: PerOutput | None = Field(
        default=None, description="Loss, or one for each output by its name, instead of what was compiled with."
    )
    loss_weights: LossWeights | None = Field(
        default=None,
        description="How much the loss of each output counts: by the output's name, or in the order of the outputs.",
    )
    metrics: ListPerOutput | None = Field(
        default=None, description="Metrics, or some for each output by its name, instead of those compiled with."
    )
    mixed_precision: MixedPrecision | None = Field(
        default=None,
        description="Keras' dtype policy while models are built: compute in 16 bits, keep variables in 32. Have the "
        'last layer say `dtype="float32"`.',
    )
    backend: Backend = Field(
        default="tensorflow", description="What Keras computes with. `jax` must be installed where the workers run."
    )
    engine: Engine = Field(
        default="auto",
        description="`solo` trains members one by one with Keras' `fit`, `fused` those of one architecture as one "
        "program; `auto` chooses what is faster.",
    )
    steps_per_execution: AutoOrCount = Field(
        default="auto",
        description="Gradient steps per call of the compiled function where Keras' `fit` trains (engine solo); `auto` "
        "chooses by their number. A pack has many in any case.",
    )
    jit_compile: AutoOrBool = Field(
        default="auto", description="Compile with XLA; `auto` as Keras does. JAX always compiles with it."
    )
    deterministic: bool | None = Field(
        default=None,
        description="The same job gives the same weights, bit for bit; by default true on CPU and false on GPU and "
        "with `jit_compile: true` on TensorFlow.",
    )

    @property
    def wants_determinism(self) -> bool | None:
        """`deterministic`, or false where another setting rules it out; None: as the device is."""
        if self.deterministic is None and self.backend == "tensorflow" and self.jit_compile is True:
            return False
        return self.deterministic

    @model_validator(mode="after")
    def _check(self) -> TrainSpec:
        if self.backend == "tensorflow" and self.jit_compile is True and self.deterministic:
            what = "stands beside `deterministic: true`, and Keras does not use XLA then: give up one of them"
            refuse([Problem(("jit_compile",), what)])
        if self.backend == "jax" and self.jit_compile is False:
            what = "is false, but `backend: jax` computes by compiling with XLA: leave it out"
            refuse([Problem(("jit_compile",), what)])
        if self.learning_rate is not None and _has_rate(self.optimizer):
            refuse([Problem(("learning_rate",), "stands beside `optimizer.config.learning_rate`: say it once")])
        found = [(number, wrong_callback(callback)) for number, callback in enumerate(self.callbacks)]
        refuse([Problem(("callbacks", number), what) for number, what in found if what is not None])
        return self


def _has_rate(optimizer: str | KerasObject | None) -> bool:
    return isinstance(optimizer, KerasObject) and "learning_rate" in optimizer.config
