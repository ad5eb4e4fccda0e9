"""What preprocessing learns: from the training rows alone, the same numbers each time, and never NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.errors import DamagedStore, InvalidData, InvalidJob
from orchestrator.models import preprocess_fit
from orchestrator.models.preprocess_fit import Preprocessing, apply, check_numbered, fit, from_json, to_json
from orchestrator.spec import parse_job

RNG = np.random.default_rng(0)
ROWS = RNG.normal([5.0, -300.0, 1e-9], [2.0, 50.0, 1e-10], size=(200, 3))


def steps(preprocess: Any) -> Any:
    """As the job file's loader gives them."""
    data = {"source": "m:load", "preprocess": preprocess}
    return parse_job({"name": "j", "model": "m:build", "data": data}).data.preprocess


def fitted(preprocess: Any, x: Any, numbers: Any = None) -> Preprocessing:
    found = fit(steps(preprocess), x, numbers)
    assert found is not None
    return found


def prepared(preprocess: Any, x: Any, raw: Any | None = None) -> Any:
    return apply(fitted(preprocess, x).inputs[""], x if raw is None else raw)


def test_standardized_training_rows_have_mean_0_and_deviation_1_however_small_their_numbers() -> None:
    values = prepared(["standardize"], ROWS)

    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5)


def test_min_max_goes_from_end_to_end_and_beyond_it_for_what_lies_beyond() -> None:
    x = np.array([[0.0, 10], [4, 20]])

    np.testing.assert_allclose(prepared(["min_max"], x), [[0, 0], [1, 1]])
    np.testing.assert_allclose(prepared([{"min_max": {"feature_range": [-1, 1]}}], x), [[-1, -1], [1, 1]])
    np.testing.assert_allclose(prepared(["min_max"], x, np.array([[-4.0, 30]])), [[-1, 2]])


@pytest.mark.parametrize("step", ["min_max", "standardize"])
@pytest.mark.parametrize("constant", [7.0, 0.1, 1e9])
def test_a_constant_feature_becomes_0_whatever_it_is_later(step: str, constant: float) -> None:
    x = np.column_stack([np.full(50, constant), np.arange(50)])

    assert (prepared([step], x)[:, 0] == 0).all()
    assert (prepared([step], x, np.array([[constant + 5, 1.0]]))[:, 0] == 0).all()


def test_each_place_along_the_axis_has_its_own_figures_or_all_share_one() -> None:
    images = RNG.normal([0.0, 10, 20], 1, size=(40, 5, 6, 3))

    assert fitted(["standardize"], images).inputs[""].steps[0].center.shape == (1, 1, 3)  # type: ignore[union-attr]
    np.testing.assert_allclose(prepared(["standardize"], images).mean(axis=(0, 1, 2)), 0, atol=1e-5)
    whole = prepared([{"standardize": {"axis": None}}], images)
    np.testing.assert_allclose([whole.mean(), whole.std()], [0, 1], atol=1e-5)
    own = prepared([{"min_max": {"axis": [1, 2, 3]}}], images)
    np.testing.assert_allclose([own.min(axis=0), own.max(axis=0)], [np.zeros((5, 6, 3)), np.ones((5, 6, 3))], atol=1e-6)


def test_categories_become_rows_with_a_single_1_and_unseen_ones_rows_of_0() -> None:
    np.testing.assert_array_equal(prepared(["one_hot"], np.array([[2], [0], [1]])), np.eye(3)[[2, 0, 1]])
    np.testing.assert_array_equal(prepared(["one_hot"], np.array([0, 1]), np.array([5, 1])), [[0, 0], [0, 1]])
    assert prepared([{"one_hot": {"num_classes": 7}}], np.array([[1, 4]])).shape == (1, 2, 7)


def test_images_become_0_to_1_with_an_axis_for_their_channel() -> None:
    images = RNG.integers(0, 256, size=(10, 4, 5)).astype(np.uint8)

    np.testing.assert_allclose(prepared(["normalize_images"], images), images[..., None] / 255, rtol=1e-6)
    assert prepared(["normalize_images", "flatten"], images).shape == (10, 20)
    assert prepared(["normalize_images"], RNG.integers(0, 256, size=(10, 4, 5, 3))).shape == (10, 4, 5, 3)


def test_later_steps_learn_from_what_earlier_ones_make() -> None:
    images = RNG.integers(0, 256, size=(30, 4, 5)).astype(np.uint8)

    values = prepared(["flatten", "min_max", "standardize"], images)

    assert values.shape == (30, 20)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5)


def test_nothing_is_learnt_from_rows_that_are_not_the_members_own() -> None:
    x = np.concatenate([ROWS, 1e6 + ROWS])

    own = fitted(["standardize"], x, np.arange(200))

    assert to_json(own) == to_json(fitted(["standardize"], ROWS))
    assert to_json(own) != to_json(fitted(["standardize"], x))


