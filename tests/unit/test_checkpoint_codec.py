"""The checkpoint file: exact, reproducible, and trusted in nothing."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from orchestrator.errors import DamagedStore
from orchestrator.training.checkpoint import (
    Best,
    CallbackState,
    Snapshot,
    read_best,
    read_checkpoint,
    write_best,
    write_checkpoint,
)

ODD_ARRAYS = {
    "no axes": np.array(2.5),
    "no elements": np.zeros((0, 3), np.float32),
    "nan, infinities and negative zero": np.array([np.nan, np.inf, -np.inf, -0.0, 0.0]),
    "a nan with a payload": np.array([0x7FC00001], np.uint32).view(np.float32),
    "float16": np.arange(4, dtype=np.float16) / 3,
    "float32": np.arange(4, dtype=np.float32) / 3,
    "float64": np.arange(4, dtype=np.float64) / 3,
    "int8": np.array([-128, 127], np.int8),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint64": np.array([2**64 - 1], np.uint64),
    "bool": np.array([[True], [False]]),
    "complex": np.array([1 + 2j, complex(np.nan, -0.0)]),
    "text": np.array(["ä", "", "long text"]),
    "big-endian": np.array([1.5, 2.5], ">f4"),
    "fortran order": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "a view with gaps": np.arange(10)[::3],
}


def snapshot(*variables: Any, **changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "member": 3,
        "seed": 2**63,
        "epoch": 5,
        "variables": tuple(variables),
        "optimizer": (np.array(7), np.arange(3.0)),
        "callbacks": (
            CallbackState("History", {"epoch": [0, 1], "history": {"loss": [0.1, float("nan")]}}),
            CallbackState("EarlyStopping", {"best": float("inf")}, {"best": np.array(0.1), "a": np.zeros(2)}),
        ),
        "history": ({"epoch": 1, "loss": 0.1}, {"loss": float("-inf"), "epoch": 2}),
        "logs": {"loss": 0.1 + 0.2, "accuracy": float("nan")},
        "stopped": True,
        "stage": 1,
    }
    return Snapshot(**{**fields, **changes})


def facts(value: Any) -> Any:
    """A value that is equal exactly when types, bits and the order of mappings are."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Snapshot | Best | CallbackState):
        return type(value), facts(vars(value))
    if isinstance(value, Mapping):
        return [(key, facts(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [facts(item) for item in value]
    return type(value), repr(value)


def there_and_back(written: Snapshot, folder: Path) -> Snapshot:
    path = folder / "state"
    write_checkpoint([written], path)
    (read,) = read_checkpoint(path, {written.member: written.best})
    return read


@pytest.mark.parametrize("array", ODD_ARRAYS.values(), ids=ODD_ARRAYS.keys())
def test_every_array_comes_back_bit_for_bit(array: Any, tmp_path: Path) -> None:
    written = snapshot(array)
    read = there_and_back(written, tmp_path)
    assert facts(read) == facts(written)
    assert read.variables[0].flags.writeable
    best = Best(2, (array,), (array, array))
    write_best(best, tmp_path / "best")
    assert facts(read_best(tmp_path / "best")) == facts(best)


@given(
    array=npst.arrays(
        npst.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufc"), npst.array_shapes(min_dims=0, min_side=0)
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_array_of_numbers_comes_back_bit_for_bit(array: Any, tmp_path: Path) -> None:
    written = snapshot(array)
    assert facts(there_and_back(written, tmp_path)) == facts(written)


def test_several_members_at_one_epoch_come_back_in_their_order(tmp_path: Path) -> None:
    written = [snapshot(np.full(2, member), member=member) for member in (4, 1, 2)]
    write_checkpoint(written, tmp_path / "state")
    assert facts(read_checkpoint(tmp_path / "state", {})) == facts(tuple(written))


def test_a_best_model_stands_beside_and_comes_back_with_its_member(tmp_path: Path) -> None:
    best = Best(2, (np.ones(2),), ())
    assert there_and_back(snapshot(best=best), tmp_path).best is best


def test_equal_snapshots_give_equal_bytes(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for name, variable in {"c": array, "fortran": np.asfortranarray(array), "copy": array.copy()}.items():
        write_checkpoint([snapshot(variable)], tmp_path / name)
    first, *others = (path.read_bytes() for path in tmp_path.iterdir())
    assert others == [first, first]
    write_checkpoint([snapshot(np.where(array == 0, -0.0, array).astype(np.float32))], tmp_path / "other")
    assert (tmp_path / "other").read_bytes() != first


REFUSED = {
    "objects": np.array([{}], dtype=object),
    "records": np.zeros(2, [("a", "f4")]),
    "bfloat16, which NumPy has no name for": np.zeros(2, ml_dtypes.bfloat16),
    "float8 of one kind": np.zeros(2, ml_dtypes.float8_e4m3fn),
    "float8 of another kind": np.zeros(2, ml_dtypes.float8_e5m2),
    "dates": np.zeros(2, "M8[s]"),
}


@pytest.mark.parametrize("array", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_not_come_back_is_refused_before_anything_is_written(array: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        write_checkpoint([snapshot(array)], tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_json_cannot_say_is_refused_and_the_file_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_checkpoint([snapshot()], path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_checkpoint([snapshot(logs={"loss": np.float32(1)})], path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


SAMPLE = snapshot(np.arange(4, dtype=np.float32), np.array(True))


def sample_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "sample"
    if not path.exists():
        write_checkpoint([SAMPLE], path)
    return path.read_bytes()


def check_damage(body: bytes, tmp_path: Path) -> None:
    """Damaged, or of no consequence: never another error, and never another snapshot."""
    path = tmp_path / "damaged"
    path.write_bytes(body)
    try:
        (read,) = read_checkpoint(path, {})
    except DamagedStore:
        return
    assert facts(read) == facts(SAMPLE)


def test_any_truncation_is_damage(tmp_path: Path) -> None:
    body = sample_bytes(tmp_path)
    path = tmp_path / "cut"
    for length in range(len(body)):
        path.write_bytes(body[:length])
        with pytest.raises(DamagedStore):
            read_checkpoint(path, {})


def test_a_flipped_bit_in_any_byte_is_damage_or_of_no_consequence(tmp_path: Path) -> None:
    body = sample_bytes(tmp_path)
    for number in range(len(body)):
        flipped = body[number] ^ 1 << number % 8
        check_damage(body[:number] + bytes([flipped]) + body[number + 1 :], tmp_path)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_changed_moved_or_inserted_are_damage_or_of_no_consequence(data: Any, tmp_path: Path) -> None:
    body = bytearray(sample_bytes(tmp_path))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 16)))
        body[start:end] = data.draw(st.binary(max_size=16))
    check_damage(bytes(body), tmp_path)


def forged(tmp_path: Path, **parts: bytes | None) -> Path:
    """The sample with parts replaced, or left out, and all checksums right; `n0` is the first array."""
    path = tmp_path / "forged"
    with zipfile.ZipFile(io.BytesIO(sample_bytes(tmp_path))) as sample, zipfile.ZipFile(path, "w") as archive:
        for info in sample.infolist():
            key = "state" if info.filename == "state.json" else f"n{int(info.filename[:6])}"
            body = parts.get(key, sample.read(info))
            if body is not None:
                archive.writestr(info.filename, body)
    return path


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Tripwire()], dtype=object), allow_pickle=True)
    return file.getvalue()


SPRUNG: list[str] = []


def spring() -> None:
    SPRUNG.append("a pickle was loaded")


class Tripwire:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return spring, ()


def test_the_tripwire_works() -> None:
    np.load(io.BytesIO(pickled()), allow_pickle=True)
    assert SPRUNG.pop()


FORGED_ARRAYS = {
    "a pickle": pickled(),
    "nothing": b"",
    "no header": b"\x93NUMPY\x01\x00\x10\x00",
    "a terabyte": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", b"\0" * 16),
    "more than any memory": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70},), }}"),
    "sizes that cancel out": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }", b"\0" * 16),
    "more nothing than any memory": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {2**70}), }}"),
    "an element of a terabyte": npy("{'descr': '|S1000000000000', 'fortran_order': False, 'shape': (1,), }"),
    "too many axes": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 70}), }}", b"\0" * 4),
    "an unfinished header": npy("{'descr': '<f4', 'shape': (4,"),
    "a header that is no literal": npy("__import__('os').abort()"),
    "a header of brackets": npy("(" * 9000),
    "a long header": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }" + " " * 20_000, b"\0" * 16),
    "an indented header": npy("  {'descr': '<f4'\n   'shape'"),
    "bytes that are no text": npy("\x00\xff"),
    "an unknown type": npy("{'descr': 'x9', 'fortran_order': False, 'shape': (4,), }", b"\0" * 16),
    "a record type": npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }", b"\0" * 16),
    "the order of Fortran": npy("{'descr': '<f4', 'fortran_order': True, 'shape': (4,), }", b"\0" * 16),
    "too few bytes": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", b"\0" * 15),
    "too many bytes": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", b"\0" * 17),
    "left out": None,
}


