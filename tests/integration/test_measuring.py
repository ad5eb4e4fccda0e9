"""What a job takes is measured by the program that would run it, and nothing of that is stored."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator import api
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.estimate import PackTiming
from orchestrator.planning.packs import Pack, packing_rules
from orchestrator.spec import Job
from orchestrator.training import measure
from orchestrator.training.program import Program
from orchestrator.training.setup import WorkerSetup
from tests.support.in_process import load
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]


def told(job: Job, project: TinyProject) -> Sequence[ev.Event]:
    """What a worker answers."""
    planned = api.plan(job, root=str(project.folder)).request
    setup = WorkerSetup(
        worker="w",
        job=planned.job,
        plan=planned.plan,
        layout=planned.layout,
        coord_term=0,
        code_root=str(project.folder),
        num_cpus=1,
        num_gpus=0,
    )
    events: list[ev.Event] = []
    program = Program(setup, events.append, lambda: None)
    program.start()
    program.handle(cmd.Measure("w", packing_rules(job), num_workers=1), load(planned.job))
    program.close()
    return events


def measured(job: Job, project: TinyProject) -> ev.Measured:
    answer, idle = told(job, project)
    assert isinstance(answer, ev.Measured)
    assert isinstance(idle, ev.WorkerIdle)
    assert not (project.folder / "runs").exists()
    return answer


def assert_whole(timing: PackTiming) -> None:
    """Every part has been timed."""
    parts = (timing.first_s, timing.train_s, timing.validation_s, timing.first_prediction_s, timing.prediction_s)
    assert all(part > 0 for part in parts)


def test_members_one_by_one_are_timed_once_for_each_kind_and_nothing_is_stored(project: TinyProject) -> None:
    members = {"count": 3, "vary": {"units": [8, 8, 24]}, "dropout": 0.1}
    found = measured(project.job(members=members, train={"engine": "solo"}), project)

    assert [(pack.members, pack.engine) for pack in found.packs] == [((0,), "solo"), ((1,), "solo"), ((2,), "solo")]
    assert found.reason == "solo: the job says so"
    assert {timing.pack for timing in found.timings.values()} == {0, 2}
    assert found.timings[1] is found.timings[0]
    assert found.device == "cpu"
    assert found.peak_bytes > 2**27
    assert found.peak_gpu_bytes is None
    for timing in found.timings.values():
        assert timing.steps == 5  # of 160 rows by 32: an epoch that is whole
        assert_whole(timing)


def test_folds_of_one_configuration_are_one_kind_though_each_prepares_its_own_rows(project: TinyProject) -> None:
    job = project.job(
        data={"source": f"{project.name}:load_data", "preprocess": ["standardize"]},
        members={"count": 2, "folds": 3, "vary": {"units": [8, 24]}},
        train={"engine": "solo"},
    )
    found = measured(job, project)
    configurations = {index: index // 3 for index in range(6)}

    assert len({id(timing) for timing in found.timings.values()}) == 2
    assert {timing.pack: configurations[timing.pack] for timing in found.timings.values()} == {0: 0, 3: 1}
    assert found.notes == ()


def test_of_the_warm_epochs_neither_the_slowest_nor_the_fastest_counts() -> None:
    cut = measure._Cut(None, steps=2, per_call=1, calls=2, all_calls=2, scored_share=1.0)  # type: ignore[arg-type]
    lasts, now, watch = [9.0, 1.0, 7.0, 2.0, 1.0], 0.0, measure._Watch(began=0.0)
    for took in lasts:
        watch.calls += [now, now + took / 4]
        now += took
        watch.epochs.append(now - took / 4)
    assert measure._warm_epoch(watch, cut) == pytest.approx((1.5, 0.5, 2.0))


def test_a_pack_is_timed_as_one_program_with_the_members_that_it_would_have(project: TinyProject) -> None:
    found = measured(project.job(members=3, train={"engine": "fused", "epochs": 9}), project)

    assert [(pack.members, pack.engine) for pack in found.packs] == [((0, 1, 2), "fused")]
    assert found.timings[0].steps == 5
    assert_whole(found.timings[0])


def test_long_epochs_are_cut_and_the_whole_ones_are_known(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FEW_STEPS", 4)
    monkeypatch.setattr(measure, "MOST_SCORED", 20)
    job = project.job(members=1, train={"batch_size": 2})
    (member,) = api.plan(job, root=str(project.folder)).request.plan.members
    cut = measure._cut(Pack(0, (0,), "solo"), member, load(job))

    assert cut.dataset.train.num_rows == 8
    assert (cut.per_call, cut.calls, cut.all_calls) == (1, 4, 80)
    assert cut.scored_share == pytest.approx(40 / 110)


def test_folds_of_cut_rows_need_not_have_every_class(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "FEW_STEPS", 2)
    job = project.job(members={"count": 1, "folds": 10}, train={"batch_size": 6})
    member, *_ = api.plan(job, root=str(project.folder)).request.plan.members
    cut = measure._cut(Pack(0, (0,), "solo"), measure._of_any_folds(member), load(job))

    assert cut.dataset.train.num_rows == 20  # two of each class, of which nine tenths are the member's
    assert (cut.calls, cut.all_calls) == (3, 24)


def test_training_that_takes_too_long_is_broken_off_and_reckoned_from_what_was_seen(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "ENOUGH_S", 0.0)
    found = measured(project.job(members=1, train={"engine": "solo"}), project).timings[0]

    assert found.steps == 1  # the first compiles, the last was not seen to end
    assert found.train_s > 0
    assert found.validation_s == pytest.approx(found.train_s * 110 / 160 * measure.FORWARD)


def test_what_the_preflight_refuses_is_told_before_anything_is_timed(project: TinyProject) -> None:
    answer, _ = told(project.job(train={"early_stopping": {"monitor": "val_nothing"}}), project)

    assert isinstance(answer, ev.PreflightFailed)
    assert answer.error.exit_code == 2
    assert "val_nothing" in str(answer.error)
