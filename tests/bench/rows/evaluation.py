"""P7: evaluation of 16 members, warm, against `load_model` and `predict` in a loop; and of 1,000 in bounded memory.

Nothing is trained: members with fresh weights cost as much to evaluate. Ours is all that a run does from a published
model to the ensemble's figures: download, sha256, weights, predictions, their blobs, and the coordinator's pass.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.harness import Bar, Bench, Failed, Figure, problem_of
from tests.bench.rows.scheduling import Mark
from tests.bench.tasks import Task, make_task

if TYPE_CHECKING:
    from orchestrator.planning.ports import Store
    from orchestrator.reporting.scores import SplitScores
    from orchestrator.storage.layout import RunLayout
    from tests.bench.warm import Warm

HERE = "tests.bench.rows.evaluation"
NUM_STORED = 16


def measure(bench: Bench) -> Iterator[Figure]:
    """evaluation of 16 members, against load_model + predict; 1,000 members in bounded memory"""
    data, small = ("pictures", "pictures") if bench.quick else ("fashion_mnist", "fashion_12k")
    folder = bench.scratch()
    path = str(make_task("mlp", data, NUM_STORED, epochs=1).write(folder / "task.json"))
    bench.process(HERE, "store", path, str(folder), deadline_s=400)
    found = bench.run(
        {
            "ours": lambda: bench.process(HERE, "evaluate", path, str(folder), deadline_s=400),
            "load_model + predict": lambda: bench.process(
                "tests.bench.rivals.load_and_predict", str(folder), data, deadline_s=400
            ),
        },
        rounds=3,
    )
    ours, rival = found["ours"], found["load_model + predict"]
    for own, other in zip(ours.outcomes, rival.outcomes, strict=False):
        if abs(own.facts["accuracy"] - other.facts["accuracy"]) > 1e-3:
            raise Failed(f"the two do not evaluate the same models: {own.facts}, {other.facts}")
    for what, fact, bar in (
        ("predictions of", "predicted_s", Bar(5)),
        ("predictions and all figures, intervals included, of", "evaluation_s", None),
    ):
        yield Figure(
            "P7",
            f"{what} {NUM_STORED} members, warm: times faster",
            "load_model + predict in a loop, accuracy alone",
            tuple(
                float(other.facts["evaluation_s"]) / float(own.facts[fact])
                for own, other in zip(ours.outcomes, rival.outcomes, strict=False)
            ),
            bar=bar,
            problem=problem_of(ours, rival),
            facts={"ours": ours.facts(), "rival": rival.facts()},
        )
    num_members = 48 if bench.quick else 1000
    path = str(make_task("mlp", small, num_members, epochs=1).write(folder / "many.json"))
    many = bench.run({"ours": lambda: bench.process(HERE, "evaluate", path, str(folder), deadline_s=1200)})["ours"]
    yield Figure(
        "P7",
        f"memory after {num_members} members as a multiple of that after {NUM_STORED}",
        values=tuple(outcome.facts["memory_mb"] / outcome.facts["memory_mb_at_16"] for outcome in many.outcomes),
        bar=Bar(1.1, at_most=True),
        problem=problem_of(many),
        facts={"ours": many.facts()},
    )


def store_members(warm: Warm, folder: Path) -> None:
    """Publish members that nobody trained, and save them for the rival as Keras does."""
    from orchestrator.models.build import build_member
    from orchestrator.storage.blobs import put_blob_file

    store, layout = _place(folder)
    finals = []
    for member in warm.members:
        model = build_member(member.builder, member.kwargs, member.seed, warm.job.train)
        path = folder / f"member-{member.index:02}.keras"
        model.save(path)
        finals.append({"model": put_blob_file(store, layout, str(path)).to_json()})
    (folder / "finals.json").write_text(json.dumps(finals))


def evaluate(warm: Warm, folder: Path) -> dict[str, Any]:
    """What a run does once its members are published; a stored member stands for every sixteenth of many.

    As in a run, the newest members' models are at hand where they were trained; their weights come from the store.
    """
    from orchestrator.ensemble.tasks import TaskKind, to_targets
    from orchestrator.models.build import build_member
    from orchestrator.models.predictor import Predictor
    from orchestrator.planning.events import MemberPredicted
    from orchestrator.reporting.evaluate import evaluate_split
    from orchestrator.reporting.predictions import Predictions
    from orchestrator.storage.blobs import get_blob
    from orchestrator.training.predicting import predict_member

    store, layout = _place(folder)
    finals = json.loads((folder / "finals.json").read_text())
    validation = warm.dataset.validation
    assert validation is not None
    at_hand = {
        member.index: build_member(member.builder, member.kwargs, member.seed, warm.job.train)
        for member in warm.members[:NUM_STORED]
    }
    facts: dict[str, Any] = {}
    predicted: list[dict[str, Any]] = []
    began = time.perf_counter()
    predictor = Predictor()
    targets = to_targets(TaskKind.MULTICLASS, validation.y)

    def figures() -> SplitScores:
        predictions = Predictions(predicted, "validation", lambda ref: get_blob(store, ref))
        return evaluate_split("validation", TaskKind.MULTICLASS, targets, predictions, range(len(predicted))).split

    for member in warm.members:
        outcome = predict_member(
            store,
            layout,
            member,
            warm.job.train,
            warm.dataset,
            predictor,
            worker="bench",
            final=finals[member.index % NUM_STORED],
            model=at_hand.pop(member.index, None),
        )
        assert isinstance(outcome, MemberPredicted), outcome
        predicted.append({"predictions": outcome.blobs})
        if len(predicted) == NUM_STORED:
            facts["predicted_s"] = time.perf_counter() - began
            found = figures()
            facts["evaluation_s"] = time.perf_counter() - began
            facts["memory_mb_at_16"] = Mark.now().memory_bytes / 2**20
    if len(predicted) > NUM_STORED:
        found = figures()
    facts["memory_mb"] = Mark.now().memory_bytes / 2**20
    return {**facts, "accuracy": found.ensemble.accuracy, "members_accuracy": found.members_mean.accuracy}


def _place(folder: Path) -> tuple[Store, RunLayout]:
    from orchestrator.storage.layout import RunLayout
    from orchestrator.storage.open import open_store

    return open_store(str(folder / "runs")), RunLayout("bench", "evaluation")


def main(what: str, task_path: str, folder: str, report_path: str) -> None:
    """`store TASK FOLDER REPORT`, or the process that is measured: `evaluate TASK FOLDER REPORT`."""
    from tests.bench.warm import Warm

    warm = Warm.start(Task.read(task_path), os.cpu_count() or 1)
    if what == "store":
        store_members(warm, Path(folder))
    else:
        facts = evaluate(warm, Path(folder))
        Path(report_path).write_text(json.dumps({name: round(value, 4) for name, value in facts.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