@pytest.mark.parametrize("array", FORGED_ARRAYS.values(), ids=FORGED_ARRAYS.keys())
def test_a_forged_array_is_damage_and_takes_no_memory(array: bytes | None, tmp_path: Path) -> None:
    path = forged(tmp_path, n0=array)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedStore, match="this is no checkpoint"):
            read_checkpoint(path, {})
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
    assert SPRUNG == []


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_garbled_header_with_the_right_checksum_is_damage_or_of_no_consequence(data: Any, tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }"
    start = data.draw(st.integers(0, len(header)))
    end = data.draw(st.integers(start, len(header)))
    garbled = header[:start] + data.draw(st.text("{}()[]'\",:<f4|O\n \\#0-1e9rbT", max_size=12)) + header[end:]
    body = npy(garbled, np.arange(4, dtype=np.float32).tobytes())
    check_damage(forged(tmp_path, n0=body).read_bytes(), tmp_path)


def state(**changes: Any) -> bytes:
    """The sample's state with one member's fields changed."""
    member = {
        "member": 3,
        "seed": 7,
        "epoch": 5,
        "stage": 0,
        "stopped": False,
        "history": [],
        "logs": {},
        "variables": 6,
        "optimizer": 0,
        "callbacks": [],
    }
    return json.dumps({"format": 1, "members": [{**member, **changes}], "arrays": 6}).encode()


