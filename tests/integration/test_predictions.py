"""Predictions with one program for all members of an architecture, and from what a member has published."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import AccessDenied, OrchestratorError
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.outputs import ONLY
from orchestrator.spec import Job
from orchestrator.storage.blobs import get_blob, put_blob_file
from orchestrator.storage.layout import RunLayout
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import predictions_from_parquet
from orchestrator.testing.stores import Fault, FaultyStore, MemoryStore
from orchestrator.training.data import Dataset
from tests.support.in_process import load
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

ROOT = Path(__file__).parents[2]
LAYOUT = RunLayout("tiny", "tiny-run")
ENSEMBLES = ("mlp", "batch_norm", "convolution", "two_inputs", "logits")


@pytest.mark.parametrize("name", ENSEMBLES)
def test_members_that_share_a_program_predict_the_same_bits_as_alone(name: str) -> None:
    from tests.support.predictions import check_ensemble

    check_ensemble(name)


def test_members_of_other_architectures_are_never_mixed_up() -> None:
    from tests.support.predictions import check_architectures

    check_architectures()


def test_every_output_is_predicted_under_its_own_name() -> None:
    from tests.support.predictions import check_outputs

    check_outputs()


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed: pip install -e '.[jax]'")
def test_the_same_holds_on_the_jax_backend() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.predictions"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert "same bits on jax" in done.stdout, done.stderr[-4000:]


@pytest.mark.parametrize("num_rows", [1, 3, 1023, 1024, 1025])
def test_every_row_is_predicted_once_whatever_their_number(num_rows: int) -> None:
    from orchestrator.models.predictor import MAX_ROWS, Predictor
    from tests.support.predictions import member, mlp, rows

    assert MAX_ROWS == 1024
    x, beats = rows(1025), Counter[str]()
    everything = Predictor().predict(member(mlp, 1), x)[ONLY]
    some = Predictor().predict(member(mlp, 1), x[:num_rows], lambda: beats.update(["beat"]))[ONLY]
    assert some.shape == (num_rows, 3)
    np.testing.assert_allclose(some, everything[:num_rows], atol=1e-6)
    assert beats["beat"] == -(-num_rows // MAX_ROWS)


def test_large_rows_come_in_smaller_batches() -> None:
    import keras

    from orchestrator.models.predictor import FEW_ROWS, GOOD_BYTES, MAX_BYTES, MAX_ROWS, rows_per_batch

    def wide(row_bytes: int) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.RepeatVector(row_bytes // 4 // 4)])

    x = np.zeros((5000, 4), np.float32)
    assert rows_per_batch(wide(64), x) == MAX_ROWS
    assert rows_per_batch(wide(64), x[:100]) == 128
    assert rows_per_batch(wide(GOOD_BYTES // 100), x) == 64
    assert rows_per_batch(wide(GOOD_BYTES), x) == FEW_ROWS
    assert rows_per_batch(wide(MAX_BYTES // 10), x) == 8
    assert rows_per_batch(wide(2 * MAX_BYTES), x) == 1


@pytest.mark.parametrize("alike", [True, False])
def test_models_and_programs_of_many_members_do_not_pile_up(alike: bool) -> None:
    from orchestrator.models import predictor
    from tests.support.predictions import member, mlp, rows

    shared, x = predictor.Predictor(max_programs=2), rows(8)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    programs: weakref.WeakSet[Any] = weakref.WeakSet()
    for k in range(60):
        model = member(lambda k: mlp(k % 9, 8 if alike else 8 + k), k)
        alive.add(model)
        shared.predict(model, x)
        programs.update(run for _, run in shared._programs.values())
        del model
    gc.collect()
    assert shared.num_programs == len(alive) == len(programs) == (1 if alike else 2)


class CountingStore(MemoryStore):
    """Counts requests by method."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def put(self, key: str, body: bytes) -> None:
        self.requests["put"] += 1
        super().put(key, body)

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self.requests["get"] += 1
        return super().get(key, max_bytes=max_bytes)

    def list(self, prefix: str) -> list[str]:
        self.requests["list"] += 1
        return super().list(prefix)


