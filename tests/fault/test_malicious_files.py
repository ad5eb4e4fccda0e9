"""Fault 39: who can write to the bucket puts something else in the place of a published model. Nothing of it runs."""

from __future__ import annotations

import hashlib
import importlib
import secrets
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from orchestrator import api
from orchestrator.errors import DamagedStore, Interrupted
from orchestrator.models.load import SLACK_BYTES, WEIGHTS_FILE, load_published
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result
from orchestrator.storage.blobs import get_blob_file, put_blob
from orchestrator.storage.layout import record_key
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef, encode
from tests.support.in_process import run_in_process
from tests.support.tiny_jobs import TinyProject

if TYPE_CHECKING:
    import keras

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

Edit = Callable[[Any, Path], object]


def build(*more: Any) -> keras.Model:
    """What the job's code builds; an attacker's file has the same layers, and `more` behind them."""
    import keras

    keras.utils.clear_session(free_memory=False)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense"), *more])


def lambda_layer(marker: Path) -> Any:
    import keras

    touch = lambda x, path: (open(path, "w").close(), x)[1]  # noqa: E731, PTH123 - only a lambda is stored as code
    return keras.layers.Lambda(touch, arguments={"path": str(marker)})


def saved_model_layer(marker: Path) -> Any:
    """A layer that runs a TensorFlow program from a folder: here one that writes a file."""
    import keras
    import tensorflow as tf

    class Writer(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, 3))])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            tf.io.write_file(str(marker), "run")
            return x

    folder = marker.parent / "saved_model"
    writer = Writer()
    tf.saved_model.save(writer, str(folder), signatures=writer.serve)
    return keras.layers.TFSMLayer(str(folder), call_endpoint="serve")


@pytest.mark.parametrize("layer", [lambda_layer, saved_model_layer])
def test_code_in_a_published_file_runs_with_load_model_and_never_with_ours(
    tmp_path: Path, layer: Callable[[Path], Any]
) -> None:
    import keras

    marker, path = tmp_path / "marker", str(tmp_path / "evil.keras")
    evil = build(layer(marker))
    evil.save(path)
    marker.unlink(missing_ok=True)

    model = build()
    load_published(model, path, "blobs/evil")
    model(np.zeros((1, 4), "float32"))
    assert not marker.exists()
    np.testing.assert_array_equal(model.get_weights()[0], evil.layers[0].get_weights()[0])  # its numbers were taken

    keras.models.load_model(path, safe_mode=False)(np.zeros((1, 4), "float32"))
    assert marker.exists(), "the file is harmless, so this test shows nothing"


def good_file(folder: Path) -> Path:
    path = folder / "good.keras"
    build().save(path)
    return path


