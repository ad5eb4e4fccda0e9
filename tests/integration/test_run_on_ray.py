"""Runs as users start them: real Ray, real Keras, one session that all tests here share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from orchestrator import api
from orchestrator.errors import IdentityChanged, Interrupted, InvalidData, InvalidModel
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import Result, to_json
from orchestrator.spec import Job, RaySpec, load_job
from orchestrator.storage.tables import history_from_parquet, predictions_from_parquet
from orchestrator.training.device import Device
from tests.support.in_process import load, run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyProject]:
    """The project of the run that most tests look at."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield TinyProject(folder, "tiny_whole")


def whole_job(project: TinyProject, *, store: str = "runs", concurrency: int = 1) -> Job:
    stopping = {"monitor": "val_loss", "patience": 0, "min_delta": 0.5}  # more than one epoch brings
    train = {"epochs": 6, "early_stopping": stopping}
    return project.job(members=3, train=train, store=store, resources={"concurrency": concurrency})


@pytest.fixture(scope="module")
def result(whole: TinyProject, ray_session: None) -> Result:
    """Three members, one after another on one worker."""
    return api.run(whole_job(whole), root=str(whole.folder))


def file_of(project: TinyProject, result: Result, member: int, name: str) -> Path:
    return project.folder / "runs" / result.artifacts["members"] / str(member) / name


def predictions(project: TinyProject, result: Result, split: str) -> list[np.ndarray]:
    return [
        predictions_from_parquet(file_of(project, result, member.index, f"{split}.parquet").read_bytes())
        for member in result.members
    ]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_each_members_accuracy_is_that_of_evaluate_and_of_arg_max(
    whole: TinyProject, result: Result, split: str, device: Device
) -> None:
    import keras

    rows = getattr(load(whole_job(whole)), split)
    for member in result.members:
        model = keras.models.load_model(file_of(whole, result, member.index, "best.keras"))
        reported = getattr(member, split).accuracy
        evaluated = model.evaluate(rows.x, rows.y, verbose=0, return_dict=True)["accuracy"]
        assert reported == pytest.approx(evaluated, abs=1e-6)
        assert reported == np.mean(model.predict(rows.x, verbose=0).argmax(axis=1) == rows.y)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_ensemble_is_the_average_of_what_is_stored(whole: TinyProject, result: Result, split: str) -> None:
    y = getattr(load(whole_job(whole)), split).y
    parts = np.stack(predictions(whole, result, split)).astype(np.float64)
    average = parts.mean(axis=0)
    scores = getattr(result, split)
    assert scores.ensemble.accuracy == np.mean(average.argmax(axis=1) == y)
    assert scores.ensemble.nll == pytest.approx(-np.log(average[np.arange(len(y)), y]).mean(), abs=1e-6)
    assert scores.members_mean.accuracy == pytest.approx((parts.argmax(axis=2) == y).mean())
    assert scores.ensemble.n == len(y)


def test_weights_sum_to_one_and_name_the_rows_that_they_were_fitted_on(result: Result) -> None:
    assert result.weights is not None
    assert result.weights.members == (0, 1, 2)
    assert sum(result.weights.values) == pytest.approx(1)
    assert result.weights.fitted_on == "validation"
    assert result.validation is not None
    assert result.validation.weighted is not None
    assert "weights" in result.validation.weighted.scored_on


def test_each_figure_says_what_else_its_rows_were_used_for(result: Result) -> None:
    assert result.validation is not None
    assert result.test is not None
    assert "early stopping, choice of the best epoch" in result.validation.ensemble.scored_on
    assert "used for nothing else" in result.test.ensemble.scored_on


