"""K-fold ensembles in the plan and in the schedule: who the members are, and which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from planning_examples import BUILDER, job

from orchestrator.errors import QuorumMissed
from orchestrator.planning import commands as cmd
from orchestrator.planning import events as ev
from orchestrator.planning.members import MemberPlan, plan_members, whole_configurations
from orchestrator.planning.placement import Crew
from orchestrator.planning.plan import Plan
from orchestrator.planning.recovery import RunMemory
from orchestrator.planning.schedule import MemberState, Settings, begin, step
from orchestrator.planning.seeds import member_seed
from orchestrator.spec import FaultsSpec


def members(count: int = 2, folds: object = 3, **settings: object) -> tuple[MemberPlan, ...]:
    return plan_members(job(members={"count": count, "folds": folds, **settings}), {BUILDER: True})


def places(planned: Sequence[MemberPlan]) -> list[tuple[int, int, int]]:
    return [(m.fold.configuration, m.fold.repeat, m.fold.fold) for m in planned if m.fold is not None]


def test_each_configuration_is_trained_once_per_repeat_and_fold_in_this_order() -> None:
    planned = members(2, {"count": 3, "repeats": 2})
    assert places(planned) == [(c, r, f) for c in range(2) for r in range(2) for f in range(3)]
    assert [member.index for member in planned] == list(range(12))


def test_seeds_follow_the_member_and_hyperparameters_the_configuration() -> None:
    planned = members(3, 2, vary={"units": [8, 16, 32]}, dropout={"min": 0.1, "max": 0.5})
    assert [member.seed for member in planned] == [member_seed(0, index) for index in range(6)]
    assert [member.kwargs["units"] for member in planned] == [8, 8, 16, 16, 32, 32]
    assert [member.dropout for member in planned] == [0.3, 0.3, 0.2, 0.2, 0.4, 0.4]


def test_an_override_is_for_a_configuration() -> None:
    planned = members(2, 2, vary={"units": [8]}, overrides={1: {"kwargs": {"units": 99}, "seed": 7}})
    assert [(member.kwargs["units"], member.seed) for member in planned[2:]] == [(99, 7), (99, 7)]
    assert [member.kwargs["units"] for member in planned[:2]] == [8, 8]


def test_a_further_configuration_leaves_the_members_before_as_they_are() -> None:
    settings = {"vary": {"units": {"min": 8, "max": 64}}}
    assert members(4, 3, **settings)[:6] == members(2, 3, **settings)


def test_members_of_a_repeat_share_the_deal_and_those_of_a_fold_their_inner_validation() -> None:
    planned = members(2, {"count": 2, "repeats": 2, "inner_validation": 0.2})
    folds = [member.fold for member in planned if member.fold is not None]
    assert len({fold.seed for fold in folds}) == 2
    assert len({(fold.repeat, fold.seed) for fold in folds}) == 2
    assert len({(fold.repeat, fold.fold, fold.inner_seed) for fold in folds}) == 4
    assert {fold.inner_validation for fold in folds} == {0.2}


@pytest.mark.parametrize(
    ("good", "whole"),
    [(range(6), (0, 1)), ((0, 1, 2, 3, 4), (0,)), ((1, 2, 3, 4, 5), (1,)), ((0, 1, 3, 4), ()), ((), ())],
    ids=["all", "the_last_is_missing", "the_first_is_missing", "one_of_each_is_missing", "none"],
)
def test_a_configuration_counts_with_all_of_its_members_alone(good: Sequence[int], whole: tuple[int, ...]) -> None:
    assert whole_configurations(members(), good) == whole


@pytest.mark.parametrize(
    ("quorum", "bad", "text"),
    [
        (None, (), "2 of 2 configurations, 2 needed"),
        (1, (4,), "1 of 2 configurations, 1 needed"),
        (1, (3, 4, 5), "1 of 2 configurations, 1 needed"),
        (None, (4,), "only 1 of 2 configurations, 2 needed"),
        (1, (0, 4), "only 0 of 2 configurations, 1 needed"),
        (2, (4,), "only 1 of 2 configurations, 2 needed"),
    ],
)
def test_a_quorum_counts_whole_configurations(quorum: int | None, bad: tuple[int, ...], text: str) -> None:
    settings = Settings(Plan(members()), Crew(1), FaultsSpec(), quorum)
    state, _ = begin(settings, 0.0, RunMemory(), trained=(), diverged={})
    ended = {i: MemberState(status="failed" if i in bad else "done") for i in range(6)}
    state, commands = step(replace(state, members=ended, workers={}, without_worker_since=None), ev.Tick(), 1.0)
    assert state.over
    if text.startswith("only"):
        [abort] = [command for command in commands if isinstance(command, cmd.Abort)]
        assert isinstance(abort.error, QuorumMissed)
        assert text in str(abort.error)
    else:
        [select] = [command for command in commands if isinstance(command, cmd.Select)]
        assert select.reason == text
