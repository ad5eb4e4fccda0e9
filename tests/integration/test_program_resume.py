"""A worker's whole life with real Keras: it dies, is stopped, loses its checkpoints, and its member ends the same."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pytest

from orchestrator.errors import Fenced, IdentityChanged
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.storage.blobs import get_blob_file
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef
from orchestrator.training import predicting, train_pack
from orchestrator.training.checkpoint import read_best
from orchestrator.training.device import Device
from orchestrator.training.publish import weights_digest
from tests.support.packs import train_alone
from tests.support.program_life import DEADLINE_S, Hook, Killed, Life

pytestmark = pytest.mark.slow

EPOCHS = 4


def saving_each_epoch(at: tuple[int, int], act: Callable[[Life], None]) -> Hook:
    """A hook that has each epoch in storage before the next begins, and acts at one batch."""

    def hook(life: Life, epoch: int, batch: int) -> None:
        if batch == 0 and epoch > 1:
            life.save_now()
        if (epoch, batch) == at:
            act(life)

    return hook


def kill(life: Life) -> None:
    raise Killed


def fail(life: Life) -> None:
    raise RuntimeError("only once")


def stop(life: Life) -> None:
    thread = threading.Thread(target=lambda: life.program.interrupt(cmd.SaveNow("w", stop=True)))
    thread.start()
    thread.join(DEADLINE_S)


KILLED = saving_each_epoch((3, 2), kill)
FAILING = saving_each_epoch((3, 2), fail)
STOPPED = saving_each_epoch((3, 2), stop)


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device) -> Life:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Life(tmp_path, EPOCHS)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, device: Device) -> Mapping[str, Any]:
    """The final record of a member that nobody interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        life = Life(folder, EPOCHS)
        events = life.train()
        assert events[-2:] == [ev.MemberTrained("w", 0), ev.WorkerIdle("w")]
        return life.final()


SAME = ("weights_sha256", "epochs", "best_epoch", "stopped_epoch", "at_best", "late")


def assert_same(final: Mapping[str, Any], straight: Mapping[str, Any], *, resumed_from: int | None) -> None:
    assert {name: final[name] for name in SAME} == {name: straight[name] for name in SAME}
    assert final["resumed_from"] == resumed_from


def test_after_an_error_of_the_users_code_the_next_worker_goes_on_and_ends_the_same(
    life: Life, straight: Mapping[str, Any]
) -> None:
    events = life.train(FAILING)
    assert events[-2:] == [ev.AttemptFailed("w", 0, ev.Cause.USER_ERROR, "RuntimeError: only once"), ev.WorkerIdle("w")]
    assert life.kinds() == ["claim", "checkpoint", "checkpoint", "failed"]
    assert "RuntimeError: only once" in life.attempt_log(1), "with its traceback"
    assert ev.MemberTrained("w", 0) in life.train()
    assert_same(life.final(), straight, resumed_from=2)
    assert "goes on from the checkpoint of epoch 2" in life.attempt_log(2)


def test_after_a_death_the_next_worker_goes_on_and_ends_the_same(life: Life, straight: Mapping[str, Any]) -> None:
    with pytest.raises(Killed):
        life.train(KILLED)
    assert life.kinds() == ["claim", "checkpoint", "checkpoint"], "the dead record nothing"
    events = life.train()
    assert [event.epoch for event in events if isinstance(event, ev.EpochEnded)] == [3, 4]
    assert_same(life.final(), straight, resumed_from=2)
    trained = life.kinds()
    assert life.train() == [ev.MemberTrained("w", 0), ev.WorkerIdle("w")]
    assert life.kinds() == trained, "what is published is not trained again"


def flip(life: Life, key: str) -> None:
    body = life.store.get(key)
    middle = len(body) // 2
    life.store.put(key, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])


def delete(life: Life, key: str) -> None:
    life.store.delete(key)


