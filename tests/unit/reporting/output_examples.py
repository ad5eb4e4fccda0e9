"""A run of models with two outputs: the species of a bird, and its mass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from run_examples import LAYOUT, finished_run

from orchestrator.ensemble.tasks import TaskKind
from orchestrator.planning.outputs import part
from orchestrator.planning.ports import Store
from orchestrator.reporting.result import Result, from_json
from orchestrator.storage.layout import RunLayout

TASKS = {"species": TaskKind.MULTICLASS, "mass": TaskKind.REGRESSION}
ROWS = {"validation": 60, "test": 40}
NUM_MEMBERS = 3

Arrays = Mapping[str, npt.NDArray[Any]]


def birds(tasks: Mapping[str, TaskKind] = TASKS, seed: int = 3) -> tuple[Arrays, list[Arrays]]:
    """Labels by part, and each member's predictions by part: member 1 tells classes best, member 2 numbers."""
    rng = np.random.default_rng(seed)
    labels: dict[str, npt.NDArray[Any]] = {}
    members: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(NUM_MEMBERS)]
    for split, n in ROWS.items():
        for output, task in tasks.items():
            labels[part(split, output)] = truth = true_values(rng, task, n)
            for index, member in enumerate(members):
                best = 2 if task is TaskKind.REGRESSION else 1
                noise = 0.4 if index == best else 1.0 + 0.1 * index
                member[part(split, output)] = predicted(rng, task, truth, noise).astype(np.float32)
    return labels, members


def true_values(rng: np.random.Generator, task: TaskKind, n: int) -> npt.NDArray[Any]:
    if task is TaskKind.REGRESSION:
        return rng.normal(4.0, 2.0, (n, 1))
    if task is TaskKind.MULTILABEL:
        return rng.integers(0, 2, (n, 3))
    return rng.integers(0, 3 if task is TaskKind.MULTICLASS else 2, n)


def predicted(rng: np.random.Generator, task: TaskKind, truth: npt.NDArray[Any], noise: float) -> npt.NDArray[Any]:
    if task is TaskKind.REGRESSION:
        return np.asarray(truth + rng.normal(size=truth.shape) * noise)
    if task is TaskKind.MULTICLASS:
        scores = 1.5 * np.eye(3)[truth] + rng.normal(size=(len(truth), 3)) * noise
        return np.asarray(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))
    signs = 2 * truth.reshape(len(truth), -1) - 1
    return np.asarray(1 / (1 + np.exp(-signs - rng.normal(size=signs.shape) * noise)))


def birds_run(
    store: Store,
    layout: RunLayout = LAYOUT,
    *,
    tasks: Mapping[str, TaskKind] = TASKS,
    seed: int = 3,
    facts: Mapping[str, Any] | None = None,
    **parts: Any,
) -> None:
    """A finished run; `parts` are more of the job's keys."""
    labels, members = birds(tasks, seed)
    finished_run(store, labels, members, layout, facts={"tasks": tasks, **(facts or {})}, **parts)


def result_in(store: Store, layout: RunLayout = LAYOUT) -> Result:
    """The result that a run has left."""
    return from_json(store.get(layout.result))