def test_the_forged_state_would_be_read_if_it_were_right(tmp_path: Path) -> None:
    (read,) = read_checkpoint(forged(tmp_path, state=state()), {})
    assert read.epoch == 5
    assert len(read.variables) == 6


FORGED_STATES: Mapping[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "another format": state().replace(b'"format": 1', b'"format": 2'),
    "no mapping": b"[]",
    "brackets": b"[" * 100_000,
    "a number of many digits": state(epoch=0).replace(b'"epoch": 0', b'"epoch": ' + b"9" * 5000),
    "an epoch below zero": state(epoch=-1),
    "an epoch that is true": state(epoch=True),
    "a seed that is text": state(seed="7"),
    "stopped by a number": state(stopped=1),
    "more arrays than there are": state(variables=7),
    "more arrays than anything has": state(variables=10**12),
    "fewer arrays than there are": state(variables=5),
    "a history of text": state(history=["loss"]),
    "logs of text": state(logs={"loss": "low"}),
    "callbacks that are numbers": state(callbacks=[1]),
    "a callback without values": state(callbacks=[{"name": "X", "arrays": []}]),
    "a callback whose values are a list": state(callbacks=[{"name": "X", "arrays": [], "values": []}]),
    "one name for two arrays": state(variables=4, callbacks=[{"name": "X", "arrays": ["a", "a"], "values": {}}]),
    "a key that stands twice": state().replace(b'"epoch": 5', b'"epoch": 4, "epoch": 5'),
    "other spaces": state().replace(b": ", b":"),
    "members that are a number": b'{"format": 1, "members": 1, "arrays": 6}',
}


@pytest.mark.parametrize("body", FORGED_STATES.values(), ids=FORGED_STATES.keys())
def test_a_forged_state_is_damage(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedStore, match="this is no checkpoint"):
        read_checkpoint(forged(tmp_path, state=body), {})


def test_compressed_parts_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state.json", b" " * 64 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedStore, match="claims more bytes"):
            read_checkpoint(path, {})
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_a_best_model_is_no_checkpoint_and_the_other_way_round(tmp_path: Path) -> None:
    write_best(Best(1, (np.ones(2),), ()), tmp_path / "best")
    write_checkpoint([SAMPLE], tmp_path / "state")
    with pytest.raises(DamagedStore):
        read_checkpoint(tmp_path / "best", {})
    with pytest.raises(DamagedStore):
        read_best(tmp_path / "state")


def test_the_message_names_the_file_and_what_happens_now(tmp_path: Path) -> None:
    (tmp_path / "state.blob").write_bytes(b"garbage")
    with pytest.raises(DamagedStore, match=r"state.blob: this is no checkpoint") as damage:
        read_checkpoint(tmp_path / "state.blob", {})
    assert damage.value.hint == "an older checkpoint is used"
