"""Models of several outputs: each output is combined, judged and told by itself, and one of them decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from output_examples import NUM_MEMBERS, ROWS, TASKS, birds, birds_run, result_in
from run_examples import LAYOUT, finished_run
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, r2_score, root_mean_squared_error

from orchestrator.cli.output import leave_result
from orchestrator.ensemble.tasks import TaskKind
from orchestrator.errors import InvalidJob
from orchestrator.planning.outputs import ONLY
from orchestrator.reporting.again import evaluate_again
from orchestrator.reporting.conclude import result_of
from orchestrator.reporting.outputs import by_output, of_output
from orchestrator.reporting.prefixes import StoredPrefixes
from orchestrator.reporting.result import Result, from_json, to_json
from orchestrator.reporting.scores import Figure, SplitScores
from orchestrator.spec import parse_job
from orchestrator.storage.blobs import get_blob
from orchestrator.storage.log import Log
from orchestrator.storage.tables import labels_from_parquet, predictions_from_parquet
from orchestrator.testing import MemoryStore

WAYS = [
    {},
    {"combine": "logits"},
    {"combine": "weighted", "weights": [0.1, 0.2, 0.7]},
    {"combine": "weighted", "weights": "accuracy"},
    {"combine": "weighted", "weights": "nll"},
    {"combine": "weighted", "weights": "greedy"},
    {"combine": "stacking"},
    {"calibrate": True},
]


def stored(store: MemoryStore, part: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Labels and the members' predictions [M, N, C], from the readable copies."""
    members = [
        predictions_from_parquet(store.get(LAYOUT.member_copy(m, f"{part}.parquet"))) for m in range(NUM_MEMBERS)
    ]
    return labels_from_parquet(store.get(LAYOUT.labels_copy(part))), np.stack(members).astype(np.float64)


def scores_of(result: Result, split: str, output: str) -> SplitScores:
    return result.scores(split)[output]  # type: ignore[arg-type]


def test_figures_are_those_of_scikit_learn_from_the_stored_predictions_of_each_output() -> None:
    store = MemoryStore()
    birds_run(store)
    result = result_in(store)
    for split in ROWS:
        y, members = stored(store, f"{split}/species")
        figure, mean = scores_of(result, split, "species").ensemble, members.mean(axis=0)
        assert figure.accuracy == pytest.approx(accuracy_score(y, mean.argmax(axis=1)))
        assert figure.nll == pytest.approx(log_loss(y, mean / mean.sum(axis=1, keepdims=True)), rel=1e-6)
        y, members = stored(store, f"{split}/mass")
        figure, mean = scores_of(result, split, "mass").ensemble, members.mean(axis=0)
        assert figure.rmse == pytest.approx(root_mean_squared_error(y, mean))
        assert figure.mae == pytest.approx(mean_absolute_error(y, mean))
        assert figure.r2 == pytest.approx(r2_score(y, mean))
        for member, own in zip(result.members, members, strict=True):
            told = getattr(member, split)
            assert (told["mass"].rmse, told["mass"].accuracy) == (pytest.approx(root_mean_squared_error(y, own)), None)
            assert told["species"].accuracy is not None


@pytest.mark.parametrize("ensemble", WAYS, ids=str)
def test_each_output_says_what_a_run_of_that_output_alone_says(ensemble: dict[str, Any]) -> None:
    """But for the best member, which one output chooses for all."""
    store, tasks = MemoryStore(), {task.value: task for task in TaskKind}
    birds_run(store, tasks=tasks, ensemble=ensemble)
    together = by_output(result_in(store))
    labels, members = birds(tasks)
    for output, task in tasks.items():
        alone_store = MemoryStore()
        finished_run(
            alone_store,
            {split: labels[f"{split}/{output}"] for split in ROWS},
            [{split: member[f"{split}/{output}"] for split in ROWS} for member in members],
            task=task,
            ensemble=ensemble,
        )
        alone, own = result_in(alone_store), together[output]
        for split in ROWS:
            expected, found = getattr(alone, split), getattr(own, split)
            for name in ("ensemble", "weighted", "members_mean", "calibration", "diversity", "curve", "confusion"):
                assert getattr(found, name) == getattr(expected, name), (output, split, name)
        assert (own.weights, own.temperature, own.task) == (alone.weights, alone.temperature, task.value)
        assert [member.test for member in own.members] == [member.test for member in alone.members]


def test_one_output_chooses_the_best_member_of_all() -> None:
    chosen = {}
    for output in TASKS:
        store = MemoryStore()
        birds_run(store, ensemble={"output": output})
        result = result_in(store)
        assert result.outputs[0] == output
        figures: list[Figure | None] = [scores_of(result, split, name).best_member for split in ROWS for name in TASKS]
        assert len({figure.member for figure in figures if figure is not None}) == 1
        assert all("choice of the best member" in figure.scored_on for figure in figures[:2] if figure is not None)
        chosen[output] = figures[0].member if figures[0] is not None else None
    assert chosen == {"species": 1, "mass": 2}


def test_by_default_the_first_output_decides() -> None:
    store = MemoryStore()
    birds_run(store)
    assert result_in(store).outputs == ("species", "mass")


