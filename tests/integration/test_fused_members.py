"""Who is in a pack: models that are built late, that differ from the others, or that cannot be built at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob, InvalidModel
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan
from orchestrator.planning.packs import Architecture, Pack
from orchestrator.training import preflight
from orchestrator.training.device import Device
from tests.support.fused_cases import PackLife, build_mlp, compiled, curve, dataset_of, facts, member, pack, solo, spec
from tests.support.in_process import load
from tests.support.program_life import Life
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

layers = keras.layers
BROKEN_RATE = 0.9
RAISING_RATE = 0.02


def build_without_input(dropout: float = 0.0) -> keras.Model:
    return compiled(
        keras.Sequential([layers.Dense(8, "relu"), layers.Dropout(dropout), layers.Dense(2, activation="softmax")])
    )


def build_or_raise(dropout: float = 0.0) -> keras.Model:
    if dropout == BROKEN_RATE:
        raise ValueError("no such rate")
    return build_mlp(dropout)


class RaisesAtBegin(keras.callbacks.Callback):
    """A user's callback with a bug that shows before the first epoch of a member with this learning rate."""

    def on_train_begin(self, logs: Any = None) -> None:
        if abs(float(self.model.optimizer.learning_rate) - RAISING_RATE) < 1e-6:
            raise ZeroDivisionError("in the user's callback")


class RaisesWhenSet(RaisesAtBegin):
    """The same bug, where Keras hands the model over."""

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self.on_train_begin()


SOURCE = """

def build_with_if(dropout=0.0, above=0.0, rate=0.01):
    import keras

    layers = [keras.Input((64,)), keras.layers.Dense(8, activation="relu")]
    if dropout > above:
        layers.append(keras.layers.Dropout(dropout))
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_without_input(dropout=0.0):
    import keras

    model = keras.Sequential([keras.layers.Dropout(dropout), keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield TinyProject(folder, "tiny_of_packs", SOURCE)


def looked_at(project: TinyProject, engine: str = "fused", **parts: Any) -> Mapping[int, Architecture]:
    """What the preflight says of the members of a job."""
    job = project.job(train={"engine": engine}, **parts)
    members = api.plan(job, root=str(project.folder)).request.plan.members
    return preflight.check_before_training(job, members, load(job)).architectures


def built_by(builder: str, index: int, **kwargs: Any) -> MemberPlan:
    return replace(member(index, **kwargs), builder=f"{__name__}:{builder}")


def test_a_model_that_takes_its_shape_from_the_data_learns_in_a_pack_as_by_fit(tmp_path: Path, device: Device) -> None:
    members, dataset = [built_by("build_without_input", i) for i in range(2)], dataset_of()
    together = pack(members, spec(epochs=2), dataset, tmp_path / "pack", device)
    for plan, trained in zip(members, together, strict=True):
        alone = solo(plan, spec(epochs=2), dataset, tmp_path / f"{plan.index}", device)
        assert curve(trained) == pytest.approx(curve(alone), abs=1e-5)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_member_that_cannot_be_built_ends_alone(broken: int, tmp_path: Path, device: Device) -> None:
    """The first one, too, as whose model the program's is built; the others keep their bits."""
    healthy = [built_by("build_or_raise", i, dropout=0.2) for i in range(3)]
    members = [replace(each, kwargs={"dropout": BROKEN_RATE}) if each.index == broken else each for each in healthy]
    together = pack(members, spec(epochs=2), dataset_of(), tmp_path / "broken", device)
    assert isinstance(together[broken], InvalidModel)
    assert "no such rate" in str(together[broken])
    straight = pack(healthy, spec(epochs=2), dataset_of(), tmp_path / "healthy", device)
    for seat in {0, 1, 2} - {broken}:
        assert facts(together[seat]) == facts(straight[seat])


def test_a_member_that_is_only_carried_along_need_not_be_built(tmp_path: Path, device: Device) -> None:
    members = [built_by("build_or_raise", i, dropout=rate) for i, rate in enumerate((BROKEN_RATE, 0.0, 0.0))]
    life = PackLife(members, spec(epochs=1), dataset_of(), tmp_path, device, published={0})
    outcomes: dict[int, Any] = dict(life.go_on())
    assert {seat: len(trained.history) for seat, trained in outcomes.items()} == {1: 1, 2: 1}


