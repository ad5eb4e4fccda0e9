"""A worker that trains a pack with real Keras: it dies, runs out of memory, is stopped; its members end the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.packs import Pack
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.log import Log
from orchestrator.storage.records import BlobRef
from orchestrator.storage.tables import held_out_from_parquet
from orchestrator.training.device import Device
from orchestrator.training.fused import train as fused_train
from orchestrator.training.rows import member_rows
from tests.support.program_life import EpochHook, Killed, Life

pytestmark = pytest.mark.slow

EPOCHS = 4
PACK = Pack(0, (0, 1, 2), "fused")
SAME = ("weights_sha256", "epochs", "best_epoch", "stopped_epoch", "at_best", "late", "engine")


class PackLife(Life):
    """Three members of one architecture, or those of `parts`, trained as one program."""

    def __init__(self, folder: Path, **parts: Any) -> None:
        members = {"count": 3, "dropout": [0.0, 0.2, 0.4]}
        train = {"early_stopping": {"patience": 3}}
        super().__init__(folder, EPOCHS, hooked="EpochHooked", **{"members": members, "train": train, **parts})

    def train_pack(
        self, members: tuple[int, ...] = PACK.members, epoch_hook: EpochHook | None = None, pack: Pack = PACK
    ) -> list[ev.Event]:
        return list(self.work(cmd.TrainPack("w", pack, members), epoch_hook=epoch_hook))


def at_epoch(epoch: int, act: Callable[[PackLife], None]) -> EpochHook:
    """A hook that has each epoch in storage before the next begins, and acts at the beginning of one, once."""
    told: list[int] = []

    def hook(life: Life, now: int) -> None:
        assert isinstance(life, PackLife)
        if now in told:  # another member's callback
            return
        told.append(now)
        if now > 1:
            life.save_now()
        if now == epoch:
            act(life)

    return hook


def kill(life: PackLife) -> None:
    raise Killed


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device) -> PackLife:
    monkeypatch.syspath_prepend(str(tmp_path))
    return PackLife(tmp_path)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, device: Device) -> Mapping[int, Mapping[str, Any]]:
    """The final records of a pack that nobody interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        life = PackLife(folder)
        events = life.train_pack()
        assert {event.member for event in events if isinstance(event, ev.MemberTrained)} == {0, 1, 2}
        return {member: life.final(member) for member in PACK.members}


def assert_same(life: PackLife, straight: Mapping[int, Mapping[str, Any]], resumed_from: int | None) -> None:
    for member in PACK.members:
        final = life.final(member)
        assert {name: final[name] for name in SAME} == {name: straight[member][name] for name in SAME}
        assert final["resumed_from"] == resumed_from


def test_the_members_of_a_pack_differ_and_say_how_they_were_trained(straight: Mapping[int, Mapping[str, Any]]) -> None:
    assert len({final["weights_sha256"] for final in straight.values()}) == 3
    assert {final["engine"] for final in straight.values()} == {"fused"}


def test_a_pack_that_dies_goes_on_and_ends_with_the_same_bits(
    life: PackLife, straight: Mapping[int, Mapping[str, Any]]
) -> None:
    with pytest.raises(Killed):
        life.train_pack(epoch_hook=at_epoch(3, kill))
    life.train_pack()
    assert_same(life, straight, resumed_from=2)