@pytest.mark.parametrize(("output", "metric"), [("species", "accuracy"), ("mass", "rmse")])
def test_the_gate_judges_the_output_that_decides_and_names_it(output: str, metric: str) -> None:
    store = MemoryStore()
    birds_run(store, ensemble={"output": output, "gate": {"metric": metric, "on": "test", "max": 100}})
    result = result_in(store)
    assert result.gate is not None
    assert result.gate.value == getattr(scores_of(result, "test", output).ensemble, metric)
    assert f"{metric} of the ensemble for {output} on test is" in result.gate.reason


def test_numbers_beside_classes_stay_as_they_are_where_the_job_calibrates_and_a_note_says_so() -> None:
    store = MemoryStore()
    birds_run(store, ensemble={"calibrate": True})
    result = result_in(store)
    assert isinstance(result.temperature, Mapping)
    assert set(result.temperature) == {"species"}
    assert "not calibrated, for there are numbers and no probabilities: mass" in result.notes


def test_other_rules_can_be_tried_and_another_output_can_decide() -> None:
    store = MemoryStore()
    birds_run(store)
    tried, _ = evaluate_again(store, LAYOUT, ["ensemble.output=mass", "ensemble.combine=stacking"])
    assert (tried.outputs, tried.delivered) == (("mass", "species"), "weighted")
    assert {weights.method for weights in (own.weights for own in by_output(tried).values()) if weights} == {"stacking"}
    with pytest.raises(InvalidJob, match="the models have no output 'weight'"):
        evaluate_again(store, LAYOUT, ["ensemble.output=weight"])
    _, differences = evaluate_again(store, LAYOUT)
    assert differences == ()


def test_numbers_alone_are_not_calibrated_whatever_is_tried() -> None:
    store = MemoryStore()
    birds_run(store, tasks={"mass": TaskKind.REGRESSION, "age": TaskKind.REGRESSION})
    with pytest.raises(InvalidJob, match="no probabilities to calibrate"):
        evaluate_again(store, LAYOUT, ["ensemble.calibrate=true"])


@pytest.mark.parametrize("ensemble", [{"output": "mass"}, {"output": "mass", "calibrate": True}], ids=str)
def test_a_growing_ensemble_is_scored_by_the_output_that_decides(ensemble: dict[str, Any]) -> None:
    store, whole = MemoryStore(), MemoryStore()
    birds_run(store)
    job = parse_job({"name": "birds", "model": "a:b", "data": "a:c", "members": NUM_MEMBERS, "ensemble": ensemble})
    selection = selection_in(store)
    prefixes = StoredPrefixes(job, "rmse", TASKS, selection["labels"], lambda ref: get_blob(store, ref))
    scores = [prefixes.score(member["index"], member["predictions"]) for member in selection["members"]]
    birds_run(whole, ensemble=ensemble)
    found = scores_of(result_in(whole), "validation", "mass")
    assert scores[-1] == found.ensemble.rmse
    assert scores == [point.in_order for point in found.curve if point.metric == "rmse"]


def selection_in(store: MemoryStore) -> dict[str, Any]:
    log = Log.open(store, LAYOUT.coord_log).records()
    return dict(next(record.body for record in log if record.kind == "selection"))


def test_a_result_of_several_outputs_is_read_as_it_was_written() -> None:
    store = MemoryStore()
    birds_run(store, ensemble={"output": "mass", "combine": "weighted", "calibrate": True})
    body = store.get(LAYOUT.result)
    read = from_json(body)
    assert to_json(read) == body
    assert read == result_in(store)
    assert list(read.scores("test")) == ["mass", "species"]
    assert isinstance(read.scores("test")["species"], SplitScores)


def test_a_result_of_one_output_says_nothing_of_outputs() -> None:
    store = MemoryStore()
    labels, known = {"validation": np.arange(30) % 3}, np.full((30, 3), 1 / 3)
    finished_run(store, labels, [{"validation": known}] * 2)
    told = json.loads(store.get(LAYOUT.result))
    assert "outputs" not in told
    assert "ensemble" in told["validation"]
    result = from_json(store.get(LAYOUT.result))
    assert (result.outputs, list(result.scores("validation")), result.scores("test")) == ((ONLY,), [ONLY], {})
    assert of_output(result, ONLY).validation == result.validation


def test_a_selection_from_before_there_were_several_outputs_gives_the_same_result() -> None:
    store = MemoryStore()
    labels, members = birds({ONLY: TaskKind.MULTICLASS})
    finished_run(store, labels, members, ensemble={"combine": "weighted", "weights": "nll", "calibrate": True})
    selection = selection_in(store)
    old = {key: value for key, value in selection.items() if key not in ("output", "outputs", "tasks")}
    old |= {"task": selection["tasks"][ONLY], "weights": selection["weights"][ONLY]}
    assert to_json(result_of(old, LAYOUT, lambda ref: get_blob(store, ref))) == store.get(LAYOUT.result)


def test_the_terminal_tells_every_output(tmp_path: Any) -> None:
    store = MemoryStore()
    birds_run(store, ensemble={"calibrate": True})
    result = result_in(store)
    text = str(result)
    assert "species, the output that decides:" in text
    for output, metric in (("species", "accuracy"), ("mass", "rmse")):
        assert f"Was the ensemble worth it for {output}?" in text
        assert f"{getattr(scores_of(result, 'test', output).ensemble, metric):.4f}" in text
        assert f"{output}: weights fitted on validation (by " in text
    assert all(len(line) <= 100 or " " not in line for line in text.splitlines())
    leave_result(result, None, tmp_path)
    told = (tmp_path / "test_ensemble_accuracy").read_text()
    assert told == str(scores_of(result, "test", "species").ensemble.accuracy)