def test_a_pack_of_which_no_member_can_be_built_tells_it_of_each(tmp_path: Path, device: Device) -> None:
    members = [built_by("build_or_raise", i, dropout=BROKEN_RATE) for i in range(2)]
    outcomes = pack(members, spec(), dataset_of(), tmp_path, device)
    assert [type(outcome) for outcome in outcomes] == [InvalidModel, InvalidModel]


@pytest.mark.parametrize("callback", ["RaisesAtBegin", "RaisesWhenSet"])
def test_a_callback_that_raises_before_the_first_epoch_ends_its_own_member_alone(
    callback: str, tmp_path: Path, device: Device
) -> None:
    train = spec(epochs=2, callbacks=[f"{__name__}:{callback}"])
    members = [member(0, rate=RAISING_RATE), member(1), member(2)]
    failed, *others = pack(members, train, dataset_of(), tmp_path, device)
    assert isinstance(failed, ZeroDivisionError)
    assert [len(trained.history) for trained in others] == [2, 2]


def test_members_that_turn_out_to_differ_are_left_to_the_solo_engine_and_none_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: TinyProject
) -> None:
    """A threshold on the rate, which no look at two members can tell."""
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"builder": f"{project.name}:build_with_if", "kwargs": {"above": 0.3}}
    monkeypatch.chdir(project.folder)
    life = Life(tmp_path, 1, hooked="EpochHooked", model=model, members={"count": 2, "dropout": [0.2, 0.4]})
    events = list(life.work(cmd.TrainPack("w", Pack(0, (0, 1), "fused"), (0, 1))))
    assert [type(event) for event in events] == [ev.PackRefused, ev.WorkerIdle]
    assert isinstance(events[0], ev.PackRefused)
    assert "members 0, 1 are of different architectures" in events[0].message
    assert life.kinds(0) == life.kinds(1) == ["claim"]


def test_a_layer_that_is_left_out_without_dropout_is_seen_before_packs_are_made(project: TinyProject) -> None:
    members = {"count": 4, "dropout": [0.0, 0.2, 0.4, 0.0]}
    leaves_out = looked_at(project, model=f"{project.name}:build_with_if", members=members)
    kept = looked_at(project, members=members)
    assert leaves_out[0].signature == leaves_out[3].signature
    assert leaves_out[1].signature == leaves_out[2].signature
    assert leaves_out[0].signature != leaves_out[1].signature
    assert len({each.signature for each in kept.values()}) == 1
    assert {each.obstacle for each in (*leaves_out.values(), *kept.values())} == {None}


def test_all_models_are_looked_at_and_only_the_first_are_run(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[str] = []
    score = preflight.score_first_batch

    def counted(model: Any, x: Any, y: Any, outputs: Any, where: str) -> list[str]:
        run.append(where)
        return score(model, x, y, outputs, where)

    monkeypatch.setattr(preflight, "score_first_batch", counted)
    monkeypatch.setattr(preflight, "MOST_CHECKED", 2)
    parts: dict[str, Any] = {
        "model": f"{project.name}:build_with_if",
        "members": {"count": 4, "dropout": 0.2, "vary": {"rate": {"min": 0.001, "max": 0.02}}},
    }
    seen = looked_at(project, **parts)
    assert set(seen) == {0, 1, 2, 3}
    assert len({each.signature for each in seen.values()}) == 1
    assert len(run) == 2
    assert set(looked_at(project, engine="solo", **parts)) == {0, 1}, "nobody asks for the others"
    wrong = {"overrides": {3: {"train": {"early_stopping": {"monitor": "val_accurancy"}}}}}
    with pytest.raises(InvalidJob, match="nothing called 'val_accurancy' to monitor"):
        looked_at(project, engine="solo", **{**parts, "members": {**parts["members"], **wrong}})


def test_models_without_input_are_alike_whether_they_were_run_or_looked_at(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MOST_CHECKED", 1)
    members = {"count": 2, "dropout": [0.0, 0.2]}
    seen = looked_at(project, model=f"{project.name}:build_without_input", members=members)
    assert len({each.signature for each in seen.values()}) == 1
    assert {each.obstacle for each in seen.values()} == {None}
