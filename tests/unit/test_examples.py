"""Examples: what of the inputs is kept to be shown, and its way through a Parquet file."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import DamagedStore
from orchestrator.storage.examples import Examples, read_examples, write_examples
from orchestrator.storage.tables import predictions_to_parquet, write_table
from orchestrator.training.data import Inputs, Split
from orchestrator.training.examples import MAX_BYTES, MAX_ROWS, take_examples


def take(x: Inputs, seed: int = 0) -> Examples | None:
    num_rows = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
    return take_examples(Split(x, np.zeros(num_rows, np.int64)), seed)


def images(x: Inputs, seed: int = 0) -> np.ndarray:
    taken = take(x, seed)
    assert taken is not None
    assert taken.values is None
    assert taken.images is not None
    assert taken.images.dtype == np.uint8
    return taken.images


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((5, 28, 28), (5, 28, 28)),
        ((5, 28, 28, 1), (5, 28, 28)),
        ((5, 32, 32, 3), (5, 32, 32, 3)),
        ((5, 32, 32, 4), (5, 32, 32, 3)),
        ((5, 8, 8), (5, 8, 8)),
        ((5, 48, 48), (5, 48, 48)),
        ((5, 49, 48), (5, 25, 24)),
        ((5, 224, 224, 3), (5, 45, 45, 3)),
        ((5, 100, 60, 1), (5, 34, 20)),
    ],
)
def test_pictures_are_kept_at_48_pixels_a_side_at_most(shape: tuple[int, ...], kept: tuple[int, ...]) -> None:
    assert images(noise(*shape)).shape == kept


@pytest.mark.parametrize(
    "shape",
    [(5, 64), (5, 784), (5, 33), (5, 0), (5, 30, 4), (5, 1000, 12), (5, 7, 28), (5, 28, 28, 2), (5, 9, 9, 9, 3)],
)
def test_what_is_neither_picture_nor_narrow_table_is_not_kept(shape: tuple[int, ...]) -> None:
    assert take(np.zeros(shape, np.float32)) is None


def test_every_nth_pixel_is_kept_and_the_range_is_stretched() -> None:
    x = noise(6, 100, 60)
    kept = x[:, ::3, ::3].astype(np.float64)
    stretched = 255 * (kept - kept.min()) / (kept.max() - kept.min())
    np.testing.assert_array_equal(images(x), np.rint(stretched))
    assert (images(x).min(), images(x).max()) == (0, 255)


def test_a_grey_channel_is_the_same_as_none_and_alpha_is_left_out() -> None:
    x = noise(4, 16, 16, 4)
    np.testing.assert_array_equal(images(x[..., :1]), images(x[..., 0]))
    np.testing.assert_array_equal(images(x), images(x[..., :3]))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_any_numbers_make_pictures(dtype: type) -> None:
    x = (noise(3, 10, 10) > 0).astype(dtype)
    np.testing.assert_array_equal(images(x), 255 * x.astype(np.uint8))


def test_a_uniform_picture_is_black_and_a_boundless_one_is_no_error() -> None:
    assert not images(np.full((3, 10, 10), 7.0)).any()
    huge = np.zeros((3, 10, 10))
    huge[0, 0, 0], huge[1, 1, 1] = -1.7e308, 1.7e308
    assert images(huge).shape == (3, 10, 10)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 32)])
def test_a_narrow_table_is_kept_as_it_is(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    taken = take(x)
    assert taken is not None
    assert taken.images is None
    assert taken.values is not None
    assert taken.values.dtype == np.float32
    np.testing.assert_array_equal(taken.values, x.reshape(6, -1))
    np.testing.assert_array_equal(taken.rows, np.arange(6))


def test_columns_are_named_after_their_input() -> None:
    taken = [take({"age": noise(3)}), take({"body": noise(3, 2)}), take(noise(3, 2)), take({"face": noise(3, 9, 9)})]
    names = [one.names for one in taken if one is not None]
    assert names == [("age",), ("body[0]", "body[1]"), ("x[0]", "x[1]"), ("face",)]


def test_of_several_inputs_the_first_picture_wins_then_narrow_tables_stand_side_by_side() -> None:
    wide, table, other, picture, second = noise(4, 99), noise(4, 3), noise(4), noise(4, 9, 9), noise(4, 12, 12)
    assert images({"w": wide, "t": table, "p": picture, "s": second}).shape == (4, 9, 9)
    tables = take({"w": wide, "t": table, "too much": noise(4, 30), "o": other})
    assert tables is not None
    assert tables.names == ("t[0]", "t[1]", "t[2]", "o")
    np.testing.assert_array_equal(tables.values, np.hstack([table, other[:, None]]))
    assert take({"w": wide}) is None


def test_numbers_that_float32_cannot_hold_are_infinite_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = take(np.array([1e300, -1e300, 1.0]))
    assert taken is not None
    np.testing.assert_array_equal(taken.values, [[np.inf], [-np.inf], [1]])


def test_of_many_rows_a_seeded_draw_is_kept_with_its_row_numbers() -> None:
    x = np.arange(10_000.0)
    first, again, other = (take(x, seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert len(first.rows) == MAX_ROWS == len(set(first.rows.tolist()))
    assert (np.diff(first.rows) > 0).all()
    assert first.values is not None
    np.testing.assert_array_equal(first.values[:, 0], first.rows)
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)
    assert 4500 < first.rows.mean() < 5500  # from the whole split


def test_pictures_belong_to_their_rows() -> None:
    x = np.zeros((5000, 8, 8), np.float32)
    x[:, 3, 4] = np.arange(5000)
    taken = take(x, 3)
    assert taken is not None
    assert taken.images is not None
    assert len(taken.rows) == MAX_ROWS
    low, high = 0, taken.rows.max()
    np.testing.assert_array_equal(taken.images[:, 3, 4], np.rint(255 * (taken.rows - low) / (high - low)))


def test_large_pictures_are_fewer() -> None:
    one_byte = np.broadcast_to(np.uint8(1), (5000, 48, 48, 3))
    assert len(images(one_byte)) == MAX_BYTES // (48 * 48 * 3) < MAX_ROWS


@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 20),
    shape=st.sampled_from([(8, 9), (8, 9, 3), (48, 48)]),
)
@settings(max_examples=20, deadline=None)
def test_pictures_come_back_bit_for_bit(seed: int, num_rows: int, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (num_rows, *shape), dtype=np.uint8)
    written = Examples(np.arange(num_rows) * 7, ("face",), images=pixels)
    read = read_examples(write_examples(written))
    assert (read.names, read.values) == (("face",), None)
    assert read.images is not None
    assert read.images.dtype == np.uint8
    np.testing.assert_array_equal(read.images, pixels)
    np.testing.assert_array_equal(read.rows, written.rows)
    assert read.rows.dtype == np.int64


@given(seed=st.integers(0, 10_000), num_rows=st.integers(1, 20), num_columns=st.integers(1, 32))
@settings(max_examples=20, deadline=None)
def test_values_come_back_equal(seed: int, num_rows: int, num_columns: int) -> None:
    values = noise(num_rows, num_columns, seed=seed)
    values[0, 0], values[-1, -1] = np.nan, np.inf
    names = tuple(f"x[{column}]" for column in range(num_columns))
    read = read_examples(write_examples(Examples(np.arange(num_rows), names, values=values)))
    assert (read.names, read.images) == (names, None)
    assert read.values is not None
    assert read.values.dtype == np.float32
    np.testing.assert_array_equal(read.values, values)


def test_other_tools_read_the_files() -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(
        io.BytesIO(write_examples(Examples(np.array([4]), ("x",), images=np.ones((1, 8, 8), np.uint8))))
    )
    assert table.to_pylist() == [{"row": 4, "image": bytes([1] * 64)}]
    table = pq.read_table(
        io.BytesIO(write_examples(Examples(np.array([4]), ("a", "b"), values=np.ones((1, 2), np.float32))))
    )
    assert table.to_pylist() == [{"row": 4, "values": [1.0, 1.0]}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"PAR1 garbage PAR1",
        write_examples(Examples(np.arange(1), ("x",), values=np.ones((1, 1), np.float32)))[:-9],
    ],
)
def test_damaged_files_are_refused(body: bytes) -> None:
    with pytest.raises(DamagedStore, match="not a readable Parquet file"):
        read_examples(body)


@pytest.mark.parametrize("about", [None, "[]", "{", '{"shape": [8, 9], "names": []}', '{"shape": 8, "names": []}'])
def test_files_whose_columns_and_metadata_do_not_fit_are_refused(about: str | None) -> None:
    import pyarrow as pa

    table = pa.table({"row": [0], "image": [bytes(64)]})
    with pytest.raises(DamagedStore, match="are not those of examples"):
        read_examples(write_table(table if about is None else table.replace_schema_metadata({b"examples": about})))


def test_a_gap_is_refused() -> None:
    import pyarrow as pa

    about = {b"examples": json.dumps({"shape": [2], "names": []})}
    for column in ({"image": [None, bytes(4)]}, {"values": [None, [1.0, 2.0]]}, {"other": [1, 2]}):
        with pytest.raises(DamagedStore, match="are not those of examples"):
            read_examples(write_table(pa.table({"row": [0, 1], **column}).replace_schema_metadata(about)))
    with pytest.raises(DamagedStore, match="are not those of examples"):
        read_examples(predictions_to_parquet(np.zeros((2, 2), np.float32)))
