"""What callbacks and variables give for a checkpoint, and what comes back: types and bits, or a refusal with reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.errors import InvalidModel
from orchestrator.training.callback_state import restore_states, take_states
from orchestrator.training.checkpoint import Snapshot, read_checkpoint, write_checkpoint
from orchestrator.training.device import Device
from orchestrator.training.variables import copies, restore_variables

pytestmark = pytest.mark.slow


class Mine(keras.callbacks.Callback):
    def __init__(self, state: Any = None) -> None:
        super().__init__()
        self.state = state

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.state = state


def snapshot(**changes: Any) -> Snapshot:
    return replace(Snapshot(member=0, seed=1, epoch=1, variables=(), optimizer=()), **changes)


def through_a_file(folder: Path, state: Any) -> Any:
    write_checkpoint([snapshot(callbacks=take_states([Mine(state)]))], folder / "state")
    (read,) = read_checkpoint(folder / "state", {})
    mine = Mine({})
    restore_states([mine], read.callbacks)
    return mine.state


def test_numbers_of_numpy_keep_their_type_and_arrays_their_bits_however_deep(tmp_path: Path, device: Device) -> None:
    third = np.float32(1) / np.float32(3)
    state = {"sum": third, "deep": [{"a": np.arange(3)}, [third]], "none": None, "plain": [1, 0.1, True, "ä"], "": {}}

    read = through_a_file(tmp_path, state)

    assert type(read["sum"]) is np.float32
    assert read["sum"] == third
    assert type(read["deep"][1][0]) is np.float32
    assert np.array_equal(read["deep"][0]["a"], np.arange(3))
    assert (read["none"], read["plain"], read[""]) == (None, [1, 0.1, True, "ä"], {})


def test_what_looks_like_the_place_of_an_array_is_only_what_it_is(tmp_path: Path, device: Device) -> None:
    state = {"a": {"array": "a"}, "b": {"array": "c"}, "c": np.zeros(2)}

    read = through_a_file(tmp_path, state)

    assert (read["a"], read["b"]) == ({"array": "a"}, {"array": "c"})


def test_a_state_that_was_taken_does_not_change_with_the_callback(device: Device) -> None:
    state = {"losses": np.zeros(2), "rows": [1]}
    (taken,) = take_states([Mine(state)])
    state["losses"][0] = 5
    state["rows"].append(2)

    assert taken.arrays["losses"][0] == 0
    assert taken.values["rows"] == [1]


@pytest.mark.parametrize(
    ("state", "fragment"),
    [
        (None, "a NoneType, and not a dictionary"),
        ({1: 2}, "the key 1"),
        ({"a": {2: 3}}, "the key 2"),
        ({"a": [object()]}, "a object at 'a/0'"),
        ({"a": np.array([None])}, "type object"),
        ({"a/0": np.zeros(1), "a": [np.zeros(1)]}, "two arrays at 'a/0'"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_named(state: Any, fragment: str, device: Device) -> None:
    with pytest.raises(InvalidModel) as caught:
        take_states([Mine(state)])

    assert fragment in str(caught.value)
    assert caught.value.where == "train.callbacks"


def test_the_state_of_other_callbacks_is_refused(device: Device) -> None:
    history = keras.callbacks.History()
    history.on_train_begin()
    states = take_states([history, Mine({})])

    with pytest.raises(InvalidModel, match="History, Mine, the job the callbacks Mine, History"):
        restore_states([Mine({}), history], states)


def small_model(units: int, dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, dtype=dtype), keras.layers.Dropout(0.1)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_variables_come_back_whatever_their_type(tmp_path: Path, device: Device) -> None:
    """NumPy has no bfloat16 of its own: such numbers are kept as float32, which holds them all."""
    model = small_model(2, "bfloat16")
    taken = snapshot(variables=copies(model.variables), optimizer=copies(model.optimizer.variables))
    write_checkpoint([taken], tmp_path / "state")
    (read,) = read_checkpoint(tmp_path / "state", {})
    before = [np.asarray(variable).tobytes() for variable in [*model.variables, *model.optimizer.variables]]
    for variable in [*model.variables, *model.optimizer.variables]:
        variable.assign(keras.ops.zeros_like(variable))

    restore_variables(model, read, where="member 0")

    after = [np.asarray(variable) for variable in [*model.variables, *model.optimizer.variables]]
    assert [array.tobytes() for array in after] == before
    assert {str(array.dtype) for array in after} >= {"bfloat16", "int64"}


def test_the_checkpoint_of_another_model_is_refused_and_changes_nothing(device: Device) -> None:
    other = small_model(2)
    model = small_model(3)
    before = [np.asarray(variable).tobytes() for variable in model.variables]

    with pytest.raises(InvalidModel, match="shapes differ") as caught:
        restore_variables(model, snapshot(variables=copies(other.variables)), where="member 0")

    assert caught.value.where == "member 0"
    assert [np.asarray(variable).tobytes() for variable in model.variables] == before
