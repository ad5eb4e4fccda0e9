"""From the job to its members: seeds, dropout, keywords, overrides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_examples import BUILDER, job

from orchestrator.errors import InvalidJob
from orchestrator.planning.members import MemberPlan, plan_members, value_at, van_der_corput
from orchestrator.planning.seeds import member_seed
from orchestrator.spec import Range


def members(takes: bool | None = True, **changes: object) -> tuple[MemberPlan, ...]:
    return plan_members(job(**changes), {BUILDER: takes, "jobs.other:build": True, "jobs.plain:build": False})


def test_a_member_does_not_depend_on_how_many_there_are() -> None:
    settings = {"dropout": {"min": 0.1, "max": 0.5}, "vary": {"units": {"min": 16, "max": 64}, "kind": ["a", "b", "c"]}}
    few = members(members={"count": 3, **settings})
    many = members(members={"count": 40, **settings})
    assert many[:3] == few


def test_members_have_seeds_of_their_own() -> None:
    planned = members(members=50, seed=3)
    assert [member.seed for member in planned] == [member_seed(3, index) for index in range(50)]
    assert len({member.seed for member in planned}) == 50


def test_one_dropout_is_for_all() -> None:
    assert [member.dropout for member in members(members={"count": 3, "dropout": 0.25})] == [0.25, 0.25, 0.25]


def test_a_list_of_dropouts_is_cycled() -> None:
    planned = members(members={"count": 5, "dropout": [0.1, 0.2]})
    assert [member.dropout for member in planned] == [0.1, 0.2, 0.1, 0.2, 0.1]


def test_a_range_of_dropouts_is_filled_evenly_for_every_number_of_members() -> None:
    planned = members(members={"count": 7, "dropout": {"min": 0.1, "max": 0.5}})
    assert [member.dropout for member in planned] == [0.3, 0.2, 0.4, 0.15, 0.35, 0.25, 0.45]


def test_the_short_form_varies_dropout_only_where_the_build_function_takes_it() -> None:
    assert [member.dropout for member in members(True, members=3)] == [0.3, 0.2, 0.4]
    assert [dict(member.kwargs) for member in members(False, members=2)] == [{}, {}]
    assert [dict(member.kwargs) for member in members(None, members=2)] == [{}, {}]


def test_a_dropout_that_the_job_asks_for_is_passed_whatever_the_signature_says() -> None:
    assert members(None, members={"count": 1, "dropout": 0.5})[0].kwargs == {"dropout": 0.5}


def test_a_dropout_among_the_models_own_keywords_is_not_varied() -> None:
    planned = members(members=2, model={"builder": BUILDER, "kwargs": {"dropout": 0.4}})
    assert [member.kwargs for member in planned] == [{"dropout": 0.4}, {"dropout": 0.4}]


def test_vary_replaces_keywords_of_the_job_member_by_member() -> None:
    model = {"builder": BUILDER, "kwargs": {"units": 8, "depth": 2}}
    planned = members(False, model=model, members={"count": 3, "vary": {"units": [16, 32]}})
    assert [member.kwargs for member in planned] == [
        {"units": 16, "depth": 2},
        {"units": 32, "depth": 2},
        {"units": 16, "depth": 2},
    ]


def test_axes_do_not_move_in_step() -> None:
    axis = {"min": 0.0, "max": 1.0}
    planned = members(False, members={"count": 8, "vary": {"a": axis, "b": axis}})
    assert all(member.kwargs["a"] != member.kwargs["b"] for member in planned)


def test_an_override_wins_over_everything_else() -> None:
    override = {"seed": 5, "dropout": 0.05, "kwargs": {"units": 99}}
    settings = {"count": 2, "dropout": 0.3, "vary": {"units": [1]}, "overrides": {1: override}}
    plain, overridden = members(members=settings)
    assert (plain.seed, plain.kwargs) == (member_seed(0, 0), {"units": 1, "dropout": 0.3})
    assert (overridden.seed, overridden.kwargs) == (5, {"units": 99, "dropout": 0.05})


def test_another_model_for_a_member_brings_its_own_keywords_and_gets_dropout_only_where_it_takes_it() -> None:
    overrides = {
        1: {"model": {"builder": "jobs.other:build", "kwargs": {"filters": 4}}},
        2: {"model": "jobs.plain:build"},
    }
    model = {"builder": BUILDER, "kwargs": {"units": 8}}
    settings = {"count": 3, "dropout": 0.3, "vary": {"depth": [2]}, "overrides": overrides}
    planned = members(model=model, members=settings)
    assert [(member.builder, member.kwargs) for member in planned] == [
        (BUILDER, {"units": 8, "depth": 2, "dropout": 0.3}),
        ("jobs.other:build", {"filters": 4, "dropout": 0.3}),
        ("jobs.plain:build", {}),
    ]


def test_whole_ends_make_whole_numbers_and_each_gets_its_share() -> None:
    values = [value_at(Range(min=1, max=4), index, axis=0) for index in range(64)]
    assert {type(value) for value in values} == {int}
    assert [values.count(number) for number in (1, 2, 3, 4)] == [16, 16, 16, 16]


def test_a_whole_range_on_a_log_scale_spreads_over_orders_of_magnitude_in_whole_numbers() -> None:
    values = [value_at(Range(min=1, max=256, log=True), index, axis=0) for index in range(64)]
    assert {type(value) for value in values} == {int}
    per_decade = [sum(low <= value < 4 * low for value in values) for low in (1, 4, 16, 64)]
    assert per_decade == [16, 16, 16, 16]
    assert max(values) > 200


def test_a_log_range_spreads_over_orders_of_magnitude() -> None:
    values = [value_at(Range(min=1e-4, max=1e-2, log=True), index, axis=0) for index in range(3)]
    assert values == pytest.approx([1e-3, 10**-3.5, 10**-2.5], rel=1e-5)


def test_a_range_of_tiny_numbers_keeps_its_digits() -> None:
    values = [value_at(Range(min=1e-7, max=9e-7), index, axis=0) for index in range(3)]
    assert values == pytest.approx([5e-7, 3e-7, 7e-7], rel=1e-6)


numbers = st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9, allow_subnormal=False)


@given(ends=st.tuples(numbers, numbers), log=st.booleans(), index=st.integers(0, 9_999), axis=st.integers(0, 40))
def test_every_value_of_every_range_lies_between_its_ends(
    ends: tuple[float, float], log: bool, index: int, axis: int
) -> None:
    low, high = sorted(abs(end) + 1e-9 if log and isinstance(end, float) else abs(end) + log for end in ends)
    if low == high:
        return
    value = value_at(Range(min=low, max=high, log=log), index, axis)
    assert low <= value <= high
    assert isinstance(value, int) == (isinstance(low, int) and isinstance(high, int))


def test_van_der_corput_mirrors_the_digits_at_the_point() -> None:
    assert [van_der_corput(n, 2) for n in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    assert [van_der_corput(n, 3) for n in range(1, 4)] == pytest.approx([1 / 3, 2 / 3, 1 / 9])


def test_settings_of_training_are_varied_by_dotted_key_and_replace_the_jobs() -> None:
    vary = {"train.batch_size": [16, 64], "train.optimizer.config.learning_rate": [0.1, 0.01, 0.001], "units": [8]}
    planned = members(
        members={"count": 3, "vary": vary, "overrides": {2: {"train": {"early_stopping.patience": 1}}}},
        train={"optimizer": "adam", "epochs": 7},
    )
    assert [member.train.batch_size for member in planned] == [16, 64, 16]
    assert [member.train.optimizer.config for member in planned] == [  # type: ignore[union-attr]
        {"learning_rate": 0.1},
        {"learning_rate": 0.01},
        {"learning_rate": 0.001},
    ]
    assert [member.train.early_stopping.patience for member in planned] == [5, 5, 1]  # type: ignore[union-attr]
    assert {member.train.epochs for member in planned} == {7}
    assert all(member.kwargs == {"units": 8, "dropout": member.dropout} for member in planned)
    assert planned[2].train_values == {
        "batch_size": 16,
        "optimizer.config.learning_rate": 0.001,
        "early_stopping.patience": 1,
    }


def test_settings_of_training_reach_a_member_with_another_builder() -> None:
    overrides = {0: {"model": {"builder": "jobs.plain:build"}}}
    planned = members(members={"count": 1, "vary": {"train.epochs": [3], "units": [8]}, "overrides": overrides})
    assert (planned[0].train.epochs, dict(planned[0].kwargs)) == (3, {})


def test_settings_that_contradict_each_other_name_the_member() -> None:
    overrides = {1: {"train": {"callbacks.0.config.patience": 1}}}
    with pytest.raises(InvalidJob, match=r"member 1: the settings .* do not go together: there is no entry 0"):
        members(
            members={"count": 2, "vary": {"train.callbacks": [[]]}, "overrides": overrides},
            train={"callbacks": ["ReduceLROnPlateau"]},
        )