def test_blocks_of_any_size_cover_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(70.0).reshape(-1, 1)
    monkeypatch.setattr(preprocess_fit, "BLOCK_VALUES", 16)

    np.testing.assert_allclose(prepared(["standardize"], x).std(), 1, rtol=1e-6)
    np.testing.assert_allclose(prepared(["min_max"], x)[[0, -1]], [[0], [1]])


def test_inputs_by_name_have_steps_of_their_own_and_others_none() -> None:
    x = {"size": ROWS, "kind": np.array([[0], [1]] * 100), "words": np.zeros((200, 4), np.int64)}

    found = fitted({"size": ["standardize"], "kind": ["one_hot"]}, x).inputs

    assert [(name, each.dtype, len(each.steps)) for name, each in found.items()] == [
        ("size", "float32", 1),
        ("kind", "int32", 1),
        ("words", "int32", 0),
    ]


def test_numbers_come_back_from_storage_bit_for_bit() -> None:
    x = {"size": ROWS, "kind": np.array([[0], [3]] * 100), "image": RNG.integers(0, 256, size=(200, 2, 3))}
    found = fitted({"size": ["min_max"], "kind": ["one_hot"], "image": ["normalize_images", "flatten"]}, x)

    again = from_json(to_json(found), "here")

    assert to_json(again) == to_json(found)
    for name, rows in x.items():
        np.testing.assert_array_equal(apply(again.inputs[name], rows), apply(found.inputs[name], rows))
    with pytest.raises(DamagedStore, match="no preprocessing is stored there"):
        from_json(b'{"inputs": {"": {"row_shape": [1], "dtype": "x", "steps": [{"lambda": 1}]}}}', "here")


@pytest.mark.parametrize(
    ("preprocess", "x", "error", "match"),
    [
        (["one_hot"], np.array([[0.5]]), InvalidData, "not whole"),
        (["one_hot"], np.array([[-1]]), InvalidData, "below 0"),
        ([{"one_hot": {"num_classes": 2}}], np.array([[2]]), InvalidData, "hold category 2"),
        (["normalize_images"], np.ones((3, 4)), InvalidData, "no image"),
        (["normalize_images"], np.full((3, 4, 4), 300), InvalidData, "not from 0 to 255"),
        (["normalize_images"], np.full((3, 4, 4), 0.5), InvalidData, "not from 0 to 255"),
        (["one_hot"], np.array([[2**33]]), InvalidData, "hold the number 8589934592"),
        (["standardize"], np.array([[1e300], [1.0]]), InvalidData, "more than float32"),
        (["min_max"], np.array([[-3e38], [3e38]]), InvalidData, "more than float32"),
        ([{"min_max": {"axis": 2}}], np.ones((3, 4)), InvalidJob, "no axis"),
        ([{"min_max": {"axis": 0}}], np.ones((3, 4)), InvalidJob, "no axis"),
        ({"a": ["flatten"]}, np.ones((3, 4)), InvalidJob, "without a name"),
        (["flatten"], {"a": np.ones((3, 4))}, InvalidJob, "inputs by name: a"),
        ({"b": ["flatten"]}, {"a": np.ones((3, 4))}, InvalidJob, "no input b"),
    ],
)
def test_what_does_not_fit_the_rows_is_refused(preprocess: Any, x: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fit(steps(preprocess), x)


@pytest.mark.parametrize("far", [2**32 + 1, -(2**40)])
def test_a_category_that_the_model_would_take_for_another_is_refused_wherever_it_is(far: int) -> None:
    asked = steps({"kind": ["one_hot"], "size": ["standardize"]})
    rows = {"kind": np.array([[0], [7]]), "size": np.array([[1.0], [2.0**40]])}
    check_numbered(asked, rows, "test")
    with pytest.raises(InvalidData, match=rf"the test rows hold the number {far}, .* below 2³¹") as caught:
        check_numbered(asked, {**rows, "kind": np.array([[0], [far]])}, "test")
    assert caught.value.where == "data.preprocess.kind.0: one_hot"


@pytest.mark.parametrize(
    ("preprocess", "match"),
    [
        (["minmax"], "'minmax' is no step of preprocessing: did you mean min_max"),
        ([{"standardise": {}}], r"did you mean data.preprocess.0.standardize"),
        ([{"min_max": {"range": [0, 1]}}], "feature_range"),
        ([{"min_max": {"feature_range": [1, 0]}}], "must go up"),
        ([{"min_max": {}, "flatten": {}}], "exactly one step, not min_max and flatten"),
        ([{}], "exactly one step, not none"),
        (["flatten", "one_hot"], "one_hot must be the first step"),
        ({"a": ["flatten", "normalize_images"]}, "normalize_images must be the first step"),
        ({"a": []}, "must not be empty"),
        ({"a": ["none"]}, r"^<dict>: data\.preprocess\.a\.0 .none. is no step of .*: did you mean one_hot.$"),
        ("min_max", "must be a list or a mapping"),
    ],
)
def test_what_is_no_preprocessing_is_refused_when_the_job_is_read(preprocess: Any, match: str) -> None:
    with pytest.raises(InvalidJob, match=match):
        steps(preprocess)
