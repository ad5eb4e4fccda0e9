"""Tasks told from labels, outputs and losses; targets in one form; predictions that do not fit are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from orchestrator.ensemble.tasks import (
    TaskKind,
    check_predictions,
    infer_task,
    means_yes_or_no,
    normalised,
    to_targets,
)
from orchestrator.errors import InvalidData, InvalidModel, OrchestratorError

MULTICLASS, BINARY, MULTILABEL, REGRESSION = TaskKind


@pytest.mark.parametrize(
    ("labels_shape", "dtype", "output_shape", "task"),
    [
        ((360,), "int64", (None, 10), MULTICLASS),
        ((360, 1), "uint8", (360, 10), MULTICLASS),
        ((360,), "float32", (None, 10), MULTICLASS),
        ((360, 10), "int64", (None, 10), MULTICLASS),
        ((360, 10), "bool", (None, 10), MULTICLASS),
        ((360,), "int32", (None, 2), MULTICLASS),
        ((360,), "int64", (None, 1), BINARY),
        ((360, 1), "bool", (None, 1), BINARY),
        ((360,), "float32", (None, 1), REGRESSION),
        ((360, 1), "float64", (None, 1), REGRESSION),
        ((360, 3), "float32", (None, 3), REGRESSION),
    ],
)
@pytest.mark.parametrize("loss", [None, "my_own_loss", "hinge"])
def test_without_a_known_loss_labels_and_output_tell_the_task(
    labels_shape: tuple[int, ...], dtype: str, output_shape: tuple[int | None, ...], task: TaskKind, loss: str | None
) -> None:
    assert infer_task(labels_shape, dtype, output_shape, loss) is task


@pytest.mark.parametrize(
    ("loss", "labels_shape", "width", "task"),
    [
        ("mean_squared_error", (50,), 1, REGRESSION),
        ("MeanSquaredError", (50, 1), 1, REGRESSION),
        ("mse", (50, 4), 4, REGRESSION),
        ("MAE", (50,), 1, REGRESSION),
        ("huber", (50,), 1, REGRESSION),
        ("LogCosh", (50, 2), 2, REGRESSION),
        ("poisson", (50,), 1, REGRESSION),
        ("binary_crossentropy", (50,), 1, BINARY),
        ("BinaryFocalCrossentropy", (50, 1), 1, BINARY),
        ("bce", (50, 6), 6, MULTILABEL),
        ("binary_crossentropy", (50, 2), 2, MULTILABEL),
        ("sparse_categorical_crossentropy", (50,), 6, MULTICLASS),
        ("CategoricalCrossentropy", (50, 6), 6, MULTICLASS),
        ("categorical_focal_crossentropy", (50, 2), 2, MULTICLASS),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_the_loss_decides_what_shapes_and_types_leave_open(
    loss: str, labels_shape: tuple[int, ...], width: int, task: TaskKind, dtype: str
) -> None:
    assert infer_task(labels_shape, dtype, (None, width), loss) is task


@pytest.mark.parametrize(
    ("labels_shape", "dtype", "output_shape", "loss", "message"),
    [
        ((360, 3), "int64", (None, 1), None, "cannot be scored"),
        ((360, 4), "int64", (None, 10), None, "last layer has C units"),
        ((360, 4), "float32", (None, 10), None, "last layer has C units"),
        ((360,), "float32", (None, 10), "mse", "with the loss mse\n.*one unit for each number"),
        ((360, 2), "float32", (None, 1), "mse", "one unit for each number"),
        ((360,), "int64", (None, 10), "binary_crossentropy", "use sparse_categorical_crossentropy"),
        ((360,), "int64", (None, 1), "sparse_categorical_crossentropy", "use binary_crossentropy and one unit"),
        ((360, 3), "float32", (None, 10), "categorical_crossentropy", "one unit for each class"),
        ((360, 7), "int64", (None, 7, 10), None, "output has to be"),
        ((360,), "U5", (None, 10), None, "encode the classes"),
        ((), "int64", (None, 10), None, "cannot be scored"),
    ],
)
def test_what_fits_no_task_is_refused_with_a_hint(
    labels_shape: tuple[int, ...], dtype: str, output_shape: tuple[int | None, ...], loss: str | None, message: str
) -> None:
    with pytest.raises(InvalidData, match=message) as caught:
        infer_task(labels_shape, dtype, output_shape, loss)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("binary_crossentropy", True), ("BCE", True), ("mse", False), ("categorical_crossentropy", False), (None, False)],
)
def test_losses_of_yes_or_no_are_known(loss: str | None, expected: bool) -> None:
    assert means_yes_or_no(loss) is expected


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 1], dtype=np.uint8),
        np.array([[2], [0], [1]]),
        np.array([2.0, 0.0, 1.0], dtype=np.float32),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=np.float64),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=bool),
    ],
)
def test_classes_become_whole_numbers(labels: np.ndarray) -> None:
    targets = to_targets(MULTICLASS, labels)
    assert targets.dtype == np.int64
    assert targets.tolist() == [2, 0, 1]


@pytest.mark.parametrize("labels", [np.array([1.0, 0.0]), np.array([[True], [False]]), np.array([1, 0], np.uint8)])
def test_yes_and_no_become_one_and_zero(labels: np.ndarray) -> None:
    targets = to_targets(BINARY, labels)
    assert (targets.dtype, targets.tolist()) == (np.int64, [1, 0])


@pytest.mark.parametrize("dtype", ["float32", "bool", "int8"])
def test_several_labels_become_a_matrix_of_ones_and_zeros(dtype: str) -> None:
    targets = to_targets(MULTILABEL, np.array([[1, 1], [0, 0], [0, 1]], dtype))
    assert (targets.dtype, targets.tolist()) == (np.int64, [[1, 1], [0, 0], [0, 1]])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([1, 3], np.uint8), [[1.0], [3.0]]),
        (np.array([0.5, -2.0], np.float32), [[0.5], [-2.0]]),
        (np.array([[0.5, 1.0], [2.0, 3.0]]), [[0.5, 1.0], [2.0, 3.0]]),
    ],
)
def test_numbers_become_a_matrix_of_float64(labels: np.ndarray, expected: list[list[float]]) -> None:
    targets = to_targets(REGRESSION, labels)
    assert (targets.dtype, targets.tolist()) == (np.float64, expected)


@given(
    task=st.sampled_from(list(TaskKind)),
    labels=arrays.arrays(
        st.sampled_from([np.dtype(kind) for kind in ("int64", "float32", "bool")]),
        arrays.array_shapes(max_dims=2, max_side=4),
        elements=st.integers(0, 1),
    ),
)
@settings(max_examples=100, deadline=None)
def test_targets_are_their_own_targets(task: TaskKind, labels: np.ndarray) -> None:
    try:
        targets = to_targets(task, labels)
    except InvalidData:
        return
    again = to_targets(task, targets)
    assert again.dtype == targets.dtype
    np.testing.assert_array_equal(again, targets)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (MULTICLASS, np.array([0, 1.5]), r"labels\[1\]: 1.5 is not a class"),
        (MULTICLASS, np.array([0, -1]), "-1 is not a class"),
        (MULTICLASS, np.array([np.nan, 0]), "nan is not a class"),
        (MULTICLASS, np.array([[1, 1], [0, 1]]), r"labels\[0\]: a row of labels is not one-hot"),
        (MULTICLASS, np.array([[0.0, 1.0], [0.0, 0.0]]), r"labels\[1\]: a row of labels is not one-hot"),
        (MULTICLASS, np.array([[0.1, 0.9]]), "not one-hot"),
        (MULTICLASS, np.array(["cat", "dog"]), "not numbers"),
        (MULTICLASS, np.zeros((2, 2, 2)), "cannot be scored"),
        (BINARY, np.array([0, 2]), r"labels\[1\]: 2 is not a class"),
        (BINARY, np.eye(2), "cannot be scored"),
        (MULTILABEL, np.array([0, 1]), r"several labels are \[N, C\]"),
        (MULTILABEL, np.array([[0, 1], [1, 0.5]]), r"labels\[1, 1\]: 0.5 is neither 0 nor 1"),
        (MULTILABEL, np.array([[0, np.nan]]), "nan is neither"),
        (REGRESSION, np.array([[0.0], [np.inf]]), r"labels\[1\]: a label is NaN or infinite"),
        (REGRESSION, np.zeros((2, 2, 2)), "cannot be scored"),
        (REGRESSION, np.zeros((2, 0)), "cannot be scored"),
        (REGRESSION, np.array(["cold"]), "not numbers"),
    ],
)
def test_labels_that_mean_nothing_for_the_task_are_refused(task: TaskKind, labels: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidData, match=message) as caught:
        to_targets(task, labels)
    assert caught.value.hint


PREDICTIONS = {
    MULTICLASS: (np.array([0, 1]), np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)),
    BINARY: (np.array([0, 1]), np.array([[0.0], [1.0]], np.float32)),
    MULTILABEL: (np.array([[0, 1], [1, 1]]), np.array([[0.5, 0.5], [1.0, 1.0]], np.float32)),
    REGRESSION: (np.array([[7.5], [-1.0]]), np.array([[7.0], [1e9]], np.float32)),
}


@pytest.mark.parametrize("task", TaskKind)
def test_predictions_that_fit_come_back_as_they_are_in_float64(task: TaskKind) -> None:
    targets, predictions = PREDICTIONS[task]
    checked = check_predictions(task, targets, predictions)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, predictions)


@pytest.mark.parametrize("task", TaskKind)
def test_nan_and_infinite_predictions_are_refused(task: TaskKind) -> None:
    targets, predictions = PREDICTIONS[task]
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = predictions.copy()
        spoiled[1, 0] = bad
        with pytest.raises(InvalidModel):
            check_predictions(task, targets, spoiled)


@pytest.mark.parametrize("task", [MULTICLASS, BINARY, MULTILABEL])
@pytest.mark.parametrize("bad", [1.1, -0.1])
def test_what_is_no_probability_is_refused_with_the_remedy(task: TaskKind, bad: float) -> None:
    targets, predictions = PREDICTIONS[task]
    spoiled = predictions.copy()
    spoiled[1, 0] = bad
    with pytest.raises(InvalidModel, match="softmax"):
        check_predictions(task, targets, spoiled)


@pytest.mark.parametrize("task", TaskKind)
def test_predictions_of_another_width_or_number_of_axes_are_refused(task: TaskKind) -> None:
    targets, predictions = PREDICTIONS[task]
    other = np.full((2, 1 if task is MULTICLASS else 3), 0.5)
    for wrong in (other, predictions[:, 0], np.zeros((2, 0))):
        with pytest.raises(InvalidModel):
            check_predictions(task, targets, wrong)


@pytest.mark.parametrize("task", TaskKind)
def test_predictions_for_other_rows_and_for_none_are_refused(task: TaskKind) -> None:
    targets, predictions = PREDICTIONS[task]
    with pytest.raises(InvalidData, match="1 labels for 2 predictions"):
        check_predictions(task, targets[:1], predictions)
    with pytest.raises(InvalidData, match="no rows"):
        check_predictions(task, targets[:0], predictions[:0])


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        (MULTICLASS, np.array([0, 3]), "labels name 4 classes, the model tells 2 apart"),
        (BINARY, np.array([0, 2]), "labels name 3 classes, the model tells 2 apart"),
        (MULTICLASS, np.array([0, -1]), "classes count from 0"),
    ],
)
def test_classes_that_the_model_does_not_tell_apart_are_refused(
    task: TaskKind, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidData, match=message):
        check_predictions(task, targets, PREDICTIONS[task][1])


@pytest.mark.parametrize(
    ("task", "labels"),
    [(MULTICLASS, np.eye(2)), (BINARY, np.array([[0], [1]])), (REGRESSION, np.array([1.0, 2.0])), (BINARY, np.ones(2))],
)
def test_labels_in_another_form_are_not_taken_for_targets(task: TaskKind, labels: np.ndarray) -> None:
    with pytest.raises(OrchestratorError, match="to_targets"):
        check_predictions(task, labels, PREDICTIONS[task][1])


def test_rows_are_scaled_to_sum_one_and_a_row_of_zeros_is_left_alone() -> None:
    np.testing.assert_array_equal(normalised(np.array([[1.0, 3.0], [0.0, 0.0]])), [[0.25, 0.75], [0.0, 0.0]])
