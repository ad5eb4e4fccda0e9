"""What packs need on Keras' TensorFlow backend alone: optimizers that step as in `fit`, and no warnings.

The update rule is compared by itself, stacked against Keras' own `apply`, which `fit` calls: nothing is compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf

from orchestrator.models.build import build_member
from orchestrator.planning.members import MemberPlan
from orchestrator.training.data import Split
from orchestrator.training.fused.architecture import signature, why_not_fused
from orchestrator.training.fused.on_tensorflow import TensorFlowProgram
from orchestrator.training.fused.stateless import StatelessMember
from tests.support.fused_cases import spec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

MEMBERS, STEPS = 2, 4
STEPS_AGREE = 1e-5
"""The largest difference of any variable after four steps: most have none, Ftrl 4e-6."""
ROWS = Split(np.zeros((4, 3), np.float32), np.zeros(4, np.int64))


def build_model(kind: str, config: Mapping[str, Any], exempt: str = "nothing") -> keras.Model:
    layers = keras.layers
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(2, activation="softmax")])
    optimizer = getattr(keras.optimizers, kind)(learning_rate=0.1, **config)
    if exempt == "a name":
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    if exempt == "a variable":
        optimizer.exclude_from_weight_decay(var_list=[model.layers[0].kernel])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def plan(index: int, kind: str, config: Mapping[str, Any], exempt: str = "nothing") -> MemberPlan:
    kwargs = {"kind": kind, "config": config, "exempt": exempt}
    return MemberPlan(index=index, seed=index, builder=f"{__name__}:build_model", kwargs=kwargs)


def stock_optimizers() -> list[str]:
    """Whatever this Keras has: a new one is looked at from its first day."""
    base = keras.optimizers.Optimizer
    found = {name: getattr(keras.optimizers, name) for name in dir(keras.optimizers)}
    kinds = {name for name, kind in found.items() if inspect.isclass(kind) and issubclass(kind, base)}
    return sorted(kinds - {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "ScheduleFreeAdamW"})


SETTINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in stock_optimizers()},
    "momentum": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "centered": ("RMSprop", {"centered": True, "momentum": 0.5}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "clipped values": ("Adam", {"clipvalue": 0.1}),
    "clipped norms": ("Adam", {"clipnorm": 0.3}),
    "clipped together": ("SGD", {"global_clipnorm": 0.3}),
    "decay": ("Adam", {"weight_decay": 0.3}),
    "decay by code of its own": ("Muon", {"weight_decay": 0.3, "adam_weight_decay": 0.1}),
    "decay and a step of its own": ("Nadam", {"weight_decay": 0.3}),
}


def largest_difference(kind: str, config: Mapping[str, Any], exempt: str = "nothing") -> float:
    """Of any weight or optimizer variable, between steps of members one by one and stacked; they start apart."""
    plans = [plan(i, kind, config, exempt) for i in range(MEMBERS)]
    program = StatelessMember(plans[0], spec(), ROWS)
    shapes = [variable.shape for variable in program.trainable]
    rng = np.random.default_rng(0)
    gradients = [[rng.normal(size=(MEMBERS, *shape)).astype(np.float32) for shape in shapes] for _ in range(STEPS)]
    starts, ends = zip(*[step_alone(each, gradients, row) for row, each in enumerate(plans)], strict=True)
    stacked = [tf.constant(np.stack(values)) for values in zip(*starts, strict=True)]

    def step(arguments: tuple[Sequence[Any], Sequence[Any]]) -> list[Any]:
        state, of_member = arguments
        trainable, rest = program.apply(list(state[len(shapes) :]), list(of_member), list(state[: len(shapes)]))
        return [*trainable, *rest]

    run = tf.function(lambda *arguments: tf.vectorized_map(step, arguments), autograph=False)
    for of_step in gradients:
        stacked = run(stacked, [tf.constant(each) for each in of_step])
    assert distance(starts[0][: len(shapes)], ends[0][: len(shapes)]) > 50 * STEPS_AGREE, "nothing was trained"
    return max(distance([each[row] for each in stacked], end) for row, end in enumerate(ends))


def step_alone(member: MemberPlan, gradients: Sequence[Any], row: int) -> tuple[list[Any], list[Any]]:
    """A member's variables before and after Keras' own steps."""
    model = build_member(member.builder, member.kwargs, member.seed, spec())
    model.optimizer.build(model.trainable_variables)
    variables = [*model.trainable_variables, *model.optimizer.variables]
    start = [variable.numpy() for variable in variables]
    for of_step in gradients:
        model.optimizer.apply([tf.constant(each[row]) for each in of_step], model.trainable_variables)
    return start, [variable.numpy() for variable in variables]


def distance(some: Sequence[Any], others: Sequence[Any]) -> float:
    """The largest difference; NaN where there is one."""
    return float(np.max([np.abs(np.asarray(a, np.float64) - b).max() for a, b in zip(some, others, strict=True)]))


@pytest.mark.parametrize("name", SETTINGS)
def test_an_optimizer_steps_in_a_pack_as_in_fit(name: str) -> None:
    assert why_not_fused(build_model(*SETTINGS[name]), spec(), ()) is None
    assert largest_difference(*SETTINGS[name]) < STEPS_AGREE


@pytest.mark.parametrize("exempt", ["a name", "a variable"])
def test_what_is_exempt_from_decay_is_so_in_a_pack(exempt: str) -> None:
    assert largest_difference("AdamW", {"weight_decay": 0.5}, exempt) < STEPS_AGREE


def test_members_whose_variables_decay_otherwise_cannot_be_stacked() -> None:
    def told(exempt: str) -> str | None:
        member = plan(0, "AdamW", {}, exempt)
        return signature(build_member(member.builder, member.kwargs, member.seed, spec()))

    assert told("nothing") == told("nothing")
    assert len({None, told("nothing"), told("a name"), told("a variable")}) == 4


def test_an_optimizer_that_steps_otherwise_on_tensorflow_goes_solo() -> None:
    """When Keras mends it, the refusal goes."""
    assert "reads its momentum" in str(why_not_fused(build_model("ScheduleFreeAdamW", {}), spec(), ()))
    assert largest_difference("ScheduleFreeAdamW", {}) > 100 * STEPS_AGREE


def build_embedding(kind: str, config: Mapping[str, Any]) -> keras.Model:
    layers = keras.layers
    looked_up = [keras.Input((12,), dtype="int32"), layers.Embedding(5, 4), layers.GlobalAveragePooling1D()]
    model = keras.Sequential([*looked_up, layers.Dense(2, activation="softmax")])
    optimizer = getattr(keras.optimizers, kind)(learning_rate=0.1, **config)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def difference_of_slices(kind: str, config: Mapping[str, Any]) -> float:
    """Between an embedding after steps by slices, as TensorFlow's gradients are, and by their sums, as a pack's are."""
    ends = []
    for as_sums in (False, True):
        model = build_embedding(kind, config)
        rows = model.layers[0].embeddings
        rows.assign(np.arange(20, dtype=np.float32).reshape(5, 4))
        model.optimizer.build([rows])
        rng = np.random.default_rng(0)
        for _ in range(STEPS):
            values = tf.constant(rng.normal(size=(4, 4)).astype(np.float32))
            slices = tf.IndexedSlices(values, tf.constant([1, 1, 3, 0]), tf.constant(rows.shape))
            model.optimizer.apply([tf.convert_to_tensor(slices) if as_sums else slices], [rows])
        ends.append(rows.numpy())
    return distance(*ends)


@pytest.mark.parametrize("name", ["SGD", "momentum"])
def test_rows_of_an_embedding_are_stepped_by_parts_as_by_their_sum_where_packs_are_made(name: str) -> None:
    assert why_not_fused(build_embedding(*SETTINGS[name]), spec(), ()) is None
    assert difference_of_slices(*SETTINGS[name]) < STEPS_AGREE


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Nadam", "clipped together"])
def test_an_optimizer_that_steps_otherwise_for_parts_of_a_gradient_goes_solo_with_an_embedding(name: str) -> None:
    assert "row of an Embedding" in str(why_not_fused(build_embedding(*SETTINGS[name]), spec(), ()))
    assert difference_of_slices(*SETTINGS[name]) > 100 * STEPS_AGREE


def test_a_frozen_embedding_is_no_obstacle() -> None:
    model = build_embedding("Adam", {})
    model.layers[0].trainable = False
    assert why_not_fused(model, spec(), ()) is None


class Counts:
    """Stands for a member: all that a program of validation asks of one."""

    trainable: Sequence[Any] = ()
    rest: Sequence[Any] = ()

    def test_batch(self, trainable: Any, rest: Any, metrics: list[Any], x: Any, y: Any, w: Any) -> list[Any]:
        return [metrics[0] + tf.reduce_sum(x)]

    def results(self, metrics: list[Any]) -> dict[str, Any]:
        return {"loss": metrics[0]}


def test_many_programs_in_one_process_are_no_retracing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    rows, begun = (tf.ones((4, 3)), tf.zeros(4)), [tf.zeros(MEMBERS)]
    tf.get_logger().addHandler(caplog.handler)
    try:
        for _ in range(6):
            program = TensorFlowProgram(cast(StatelessMember, Counts()), MEMBERS, 4, 4)
            _, logs = program.test([], begun, rows, 4, (0, 1))
            assert list(np.asarray(logs["loss"])) == [12.0] * MEMBERS
        assert caplog.messages == []
        again = tf.function(lambda number: number, autograph=False)
        for number in range(6):
            again(number)
        assert any("retracing" in message for message in caplog.messages), "TensorFlow still warns, and it is seen"
    finally:
        tf.get_logger().removeHandler(caplog.handler)
