"""What one member does with one batch, as a pure function of its variables: the same mathematics for both backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.src.optimizers.base_optimizer import BaseOptimizer

from orchestrator.models.build import build_member
from orchestrator.models.first_batch import run_first_batch
from orchestrator.models.preprocess_fit import Preprocessing
from orchestrator.planning.members import MemberPlan
from orchestrator.spec import TrainSpec
from orchestrator.training.data import Split
from orchestrator.training.fused.dropout import make_rates_variable

Tensors = list[Any]


class StatelessMember:
    """A model of the pack's architecture, of which only the code is used: values come and go as arguments.

    Args:
        member: any one of the pack.
        train: the job's `train:` settings.
        rows: a batch of training rows, to make all variables with.
        preprocessing: of that member.
    """

    def __init__(
        self, member: MemberPlan, train: TrainSpec, rows: Split, preprocessing: Preprocessing | None = None
    ) -> None:
        model = build_member(member.builder, member.kwargs, member.seed, train, preprocessing, member.base)
        if keras.backend.backend() == "tensorflow":
            _make_stateless(model.optimizer)
        if not model.built:
            model(keras.tree.map_structure(keras.ops.convert_to_tensor, rows.x), training=False)
        self.dropouts = make_rates_variable(model)
        run_first_batch(model, rows.x, rows.y, f"{member.builder} (member {member.index})")
        if keras.backend.backend() == "tensorflow":
            _count_batches_alike(model)
        self.model = model
        self.trainable = list(model.trainable_variables)
        self.rest = list(model.non_trainable_variables)
        self.optimizer = list(model.optimizer.variables)
        self.metrics = list(model.metrics_variables)

    def loss(
        self, trainable: Tensors, rest: Tensors, metrics: Tensors, x: Any, y: Any, w: Any, *, training: bool
    ) -> tuple[Any, tuple[Any, Tensors, Tensors]]:
        """Loss of a batch, and (outputs, `rest`, `metrics`) afterwards. As Keras' own trainers compute it."""
        model = self.model
        kwargs = {"training": training} if model._call_has_training_arg else {}
        y_pred, rest, losses = model.stateless_call(trainable, rest, x, return_losses=True, **kwargs)
        if losses:  # of regularizers and layers: for compute_loss to find
            model._losses_override.clear()
            model._losses_override = losses
        loss, (_, rest, metrics) = model.stateless_compute_loss(
            trainable, rest, metrics, x=x, y=y, y_pred=y_pred, sample_weight=w, training=training
        )
        if losses:
            model._losses_override.clear()
        return loss, (y_pred, rest, metrics)

    def update_metrics(self, metrics: Tensors, loss: Any, x: Any, y: Any, y_pred: Any, w: Any) -> Tensors:
        """The state of all metrics after a batch."""
        num_rows = keras.tree.flatten(x)[0].shape[0]
        with keras.StatelessScope(list(zip(self.metrics, metrics, strict=True))) as scope:
            self.model._loss_tracker.update_state(loss, sample_weight=num_rows)
            self.model.compute_metrics(x, y, y_pred, sample_weight=w)
        return [scope.get_current_value(variable) for variable in self.metrics]

    def results(self, metrics: Tensors) -> dict[str, Any]:
        """The figures that the state of the metrics stands for, by `fit`'s names."""
        with keras.StatelessScope(list(zip(self.metrics, metrics, strict=True))):
            return dict(self.model.get_metrics_result())

    def apply(self, optimizer: Tensors, gradients: Tensors, trainable: Tensors) -> tuple[Tensors, Tensors]:
        """Trainable and optimizer variables after a step."""
        trainable, optimizer = self.model.optimizer.stateless_apply(optimizer, gradients, trainable)
        return list(trainable), list(optimizer)

    def test_batch(self, trainable: Tensors, rest: Tensors, metrics: Tensors, x: Any, y: Any, w: Any) -> Tensors:
        """The state of all metrics after a batch of validation."""
        loss, (y_pred, _, metrics) = self.loss(trainable, rest, metrics, x, y, w, training=False)
        return self.update_metrics(metrics, loss, x, y, y_pred, w)


def _count_batches_alike(model: keras.Model) -> None:
    """The loss of each of several outputs is told as in `fit` on TensorFlow.

    Its steps are traced before the number of rows in a batch is known, so that Keras takes the mean over batches of any
    size. What is minimised, and its figure `loss`, is not concerned.
    """
    for tracker in model._compile_loss.metrics:
        tracker.update_state = _without_weight(tracker.update_state)


def _without_weight(update: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda value, sample_weight=None: update(value)


class _Plain(keras.optimizers.Optimizer):  # type: ignore[misc]  # keras is untyped here
    """Keras' own optimizer without what TensorFlow's distribution strategies add, which wants real variables."""

    assign: Callable[..., None] = BaseOptimizer.assign
    assign_add: Callable[..., None] = BaseOptimizer.assign_add
    assign_sub: Callable[..., None] = BaseOptimizer.assign_sub
    _apply_weight_decay: Callable[..., None] = BaseOptimizer._apply_weight_decay
    _backend_update_step: Callable[..., None] = BaseOptimizer._backend_update_step
    stateless_apply: Callable[..., tuple[Sequence[Any], Sequence[Any]]] = BaseOptimizer.stateless_apply

    def _var_key(self, variable: keras.Variable) -> Any:
        # TensorFlow's own, by which exemptions from decay are kept; but never of the tensor that stands for the value.
        return variable._value._unique_id


def _make_stateless(optimizer: Any) -> None:
    kind = type(optimizer)
    # Between the optimizer's own class, which may refine these methods (Nadam, Muon), and TensorFlow's.
    optimizer.__class__ = type(kind.__name__, (kind, _Plain), {})