class Published:
    """A member that was published, and all that `predict_member` needs to predict with it."""

    def __init__(self, project: TinyProject, tmp_path: Path, builder: str = "build_model", **kwargs: Any) -> None:
        from orchestrator.models.build import build_member

        self.job: Job = project.job()
        self.dataset: Dataset = load(self.job)
        self.member = MemberPlan(index=0, seed=5, builder=f"{project.name}:{builder}", kwargs=kwargs)
        self.store = CountingStore()
        self.model = build_member(self.member.builder, self.member.kwargs, 5, self.job.train)
        self.model(self.dataset.train.x[:1])
        rng = np.random.default_rng(1)
        self.model.set_weights([rng.normal(size=array.shape) for array in self.model.get_weights()])
        self.model.save(tmp_path / "best.keras")
        self.log = Log.open(self.store, LAYOUT.member_log(0))
        self.log.claim(coord_term=1)
        self.ref = put_blob_file(self.store, LAYOUT, str(tmp_path / "best.keras"))
        self.log.append("checkpoint", epoch=1)
        self.final = self.log.append("final", model=self.ref.to_json()).body
        self.store.requests.clear()

    def predict(self, **changes: Any) -> Any:
        from orchestrator.models.predictor import Predictor
        from orchestrator.training.predicting import predict_member

        arguments = {"store": self.store, "member": self.member, "worker": "w0", **changes}
        store, member = arguments.pop("store"), arguments.pop("member")
        return predict_member(store, LAYOUT, member, self.job.train, self.dataset, Predictor(), **arguments)


def test_what_is_stored_is_what_the_published_weights_predict(project: TinyProject, tmp_path: Path) -> None:
    published = Published(project, tmp_path)
    outcome = published.predict()
    assert isinstance(outcome, ev.MemberPredicted)
    assert (outcome.worker, outcome.member, set(outcome.blobs)) == ("w0", 0, {"validation", "test"})
    for name, split in published.dataset.splits():
        if name != "train":
            stored = get_blob(published.store, BlobRef.from_json(outcome.blobs[name], where=name))
            expected = published.model.predict(split.x, verbose=0)
            np.testing.assert_allclose(predictions_from_parquet(stored), expected, atol=1e-6)


def test_weights_in_memory_count_for_nothing(project: TinyProject, tmp_path: Path) -> None:
    published = Published(project, tmp_path)
    alone = published.predict()
    published.model.set_weights([np.zeros_like(array) for array in published.model.get_weights()])
    outcome = published.predict(model=published.model)
    assert [blob["sha256"] for blob in outcome.blobs.values()] == [blob["sha256"] for blob in alone.blobs.values()]


def test_with_the_record_at_hand_three_requests_do(project: TinyProject, tmp_path: Path) -> None:
    published = Published(project, tmp_path)
    published.predict(final=published.final)
    assert published.store.requests == {"get": 1, "put": 2}


def test_without_it_the_end_of_the_log_does(project: TinyProject, tmp_path: Path) -> None:
    published = Published(project, tmp_path)
    for epoch in range(2, 40):
        published.log.append("checkpoint", epoch=epoch)
    published.log.append("final", model=published.ref.to_json())
    published.store.requests.clear()
    assert isinstance(published.predict(), ev.MemberPredicted)
    assert published.store.requests == {"list": 1, "get": 3, "put": 2}  # the slot behind the end, the last, the model


def test_a_claim_behind_the_final_record_takes_nothing_back_and_a_void_does(
    project: TinyProject, tmp_path: Path
) -> None:
    published = Published(project, tmp_path)
    published.log.claim(coord_term=2)
    assert isinstance(published.predict(), ev.MemberPredicted)
    published.log.append("void", reason="its bytes are gone")
    with pytest.raises(OrchestratorError, match="no published model"):
        published.predict()


def test_a_model_built_by_its_first_row_is_predicted_by_a_worker_that_did_not_train_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = """

def build_deferred():
    import keras

    model = keras.Sequential([keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model
"""
    published = Published(TinyProject(tmp_path, "tiny_deferred", source), tmp_path, "build_deferred")
    assert isinstance(published.predict(), ev.MemberPredicted)


def test_damaged_missing_and_foreign_models_are_lost(project: TinyProject, tmp_path: Path) -> None:
    published = Published(project, tmp_path)
    damage = Fault("get_file", "corrupt", "blobs/", times=None)
    store = FaultyStore(published.store, [damage])
    assert isinstance(published.predict(store=store), ev.ModelLost)
    assert store.fired[damage] == 4
    other = replace(published.member, kwargs={"units": 99})
    foreign = published.predict(member=other)
    assert isinstance(foreign, ev.ModelLost)
    assert "do not fit the model" in foreign.message
    published.store.delete(published.ref.key)
    assert isinstance(published.predict(), ev.ModelLost)


def test_an_error_of_the_users_code_is_the_members_and_one_of_the_store_is_not(
    project: TinyProject, tmp_path: Path
) -> None:
    published = Published(project, tmp_path)
    failed = published.predict(member=replace(published.member, kwargs={"unknown": 1}))
    assert isinstance(failed, ev.AttemptFailed)
    assert failed.cause is ev.Cause.USER_ERROR
    refused = Fault("put", "before", "blobs/", times=None, error=AccessDenied)
    store = FaultyStore(published.store, [refused])
    with pytest.raises(AccessDenied):
        published.predict(store=store)
    assert store.fired[refused] == 2