@pytest.mark.parametrize(("harm", "num_harmed", "resumed_from"), [(flip, 1, 1), (delete, 1, 1), (flip, 2, None)])
def test_checkpoints_that_are_damaged_or_gone_cost_time_and_no_bit(
    harm: Callable[[Life, str], None],
    num_harmed: int,
    resumed_from: int | None,
    life: Life,
    straight: Mapping[str, Any],
) -> None:
    with pytest.raises(Killed):
        life.train(KILLED)
    checkpoints = life.memory().checkpoints
    assert [body["epoch"] for body in checkpoints] == [2, 1]
    for body in checkpoints[:num_harmed]:
        harm(life, body["state"]["key"])
    life.train()
    assert_same(life.final(), straight, resumed_from=resumed_from)
    assert life.attempt_log(2).count("cannot be used: ") == num_harmed


def test_a_checkpoint_of_other_versions_is_refused_with_the_difference(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = train_pack.versions("tensorflow")
    with monkeypatch.context() as patch:
        patch.setattr(train_pack, "versions", lambda backend: {**now, "keras": "3.0.0"})
        with pytest.raises(Killed):
            life.train(KILLED)
    before = life.kinds()
    events = life.train()
    failed, idle = events
    assert isinstance(failed, ev.WorkerFailed)
    assert isinstance(failed.error, IdentityChanged)
    assert failed.error.exit_code == 2
    assert f"keras 3.0.0 → {now['keras']}" in str(failed.error)
    assert idle == ev.WorkerIdle("w")
    assert life.kinds() == [*before, "claim"], "it counts against no budget of the member"


def test_a_stop_saves_the_newest_epoch_and_counts_as_no_failure(life: Life, straight: Mapping[str, Any]) -> None:
    def hook(life: Life, epoch: int, batch: int) -> None:
        if (epoch, batch) == (3, 2):
            stop(life)

    events = list(life.train(hook))
    assert events.index(ev.Checkpointed("w", 0, 2)) < events.index(ev.Saved("w")) < events.index(ev.WorkerIdle("w"))
    assert events.count(ev.Saved("w")) == 1
    assert [event.epoch for event in events if isinstance(event, ev.EpochEnded)] == [1, 2]
    assert set(life.kinds()) == {"claim", "checkpoint"}
    life.program.interrupt(cmd.SaveNow("w"))
    assert life.events[-1] == ev.Saved("w"), "a worker that trains nothing answers at once"
    life.train()
    assert_same(life.final(), straight, resumed_from=2)


def test_a_late_member_is_published_as_its_newest_checkpoint_holds_it(life: Life, tmp_path: Path) -> None:
    life.train(STOPPED)
    newest = life.memory().checkpoints[0]
    events = life.work(cmd.PublishLate("w", 0))
    assert list(events) == [ev.MemberTrained("w", 0, late=True), ev.WorkerIdle("w")]
    final = life.final()
    assert (final["late"], final["epochs"], final["resumed_from"]) == (True, 2, 2)
    assert life.memory().attempts == 1, "publishing late trains nothing"
    assert final["best_epoch"] == newest["best_epoch"]
    get_blob_file(life.store, BlobRef.from_json(newest["best"], where="test"), str(tmp_path / "best"))
    best = read_best(tmp_path / "best")
    assert final["weights_sha256"] == weights_digest(SimpleNamespace(get_weights=lambda: list(best.weights)))
    assert list(life.train()) == [ev.MemberTrained("w", 0, late=True), ev.WorkerIdle("w")]


def test_a_member_without_a_checkpoint_that_verifies_has_nothing_to_publish(life: Life) -> None:
    nothing = [ev.NothingToPublish("w", 0), ev.WorkerIdle("w")]
    assert list(life.work(cmd.PublishLate("w", 0))) == nothing
    life.train(STOPPED)
    for body in life.memory().checkpoints:
        flip(life, body["state"]["key"])
    assert list(life.work(cmd.PublishLate("w", 0))) == nothing
    assert life.memory().final is None


def test_a_published_model_that_is_damaged_or_gone_is_told_as_lost(life: Life) -> None:
    life.train()
    predicted, _ = life.work(cmd.Predict("w", 0))
    assert isinstance(predicted, ev.MemberPredicted), "so far it is there"
    for harm in (flip, delete):
        harm(life, life.final()["model"]["key"])
        lost, idle = life.work(cmd.Predict("w", 0))
        assert isinstance(lost, ev.ModelLost)
        assert "its published model cannot be used" in lost.message
        assert idle == ev.WorkerIdle("w")


def test_who_was_published_before_is_predicted_before_the_next_member_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    life = Life(tmp_path, 1, members=2)
    life.train()
    told = list(life.work(train_alone("w", 1, predict=(0,))))
    assert isinstance(told[0], ev.MemberPredicted)
    assert told[0].member == 0
    assert told[-2:] == [ev.MemberTrained("w", 1), ev.WorkerIdle("w")]


def test_a_stop_while_others_are_predicted_first_keeps_the_next_member_from_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    life = Life(tmp_path, EPOCHS, members=2)
    life.train()
    real = predicting.predict_member

    def stopped_meanwhile(*args: Any, **kwargs: Any) -> Any:
        stop(life)
        return real(*args, **kwargs)

    monkeypatch.setattr(predicting, "predict_member", stopped_meanwhile)
    told = list(life.work(train_alone("w", 1, predict=(0,))))
    kinds = [type(event) for event in told]
    assert kinds[0] is ev.Saved, "there is nothing to save"
    assert ev.MemberPredicted in kinds
    assert not {ev.EpochEnded, ev.MemberTrained} & set(kinds)
    assert told[-1] == ev.WorkerIdle("w")


def test_what_an_attempt_prints_and_writes_is_in_storage_without_secrets(
    life: Life, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "abcdefgh/12345678"
    monkeypatch.setenv("SERVICE_API_KEY", secret)

    def chat(life: Life, epoch: int, batch: int) -> None:
        if batch == 0:
            print(f"hello from epoch {epoch}, key {secret}")  # noqa: T201  # it is what is tested

    life.train(chat)
    log = life.attempt_log(1)
    assert [f"hello from epoch {epoch}, key ***\n" in log for epoch in range(1, EPOCHS + 1)] == [True] * EPOCHS
    assert "starts from the beginning: there is no checkpoint" in log
    assert f"epoch {EPOCHS}/{EPOCHS}" in log
    prefix = life.layout.attempt_prefix(0, 1)
    for key in life.store.list(life.layout.attempts):
        assert key.startswith(f"{prefix}/")
        assert secret.encode() not in life.store.get(key)
    table = life.store.get(f"{prefix}/metrics.csv").decode().splitlines()
    assert table[0].startswith("epoch,")
    assert len(table) == 1 + EPOCHS
    assert f"key {secret}" in capsys.readouterr().out, "the worker's own output is left alone"


def test_a_disk_that_is_full_when_the_best_model_is_saved_costs_the_attempt_and_nothing_else(
    life: Life, straight: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    struck: list[Path] = []

    def full(model: keras.Model, path: Path) -> None:
        path.write_bytes(b"half a mod")
        struck.append(path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", full)
        events = life.train(saving_each_epoch((EPOCHS, 0), lambda life: None))
    assert len(struck) == 1
    failed = events[-2]
    assert isinstance(failed, ev.AttemptFailed)
    assert failed.cause is ev.Cause.CRASH
    assert "disk is full" in failed.message
    assert life.memory().final is None
    assert not struck[0].parent.exists(), "the scratch is given back"
    saved = life.memory().checkpoints[0]["epoch"]  # the last epoch too, if its upload had begun when the disk was full
    assert saved >= EPOCHS - 1
    life.train()
    assert_same(life.final(), straight, resumed_from=saved)


def test_a_worker_whose_member_was_claimed_by_a_successor_ends_and_records_nothing(life: Life) -> None:
    def supersede(life: Life) -> None:
        Log.open(life.store, life.layout.member_log(0)).claim(coord_term=2)

    with pytest.raises(Fenced):
        life.train(saving_each_epoch((3, 2), supersede))
    assert isinstance(life.events[-1], ev.WorkerFenced)
    assert life.kinds() == ["claim", "checkpoint", "checkpoint", "claim"]
