"""K-fold ensembles through the whole flow: no row is ever predicted by a member that learnt from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import api, load_job
from orchestrator.planning.plan import make_plan
from orchestrator.reporting.again import evaluate_again
from orchestrator.reporting.progress import SilentProgress
from orchestrator.reporting.result import FoldResult, Result, WeightsResult, from_json, to_json
from orchestrator.reporting.scores import MemberScores, SplitScores
from orchestrator.spec import Job, parse_job
from orchestrator.storage.open import open_store
from orchestrator.storage.tables import (
    groups_from_parquet,
    held_out_from_parquet,
    history_from_parquet,
    labels_from_parquet,
    predictions_from_parquet,
)
from orchestrator.training.class_weight import weights_of_classes
from orchestrator.training.device import Device
from orchestrator.training.fused.train import CannotFuse, Seat, train_fused
from orchestrator.training.preflight import check_before_training
from orchestrator.training.rows import member_rows
from orchestrator.training.solo import train_solo
from tests.support.in_process import load, run_in_process
from tests.support.tiny_jobs import TinyProject

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

SOURCE = '''

def load_noise():
    """More features than rows, and labels that have nothing to do with them."""
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(120, 300)).astype("float32"), rng.permutation(np.arange(120) % 10)
    return {"train": (x[:90], y[:90]), "test": (x[90:], y[90:]), "groups": np.arange(90) // 2}


def build_memory(rate=0.05):
    import keras

    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
'''

ROOT = Path(__file__).parents[2]
FOLDS, CONFIGURATIONS = 3, 2


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("folds")
    project = TinyProject(folder, "folds_tiny", SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield project.job(
            model=f"{project.name}:build_memory",
            data=f"{project.name}:load_noise",
            members={"count": CONFIGURATIONS, "folds": FOLDS, "vary": {"rate": [0.05, 0.1]}},
            train={"epochs": 12, "batch_size": 16, "early_stopping": False, "checkpoint": {"save_best_only": False}},
        )


@pytest.fixture(scope="module")
def result(job: Job, device: object) -> Result:
    return run_in_process(job, Path(job.storage.url).parent)


@pytest.fixture(scope="module")
def stored(job: Job, result: Result) -> Callable[[str], bytes]:
    """Reads an object of the run by its key."""
    store = open_store(job.storage.url)
    return lambda key: store.get(f"{key_root(result)}/{key}")


def key_root(result: Result) -> str:
    return result.artifacts["members"].removesuffix("/members")


def test_labels_that_are_noise_are_learnt_by_heart_and_only_guessed_out_of_fold(
    result: Result, stored: Callable[[str], bytes]
) -> None:
    for member in result.members:
        history = history_from_parquet(stored(f"members/{member.index}/history.parquet"))
        assert history[-1]["accuracy"] == 1.0
        assert accuracy(member.out_of_fold) < 0.34
    for figure in (scores(result).ensemble, scores(result).weighted, scores(result).members_mean):
        assert figure is not None
        assert figure.accuracy is not None
        assert figure.accuracy < 0.25  # chance is 0.1; of 90 rows, 0.25 is beyond four standard deviations
        assert figure.n == 90


def test_no_row_is_predicted_by_a_member_that_learnt_from_it(
    job: Job, result: Result, stored: Callable[[str], bytes]
) -> None:
    dataset = load(job)
    for plan in make_plan(job, {}).members:
        rows, _ = held_out_from_parquet(stored(f"members/{plan.index}/out_of_fold.parquet"))
        own = member_rows(dataset, plan)
        assert own.train.numbers is not None
        assert sorted([*rows, *own.train.numbers]) == list(range(90))
        assert not {row // 2 for row in rows} & {row // 2 for row in own.train.numbers}
    groups = groups_from_parquet(stored("labels/out_of_fold.parquet"))
    assert groups is not None
    assert groups.tolist() == [row // 2 for row in range(90)], "so that cross-fitting leaves them whole, too"
    for configuration in result.configurations:
        held_out = [
            held_out_from_parquet(stored(f"members/{index}/out_of_fold.parquet"))[0] for index in configuration.members
        ]
        assert sorted(np.concatenate(held_out)) == list(range(90))


def test_figures_of_configurations_follow_from_what_their_members_have_stored(
    result: Result, stored: Callable[[str], bytes]
) -> None:
    targets = labels_from_parquet(stored("labels/out_of_fold.parquet"))
    assert result.test is not None
    means = []
    for configuration in result.configurations:
        told, on_test = np.empty((90, 10)), []
        for index in configuration.members:
            rows, values = held_out_from_parquet(stored(f"members/{index}/out_of_fold.parquet"))
            told[rows] = values
            assert accuracy(result.members[index].out_of_fold) == pytest.approx(
                np.mean(values.argmax(1) == targets[rows])
            )
            on_test.append(predictions_from_parquet(stored(f"members/{index}/test.parquet")))
        assert accuracy(configuration.out_of_fold) == pytest.approx(np.mean(told.argmax(1) == targets))
        means.append(np.mean(on_test, axis=0))
    expected = np.mean(np.mean(means, axis=0).argmax(1) == labels_from_parquet(stored("labels/test.parquet")))
    assert result.test.ensemble.accuracy == pytest.approx(expected)


def test_weights_are_those_of_configurations_and_fitted_out_of_fold(result: Result) -> None:
    assert isinstance(result.weights, WeightsResult)
    assert (result.weights.members, result.weights.fitted_on) == ((0, 1), "out_of_fold")
    assert scores(result).weighted is not None
    assert "weights (cross-fitted)" in str(scores(result).weighted)
    assert scores(result).ensemble.scored_on == "out-of-fold (90 rows; used for nothing else)"


def test_the_result_and_its_table_tell_of_which_fold_each_member_is(result: Result) -> None:
    assert [member.fold for member in result.members] == [
        FoldResult(configuration=c, repeat=0, fold=f) for c in range(CONFIGURATIONS) for f in range(FOLDS)
    ]
    assert [member.hyperparameters["rate"] for member in result.members] == [0.05] * 3 + [0.1] * 3
    assert len({member.seed for member in result.members}) == 6
    assert from_json(to_json(result)) == result
    text = str(result)
    assert "4 (c1 f1)" in text
    assert "out-of-fold" in text
    assert "best configuration" in text


def test_the_report_of_a_run_with_folds_is_drawn(job: Job, stored: Callable[[str], bytes], result: Result) -> None:
    page = stored("report.html").decode()
    assert "On out-of-fold (90 rows)" in page
    assert "What is counted here are configurations" in page
    assert "configurations that count" in page
    assert "the best configuration (0)" in page or "the best configuration (1)" in page


def test_figures_are_computed_again_from_what_is_kept(job: Job, result: Result) -> None:
    planned = api.plan(job, root=str(Path(job.storage.url).parent))
    again, differing = evaluate_again(open_store(job.storage.url), planned.request.layout)
    assert not differing
    assert again == result


def test_the_job_that_comes_along_tells_wines_by_members_that_never_saw_them(tmp_path: Path) -> None:
    small = ["members.count=1", "members.folds.count=3", "train.epochs=15", f"storage.url={tmp_path}"]
    result = run_in_process(load_job(ROOT / "jobs" / "wine_folds.yaml", small), ROOT)
    assert result.gate is not None
    assert result.gate.passed, "the most frequent class: 0.40"
    assert scores(result).ensemble.scored_on == "out-of-fold (142 rows; used for nothing else)"
    assert [len(configuration.members) for configuration in result.configurations] == [3]


class CountsEpochs(SilentProgress):
    """How many epochs have ended, of all members."""

    num_epochs = 0

    def epoch(self, member: int, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        self.num_epochs += 1


class Leaps(api.SystemClock):
    """A clock that is two hours on when so many epochs have ended."""

    def __init__(self, told: CountsEpochs, num_epochs: int) -> None:
        self._told, self._num_epochs = told, num_epochs

    def monotonic(self) -> float:
        return super().monotonic() + 7200 * (self._told.num_epochs >= self._num_epochs)


def test_at_the_deadline_a_configuration_counts_whole_or_not_at_all(job: Job, device: object, tmp_path: Path) -> None:
    asked = {**job.model_dump(mode="json"), "ensemble": {"deadline": "1h", "quorum": 1}, "name": "late"}
    late = parse_job({**asked, "train": {**asked["train"], "epochs": 1}, "storage": {"url": str(tmp_path / "runs")}})
    told = CountsEpochs()
    result = run_in_process(late, Path(job.storage.url).parent, progress=told, clock=Leaps(told, FOLDS + 1))
    assert result.status == "partial"
    assert [m.status for m in result.members] == ["succeeded"] * (FOLDS + 1) + ["not_started"] * (FOLDS - 1)
    assert result.missing == (3, 4, 5), "one of its three members makes no configuration"
    assert scores(result).ensemble.n == 90
    [first, _] = result.configurations
    assert scores(result).ensemble.accuracy == pytest.approx(accuracy(first.out_of_fold))


def test_balanced_class_weights_are_counted_in_the_rows_that_a_member_learns_from(job: Job) -> None:
    dataset, members = load(job), make_plan(job, {}).members
    for plan in members[:FOLDS]:
        own = member_rows(dataset, plan)
        counts = np.bincount(dataset.train.y[own.train.numbers], minlength=10)
        found = weights_of_classes("balanced", own.train)
        assert found == pytest.approx({label: len(own.train.numbers) / (10 * n) for label, n in enumerate(counts)})
    balanced = job.model_copy(update={"train": job.train.model_copy(update={"class_weight": "balanced"})})
    checked = check_before_training(balanced, make_plan(balanced, {}).members, dataset)
    assert {seen.obstacle for seen in checked.architectures.values()} == {
        "with folds, balanced class weights are counted in each member's own rows"
    }


def test_a_pack_trains_members_of_one_fold_as_they_train_alone(job: Job, device: Device, tmp_path: Path) -> None:
    """Its members have their own rows of the shared arrays, and are watched on the rows held out."""
    dataset, members = load(job), make_plan(job, {}).members
    train = job.train.model_copy(update={"epochs": 2})
    pack = [replace(members[i], train=train) for i in (1, 1 + FOLDS)]
    seats = []
    for member in pack:
        (tmp_path / f"fused-{member.index}").mkdir()
        (tmp_path / f"alone-{member.index}").mkdir()
        seats.append(Seat(member, tmp_path / f"fused-{member.index}", None, False, lambda epoch, logs: None))
    fused: dict[int, Any] = {}
    train_fused(seats, dataset, device, lambda: None, done=fused.__setitem__)
    for number, member in enumerate(pack):
        folder = tmp_path / f"alone-{member.index}"
        alone = train_solo(member, dataset, folder, device, lambda epoch, logs: None, lambda: None)
        for ours, theirs in zip(fused[number].history, alone.history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    other = [seats[0], replace(seats[1], member=replace(members[2], train=train))]
    with pytest.raises(CannotFuse, match=r"different (rows|numbers of training rows)"):
        train_fused(other, dataset, device, lambda: None, done=fused.__setitem__)


def test_a_member_of_a_fold_that_goes_on_ends_with_the_same_bits(job: Job, device: Device, tmp_path: Path) -> None:
    dataset, kept = load(job), []
    member = replace(make_plan(job, {}).members[2], train=job.train.model_copy(update={"epochs": 3}))
    trained = []
    for start in (None, 1):
        folder = tmp_path / str(start)
        folder.mkdir()
        trained.append(
            train_solo(
                member,
                dataset,
                folder,
                device,
                lambda epoch, logs: None,
                lambda: None,
                start_from=None if start is None else kept[start],
                keep=kept.append,
            )
        )
    for ours, theirs in zip(trained[0].model.get_weights(), trained[1].model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def scores(result: Result) -> SplitScores:
    assert isinstance(result.out_of_fold, SplitScores)
    return result.out_of_fold


def accuracy(of: object) -> float:
    assert isinstance(of, MemberScores)
    assert of.accuracy is not None
    return of.accuracy
