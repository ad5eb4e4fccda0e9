"""Between two stages of training: which layers learn, and the compilation that goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import InvalidModel
from orchestrator.models.base import base_layers
from orchestrator.models.build import Built
from orchestrator.planning.stages import StagePlan, frozen_layers

if TYPE_CHECKING:
    import keras


def enter_stage(built: Built, stage: StagePlan, builder: str) -> None:
    """Make a member's model ready for a stage; the weights stay as they are, the optimizer begins anew.

    Keras runs BatchNormalization whose `trainable` is false in inference mode: a frozen one keeps its statistics.

    Args:
        built: the member's model.
        stage: the one that begins; number 0 needs nothing, for the model is built for it.
        builder: names the model in messages.

    Raises:
        InvalidJob: it freezes layers that the base does not have.
        InvalidModel: the build function did not use the base, or nothing is left to train.
    """
    if stage.number == 0:
        return
    where = f"model.stages.{stage.number - 1}"
    if built.base is not None:
        _freeze(built.model, built.base, stage, builder, f"{where}.freeze")
    if built.model.built and not built.model.trainable_variables:
        raise InvalidModel(
            "there is nothing to train: every layer is frozen",
            where=where,
            hint="add layers of your own to the base, or freeze fewer of its layers",
        )
    built.compile_anew(stage.train, builder)


def _freeze(model: keras.Model, base: keras.Model, stage: StagePlan, builder: str, where: str) -> None:
    layers = base_layers(base)
    present = {id(layer) for layer in model._flatten_layers()}
    if not any(id(layer) in present for layer in layers):
        raise InvalidModel(
            "the build function returns a model without the layers of the base that it was given",
            where=builder,
            hint="use `base` itself or the layers in `base.layers`, not copies of them: stages freeze what is in it",
        )
    frozen = frozen_layers([layer.name for layer in layers], stage.freeze or "none", where)
    for layer in base._flatten_layers():  # a model that is trainable already would not pass it on
        layer.trainable = True
    for layer, is_frozen in zip(layers, frozen, strict=True):
        if is_frozen:
            layer.trainable = False