def rewrite_weights(path: Path, edit: Edit) -> None:
    """Change the HDF5 file inside an archive."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = path.parent / "weights.h5"
    weights.write_bytes(members[WEIGHTS_FILE])
    with h5py.File(weights, "r+") as file:
        edit(file, path.parent)
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in {**members, WEIGHTS_FILE: weights.read_bytes()}.items():
            archive.writestr(name, body)


KERNEL = "layers/dense/vars/0"


def external_link(file: Any, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["x"] = np.full((4, 3), 42, "float32")
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def external_group(file: Any, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["0"] = np.full((4, 3), 42, "float32")
    del file["layers/dense/vars"]
    file["layers/dense/vars"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")


def soft_link(file: Any, folder: Path) -> None:
    import h5py

    file["kept"] = np.asarray(file[KERNEL])
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/kept")


def external_data(file: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(48))
    del file[KERNEL]
    file.create_dataset(KERNEL, (4, 3), "float32", external=[(str(folder / "secret"), 0, 48)])


def virtual_data(file: Any, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["x"] = np.full((4, 3), 42, "float32")
    layout = h5py.VirtualLayout((4, 3), "float32")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", shape=(4, 3))
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def absurd_shape(file: Any, folder: Path) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (2**29,), "float32")  # 2 GiB that the file does not hold


def compressed(file: Any, folder: Path) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, data=np.zeros((2**22,), "float32"), compression="gzip")


def chunked(file: Any, folder: Path) -> None:
    """As large as it says; but each chunk may have a filter of its own making, and unpack to any size."""
    del file[KERNEL]
    file.create_dataset(KERNEL, data=np.zeros((4, 3), "float32"), chunks=(4, 3))


def text(file: Any, folder: Path) -> None:
    import h5py

    del file[KERNEL]
    file.create_dataset(KERNEL, data=["x"] * 12, dtype=h5py.string_dtype())


def cycle(file: Any, folder: Path) -> None:
    file["layers/dense/again"] = file["layers"]


def other_shape(file: Any, folder: Path) -> None:
    del file[KERNEL]
    file[KERNEL] = np.zeros((5, 3), "float32")


def missing(file: Any, folder: Path) -> None:
    del file["layers"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (external_link, f"/{KERNEL} is a link to somewhere else"),
        (external_group, "/layers/dense/vars is a link to somewhere else"),
        (soft_link, f"/{KERNEL} is a link to somewhere else"),
        (external_data, "takes its data from another file"),
        (virtual_data, "takes its data from another file"),
        (absurd_shape, "the file does not hold that many numbers"),
        (compressed, "is stored in chunks"),
        (chunked, "is stored in chunks"),
        (text, "is no array of numbers"),
        (cycle, "stands twice"),
        (other_shape, "do not fit the model"),
        (missing, "do not fit the model"),
    ],
)
def test_weights_that_reach_out_or_blow_up_are_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    path = good_file(tmp_path)
    rewrite_weights(path, edit)
    model = build()
    before = model.get_weights()
    with pytest.raises(DamagedStore) as refused:
        load_published(model, str(path), "blobs/evil")
    assert words in str(refused.value)
    assert refused.value.where == "blobs/evil"
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_what_keras_itself_saved_is_loaded_after_the_same_rewriting(tmp_path: Path) -> None:
    """The control of the test above: it is the edit that is refused, not the way in which it is made."""
    path = good_file(tmp_path)
    rewrite_weights(path, lambda file, folder: file[KERNEL].write_direct(np.full((4, 3), 7, "float32")))
    model = build()
    load_published(model, str(path), "blobs/good")
    np.testing.assert_array_equal(model.get_weights()[0], np.full((4, 3), 7))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (external_link, f"/{KERNEL} is a link to somewhere else"),
        (compressed, "is stored in chunks"),
        (other_shape, "do not fit the model"),
        (None, "bytes, where at most"),
    ],
)
def test_weights_that_were_published_alone_are_looked_at_alike(tmp_path: Path, edit: Edit | None, words: str) -> None:
    import h5py

    path = tmp_path / "good.weights.h5"
    build().save_weights(path)
    if edit is None:
        with path.open("ab") as file:
            file.truncate(2 * SLACK_BYTES)
    else:
        with h5py.File(path, "r+") as file:
            edit(file, tmp_path)
    with pytest.raises(DamagedStore) as refused:
        load_published(build(), str(path), "blobs/evil")
    assert words in str(refused.value)


def with_member(name: str, size: int = 1) -> Callable[[Path], None]:
    def add(path: Path) -> None:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, bytes(size))

    return add


def without_weights(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickled(path: Path) -> None:
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch marker'\ntR.")


def garbled(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(WEIGHTS_FILE, b"\x89HDF\r\n\x1a\n" + bytes(500))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_member("assets/vocabulary.txt", SLACK_BYTES + 10_000), "at most"),
        (with_member("../../evil"), "'../../evil' is no storage key"),
        (with_member("/etc/passwd"), "'/etc/passwd' is no storage key"),
        (with_member(WEIGHTS_FILE), "a name stands twice"),
        (without_weights, WEIGHTS_FILE),
        (truncated, "not a zip file"),
        (pickled, "not a zip file"),
        (garbled, "no model that Keras has saved"),
        (lambda path: path.write_bytes(b""), "not a zip file"),
    ],
    ids=["bomb", "climbing", "absolute", "twice", "no weights", "truncated", "pickle", "garbled", "empty"],
)
def test_an_archive_that_keras_has_not_written_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = good_file(tmp_path)
    spoil(path)
    with pytest.raises(DamagedStore) as refused:
        load_published(build(), str(path), "blobs/evil")
    assert "no model that Keras has saved" in str(refused.value)
    assert words in str(refused.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    import tracemalloc

    path = good_file(tmp_path)
    with_member(f"assets/{WEIGHTS_FILE}", 4 * SLACK_BYTES)(path)
    assert path.stat().st_size < 2**20
    model = build()
    tracemalloc.start()
    try:
        with pytest.raises(DamagedStore, match="unpacks to"):
            load_published(model, str(path), "blobs/evil")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


class StopAfterFirstMember(SilentProgress):
    """Gives the error that ends the run once a member is published."""

    def __init__(self) -> None:
        self.error: Interrupted | None = None

    def member(self, member: int, status: str, message: str | None = None) -> None:
        if status == "trained":
            self.error = Interrupted("SIGTERM: the run ends here")


@dataclass
class HalfDone:
    """A run of which the first member alone is published, and an attacker's file with layers of the same names."""

    project: TinyProject
    marker: Path

    def __post_init__(self) -> None:
        self.job = self.project.job()
        progress = StopAfterFirstMember()
        with pytest.raises(Interrupted):
            run_in_process(self.job, self.project.folder, progress=progress, interruption=lambda: progress.error)
        self.store = LocalStore(self.project.folder / "runs")
        self.layout = api.plan(self.job, root=str(self.project.folder)).request.layout
        self.final = Log.open(self.store, self.layout.member_log(0)).records()[-1]
        assert self.final.kind == "final"
        self.published = BlobRef.from_json(self.final.body["model"], where="final")
        self.evil = self._evil()

    def _evil(self) -> bytes:
        import keras

        path = self.marker.parent / "evil.keras"
        own = importlib.import_module(self.project.name).build_model()
        keras.utils.clear_session(free_memory=False)
        layers = [type(layer).from_config(layer.get_config()) for layer in own.layers]
        keras.Sequential([keras.Input((64,)), *layers, lambda_layer(self.marker)]).save(path)
        self.marker.unlink(missing_ok=True)
        return path.read_bytes()

    def go_on(self) -> Result:
        return run_in_process(self.job, self.project.folder)