def test_a_pack_that_dies_while_its_uploads_are_staggered_comes_back_at_the_newest_common_epoch_with_the_same_bits(
    life: PackLife, straight: Mapping[int, Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[str] = []
    append = Log.append

    def cut_short(log: Log, kind: str, **body: Any) -> Any:
        if kind == "checkpoint" and body["epoch"] == 2 and body["row"] == 2:
            cut.append(kind)
            raise StoreUnavailable("cut off between the second member's record and the third's")
        return append(log, kind, **body)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", cut_short)
        with pytest.raises(Killed):
            life.train_pack(epoch_hook=at_epoch(3, kill))
    assert cut
    newest = {member: life.memory(member).checkpoints[0]["epoch"] for member in PACK.members}
    assert newest == {0: 2, 1: 2, 2: 1}
    life.train_pack()
    assert_same(life, straight, resumed_from=1)


def test_a_pack_of_folds_and_of_two_outputs_dies_and_goes_on_and_one_of_it_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    """The others end with the bits of a pack that nobody interrupted; who is late predicts the rows it never saw."""
    pack, late = Pack(0, (0, 1, 2, 3), "fused"), 3

    def life(name: str) -> PackLife:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.syspath_prepend(str(folder))
        return PackLife(folder, outputs=2, members={"count": 2, "folds": 2, "dropout": [0.0, 0.2]})

    straight, killed = life("straight"), life("killed")
    straight.train_pack(pack.members, pack=pack)
    with pytest.raises(Killed):
        killed.train_pack(pack.members, epoch_hook=at_epoch(3, kill), pack=pack)
    assert ev.MemberTrained("w", late, late=True) in killed.work(cmd.PublishLate("w", late))
    assert (killed.final(late)["epochs"], killed.final(late)["resumed_from"]) == (2, 2)
    killed.train_pack((0, 1, 2), pack=pack)
    for member in (0, 1, 2):
        final = killed.final(member)
        assert {name: final[name] for name in SAME} == {name: straight.final(member)[name] for name in SAME}
        assert final["resumed_from"] == 2

    [told] = [event for event in killed.work(cmd.Predict("w", late)) if isinstance(event, ev.MemberPredicted)]
    held_out = member_rows(killed.dataset, killed.setup.plan.members[late]).held_out
    assert held_out is not None
    assert held_out.numbers is not None
    for output in ("digit", "ink"):
        ref = BlobRef.from_json(told.blobs[f"out_of_fold/{output}"], where="here")
        rows, _ = held_out_from_parquet(get_blob(killed.store, ref))
        assert rows.tolist() == held_out.numbers.tolist()


def test_a_member_that_is_published_is_carried_along_and_the_others_keep_their_bits(
    life: PackLife, straight: Mapping[int, Mapping[str, Any]]
) -> None:
    life.train_pack()
    before = life.kinds(1)
    for member in (0, 2):
        log = Log.open(life.store, life.layout.member_log(member))
        log.claim()
        log.append("void", reason="its model is lost")
        for body in life.memory(member).checkpoints:
            life.store.delete(body["state"]["key"])
    life.train_pack((0, 2))
    assert life.kinds(1) == before, "nobody touched it"
    assert_same(life, straight, resumed_from=None)


def test_a_pack_that_is_stopped_saves_its_newest_epoch(life: PackLife) -> None:
    def stop(life: PackLife) -> None:
        life.program.interrupt(cmd.SaveNow("w", stop=True))

    events = life.train_pack(epoch_hook=at_epoch(3, stop))
    assert {event.member for event in events if event == ev.Checkpointed("w", getattr(event, "member", 0), 2)} == {
        0,
        1,
        2,
    }
    assert not any(isinstance(event, ev.MemberTrained | ev.AttemptFailed) for event in events)


def test_a_pack_that_runs_out_of_memory_asks_to_be_halved_and_no_attempt_has_failed(
    life: PackLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    struck: list[int] = []

    def full(*arguments: Any, **named: Any) -> Any:
        struck.append(1)
        raise MemoryError("no memory for a pack of three")

    with monkeypatch.context() as patch:
        patch.setattr(fused_train, "make_program", full)
        events = life.train_pack()
    assert struck
    assert [type(event) for event in events] == [ev.PackTooLarge, ev.WorkerIdle]
    assert {tuple(life.kinds(member)) for member in PACK.members} == {("claim",)}
    events = life.train_pack((0, 1), pack=Pack(1, (0, 1), "fused"))
    assert {event.member for event in events if isinstance(event, ev.MemberTrained)} == {0, 1}


def test_a_pack_that_the_compiler_refuses_asks_for_the_solo_engine(
    life: PackLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    struck: list[int] = []

    def refused(*arguments: Any, **named: Any) -> Any:
        struck.append(1)
        raise ValueError("no kernel for this")

    with monkeypatch.context() as patch:
        patch.setattr(fused_train._Pack, "_run", refused)
        events = life.train_pack()
    assert struck
    assert [type(event) for event in events] == [ev.PackRefused, ev.WorkerIdle]


def test_an_error_in_one_members_callback_costs_that_member_alone(life: PackLife) -> None:
    told: list[int] = []

    def second_member_fails(life: Life, epoch: int) -> None:
        told.append(epoch)
        if epoch == 2 and told.count(2) == 2:
            raise RuntimeError("only this one")

    events = life.train_pack(epoch_hook=second_member_fails)
    failed = [event for event in events if isinstance(event, ev.AttemptFailed)]
    assert [(event.member, event.cause) for event in failed] == [(1, ev.Cause.USER_ERROR)]
    assert {event.member for event in events if isinstance(event, ev.MemberTrained)} == {0, 2}
    assert life.kinds(1)[-1] == "failed"


def test_each_member_of_a_pack_has_a_log_of_its_own_attempt(life: PackLife) -> None:
    life.train_pack()
    for member in PACK.members:
        log = life.attempt_log(1, member)
        assert "starts from the beginning: there is no checkpoint" in log
        assert f"member {member}, epoch {EPOCHS}/{EPOCHS}" in log
