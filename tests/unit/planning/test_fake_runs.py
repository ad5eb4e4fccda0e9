"""Whole runs on the fake cluster: whatever fails, they end, in time, with models that do not depend on what failed."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from fake_runs import POLL_S, STOP, Run
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import QuorumMissed
from orchestrator.planning import commands as cmd
from orchestrator.planning.policies import StopRule, decide_enough
from orchestrator.planning.recovery import read_member
from orchestrator.spec import FaultsSpec

QUICK = FaultsSpec(stall_s=20, backoff_min_s=0.5, backoff_max_s=2, stop_grace_s=3)
FAULTS = ["crash", "preempted", "node_lost", "out_of_memory", "user_error", "stall", "diverge", "fenced", "unheard"]
PREDICT_FAULTS = ["crash", "preempted", "node_lost", "out_of_memory", "stall"]
EPOCHS = 6
seeds = st.integers(0, 2**32 - 1)


def expected(run: Run) -> dict[int, bytes]:
    """The bytes of each member that is done, from its seed and lateness alone."""
    done = {index: member for index, member in run.state.members.items() if member.status == "done"}
    seeds = {index: run.the_plan.members[index].seed for index in done}
    return {i: f"the best model of seed {seeds[i]}{', cut short' * m.late}".encode() for i, m in done.items()}


def random_script(rnd: Random, num_members: int) -> dict[str, Any]:
    """A finite script: at most so many faults, struck whenever their moment comes."""
    moments = [(rnd.randrange(num_members), rnd.randint(1, 4)) for _ in range(rnd.randint(0, 8))]
    return {
        "faults": {moment: rnd.choice(FAULTS) for moment in moments},
        "fault_epochs": {moment: rnd.randint(1, EPOCHS) for moment in moments},
        "predict_faults": {(rnd.randrange(num_members), rnd.randint(1, 2)): rnd.choice(PREDICT_FAULTS)},
        "drains": {
            (rnd.randrange(num_members), rnd.randint(1, EPOCHS)): rnd.choice([None, 0.05, 5.0])
            for _ in range(rnd.randint(0, 3))
        },
        "epochs": EPOCHS,
        "checkpoint_every": rnd.randint(1, 3),
        "seed": rnd.randrange(1_000),
    }


def test_a_run_ends_under_every_finite_script_of_faults_with_the_same_models() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None)
    @given(
        seed=seeds,
        num_workers=st.integers(1, 4),
        cutoff_s=st.none() | st.floats(0, 30),
        kills=st.lists(st.floats(0, 20)),
    )
    def check(seed: int, num_workers: int, cutoff_s: float | None, kills: list[float]) -> None:
        rnd, run = Random(seed), Run(4, QUICK)
        for kill_s in kills[:3]:
            run.start(num_workers=num_workers, cutoff_s=cutoff_s, kill_s=kill_s, **random_script(rnd, 4))
            met.update(fault for _, _, fault in run.cluster.fired)
        end = run.start(num_workers=num_workers, cutoff_s=cutoff_s, **random_script(rnd, 4))
        met.update(fault for _, _, fault in run.cluster.fired)
        assert isinstance(end, cmd.Select) or isinstance(end.error, QuorumMissed), end  # type: ignore[union-attr]
        assert run.models(run.state) == expected(run)
        for index, member in run.state.members.items():
            records = run.member_log(index).records()  # refuses a record of a superseded writer
            assert member.late == bool((read_member(records).final or {}).get("late")) or member.status != "done"
        met["late"] += sum(member.late for member in run.state.members.values())

    check()
    wanted = {*FAULTS, "drain", "late"}
    assert wanted <= set(+met), f"the scripts never met {wanted - set(+met)}"


def test_a_run_that_needs_only_some_members_ends_with_those_under_every_finite_script_of_faults() -> None:
    met: Counter[str] = Counter()
    rule = StopRule("nll", greater_is_better=False, min_delta=0.01, patience=2)

    @settings(max_examples=60, deadline=None)
    @given(
        seed=seeds,
        scores=st.lists(st.sampled_from([0.2, 0.3, 0.4]), min_size=6, max_size=6),
        num_workers=st.integers(1, 4),
        kills=st.lists(st.floats(0, 30)),
    )
    def check(seed: int, scores: list[float], num_workers: int, kills: list[float]) -> None:
        rnd, run = Random(seed), Run(6, QUICK, stop_rule=rule, scores=scores)
        for kill_s in kills[:3]:
            run.start(num_workers=num_workers, kill_s=kill_s, **random_script(rnd, 6))
            met.update(fault for _, _, fault in run.cluster.fired)
        met["killed after it was known"] += any(record.kind == "enough" for record in run.log_records())
        end = run.start(num_workers=num_workers, **random_script(rnd, 6))
        met.update(fault for _, _, fault in run.cluster.fired)
        records = [record.body for record in run.log_records() if record.kind == "enough"]
        status = {index: member.status for index, member in run.state.members.items()}
        seen = [None if status[i] in ("failed", "diverged") else score for i, score in enumerate(scores)]
        enough = decide_enough(seen, rule).num_members or 6
        assert [record["num_members"] for record in records] == ([enough] if enough < 6 else [])
        good = tuple(i for i in range(enough) if status[i] == "done")
        if isinstance(end, cmd.Select):
            assert end.members == good
        else:
            assert isinstance(end.error, QuorumMissed), end  # type: ignore[union-attr]
            assert not good
        met["left out"] += enough < 6
        met["absent"] += None in seen[:enough]

    check()
    wanted = {"left out", "absent", "killed after it was known"}
    assert wanted <= set(+met), f"the scripts never met {wanted - set(+met)}"


def test_a_stop_at_any_moment_ends_within_the_grace_and_a_later_start_trains_only_what_is_missing() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=40, deadline=None)
    @given(stop_s=st.floats(0, 14), num_workers=st.integers(1, 3), checkpoint_every=st.integers(1, 9))
    def check(stop_s: float, num_workers: int, checkpoint_every: int) -> None:
        run = Run(3, QUICK, quorum=None)
        how = {"num_workers": num_workers, "checkpoint_every": checkpoint_every, "epochs": EPOCHS}
        end = run.start(stop_s=stop_s, **how)
        if not isinstance(end, cmd.Abort):
            return
        assert end.error is STOP
        assert run.elapsed() <= stop_s + QUICK.stop_grace_s + 2 * POLL_S
        met["stopped"] += 1
        met["saved"] += sum(isinstance(command, cmd.SaveNow) for command in run.cluster.sent)
        assert isinstance(run.start(**how), cmd.Select)
        assert run.trained == Counter({(member, epoch): 1 for member in range(3) for epoch in range(1, EPOCHS + 1)})
        assert run.models(run.state) == expected(run)

    check()
    assert met["stopped"]
    assert met["saved"]


def test_a_drained_worker_saves_and_its_member_goes_on_without_losing_an_epoch() -> None:
    run = Run(2, QUICK, quorum=None)
    end = run.start(drains={(0, 2): 5.0, (1, 4): None}, checkpoint_every=99, epochs=EPOCHS)
    assert isinstance(end, cmd.Select)
    assert run.cluster.fired == [(0, 2, "drain"), (1, 4, "drain")]
    assert set(run.trained.values()) == {1}
    assert [member.preemptions for member in run.state.members.values()] == [1, 1]


def test_a_notice_that_is_too_short_to_save_costs_what_came_after_the_newest_checkpoint() -> None:
    run = Run(1, QUICK, quorum=None)
    assert isinstance(run.start(drains={(0, 5): 0.05}, checkpoint_every=2, epochs=EPOCHS), cmd.Select)
    assert run.cluster.fired == [(0, 5, "drain")]
    assert [epoch for (_, epoch), count in run.trained.items() if count > 1] == [5]
    assert run.state.members[0].preemptions == 1


def test_a_lost_worker_costs_at_most_one_checkpoint_interval() -> None:
    run = Run(1, QUICK, quorum=None)
    end = run.start(faults={(0, 1): "crash"}, fault_epochs={(0, 1): 5}, checkpoint_every=2, epochs=EPOCHS)
    assert isinstance(end, cmd.Select)
    assert run.cluster.fired == [(0, 1, "crash")]
    assert [epoch for (_, epoch), count in run.trained.items() if count > 1] == [5]


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_a_deadline_ends_a_long_run_in_time_with_the_best_epochs_so_far(num_workers: int) -> None:
    run = Run(4, QUICK)
    end = run.start(num_workers=num_workers, cutoff_s=20.0, epochs=10_000)
    assert isinstance(end, cmd.Select)
    assert len(end.members) == num_workers, "those that were in training"
    assert all(run.state.members[index].late for index in end.members)
    missing = [member for member in run.state.members.values() if member.status != "done"]
    assert {member.status for member in missing} <= {"not_started"}
    assert run.elapsed() < 20.0 + QUICK.stop_grace_s + 4


def test_a_worker_that_hangs_at_the_deadline_is_ended_and_its_member_counts_from_its_checkpoint() -> None:
    run = Run(1, QUICK)
    end = run.start(cutoff_s=10.0, epochs=10_000, faults={(0, 1): "stall"}, fault_epochs={(0, 1): 5})
    assert run.cluster.fired == [(0, 1, "stall")]
    assert isinstance(end, cmd.Select)
    final = read_member(run.member_log(0).records()).final
    assert final is not None
    assert (final["late"], final["epochs"]) == (True, 4)


@pytest.mark.parametrize("fault", ["crash", "node_lost", "stall", "out_of_memory", "fenced"])
def test_a_worker_that_is_lost_while_publishing_late_is_replaced(fault: Any) -> None:
    run = Run(1, QUICK)
    end = run.start(cutoff_s=10.0, epochs=10_000, faults={(0, 2): fault})
    assert run.cluster.fired == [(0, 2, fault)]
    assert isinstance(end, cmd.Select)
    assert run.state.members[0].late


@pytest.mark.parametrize("how", ["delete", "damage"])
def test_a_published_model_that_is_lost_is_trained_again_from_its_checkpoints(how: str) -> None:
    run = Run(1, QUICK, quorum=None)
    assert run.start(predict_faults={(0, 1): "stall"}, kill_s=15.0) is None
    assert run.cluster.fired == [(0, 1, "stall")]
    final = read_member(run.member_log(0).records()).final
    assert final is not None
    if how == "delete":
        run.store.delete(final["model"]["key"])
    else:
        run.store.put(final["model"]["key"], b"x")
    before = run.trained.copy()
    assert isinstance(run.start(), cmd.Select)
    assert run.lost_models == [0]
    assert run.trained == before, "the newest checkpoint has all epochs"
    assert run.models(run.state) == expected(run)
    assert [record.kind for record in run.member_log(0).records()][-4:] == ["claim", "void", "claim", "final"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it() -> None:
    run = Run(1, QUICK, quorum=None)
    assert run.start(kill_s=10.0, epochs=30) is None
    checkpoints = read_member(run.member_log(0).records()).checkpoints
    assert len(checkpoints) >= 2
    run.store.put(checkpoints[0]["state"]["key"], b"x")
    run.trained.clear()
    assert isinstance(run.start(epochs=30), cmd.Select)
    assert min(epoch for _, epoch in run.trained) == checkpoints[0]["epoch"]


def test_a_member_that_is_given_up_has_a_record_that_fences_its_lost_worker() -> None:
    run = Run(2, FaultsSpec(max_crashes=0, stall_s=20))
    assert isinstance(run.start(faults={(0, 1): "stall"}), cmd.Select)
    assert run.cluster.fired == [(0, 1, "stall")]
    assert [record.kind for record in run.member_log(0).records()][-2:] == ["claim", "failed"]