@pytest.fixture
def half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HalfDone:
    monkeypatch.syspath_prepend(str(tmp_path))
    return HalfDone(TinyProject(tmp_path, f"attacked_{secrets.token_hex(4)}"), tmp_path / "marker")


def test_a_file_that_was_put_in_the_place_of_a_published_one_is_refused_by_its_digest(half_done: HalfDone) -> None:
    before = half_done.final.body["weights_sha256"]
    half_done.store.put(half_done.published.key, half_done.evil)
    target = half_done.marker.parent / "downloaded.keras"
    with pytest.raises(DamagedStore, match=half_done.published.key):
        get_blob_file(half_done.store, half_done.published, str(target))
    assert not target.exists()

    result = half_done.go_on()  # the member is trained again, to the same bits
    assert not half_done.marker.exists()
    assert result.status == "succeeded"
    assert result.members[0].weights_sha256 == before
    assert Log.open(half_done.store, half_done.layout.member_log(0)).term > half_done.final.term


def test_of_a_file_whose_record_was_rewritten_too_only_numbers_are_taken(half_done: HalfDone) -> None:
    reference = put_blob(half_done.store, half_done.layout, half_done.evil)
    forged = replace(half_done.final, body={**half_done.final.body, "model": reference.to_json()})
    half_done.store.put(record_key(half_done.layout.member_log(0), forged.seq), encode(forged))
    result = half_done.go_on()
    assert result.members[0].model is not None
    assert result.members[0].model.sha256 == hashlib.sha256(half_done.evil).hexdigest()  # it is what was scored
    assert not half_done.marker.exists()