def test_the_history_has_a_row_per_epoch_and_the_best_epoch_is_the_lowest_loss(
    whole: TinyProject, result: Result
) -> None:
    stopped = 0
    for member in result.members:
        rows = history_from_parquet(file_of(whole, result, member.index, "history.parquet").read_bytes())
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        assert set(rows[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}
        assert member.epochs == len(rows)
        losses = [row["val_loss"] for row in rows]
        assert member.best_epoch == int(np.argmin(losses)) + 1
        assert member.loss == pytest.approx(min(losses))
        if member.stopped_epoch is not None:
            assert member.stopped_epoch == len(rows)
            stopped += 1
    assert stopped > 0


def test_the_same_job_gives_the_same_members_whatever_the_workers(
    whole: TinyProject, result: Result, device: Device
) -> None:
    weights = [member.weights_sha256 for member in result.members]
    side_by_side = api.run(whole_job(whole, store="again", concurrency=2), root=str(whole.folder))
    assert [member.weights_sha256 for member in side_by_side.members] == weights
    assert side_by_side.validation == result.validation
    fewer = whole_job(whole, store="fewer").model_copy(update={"members": whole.job(members=2).members})
    here = run_in_process(fewer, whole.folder)
    assert [member.weights_sha256 for member in here.members] == weights[:2]


def test_members_differ_in_seed_dropout_and_weights(result: Result) -> None:
    for name in ("seed", "dropout", "weights_sha256"):
        assert len({getattr(member, name) for member in result.members}) == 3


def test_a_finished_run_returns_its_recorded_result(whole: TinyProject, result: Result) -> None:
    again = api.run(whole_job(whole), root=str(whole.folder))
    assert to_json(again) == to_json(result)
    stored = whole.folder / "runs" / result.artifacts["result"]
    assert stored.read_bytes() == to_json(result)


def test_a_run_leaves_the_session_that_it_found_and_gives_its_cores_back(result: Result) -> None:
    import ray
    from ray.exceptions import GetTimeoutError

    assert ray.is_initialized()

    @ray.remote(num_cpus=2)
    def all_cores() -> str:
        return "free"

    try:
        assert ray.get(all_cores.remote(), timeout=120) == "free"
    except GetTimeoutError:
        pytest.fail("a worker of the finished run still holds its core")


def test_changed_code_and_data_are_read_anew_in_the_same_session(whole: TinyProject, result: Result) -> None:
    """As in a notebook: edit the module, run again. A process of Ray's that knows the old module must not be asked."""
    file = whole.folder / f"{whole.name}.py"
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace("digits(60, 160)", "digits(40, 160)"), encoding="utf-8")
    try:
        train = {"epochs": 1, "jit_compile": True}
        changed = api.run(whole.job(members=1, store="changed", train=train), root=str(whole.folder))
    finally:
        file.write_text(before, encoding="utf-8")
    assert changed.validation is not None
    assert changed.validation.ensemble.n == 40
    assert any("not deterministic" in note for note in changed.notes)


def test_a_real_worker_measures_what_a_run_would_take_and_stores_nothing(whole: TinyProject) -> None:
    job = whole_job(whole, store="measured", concurrency=1)
    planned, notes = api.plan(job, root=str(whole.folder)), list[str]()
    measured = api.measure(planned, note=notes.append)
    there = api.look_at_cluster(
        api.plan(job.model_copy(update={"ray": RaySpec(address="auto")}), root=str(whole.folder))
    )

    assert [(pack.members, pack.engine) for pack in measured.told.packs] == [
        ((0,), "solo"),
        ((1,), "solo"),
        ((2,), "solo"),
    ]
    assert 0 < measured.start_s < measured.estimate.low_s < measured.estimate.high_s
    assert measured.told.import_s > 0
    assert measured.told.peak_bytes > 2**27
    assert measured.placement.num_workers == there.num_workers == 1
    assert any("160 train, 60 validation, 50 test rows" in note for note in notes)
    assert not (whole.folder / "measured").exists()


