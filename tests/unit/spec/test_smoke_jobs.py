"""`--smoke`: any job made small, so that one epoch of two members can go through the whole flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import InvalidJob
from orchestrator.planning.members import plan_members
from orchestrator.planning.plan import make_plan
from orchestrator.spec import Job, load_job, parse_job, smoke_job

JOBS = sorted((Path(__file__).parents[3] / "jobs").glob("*.yaml"))


def job(**parts: Any) -> Job:
    return parse_job({"name": "a", "model": "m:f", "data": "m:g", **parts})


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_of_the_gallery_can_be_made_small(path: Path) -> None:
    asked = load_job(path)
    small = smoke_job(asked).job

    assert small.name == f"{asked.name}-smoke"
    assert small.members.count == 2
    assert small.data.max_rows == 512
    assert all(member.epochs == max(1, len(small.model.stages)) for member in plan_members(small, {}))
    assert small.resources == asked.resources
    assert small.storage == asked.storage


def test_members_of_other_architectures_and_settings_keep_them_but_not_how_long_they_train() -> None:
    own = {"model": "m:other", "kwargs": {"units": 4}, "train": {"epochs": 50, "batch_size": 8}}
    vary = {"units": [8, 16, 32], "train.epochs": [5, 6], "train.learning_rate": [0.1, 0.01]}
    small = smoke_job(job(members={"count": 3, "vary": vary, "overrides": {1: own, 2: {"seed": 5}}})).job
    first, second = plan_members(small, {})

    assert (first.builder, first.kwargs["units"], first.train.learning_rate) == ("m:f", 8, 0.1)
    assert (second.builder, second.kwargs["units"], second.train.batch_size) == ("m:other", 4, 8)
    assert [first.epochs, second.epochs] == [1, 1]
    assert sorted(small.members.overrides) == [1]


@pytest.mark.parametrize(
    "parts",
    [
        {"members": {"vary": {"train.checkpoint": [{"save_freq": 10}, {"initial_value_threshold": 1e-9}]}}},
        {"members": {"overrides": {i: {"train": {"checkpoint": {"save_freq": 10 + i}}} for i in range(2)}}},
        {"search": {"space": {"train.checkpoint": [{"save_freq": 10}, {"verbose": 1}]}, "sampler": "grid"}},
    ],
)
def test_no_model_is_kept_by_what_one_epoch_cannot_reach_wherever_that_is_said(parts: dict[str, Any]) -> None:
    small = smoke_job(job(**({"members": 2} | parts))).job
    trials = [{"train.checkpoint": value} for value in small.search.space["train.checkpoint"]] if small.search else ()

    for member in make_plan(small, {}, trials).members:
        kept = member.train.checkpoint
        assert (kept.save_freq, kept.initial_value_threshold) == ("epoch", None)


def test_a_search_of_one_trial_stays_one() -> None:
    small = smoke_job(job(members=1, search={"space": {"units": [1, 2]}, "sampler": "random", "trials": 1})).job
    assert small.search is not None
    assert small.search.trials == 1


def test_folds_are_two_of_each_of_two_configurations() -> None:
    small = smoke_job(job(members={"count": 4, "folds": {"count": 5, "repeats": 3, "inner_validation": 0.2}}))
    folds = small.job.members.folds

    assert folds is not None
    assert (folds.count, folds.repeats, folds.inner_validation) == (2, 1, 0.2)
    assert small.notes == ("smoke run: 4 members, 1 epoch, ≤ 512 rows: whole flow works; not a result",)


def test_stages_have_one_epoch_each() -> None:
    model = {"builder": "m:f", "base": "base.keras", "stages": [{"freeze": "all", "epochs": 15}, {"freeze": "none"}]}
    (note,) = smoke_job(job(model=model)).notes

    (member, _) = plan_members(smoke_job(job(model=model)).job, {})
    assert member.epochs == 2
    assert note.startswith("smoke run: 2 members, 1 epoch a stage")


@pytest.mark.parametrize(
    ("search", "trials"),
    [
        ({"sampler": "grid", "space": {"units": [1, 2, 3], "rate": [4, 5]}}, 2),
        ({"sampler": "grid", "space": {"units": [1], "rate": [4, 5, 6], "train.epochs": [3, 4]}}, 2),
        ({"sampler": "random", "trials": 20, "space": {"units": {"min": 1, "max": 9}}}, 2),
        ({"sampler": "tpe", "space": {"units": {"min": 1, "max": 9}}, "keep": "greedy"}, 3),
        ({"sampler": "genetic", "parallel": 8, "space": {"train.epochs": {"min": 1, "max": 9}}}, 3),
        ({"sampler": "tpe", "space": {"units": [1, 2]}, "pruning": {"min_epochs": 2}}, 3),
    ],
)
def test_a_search_has_two_trials_and_a_further_one_where_it_learns(search: Any, trials: int) -> None:
    small = smoke_job(job(search=search, members=4)).job

    assert small.search is not None
    assert small.search.num_trials == trials
    assert small.search.sampler == search["sampler"]
    assert small.members.count == 2
    assert small.search.pruning is None
    assert small.search.keep == search.get("keep", "best")


def test_what_one_epoch_cannot_be_held_to_is_left_out_and_said() -> None:
    gate = {"metric": "accuracy", "min": 0.99}
    asked = job(ensemble={"gate": gate, "quorum": 3, "deadline": "2h", "weights": [0, 0, 1, 2, 3]})
    small = smoke_job(asked)
    ensemble = small.job.ensemble

    assert (ensemble.gate, ensemble.quorum, ensemble.deadline, ensemble.weights) == (None, None, None, (1.0, 1.0))
    assert small.notes[1] == (
        "left out in a smoke run: ensemble.gate, which is not judged; ensemble.quorum; ensemble.deadline"
    )
    kept = smoke_job(job(ensemble={"weights": [0.5, 0.25, 0, 0, 1], "stop_when": {"patience": 1}})).job.ensemble
    assert kept.weights == (0.5, 0.25)
    assert kept.stop_when is not None


def test_a_model_is_kept_after_one_short_epoch_whatever_the_checkpoint_waits_for() -> None:
    checkpoint = {"save_freq": 1000, "initial_value_threshold": 0.01, "monitor": "loss"}
    small = smoke_job(job(train={"epochs": 9, "checkpoint": checkpoint})).job.train.checkpoint

    assert (small.save_freq, small.initial_value_threshold, small.monitor) == ("epoch", None, "loss")


def test_fewer_rows_than_a_smoke_run_has_stay_fewer() -> None:
    assert smoke_job(job(data={"source": "m:g", "max_rows": 100})).job.data.max_rows == 100


def test_a_long_name_is_cut_so_that_it_stays_a_name() -> None:
    assert smoke_job(job().model_copy(update={"name": "n" * 63})).job.name == "n" * 57 + "-smoke"


def test_a_smoke_run_has_an_id_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f(): ...\ndef g(): ...\n", encoding="utf-8")
    planned = api.plan(job(), smoke=True, root=str(tmp_path))

    assert planned.request.run_id.startswith("a-smoke-")
    assert planned.request.layout.job == "a-smoke"
    with pytest.raises(InvalidJob, match="run id of its own"):
        api.plan(job(), smoke=True, run_id="tuesday", root=str(tmp_path))
