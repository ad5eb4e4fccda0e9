"""A run's figures from what it has kept, as they were and in other ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from run_examples import LAYOUT, create_run, finished_run
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import DamagedStore, InvalidJob
from orchestrator.reporting.again import differing, evaluate_again
from orchestrator.reporting.result import from_json, to_json
from orchestrator.storage.blobs import put_blob
from orchestrator.storage.local import LocalStore
from orchestrator.storage.log import Log
from orchestrator.storage.records import encode
from orchestrator.testing import MemoryStore

NUM_ROWS = 80


@pytest.fixture
def store(finished: dict[str, bytes]) -> MemoryStore:
    """A finished run of three members, the last of which knows nothing; of the test's own."""
    return _holding(finished)


def _holding(objects: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    for key, body in objects.items():
        store.create(key, body)
    return store


@pytest.fixture(scope="module")
def finished() -> dict[str, bytes]:
    store = MemoryStore()
    rng = np.random.default_rng(5)
    labels = {split: rng.integers(0, 3, NUM_ROWS) for split in ("validation", "test")}

    def predictions(index: int, split: str) -> npt.NDArray[np.float64]:
        logits = rng.normal(size=(NUM_ROWS, 3)) + (3 * np.eye(3)[labels[split]] if index < 2 else 0)
        powers = np.exp(logits)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    finished_run(store, labels, [{split: predictions(index, split) for split in labels} for index in range(3)])
    return {key: store.get(key) for key in store.list("")}


def test_the_figures_come_out_as_they_were(store: MemoryStore) -> None:
    result, differing = evaluate_again(store, LAYOUT)
    assert differing == ()
    assert result.runs_before is not None
    assert (result.runs_before.runs, result.runs_before.members) == (2, 7)


def test_another_way_to_combine_changes_the_figures_and_nothing_that_is_stored(store: MemoryStore) -> None:
    before = {key: store.get(key) for key in store.list("")}
    plain, _ = evaluate_again(store, LAYOUT)
    fitted, differing = evaluate_again(store, LAYOUT, ["ensemble.combine=weighted", "ensemble.weights=nll"])
    assert differing is None
    assert (fitted.delivered, fitted.combine) == ("weighted", "weighted")
    assert fitted.weights is not None
    assert fitted.weights.method == "nll"
    assert fitted.weights.values[2] < 0.05 < min(fitted.weights.values[:2])
    for split in ("validation", "test"):
        honest, mean = getattr(fitted, split).weighted, getattr(plain, split).ensemble
        assert honest.nll < mean.nll
    stacked, _ = evaluate_again(store, LAYOUT, ["ensemble.combine=stacking", "ensemble.calibrate=true"])
    assert stacked.weights is not None
    assert (stacked.weights.method, stacked.weights.values) == ("stacking", ())
    assert stacked.temperature is not None
    assert {key: store.get(key) for key in store.list("")} == before


def test_a_gate_can_be_tried_on_what_is_there(store: MemoryStore) -> None:
    missed, _ = evaluate_again(store, LAYOUT, ["ensemble.gate={metric: brier, on: test, max: 0.001}"])
    assert missed.gate is not None
    assert (missed.status, missed.exit_code, missed.gate.metric) == ("gate_failed", 3, "brier")


def test_what_would_need_other_members_is_refused(store: MemoryStore) -> None:
    with pytest.raises(InvalidJob, match=r"train\.epochs=3.*other members"):
        evaluate_again(store, LAYOUT, ["train.epochs=3"])
    with pytest.raises(InvalidJob, match=r"ensemble\.quorum=2.*other members"):
        evaluate_again(store, LAYOUT, ["ensemble.quorum=2"])
    with pytest.raises(InvalidJob, match=r"beside `combine: stacking`.*`weights: null`"):
        evaluate_again(store, LAYOUT, ["ensemble.weights=nll", "ensemble.combine=stacking"])
    with pytest.raises(InvalidJob, match="one number for each of the 3 members"):
        evaluate_again(store, LAYOUT, ["ensemble.weights=[1, 2]"])


def test_a_run_that_has_no_selection_yet_says_so() -> None:
    store = MemoryStore()
    create_run(store)
    with pytest.raises(InvalidJob, match="has not been evaluated yet"):
        evaluate_again(store, LAYOUT)


def test_without_its_spec_a_run_is_still_evaluated_as_it_was(store: MemoryStore) -> None:
    store.delete(LAYOUT.spec)
    assert evaluate_again(store, LAYOUT)[1] == ()
    with pytest.raises(DamagedStore, match="spec cannot be read"):
        evaluate_again(store, LAYOUT, ["ensemble.weights=nll"])


def test_a_result_that_says_something_else_is_told_apart(store: MemoryStore) -> None:
    log = Log.open(store, LAYOUT.coord_log)
    selection = next(record for record in log.records() if record.kind == "selection")
    other = _holding({key: store.get(key) for key in store.list("")})
    changed = {**selection.body, "notes": ["something that was not there"]}
    key = f"{LAYOUT.coord_log}/{selection.seq:08d}.json"
    other.put(key, encode(replace(selection, body=changed)))
    assert evaluate_again(other, LAYOUT)[1] == ("notes",)


def _with_stored_figure(store: MemoryStore, change: float) -> MemoryStore:
    """The same run, as if the machine that finished it had found another test nll."""
    result, _ = evaluate_again(store, LAYOUT)
    assert result.test is not None
    assert result.test.ensemble.nll is not None
    figure = result.test.ensemble.model_copy(update={"nll": result.test.ensemble.nll * (1 + change)})
    stored = result.model_copy(update={"test": result.test.model_copy(update={"ensemble": figure})})
    done = Log.open(store, LAYOUT.coord_log).records()[-1]
    assert done.kind == "done"
    other = _holding({key: store.get(key) for key in store.list("")})
    named = put_blob(other, LAYOUT, to_json(stored)).to_json()
    other.put(f"{LAYOUT.coord_log}/{done.seq:08d}.json", encode(replace(done, body={**done.body, "result": named})))
    return other


def test_figures_of_a_machine_that_rounds_otherwise_are_the_same_and_others_are_named(store: MemoryStore) -> None:
    assert evaluate_again(_with_stored_figure(store, 1e-13), LAYOUT)[1] == ()
    assert evaluate_again(_with_stored_figure(store, 1e-7), LAYOUT)[1] == ("test.ensemble.nll",)


@pytest.mark.parametrize(
    ("path", "change", "differs"),
    [
        (("validation", "weighted", "nll"), 1e-8, False),
        (("validation", "weighted", "nll"), 1e-4, True),
        (("validation", "members_mean", "nll"), 1e-8, True),
        (("validation", "members_mean", "nll"), 1e-12, False),
    ],
)
def test_what_was_fitted_may_differ_by_more_than_what_was_summed(
    store: MemoryStore, path: tuple[str, ...], change: float, differs: bool
) -> None:
    result, _ = evaluate_again(store, LAYOUT, ["ensemble.combine=weighted", "ensemble.weights=nll"])
    document = json.loads(to_json(result))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] *= 1 + change
    assert differing(from_json(json.dumps(document).encode()), result) == ((".".join(path),) if differs else ())


def test_an_entry_that_only_one_result_has_is_a_difference(store: MemoryStore) -> None:
    result, _ = evaluate_again(store, LAYOUT)
    assert differing(result.model_copy(update={"versions": {"numpy": "2"}}), result) == ("versions.numpy",)
    assert differing(result, result.model_copy(update={"members": result.members[:2]})) == ("members",)


@pytest.mark.parametrize(
    ("change", "told"),
    [(1e-13, "the same as the stored result"), (0.1, "this differs from the stored result in test.ensemble.nll")],
)
def test_the_command_says_what_differs(store: MemoryStore, tmp_path: Path, change: float, told: str) -> None:
    changed, folder = _with_stored_figure(store, change), LocalStore(tmp_path)
    for key in changed.list(""):
        folder.create(key, changed.get(key))
    ended = CliRunner().invoke(app, ["evaluate", LAYOUT.run_key, "--storage", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    assert told in ended.stderr.splitlines()