@pytest.mark.parametrize(
    ("key", "function", "error"), [("data", "load_raising", InvalidData), ("model", "build_raising", InvalidModel)]
)
def test_an_error_in_the_users_code_reaches_the_user_from_any_process(
    project: TinyProject, key: str, function: str, error: type[Exception]
) -> None:
    file = project.folder / f"{project.name}.py"
    source = f"\n\ndef {function}():\n    raise LookupError('not here')\n"
    file.write_text(file.read_text(encoding="utf-8") + source, encoding="utf-8")
    with pytest.raises(error, match="LookupError: not here") as caught:
        api.run(project.job(**{key: f"{project.name}:{function}"}), root=str(project.folder))
    assert str(file) in str(caught.value)
    assert list(project.folder.glob("runs/*/*/members/*/log/*")) == []
    assert project.name not in sys.modules  # the user's code ran in workers alone
    [run] = api.list_runs(storage=str(project.folder / "runs"))
    assert (run.status, run.exit_code) == ("failed", 2)


def test_a_run_that_has_enough_members_trains_no_further_one_and_packs_no_more_than_its_patience(
    whole: TinyProject, result: Result
) -> None:
    rule = {"patience": 2, "min_delta": 10.0}  # no member brings so much: the first three decide
    job = whole.job(
        members=6,
        store="enough",
        train={"epochs": 1, "engine": "fused"},
        resources={"concurrency": 1},
        ensemble={"stop_when": rule},
    )
    found = api.run(job, root=str(whole.folder))
    assert (found.status, found.missing) == ("succeeded", ())
    assert {member.engine for member in found.members[:3]} == {"fused"}
    assert [member.status for member in found.members] == [
        *["succeeded"] * 3,
        "stopped",  # of the pack of member 2
        *["not_started"] * 2,
    ]
    stopped = found.stop_when
    assert stopped is not None
    assert (stopped.decided_at, stopped.left_out, stopped.not_trained) == (3, (3,), (4, 5))
    assert stopped.saved_s > 0
    assert found.validation is not None
    assert stopped.scores[2] == pytest.approx(found.validation.ensemble.nll, rel=1e-9)
    [shown] = api.list_runs(storage=str(whole.folder / "enough"))
    told = api.status(shown.run_key, storage=str(whole.folder / "enough"))
    assert [member.status for member in told.members] == [member.status for member in found.members]


class StopAtFirstEpoch(SilentProgress):
    """Asks for the run's end through the store, as `orchestrator stop` does, when the first epoch has ended."""

    def __init__(self, run: str, storage: Path) -> None:
        self._run: str | None = run
        self._storage = storage

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        if self._run is not None:
            api.stop(self._run, storage=str(self._storage))
            self._run = None


def test_a_run_stopped_on_request_says_so_and_stands_for_its_job_still(project: TinyProject) -> None:
    job = project.job(members=1, train={"epochs": 100_000, "early_stopping": None})
    progress = StopAtFirstEpoch("nightly 7", project.folder / "runs")
    with pytest.raises(Interrupted) as caught:
        api.run(job, run_id="nightly 7", root=str(project.folder), progress=progress)
    assert caught.value.exit_code == 143
    found = api.status("nightly 7", storage=str(project.folder / "runs"))
    assert (found.status, found.exit_code, found.terms) == ("stopped", 143, 1)
    with pytest.raises(IdentityChanged, match=r"train\.epochs: 100000 → 2"):
        api.run(project.job(members=1, train={"early_stopping": None}), run_id="nightly 7", root=str(project.folder))


def test_a_job_whose_rows_are_in_csv_files_needs_no_data_function_and_names_its_classes(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    job = load_job(str(root / "jobs" / "iris.yaml"), ["members.count=2", "train.epochs=20", f"storage.url={tmp_path}"])

    ended = api.run(job, root=str(root))

    assert ended.test is not None
    assert ended.test.ensemble.accuracy >= 0.9
    assert (ended.test.ensemble.n, ended.validation.ensemble.n) == (30, 24)
    page = next(tmp_path.rglob("report.html")).read_text(encoding="utf-8")
    assert all(name in page for name in ("setosa", "versicolor", "virginica"))
    codes = (tmp_path / ended.artifacts["codes"]).read_text(encoding="utf-8")
    assert json.loads(codes) == {"species": ["setosa", "versicolor", "virginica"]}
